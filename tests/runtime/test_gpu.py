"""On a machine with a GPU: CUDA gives the vectors that torch gave, and gives them itself."""

from __future__ import annotations

from pathlib import Path

import pytest

import runtime
from runtime.providers import PROVIDERS, available_providers, find_obstacle
from tests.runtime.test_providers import load_session

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PROVIDERS["cuda"] not in available_providers() or find_obstacle(PROVIDERS["cuda"]) is not None,
        reason="needs onnxruntime-gpu and an NVIDIA GPU",
    ),
]


def test_cuda_reproduces_the_golden_vectors(exported: Path) -> None:
    assert runtime.verify(exported, provider="cuda").provider == "cuda"


def test_tf32_is_off(exported: Path) -> None:
    options = load_session(exported, "cuda").get_provider_options()["CUDAExecutionProvider"]
    assert options["use_tf32"] == "0"
