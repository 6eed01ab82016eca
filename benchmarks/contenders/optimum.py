"""optimum's export of a sentence-transformers model, run by onnxruntime as its documentation shows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contenders.exported import export_once
from benchmarks.contenders.model_folder import find_model_folder
from benchmarks.contenders.peer import Peer, find_python, find_ways, limit_tokenizers, reporting
from benchmarks.contenders.protocol import Subject, Way
from benchmarks.results.schema import Skipped

NAME = "optimum"
_BATCH = 32
_OUTPUT = "sentence_embedding"
Array = np.ndarray[Any, Any]


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns how optimum can export ``subject``'s model and run it, or why not."""
    return find_ways(subject, NAME, {"fp32": _way}) if subject.tower == "text" else ([], [])


def load(way: Way, threads: int, scratch: Path) -> Peer:
    """Exports the model's folder to ``scratch``, unless that was done before, and loads what came out.

    Texts are tokenized by transformers and padded to the longest of a batch of 32, in their order.

    Raises:
        PeerError: It cannot be exported or loaded.
    """
    limit_tokenizers(threads)
    with reporting(NAME, f"load {way.model}"):
        folder = export_once(NAME, way.model, scratch, lambda out: _export_command(way.model, out))
        session, tokenizer = _open(folder, threads), _open_tokenizer(folder, Path(way.model))

    def embed_texts(texts: list[str]) -> Array:
        batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
        return np.concatenate([_run(session, tokenizer(batch)) for batch in batches])

    return Peer(name=NAME, from_arrays=lambda arrays: _run(session, arrays), from_items=embed_texts)


def _way(subject: Subject) -> Way:
    return Way(
        contender=NAME,
        variant="fp32",
        provider="cpu",
        precision="fp32",
        stages=("graph", "end_to_end"),
        model=str(find_model_folder(subject, needs_layers=True)),
        tower=subject.tower,
        python=find_python(subject, NAME, ["optimum-onnx", "sentence-transformers"]),
        exports=True,
    )


def _export_command(model: str, output: Path) -> list[str]:
    """Source: https://huggingface.co/docs/optimum-onnx/onnx/usage_guides/export_a_model."""
    kind = ["--library", "sentence_transformers", "--task", "sentence-similarity"]
    return [sys.executable, "-m", "optimum.exporters.onnx", "--model", model, *kind, str(output)]


def _open(folder: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def _open_tokenizer(folder: Path, model: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    longest = _max_length(model) or tokenizer.model_max_length
    return lambda texts: tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="np")


def _max_length(model: Path) -> int | None:
    """Returns the tokens to which sentence-transformers cuts, which the exported tokenizer is not told of."""
    for path in sorted(model.glob("sentence_*_config.json")):
        length = json.loads(path.read_text("utf-8")).get("max_seq_length")
        if isinstance(length, int):
            return length
    return None


def _run(session: Any, arrays: Mapping[str, Array]) -> Array:
    vectors: Array = session.run([_OUTPUT], dict(_fill(session, arrays)))[0]
    return vectors


def _fill(session: Any, arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """Yields what the graph takes: some ask for ``token_type_ids``, which are all zero for single texts."""
    for given in session.get_inputs():
        array = arrays.get(given.name)
        yield given.name, np.zeros_like(arrays["input_ids"]) if array is None else array.astype(np.int64, copy=False)
