"""Run optimum's export of a sentence-transformers model with onnxruntime, as optimum's documentation shows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.exported import export_once
from benchmarks.contenders.model_folder import find_model_folder
from benchmarks.contenders.peer import Peer, PeerError, collect_setups, find_python, reporting, text_preprocessing
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.results.schema import Skipped
from runtime.array_types import Array, Feeds

NAME = "optimum"
VARIANTS = ("fp32",)
_BATCH = 32
_OUTPUT = "sentence_embedding"


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return optimum's setup for ``target``, or the reason why there is none."""
    return collect_setups(target, NAME, {"fp32": _setup}) if target.tower == "text" else ([], [])


def load(setup: Setup, threads: int, scratch: Path) -> Peer:
    """Export the model's folder to ``scratch`` unless that is done already, and load the export.

    transformers tokenizes the texts, in batches of 32 in the given order, padded to the longest text of a batch.

    Raises:
        PeerError: The model cannot be exported or loaded.
    """
    with reporting(NAME, f"load {setup.model}"):
        folder = export_once(NAME, setup.model, scratch, lambda out: _export_command(setup.model, out))
        session, tokenizer = _open(folder, threads), _open_tokenizer(folder, setup.max_length)

    def embed_texts(texts: list[str]) -> Array:
        batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
        return np.concatenate([_run(session, tokenizer(batch)) for batch in batches])

    return Peer(name=NAME, from_arrays=lambda arrays: _run(session, arrays), from_items=embed_texts)


def _setup(target: Target) -> Setup:
    preprocessing = text_preprocessing(target.manifest.towers[target.tower])
    if preprocessing.default_prompt is not None:
        raise PeerError("it does not put a default prompt before texts, but this model requires it")
    return Setup(
        contender=NAME,
        variant="fp32",
        stages=("graph", "end_to_end"),
        model=str(find_model_folder(target, needs_layers=True)),
        tower=target.tower,
        python=find_python(target, NAME, ["optimum-onnx", "sentence-transformers"]),
        max_length=preprocessing.max_length,
        exports=True,
    )


def _export_command(model: str, output: Path) -> list[str]:
    """Return optimum's export command.

    Source: https://huggingface.co/docs/optimum-onnx/onnx/usage_guides/export_a_model
    """
    kind = ["--library", "sentence_transformers", "--task", "sentence-similarity"]
    return [sys.executable, "-m", "optimum.exporters.onnx", "--model", model, *kind, str(output)]


def _open(folder: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def _open_tokenizer(folder: Path, max_length: int | None) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return lambda texts: tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="np")


def _run(session: Any, arrays: Feeds) -> Array:
    vectors: Array = session.run([_OUTPUT], dict(_fill(session, arrays)))[0]
    return vectors


def _fill(session: Any, arrays: Feeds) -> Iterator[tuple[str, Array]]:
    """Yield the graph's inputs. Some graphs need ``token_type_ids``, which are all zero for single texts."""
    for given in session.get_inputs():
        array = arrays.get(given.name)
        yield given.name, np.zeros_like(arrays["input_ids"]) if array is None else array.astype(np.int64, copy=False)
