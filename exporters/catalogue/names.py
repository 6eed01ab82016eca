"""Names of models: of the catalogue, of a library, of a folder, or of the hub. Nothing is loaded or downloaded."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from exporters.catalogue.registry import BACKBONES, suggest_backbone
from exporters.catalogue.spec import (
    BackboneSpec,
    FolderSource,
    HubModelSource,
    NamedSource,
    OpenClipModelSource,
    TimmSource,
    TorchvisionModelSource,
)
from exporters.errors import UnknownBackboneError
from runtime.errors import UsageError
from runtime.uris import public_name, starts_like_uri

_LIBRARIES = ("timm", "torchvision", "open_clip")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_EXAMPLE = "sentence-transformers/all-MiniLM-L6-v2"
_UNSAFE = re.compile(r"[^\w.-]+")  # characters that a folder's name should not have


def find_model(name: str | os.PathLike[str], *, revision: str | None = None) -> BackboneSpec:
    """Return the model that a NAME of the command line stands for.

    Args:
        name: A name of the catalogue, a local folder, a hub id such as ``intfloat/e5-small-v2``, or ``timm:NAME``,
            ``torchvision:NAME``, ``open_clip:MODEL[/TAG]``.
        revision: Branch, tag or commit of a hub id.

    Raises:
        UnknownBackboneError: The name stands for nothing; the message lists similar names.
        UsageError: The name is a file, or ``revision`` is given for a name that is not a hub id.
    """
    name = os.fspath(name)
    spec = BACKBONES.get(name) or BackboneSpec(name=name, source=_find_source(name, revision))
    if revision is not None and not isinstance(spec.source, HubModelSource):
        raise UsageError(f"--revision is for models on the hub, and {name} is none; leave it out")
    if isinstance(spec.source, FolderSource):
        return BackboneSpec(name=spec.source.path.resolve().name, source=spec.source)
    return spec


def default_name(spec: BackboneSpec) -> str:
    """Return the name of a model's artifact: without library and organisation, with letters that suit a folder."""
    source, name = spec.source, spec.name
    if isinstance(source, HubModelSource):
        name = source.model_id.rpartition("/")[2]
    elif isinstance(source, TimmSource | TorchvisionModelSource | OpenClipModelSource):
        name = name.partition(":")[2]
    return _UNSAFE.sub("-", name).strip("-.") or "model"


def unknown_model(library: str, name: str, known: Iterable[str]) -> UnknownBackboneError:
    """Return the error for a name that a library does not have. It lists the similar ones of the ``known`` names."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return UnknownBackboneError(f"{library} has no model {name}; similar ones are {', '.join(close) or 'none'}")


def _find_source(name: str, revision: str | None) -> NamedSource:
    library, _, model = name.partition(":")
    if library in _LIBRARIES and model:
        return _library_source(library, model)
    if name and Path(name).is_dir():  # an empty path is the current folder
        return FolderSource(path=Path(name))
    if Path(name).is_file():
        raise UsageError(
            f"{name} is a file; name its architecture, and give the file as weights: `timm:resnet50 --weights {name}`"
        )
    if starts_like_uri(name):
        raise UnknownBackboneError(f"{public_name(name)} is a URI; give the hub id alone, such as {_HUB_EXAMPLE}")
    if name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise UnknownBackboneError(f"there is no folder {name}; give the folder of a model")
    if _HUB_ID.fullmatch(name):
        return HubModelSource(model_id=name, revision=revision)
    raise UnknownBackboneError(
        f"there is no backbone {name!r}; {suggest_backbone(name)} (any other model is named by its folder, its hub id "
        f"such as {_HUB_EXAMPLE}, or timm:NAME, torchvision:NAME, open_clip:MODEL)"
    )


def _library_source(library: str, model: str) -> NamedSource:
    if library == "timm":
        return TimmSource(model_name=model)
    if library == "torchvision":
        return TorchvisionModelSource(builder=model)
    architecture, _, tag = model.partition("/")
    return OpenClipModelSource(model_name=architecture, tag=tag or None)
