"""Embed texts with sentence-transformers, both with torch and with its ONNX backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.contenders.exported import export_once
from benchmarks.contenders.model_folder import find_model_folder
from benchmarks.contenders.peer import Peer, PeerError, collect_setups, find_python, reporting, text_preprocessing
from benchmarks.contenders.protocol import Setup, Target
from benchmarks.results.schema import Precision, Skipped
from runtime.machine.cpu import bf16_units, has_arm_bf16
from runtime.machine.cuda_driver import gpu_names

NAME = "sentence-transformers"
VARIANTS = ("torch", "torch-bf16", "torch-fp16", "onnx")
_EXPORT = (
    "import sys; from sentence_transformers import SentenceTransformer; "
    "SentenceTransformer(sys.argv[1], backend='onnx', device='cpu', local_files_only=True, "
    "model_kwargs={'provider': 'CPUExecutionProvider', 'export': True}).save_pretrained(sys.argv[2])"
)


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return the setups of sentence-transformers for ``target``, and the reasons for missing ones.

    The ONNX backend needs optimum-onnx, which excludes the newest transformers. So this backend usually runs in the
    environment that ``--python optimum=PYTHON`` names.
    """
    if target.tower != "text":
        return [], []
    makers: dict[str, Callable[[Target], Setup]] = {
        "torch": partial(_torch_setup, variant="torch", precision="fp32", provider="cpu"),
        "torch-bf16": _bf16_setup,
        "onnx": _onnx_setup,
    }
    if gpu_names() and "cuda" in target.providers:
        makers["torch on cuda"] = partial(_torch_setup, variant="torch", precision="fp32", provider="cuda")
        makers["torch-fp16 on cuda"] = partial(_torch_setup, variant="torch-fp16", precision="fp16", provider="cuda")
    return collect_setups(target, NAME, makers)


def load(setup: Setup, threads: int, scratch: Path) -> Peer:
    """Load the model's folder. The ONNX backend exports it to ``scratch``.

    Texts are embedded by the library's defaults: sorted by length, in batches of 32. They are cut where the artifact
    cuts them.

    Raises:
        PeerError: The model cannot be loaded.
    """
    with reporting(NAME, f"load {setup.model}"):
        model = _load_onnx(setup, threads, scratch) if setup.variant == "onnx" else _load_torch(setup, threads)
        _limit_length(model, setup.max_length)
    return Peer(name=NAME, from_items=lambda texts: model.encode(texts, show_progress_bar=False))


def _limit_length(model: Any, max_length: int | None) -> None:
    """Cut texts after ``max_length`` tokens. The limit of a StaticEmbedding is that of its tokenizer."""
    tokenizer: Any = getattr(model[0], "tokenizer", None)
    if hasattr(tokenizer, "enable_truncation"):
        side = (tokenizer.truncation or {}).get("direction", "right")
        tokenizer.enable_truncation(max_length, direction=side)
    else:
        model.max_seq_length = max_length


def _torch_setup(target: Target, *, variant: str, precision: Precision, provider: str) -> Setup:
    return Setup(
        contender=NAME,
        variant=variant,
        provider=provider,
        precision=precision,
        stages=("end_to_end",),
        model=str(find_model_folder(target)),
        tower=target.tower,
        python=find_python(target, NAME, [NAME]),
        max_length=text_preprocessing(target.manifest.towers[target.tower]).max_length,
    )


def _bf16_setup(target: Target) -> Setup:
    if not (bf16_units() or has_arm_bf16()):
        raise PeerError("this CPU has no bfloat16 instructions (those of AMX, AVX512 or Arm); torch would emulate them")
    return _torch_setup(target, variant="torch-bf16", precision="bf16", provider="cpu")


def _onnx_setup(target: Target) -> Setup:
    return Setup(
        contender=NAME,
        variant="onnx",
        stages=("end_to_end",),
        model=str(find_model_folder(target)),
        tower=target.tower,
        python=find_python(target, "optimum", [NAME, "optimum-onnx"]),
        max_length=text_preprocessing(target.manifest.towers[target.tower]).max_length,
        exports=True,
    )


def _load_torch(setup: Setup, threads: int) -> Any:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    model = SentenceTransformer(setup.model, device=setup.provider, local_files_only=True)
    return model.to({"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[setup.precision])


def _load_onnx(setup: Setup, threads: int, scratch: Path) -> Any:
    folder = export_once(NAME, setup.model, scratch, lambda out: [sys.executable, "-c", _EXPORT, setup.model, str(out)])
    import onnxruntime
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)  # torch does the pooling and normalization
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    settings = {"provider": "CPUExecutionProvider", "session_options": options}
    return SentenceTransformer(str(folder), backend="onnx", device="cpu", local_files_only=True, model_kwargs=settings)
