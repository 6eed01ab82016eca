"""Python code that a model folder brings: found in its settings, and never run unasked."""

from __future__ import annotations

import json
import re
from pathlib import Path

from transformers.utils.hub import cached_file

from exporters.errors import WeightsError, WeightsUnavailableError
from exporters.weights.parsing import parsing, read_json, summarize_error

_OURS = ("exporters.families.sentence.chain.GeMPooling",)  # the reader maps these names to its own classes
_OWN = "sentence_transformers."
_CONFIGURATIONS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
_ADAPTER = "adapter_config.json"


def refuse_code(folder: Path, advice: str = "only text models may run code; save the model without it") -> None:
    """Check that a folder brings no code.

    Raises:
        WeightsError: It does; the message ends with ``advice``.
    """
    if code := find_code(folder):
        raise WeightsError(f"{folder} brings code of its own ({code}), which is not run unasked; {advice}")


def find_code(folder: Path) -> str:
    """Return the first name of code outside the libraries that the folder's settings ask for; empty if there is none.

    A class of the library whose weights happen to fit is not taken for the checkpoint's own. The model that an adapter
    adapts counts too; its configuration may be downloaded.

    Raises:
        WeightsUnavailableError: The configuration of the adapted model cannot be read.
    """
    modules = folder / "modules.json"
    folders = [folder]
    if modules.is_file():
        with parsing(modules):
            entries = [(str(module["type"]), str(module["path"])) for module in read_json(modules)]
        for kind, path in entries:
            if not kind.startswith(_OWN) and kind not in _OURS:
                return f"modules.json: {kind}"
            folders.append(folder / path)
    for file in (place / name for place in folders for name in _CONFIGURATIONS):
        if file.is_file() and (code := _read_auto_map(file, str(file.relative_to(folder)))):
            return code
    for adapter in (place / _ADAPTER for place in folders):
        if adapter.is_file():
            with parsing(adapter):
                base = str(read_json(adapter)["base_model_name_or_path"])
            if code := _read_auto_map(_find_configuration(base, adapter), f"the config.json of {base}"):
                return code
    return ""


def _read_auto_map(file: Path, name: str) -> str:
    """Return in words which code a configuration called ``name`` asks for; empty if there is none."""
    with parsing(file):
        document = read_json(file)
    classes = document.get("auto_map") if isinstance(document, dict) else None
    others = sorted(set(re.findall(r'"([^"]+?)--', json.dumps(classes))))  # OWNER/REPOSITORY--module.Class
    return f"auto_map in {name}{': ' * bool(others)}{', '.join(others)}" if classes else ""


def _find_configuration(base: str, adapter: Path) -> Path:
    """Return the ``config.json`` of the model ``base``, a folder or a name on the hub, as transformers finds it."""
    try:
        found, reason = cached_file(base, "config.json"), "it has no config.json"
    except Exception as exc:  # noqa: BLE001  the hub's client raises a dozen types, and transformers wraps some of them
        found, reason = None, summarize_error(exc)
    if found is None:
        raise WeightsUnavailableError(
            f"the model {base}, which {adapter.parent} adapts, cannot be read ({reason}); correct "
            f"base_model_name_or_path in {adapter.name}, or connect to the hub"
        )
    return Path(found)
