"""fastembed, with the artifact's own graph: what its tokenizing, padding and batching make of it."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from benchmarks.contenders.peer import Peer, PeerError, find_python, find_ways, limit_tokenizers, reporting
from benchmarks.contenders.protocol import Subject, Way
from benchmarks.results.schema import Skipped
from runtime.artifact.manifest import TextPreprocessing, Tower
from runtime.artifact.reader import read_manifest

NAME = "fastembed"


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns how fastembed can run ``subject``'s graph on the CPU, or why not."""
    return find_ways(subject, NAME, {"fp32": _way}) if subject.tower == "text" else ([], [])


def load(way: Way, threads: int, scratch: Path) -> Peer:
    """Shows the artifact to fastembed as a model of its own kind, by a folder of settings in ``scratch``.

    Texts are embedded as its users do: in their order, in batches of 256.

    Raises:
        PeerError: fastembed cannot load it.
        ArtifactError: The folder is no artifact.
    """
    limit_tokenizers(threads)
    artifact = Path(way.model)
    tower = read_manifest(artifact).towers[way.tower]
    with reporting(NAME, f"load {artifact}"):
        folder = Path(mkdtemp(prefix="fastembed-", dir=scratch))
        _write_settings(artifact, tower, folder)
        _register(artifact, tower)
        model = _open(artifact, folder, threads)
    return Peer(name=NAME, from_items=lambda texts: np.stack(list(model.embed(texts))))


def _way(subject: Subject) -> Way:
    preprocessing = subject.manifest.towers[subject.tower].preprocessing
    if isinstance(preprocessing, TextPreprocessing) and preprocessing.cleaning != "none":
        raise PeerError(f"it does not clean texts by {preprocessing.cleaning}, as this model wants them")
    return Way(
        contender=NAME,
        variant="fp32",
        provider="cpu",
        precision="fp32",
        stages=("end_to_end",),
        model=str(subject.folder.resolve()),
        tower=subject.tower,
        python=find_python(subject, NAME, [NAME]),
    )


def _write_settings(artifact: Path, tower: Tower, folder: Path) -> None:
    """Writes what fastembed reads beside a graph: the tokenizer, and to how many tokens texts are cut and padded."""
    preprocessing = tower.preprocessing
    if not isinstance(preprocessing, TextPreprocessing):
        raise PeerError(f"{artifact} does not embed texts")
    tokenizer = json.loads((artifact / preprocessing.tokenizer).read_text("utf-8"))
    tokenizer |= {"padding": None, "truncation": None}  # as the manifest says, they do not count
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    settings = {
        "model_max_length": preprocessing.max_length,
        "pad_token": _pad_token(tokenizer, preprocessing.pad_token_id),
        "padding_side": "right",
        "truncation_side": "right",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    (folder / "config.json").write_text(json.dumps({"pad_token_id": preprocessing.pad_token_id}), "utf-8")


def _pad_token(tokenizer: dict[str, Any], pad_token_id: int) -> str:
    """Returns the name of the padding token, which the mask keeps out of the vectors anyway."""
    added = {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
    return str(added.get(pad_token_id, "[PAD]"))


def _register(artifact: Path, tower: Tower) -> None:
    """Adds the graph to fastembed's list as it is: pooling and normalisation are inside it already."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    (_, dim) = tower.output.shape
    TextEmbedding.add_custom_model(
        model=str(artifact),
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=str(artifact)),  # has to be given; specific_model_path goes before it
        dim=int(dim),
        model_file=str(artifact / tower.graph),
    )


def _open(artifact: Path, folder: Path, threads: int) -> Any:
    from fastembed import TextEmbedding

    return TextEmbedding(
        str(artifact),
        cache_dir=str(folder),
        threads=threads,
        providers=["CPUExecutionProvider"],
        local_files_only=True,
        specific_model_path=str(folder),
    )
