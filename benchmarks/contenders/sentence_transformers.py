"""sentence-transformers, which people embed texts with: by torch, and by its ONNX backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.exported import export_once
from benchmarks.contenders.model_folder import find_model_folder
from benchmarks.contenders.peer import Peer, PeerError, find_python, find_ways, limit_tokenizers, reporting
from benchmarks.contenders.protocol import Subject, Way
from benchmarks.results.schema import Precision, Skipped
from runtime.machine.cpu import bf16_units
from runtime.machine.cuda_driver import gpu_names

NAME = "sentence-transformers"
_EXPORT = (
    "import sys; from sentence_transformers import SentenceTransformer; "
    "SentenceTransformer(sys.argv[1], backend='onnx', device='cpu', local_files_only=True, "
    "model_kwargs={'provider': 'CPUExecutionProvider', 'export': True}).save_pretrained(sys.argv[2])"
)


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns how sentence-transformers can embed with ``subject`` here, and why not in other ways.

    Its ONNX backend needs optimum-onnx, whose pins exclude the newest transformers, so that it usually runs in the
    environment that is named as ``optimum``.
    """
    if subject.tower != "text":
        return [], []
    makers: dict[str, Callable[[Subject], Way]] = {
        "torch": partial(_torch_way, variant="torch", precision="fp32", provider="cpu"),
        "torch-bf16": _bf16_way,
        "onnx": _onnx_way,
    }
    if gpu_names():
        makers["torch on cuda"] = partial(_torch_way, variant="torch", precision="fp32", provider="cuda")
        makers["torch-fp16 on cuda"] = partial(_torch_way, variant="torch-fp16", precision="fp16", provider="cuda")
    return find_ways(subject, NAME, makers)


def load(way: Way, threads: int, scratch: Path) -> Peer:
    """Loads the model's folder; ``scratch`` takes the export of the ONNX backend.

    Texts are encoded as its users do: sorted by length, in batches of 32.

    Raises:
        PeerError: It cannot be loaded.
    """
    limit_tokenizers(threads)
    with reporting(NAME, f"load {way.model}"):
        model = _load_onnx(way, threads, scratch) if way.variant == "onnx" else _load_torch(way, threads)
    return Peer(name=NAME, from_items=lambda texts: model.encode(texts, show_progress_bar=False))


def _torch_way(subject: Subject, *, variant: str, precision: Precision, provider: str) -> Way:
    return Way(
        contender=NAME,
        variant=variant,
        provider=provider,
        precision=precision,
        stages=("end_to_end",),
        model=str(find_model_folder(subject)),
        tower=subject.tower,
        python=find_python(subject, NAME, [NAME]),
    )


def _bf16_way(subject: Subject) -> Way:
    if not bf16_units():
        raise PeerError("this CPU has no units for bfloat16 (AMX or AVX512-BF16), and torch would emulate them")
    return _torch_way(subject, variant="torch-bf16", precision="bf16", provider="cpu")


def _onnx_way(subject: Subject) -> Way:
    return Way(
        contender=NAME,
        variant="onnx",
        provider="cpu",
        precision="fp32",
        stages=("end_to_end",),
        model=str(find_model_folder(subject)),
        tower=subject.tower,
        python=find_python(subject, "optimum", [NAME, "optimum-onnx"]),
        exports=True,
    )


def _load_torch(way: Way, threads: int) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(way.model, device=way.provider, local_files_only=True)
    return model.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[way.precision])


def _load_onnx(way: Way, threads: int, scratch: Path) -> Any:
    folder = export_once(NAME, way.model, scratch, lambda out: [sys.executable, "-c", _EXPORT, way.model, str(out)])
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)  # it pools and normalises by torch
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    settings = {"provider": "CPUExecutionProvider", "session_options": options}
    return SentenceTransformer(str(folder), backend="onnx", device="cpu", local_files_only=True, model_kwargs=settings)
