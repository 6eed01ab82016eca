"""On a machine with a GPU, CUDA computes torch's vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.session.providers import PROVIDERS, available_providers, find_provider_obstacle
from runtime.session.session import open_graph

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        PROVIDERS["cuda"] not in available_providers() or find_provider_obstacle(PROVIDERS["cuda"]) is not None,
        reason="needs onnxruntime-gpu and an NVIDIA GPU",
    ),
]


def test_cuda_reproduces_the_golden_vectors(exported: Path) -> None:
    assert runtime.verify(exported, provider="cuda").provider == "cuda"


def test_tf32_is_off(exported: Path) -> None:
    graph = open_graph(exported / "image.onnx", PROVIDERS["cuda"], runtime.CudaOptions(), 1)
    options = graph.get_provider_options()["CUDAExecutionProvider"]
    assert options["use_tf32"] == "0"


TEXTS = [f"text {number} " * (1 + number % 9) for number in range(300)]


@pytest.mark.parametrize(
    "options",
    [runtime.CudaOptions(), runtime.CudaOptions(cuda_graphs=True), runtime.CudaOptions(memory_limit_bytes=2**30)],
    ids=["default", "cuda graphs", "memory limit"],
)
def test_texts_of_any_length_get_the_vectors_of_the_cpu(exported_text: Path, options: runtime.CudaOptions) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    model = runtime.load(exported_text, provider_options=options)
    for _ in range(3):  # the first run of a shape allocates its buffers, or captures its CUDA graph
        np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)


def test_each_gpu_has_a_worker(exported_text: Path) -> None:
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    with runtime.load(exported_text, provider="cuda", device_ids=[0]) as model:
        assert model.provider == "cuda"
        np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-5)


def test_concurrent_callers_share_the_buffers_in_turn(exported_text: Path) -> None:
    model = runtime.load(exported_text, provider="cuda")
    expected = runtime.load(exported_text, provider="cpu").embed(TEXTS)
    with ThreadPoolExecutor(8) as pool:
        for start, vectors in enumerate(pool.map(lambda start: model.embed(TEXTS[start : start + 40]), range(100))):
            np.testing.assert_allclose(vectors, expected[start : start + 40], atol=1e-5)
