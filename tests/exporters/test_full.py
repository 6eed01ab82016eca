"""Every exportable backbone at its real size, through the command lines, as a user would."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
import trimesh
from torchvision.models import ResNet50_Weights, resnet50

from exporters.catalogue.registry import BACKBONES
from exporters.samples.photos import load_photos
from exporters.samples.texts import TEXTS
from exporters.weights.random_init import stabilize_activations
from runtime.artifact.reader import read_manifest
from tests.paths import ROOT

pytestmark = pytest.mark.full


_AHEAD = 4  # artifacts on disk, or being made


class Exports(NamedTuple):
    """Exports that were begun.

    Attributes:
        folder: Where the artifacts are written.
        ended: How the export of each backbone ended.
        on_disk: Released when an artifact is deleted.
    """

    folder: Path
    ended: Mapping[str, Future[subprocess.CompletedProcess[str]]]
    on_disk: Semaphore


def run(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with ``arguments`` in the project's folder, with changed environment variables."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | changes,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def lean_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with nothing but ``pip install embedding-backbones[cpu,mesh,openclip]``."""
    folder = tmp_path_factory.mktemp("lean")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for package in ("exporters", "runtime"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    words = f"-m pip install --quiet --constraint {ROOT / 'constraints.txt'} {source}[cpu,mesh,openclip]"
    subprocess.run([python, *words.split()], check=True, cwd=folder)
    return python


def lean(python: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs the lean interpreter away from the checkout, so that it sees only what is installed."""
    return subprocess.run(
        [python, *map(str, arguments)], cwd=python.parent, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="session")
def exports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    """Exports of the backbones that tests will ask for, begun ahead: two at a time, as each keeps one core busy."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    names = dict.fromkeys(str(item.callspec.params["real"]) for item in items if "real" in item.callspec.params)
    on_disk, ended = Semaphore(_AHEAD), Event()
    folder = tmp_path_factory.mktemp("artifacts")

    def export(name: str) -> subprocess.CompletedProcess[str]:
        on_disk.acquire()
        if ended.is_set():
            raise RuntimeError("the tests have ended")
        return run("-m", "exporters", name, "--weights", "random", "--output", folder)

    with ThreadPoolExecutor(2) as pool:
        yield Exports(folder, {name: pool.submit(export, name) for name in names}, on_disk)
        ended.set()  # after a test that failed, with -x, exports may be waiting for a place on the disk
        pool.shutdown(wait=False, cancel_futures=True)
        on_disk.release(len(names))


# `make test` exports these at their real size, and `make tried` the others.
_REPRESENTATIVE = (
    *("jina-embedding-t-en-v1", "jina-embedding-s-en-v1", "bert-base-en"),
    *("efficientnet-base", "resnet-base", "clip-base-en", "pointnet-base"),
)


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=() if name in _REPRESENTATIVE else pytest.mark.tried) for name in BACKBONES],
)
def real(request: pytest.FixtureRequest, exports: Exports) -> Iterator[Path]:
    """The artifact of a real architecture with random weights; deleted afterwards, as together they take 9 GB."""
    ended = exports.ended[request.param].result()
    try:
        assert ended.returncode == 0, ended.stderr
        assert "WARNING: the weights are random" in ended.stdout
        peak_bytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        assert peak_bytes < 16 * 2**30, "of this or an earlier export"
        yield exports.folder / str(request.param)
    finally:
        shutil.rmtree(exports.folder / str(request.param), ignore_errors=True)
        exports.on_disk.release()


@pytest.fixture(scope="session")
def mesh_paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("meshes")
    shapes = [trimesh.creation.box(), trimesh.creation.icosphere(), trimesh.creation.torus(2, 1)]
    paths = [folder / "box.obj", folder / "sphere.stl", folder / "torus.glb"]
    for shape, path in zip(shapes, paths, strict=True):
        shape.export(path)
    return paths


def test_the_base_package_brings_no_torch(lean_python: Path) -> None:
    listed = json.loads(lean(lean_python, "-m", "pip", "list", "--format", "json").stdout)
    names = {package["name"].lower() for package in listed}
    assert {"embedding-backbones", "onnxruntime", "numpy", "pillow"} <= names
    assert not names & {"torch", "torchvision", "transformers", "onnx", "onnxscript", "open_clip_torch", "optimum"}
    assert lean(lean_python, "-m", "exporters", "list").returncode == 0
    refused = lean(lean_python, "-m", "exporters", "resnet-base", "--weights", "random")
    assert refused.returncode == 1
    assert "pip install 'embedding-backbones[export,cpu]'" in refused.stderr


def test_an_environment_without_torch_verifies_it(real: Path, lean_python: Path) -> None:
    ended = lean(lean_python, "-m", "runtime", "verify", real)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("verified: hashes, and golden vectors with ")
    assert ended.stdout.count("min cosine 1") == len(read_manifest(real).towers)


def test_an_environment_without_torch_embeds_with_it(
    real: Path, lean_python: Path, photo_paths: list[Path], mesh_paths: list[Path], tmp_path: Path
) -> None:
    output = tmp_path / "vectors.npy"
    inputs: dict[str, Sequence[str | Path]] = {"text": TEXTS[:6], "image": photo_paths, "mesh": mesh_paths}
    items = [item for tower in read_manifest(real).towers for item in inputs[tower]]
    ended = lean(lean_python, "-m", "runtime", "embed", real, *items, "-o", output, "--batch-size", "5")
    assert ended.returncode == 0, ended.stderr
    vectors = np.load(output)
    assert vectors.shape == (len(items), BACKBONES[real.name].output_dim)
    assert 1e-2 < np.abs(vectors).max() < 1e3
    assert np.linalg.matrix_rank(vectors) == len(items)


def test_its_graphs_are_dynamic_and_give_one_embedding(real: Path) -> None:
    for name, tower in read_manifest(real).towers.items():
        graph = onnx.load(real / tower.graph).graph
        (embedding,) = graph.output
        batch, dim = embedding.type.tensor_type.shape.dim
        assert (embedding.name, batch.dim_param) == ("embedding", "batch")
        assert dim.dim_value == BACKBONES[real.name].output_dim
        for tensor in graph.input:
            axes = [axis.dim_param for axis in tensor.type.tensor_type.shape.dim if axis.dim_param]
            assert axes == {"text": ["batch", "sequence"], "image": ["batch"], "mesh": ["batch", "num_points"]}[name]
        if BACKBONES[real.name].architecture == "cnn":
            operators = {node.op_type for node in graph.node}
            assert not operators & {"Gemm", "MatMul", "Dropout"}, "the head is still there"


@pytest.mark.tried  # test_two_exports_have_the_same_bytes holds it for a small model
def test_pretrained_is_the_default_and_twice_gives_the_same_bytes(tmp_path: Path, photo_paths: list[Path]) -> None:
    """Walks torchvision's own cache, filled with seeded weights under the name of the published ones."""
    weights = ResNet50_Weights.DEFAULT
    torch.manual_seed(1)
    model = resnet50().eval()
    stabilize_activations(model, weights.transforms())
    cached = tmp_path / "hub" / "checkpoints" / Path(weights.url).name
    cached.parent.mkdir(parents=True)
    torch.save(model.state_dict(), cached)
    outputs = [tmp_path / "first", tmp_path / "second"]
    with ThreadPoolExecutor(2) as pool:
        commands = [("-m", "exporters", "resnet-base", "--output", output) for output in outputs]
        both = list(pool.map(lambda words: run(*words, TORCH_HOME=str(tmp_path)), commands))
    for ended in both:
        assert ended.returncode == 0, ended.stderr
        assert "not the published ones" in ended.stdout
    first, second = (output / "resnet-base" for output in outputs)
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name

    import runtime

    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        expected = model(torch.stack([weights.transforms()(photo) for photo in load_photos()])).numpy()
    np.testing.assert_allclose(runtime.load(first).embed(photo_paths), expected, atol=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "exporters", "resnet-base", "--weights", "random", "--output", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "image by torch" in line:  # the next stage, the longest, has begun
                process.send_signal(number)
                break
        rest = process.stderr.read()
    assert process.returncode == 130, rest
    assert rest.splitlines()[-1] == "interrupted"
    assert "Traceback" not in rest
    assert list(tmp_path.iterdir()) == []
