"""The runtime imports no heavy package, as a separate process proves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.runtime.preprocess.cube import glb

pytestmark = pytest.mark.process

HEAVY = (
    "torch",
    "torchvision",
    "transformers",
    "optimum",
    "open_clip",
    "onnx",
    "onnxscript",
    "exporters",
    "benchmarks",
)

PROBE = """
import sys
{code}
loaded = [name for name in {heavy} if name in sys.modules]
sys.exit("loaded: " + ", ".join(loaded) if loaded else 0)
"""


def probe(code: str, heavy: tuple[str, ...] = HEAVY) -> str:
    """Return which of ``heavy`` the code loads; empty for none."""
    command = [sys.executable, "-c", PROBE.format(code=code, heavy=heavy)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


def test_a_clone_without_its_requirements_names_the_command_that_installs_them() -> None:
    command = [sys.executable, "-S", "-m", "runtime", "--help"]  # -S: without site-packages
    error = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT).stderr
    assert "numpy is not installed; run `pip install '.[cpu]'` in the clone" in error


def test_importing_the_runtime_loads_nothing_heavy() -> None:
    assert (
        probe(
            "import runtime, runtime.cli.main",
            (*HEAVY, "onnxruntime", "tqdm", "trimesh", "pyarrow", "ray", "starlette"),
        )
        == ""
    )


def test_meshes_are_read_without_trimesh() -> None:
    code = f"""
import numpy as np
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.preprocess.mesh.formats import read_mesh_bytes
from runtime.preprocess.point_cloud import PointCloudPreprocessor
preprocessor = PointCloudPreprocessor(PointCloudPreprocessing(num_points=9, min_points=2, seed=0))
assert preprocessor.prepare(np.eye(3)).shape == (3, 3)
assert preprocessor.prepare(read_mesh_bytes({glb()!r}, ".glb")).shape == (9, 3)
"""
    assert probe(code, (*HEAVY, "trimesh")) == ""


def test_embedding_loads_nothing_heavy(exported: Path, photo_paths: list[Path]) -> None:
    code = f"""
import runtime
assert runtime.load({str(exported)!r}).embed([{str(photo_paths[0])!r}], progress=True).shape == (1, 12)
"""
    printed = probe(code)
    assert "loaded" not in printed
    assert "Error" not in printed


def test_help_and_list_of_the_exporters_load_no_torch() -> None:
    not_ours = (*(name for name in HEAVY if name != "exporters"), "safetensors")  # the base package has none of them
    assert probe("from exporters.cli.main import main; main(['list'])", not_ours) == ""
    code = """
from exporters.cli.main import main
try:
    main(['--help'])
except SystemExit:
    pass
"""
    assert probe(code, not_ours) == ""


@pytest.mark.parametrize("name", ["torch", "exporters", "trimesh"])
def test_the_probe_can_fail(name: str) -> None:
    assert probe(f"import runtime, {name}", (*HEAVY, "trimesh")).startswith(f"loaded: {name}")
