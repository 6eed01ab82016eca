"""Run the artifact's own graph with fastembed: with its tokenization, padding and batching."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from benchmarks.contenders.peer import Peer, PeerError, collect_setups, find_python, reporting, text_preprocessing
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.results.schema import Skipped
from runtime.artifact.manifest import TextPreprocessing, Tower
from runtime.artifact.reader import read_manifest

NAME = "fastembed"
VARIANTS = ("fp32",)


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return fastembed's setup for ``target`` on the CPU, or the reason why there is none."""
    return collect_setups(target, NAME, {"fp32": _setup}) if target.tower == "text" else ([], [])


def load(setup: Setup, threads: int, scratch: Path) -> Peer:
    """Register the artifact as a custom model of fastembed, with its settings in a folder of ``scratch``.

    Texts are embedded by fastembed's defaults: in the given order, in batches of 256.

    Raises:
        PeerError: fastembed cannot load the model.
        ArtifactError: The folder is not an artifact.
    """
    artifact = Path(setup.model)
    tower = read_manifest(artifact).towers[setup.tower]
    with reporting(NAME, f"load {artifact}"):
        folder = Path(mkdtemp(prefix="fastembed-", dir=scratch))
        _write_settings(artifact, tower, folder)
        _register(artifact, tower)
        model = _open(artifact, folder, threads)
    return Peer(name=NAME, from_items=lambda texts: np.stack(list(model.embed(texts))))


def _setup(target: Target) -> Setup:
    obstacle = _find_obstacle(text_preprocessing(target.manifest.towers[target.tower]))
    if obstacle:
        raise PeerError(f"it does not {obstacle}, but this model requires it")
    return Setup(
        contender=NAME,
        variant="fp32",
        stages=("end_to_end",),
        model=str(target.folder.resolve()),
        tower=target.tower,
        python=find_python(target, NAME, [NAME]),
    )


def _find_obstacle(preprocessing: TextPreprocessing) -> str | None:
    """Return what the model needs for a text and fastembed does not do; ``None`` if it does all."""
    obstacles = {
        f"clean texts with {preprocessing.cleaning}": preprocessing.cleaning != "none",
        "leave special tokens out": not preprocessing.add_special_tokens,
        "cut the beginning of long texts": preprocessing.truncation_side == "left",
        "pad texts to a fixed length": preprocessing.padding == "max_length",
        "leave the prompt out of the pooling": "pooling_mask" in preprocessing.inputs,
        "put a default prompt before texts": preprocessing.default_prompt is not None,
    }
    return next((obstacle for obstacle, holds in obstacles.items() if holds), None)


def _write_settings(artifact: Path, tower: Tower, folder: Path) -> None:
    """Write the files that fastembed reads beside a graph: tokenizer, truncation and padding."""
    preprocessing = text_preprocessing(tower)
    tokenizer = json.loads((artifact / preprocessing.tokenizer).read_text("utf-8"))
    tokenizer |= {"padding": None, "truncation": None}  # the manifest has its own
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
    """Return the name of the padding token. The attention mask keeps it out of the vectors."""
    added = {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
    return str(added.get(pad_token_id, "[PAD]"))


def _register(artifact: Path, tower: Tower) -> None:
    """Add the graph to fastembed's list of models. Pooling and normalization are part of the graph."""
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    (_, dim) = tower.output.shape
    TextEmbedding.add_custom_model(
        model=str(artifact),
        pooling=PoolingType.DISABLED,
        normalization=False,
        sources=ModelSource(hf=str(artifact)),  # required, but specific_model_path has priority
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
