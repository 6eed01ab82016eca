"""torch itself, running what the artifact's graphs were traced from."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contenders.protocol import Array, Contender, Subject, Way, usable
from benchmarks.results.schema import Precision, Skipped
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.registry import BACKBONES, find_backbone
from exporters.families.load import load_towers
from runtime.artifact.manifest import Pooling
from runtime.errors import UsageError
from runtime.inference.batching import BatchLimit, plan_batches
from runtime.inference.tower import Preprocessor, build_preprocessor, row_cost
from runtime.machine.cpu import bf16_units, gpu_names

if TYPE_CHECKING:
    import torch

_BATCH = 32
_PRECISIONS: dict[str, Precision] = {"eager": "fp32", "channels_last": "fp32", "compile": "fp32"}


def find(subject: Subject) -> tuple[list[Way], list[Skipped]]:
    """Returns torch's ways to run the network, on the CPU and, where the driver finds a GPU, on that."""
    name = f"{subject.manifest.name}, {subject.tower}: torch"
    obstacle = find_obstacle(subject)
    if obstacle:
        return [], [Skipped(name=name, reason=obstacle)]
    names = ["eager", *["channels_last"] * (subject.manifest.architecture == "cnn"), "compile"]
    ways = [make_way(subject, variant, "cpu", _PRECISIONS[variant]) for variant in names]
    skipped = []
    if bf16_units():
        ways.append(make_way(subject, "bf16", "cpu", "bf16"))
    else:
        skipped.append(Skipped(name=f"{name} bf16 on cpu", reason="the CPU has no units for bfloat16"))
    if gpu_names() and "cuda" in subject.providers:
        ways += [make_way(subject, variant, "cuda", _PRECISIONS[variant]) for variant in names]
        ways += [make_way(subject, "bf16", "cuda", "bf16"), make_way(subject, "fp16", "cuda", "fp16")]
    return ways, skipped


def make_way(subject: Subject, variant: str, provider: str, precision: Precision = "fp32") -> Way:
    """Returns one way of torch's; ``float64`` is for references."""
    record = subject.manifest.towers[subject.tower]
    chosen = {
        "weights": subject.weights,
        "pooling": dataclasses.asdict(record.pooling) if record.decided_by == "user" else None,
        "normalize": record.normalized or None,
        "input": record.inputs[0].dtype if record.preprocessing.kind == "image" else "uint8",
    }
    return Way(
        contender="torch",
        variant=variant,
        provider=provider,
        precision=precision,
        # torch.compile would compile again for every length and number of items
        stages=("graph",) if variant == "compile" else ("graph", "end_to_end"),
        model=json.dumps({"backbone": subject.manifest.backbone, "options": chosen, "folder": str(subject.folder)}),
        tower=subject.tower,
    )


def find_obstacle(subject: Subject) -> str | None:
    """Returns why torch cannot run what the artifact was made from; ``None`` if it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'embedding-backbones[bench]'"
    if subject.weights is None:
        return f"its weights are not known here; name them by --weights {subject.manifest.name}=WEIGHTS"
    if subject.manifest.backbone not in BACKBONES:
        return f"{subject.manifest.backbone} is not in the catalogue, so only its own project can build it"
    return None


def load(way: Way, threads: int, scratch: Path) -> Contender:
    """Builds the network with its weights, on as many threads as all others have.

    Raises:
        WeightsError: The weights cannot be had.
    """
    import torch

    torch.set_num_threads(threads)
    model = json.loads(way.model)
    pooling = model["options"].pop("pooling")
    options = ExportOptions(**model["options"], pooling=pooling and Pooling(**pooling))
    towers = load_towers(find_backbone(model["backbone"]), options, any_architecture=True)
    tower = next((tower for tower in towers if tower.record.preprocessing.kind == way.tower), None)
    if tower is None:
        raise UsageError(f"the weights {options.weights} have no {way.tower} tower")
    names = [given.spec.name for given in tower.inputs()]
    preprocessor = build_preprocessor(tower.record.preprocessing, Path(model["folder"]), 1)
    return _Torch(_settle(tower.module().eval(), way), names, preprocessor, way)


def _settle(module: torch.nn.Module, way: Way) -> Callable[..., Any]:
    """Returns ``module`` as ``way`` runs it."""
    import torch

    module = module.to(way.provider)
    if way.variant == "float64":
        return module.double()
    if way.variant == "channels_last":
        return module.to(memory_format=torch.channels_last)
    return torch.compile(module) if way.variant == "compile" else module


class _Torch:
    def __init__(self, call: Callable[..., Any], names: Sequence[str], preprocessor: Preprocessor, way: Way) -> None:
        self._call, self._names, self._preprocessor, self._way = call, names, preprocessor, way

    def embed_arrays(self, arrays: Mapping[str, Array]) -> Array:
        import torch

        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self._way.variant)
        with torch.inference_mode(), torch.autocast(self._way.provider, dtype=half, enabled=half is not None):
            inputs = [torch.from_numpy(arrays[name]).to(self._way.provider) for name in self._names]
            vectors: torch.Tensor = self._call(*inputs)
            wide = vectors if self._way.variant == "float64" else vectors.float()
            return np.asarray(wide.cpu().numpy())  # which waits for a GPU

    def embed_items(self, items: Sequence[Any]) -> Array:
        """Prepares as the runtime does, and embeds as sentence-transformers does: sorted by length, 32 at a time."""
        rows = usable(self._preprocessor.prepare_all(items))
        batches = plan_batches([row_cost(row) for row in rows], BatchLimit(items=_BATCH))
        vectors = [self.embed_arrays(self._preprocessor.collate([rows[at] for at in batch])) for batch in batches]
        order = np.argsort(np.concatenate(batches))
        return np.asarray(np.concatenate(vectors)[order])

    def take_apart(self, items: Sequence[Any]) -> dict[str, float]:
        return {}
