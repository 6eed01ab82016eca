from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms._presets import ImageClassification

from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec, HuggingFaceSource
from exporters.export_towers import export_towers
from exporters.families.cnn.tower import Cnn, CnnTower
from exporters.families.load import load_towers
from exporters.samples.photos import load_photos, photo_names
from runtime.artifact import manifest
from runtime.artifact.manifest import Pooling, Weights

TINY_DIM = 12


def pytest_configure() -> None:
    """Let Ctrl-C reach the child processes of tests, also if a shell runs the tests in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Spread the tests of real backbones among the other modules, so that exports run beside other tests."""
    sized: dict[str, list[pytest.Item]] = {}
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        name = parameters.get("real")
        group = modules.setdefault(item.path, []) if name is None else sized.setdefault(str(name), [])
        group.append(item)
    waiting, step = list(sized.values()), sum(map(len, modules.values())) / max(1, len(sized))
    spread: list[pytest.Item] = []
    others = 0
    for module in modules.values():
        while waiting and others >= step * (len(sized) - len(waiting)):
            spread += waiting.pop(0)
        spread += module
        others += len(module)
    items[:] = [*spread, *(item for group in waiting for item in group)]


class TinyCnn(nn.Module):
    """A classifier with the parts of a real one, small enough to export in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, TINY_DIM, 3, stride=2), nn.ReLU()
        )
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(TINY_DIM, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(torch.flatten(self.avgpool(self.features(images)), 1))
        return logits


def make_tiny_cnn() -> Cnn:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TinyCnn().eval()
    return Cnn(
        model=model,
        pool="avgpool",
        head="fc",
        transforms=ImageClassification(crop_size=40, resize_size=44),
        weights=Weights(origin="random", description="random, seed 0", seed=0, sha256="0" * 64),
    )


def export_tiny(spec: BackboneSpec, cnn: Cnn, folder: Path, options: ExportOptions) -> Path:
    tower = CnnTower(cnn, options, output_dim=spec.output_dim)
    return export_towers(spec, [tower], folder, options=options)


ExportTiny = Callable[[BackboneSpec, Cnn, Path], Path]


@pytest.fixture
def export_default() -> ExportTiny:
    """Export a tiny network with default options."""
    return lambda spec, cnn, folder: export_tiny(spec, cnn, folder, ExportOptions())


@pytest.fixture
def tiny_cnn() -> Cnn:
    return make_tiny_cnn()


@pytest.fixture(scope="session")
def tiny_spec() -> BackboneSpec:
    return BackboneSpec(
        name="tiny", task="image-to-image", output_dim=TINY_DIM, architecture="cnn", description="for tests"
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_spec: BackboneSpec) -> Path:
    """Export an artifact for all tests. Do not write to it."""
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    return export_tiny(tiny_spec, make_tiny_cnn(), folder, ExportOptions())


@pytest.fixture(scope="session")
def exported_float32(tmp_path_factory: pytest.TempPathFactory, tiny_spec: BackboneSpec) -> Path:
    """Export an artifact that takes pixel_values, pools by GeM and normalises. Do not write to it."""
    options = ExportOptions(input="float32", normalize=True, pooling=Pooling(method="gem", p=2.5, eps=1e-5))
    folder = tmp_path_factory.mktemp("exported_float32") / "tiny"
    return export_tiny(tiny_spec, make_tiny_cnn(), folder, options)


@pytest.fixture(scope="session")
def exported_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export an artifact of a toy BERT. Do not write to it."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 32}
    source = HuggingFaceSource(model_id="toy", model_type="bert", config={"vocab_size": 400, **sizes}, max_length=64)
    spec = BackboneSpec(name="toy", task="text-to-text", output_dim=24, architecture="transformer", source=source)
    towers = load_towers(spec, ExportOptions(weights="random"))
    return export_towers(spec, towers, tmp_path_factory.mktemp("exported_text") / "toy", options=ExportOptions())


@pytest.fixture
def artifact(exported: Path, tmp_path: Path) -> Path:
    """Copy an artifact. A test may damage the copy."""
    return Path(shutil.copytree(exported, tmp_path / "artifact"))


@pytest.fixture
def edit_manifest(artifact: Path) -> Callable[[Callable[[dict[str, Any]], None]], Path]:
    """Return a function that changes the manifest of ``artifact``, updates its hash, and returns the artifact."""

    def edit(change: Callable[[dict[str, Any]], None]) -> Path:
        path = artifact / "manifest.json"
        document = json.loads(path.read_text())
        document.pop("sha256")
        change(document)
        path.write_text(json.dumps(document | {"sha256": manifest.seal(document)}))
        return artifact

    return edit


@pytest.fixture(scope="session")
def photos() -> list[Image.Image]:
    return load_photos()


@pytest.fixture(scope="session")
def photo_paths() -> list[Path]:
    import exporters.samples.photos

    return [Path(exporters.samples.photos.__file__).parent / name for name in photo_names()]


@contextmanager
def _small_files(limit: int = 2000) -> Iterator[None]:
    resource = pytest.importorskip("resource", reason="needs POSIX")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def small_disk() -> Callable[..., AbstractContextManager[None]]:
    """Return a context manager in which no file can exceed a limit, by default 2 KB, as on a full disk.

    The limit is not for the whole test, because pytest itself may write to a file.
    """
    return _small_files
