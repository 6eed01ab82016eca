"""Run the torch model from which the artifact was exported."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders.protocol import Contender, Setup, Target, usable
from benchmarks.results.schema import Precision, Skipped
from exporters.catalogue.names import find_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES
from runtime.array_types import Array, Feeds
from runtime.artifact.manifest import Pooling
from runtime.artifact.reader import read_manifest
from runtime.errors import EmbeddingBackbonesError, UsageError
from runtime.inference.batching import BatchLimit, plan_batches
from runtime.inference.tower import Preprocessor, build_preprocessor, row_cost
from runtime.machine.cpu import bf16_units, has_arm_bf16
from runtime.machine.cuda_driver import gpu_names

if TYPE_CHECKING:
    import torch

VARIANTS = ("eager", "channels_last", "compile", "bf16", "fp16", "compile-fp16")
_BATCH = 32


def find(target: Target) -> tuple[list[Setup], list[Skipped]]:
    """Return the modes of torch on the CPU, and on the GPU if there is one."""
    name = f"{target.manifest.name}, {target.tower}: torch"
    reason = unavailable_reason(target)
    if reason:
        return [], [Skipped(name=name, reason=reason)]
    names = ["eager", *["channels_last"] * (target.manifest.architecture == "cnn"), "compile"]
    setups = [make_setup(target, variant, "cpu") for variant in names]
    skipped = []
    if bf16_units() or has_arm_bf16():
        setups.append(make_setup(target, "bf16", "cpu", "bf16"))
    else:
        skipped.append(Skipped(name=f"{name} bf16 on cpu", reason="the CPU has no bfloat16 instructions"))
    if gpu_names() and "cuda" in target.providers:
        setups += [make_setup(target, variant, "cuda") for variant in names]
        setups += [make_setup(target, variant, "cuda", "fp16") for variant in ("fp16", "compile-fp16")]
        setups.append(make_setup(target, "bf16", "cuda", "bf16"))
    return setups, skipped


def make_setup(target: Target, variant: str, provider: str, precision: Precision = "fp32") -> Setup:
    """Return the setup of a mode of torch. The mode ``float64`` is for reference vectors."""
    record = target.manifest.towers[target.tower]
    name, weights = _name_and_weights(target)
    chosen = {
        "weights": weights,
        "trust_remote_code": target.manifest.weights.remote_code,
        "pooling": dataclasses.asdict(record.pooling) if record.decided_by == "user" else None,
        "normalize": record.normalized or None,
        "input": record.inputs[0].dtype if record.preprocessing.kind == "image" else "uint8",
    }
    return Setup(
        contender="torch",
        variant=variant,
        provider=provider,
        precision=precision,
        # torch.compile would recompile for every length and batch size
        stages=("graph",) if variant.startswith("compile") else ("graph", "end_to_end"),
        model=json.dumps({"name": name, "options": chosen, "folder": str(target.folder)}),
        tower=target.tower,
    )


def unavailable_reason(target: Target) -> str | None:
    """Return the reason why torch cannot run the artifact's model; ``None`` if it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'embedding-backbones[bench]'"
    if target.weights is None:
        return f"the weights are unknown; name them with --weights {target.manifest.name}=WEIGHTS"
    try:
        find_model(_name_and_weights(target)[0])
    except EmbeddingBackbonesError as exc:
        return f"its torch model cannot be built: {exc}"
    return None


def _name_and_weights(target: Target) -> tuple[str, str]:
    """Return the NAME and the weights of the export. A folder outside the catalogue brings its own weights."""
    backbone, weights = target.manifest.backbone, target.weights or "pretrained"
    named = backbone in BACKBONES or ":" in backbone or weights.partition(":")[0] in ("pretrained", "random")
    return (backbone, weights) if named else (weights, "pretrained")


def load(setup: Setup, threads: int, scratch: Path) -> Contender:
    """Build the model and load its weights.

    Raises:
        WeightsError: The weights cannot be loaded.
        UsageError: The weights have no such tower.
    """
    import torch

    from exporters.families.load import load_towers  # imports torch

    torch.set_num_threads(threads)
    model = json.loads(setup.model)
    pooling = model["options"].pop("pooling")
    options = ExportOptions(**model["options"], pooling=pooling and Pooling(**pooling))
    towers = load_towers(find_model(model["name"]), options)
    tower = next((tower for tower in towers if tower.record.preprocessing.kind == setup.tower), None)
    if tower is None:
        raise UsageError(f"the weights {options.weights} have no {setup.tower} tower")
    names = [given.spec.name for given in tower.inputs()]
    folder = Path(model["folder"])
    preprocessor = build_preprocessor(read_manifest(folder).towers[setup.tower].preprocessing, folder, 1)
    return _Torch(_prepare(tower.module().eval(), setup), names, preprocessor, setup)


def _prepare(module: torch.nn.Module, setup: Setup) -> Callable[..., Any]:
    """Return ``module`` on its device, in the mode of ``setup``. On a GPU, float32 means float32, not TF32."""
    import torch

    torch.backends.cudnn.allow_tf32 = False  # torch's default is on for convolutions, and off for matrix products
    module = module.to(setup.provider)
    if setup.variant == "float64":
        return module.double()
    half = _half(setup)
    # a GPU's tensor cores want channels last
    if (half is not None and setup.provider == "cuda") or setup.variant == "channels_last":
        module = module.to(memory_format=torch.channels_last)
    if half is not None:
        module = module.to(half)  # else autocast would convert all weights in each call
    return torch.compile(module) if setup.variant.startswith("compile") else module


def _half(setup: Setup) -> torch.dtype | None:
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(setup.precision)


class _Torch:
    def __init__(
        self, call: Callable[..., Any], names: Sequence[str], preprocessor: Preprocessor, setup: Setup
    ) -> None:
        self._call, self._names, self._preprocessor, self._setup = call, names, preprocessor, setup

    def embed_arrays(self, arrays: Feeds) -> Array:
        import torch

        half = _half(self._setup)
        with torch.inference_mode(), torch.autocast(self._setup.provider, dtype=half, enabled=half is not None):
            vectors: torch.Tensor = self._call(*(self._input(arrays[name]) for name in self._names))
            wide = vectors if self._setup.variant == "float64" else vectors.float()
            return np.asarray(wide.cpu().numpy())  # this waits for the GPU

    def _input(self, array: Array) -> torch.Tensor:
        import torch

        given = torch.from_numpy(array).to(self._setup.provider)
        return given.double() if self._setup.variant == "float64" and given.is_floating_point() else given

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Preprocess as the runtime does, and batch as sentence-transformers does: sorted by length, 32 at a time."""
        rows = usable(self._preprocessor.prepare_all(items))
        batches = plan_batches([row_cost(row) for row in rows], BatchLimit(items=_BATCH))
        vectors = [self.embed_arrays(self._preprocessor.collate([rows[at] for at in batch])) for batch in batches]
        order = np.argsort(np.concatenate(batches))
        return np.asarray(np.concatenate(vectors)[order])

    def time_steps(self, items: Sequence[Any]) -> dict[str, float]:
        return {}
