"""Test that several processes give the same results as one process."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import runtime
from runtime.inference.workers import Workers, split_options
from runtime.session.session import SessionOptions

pytestmark = pytest.mark.process
TEXTS = [f"text {number} " * (number % 9) for number in range(400)]


@pytest.fixture(scope="module")
def model(exported_text: Path) -> Iterator[runtime.Embedder]:
    with runtime.load(exported_text, provider="cpu", workers=2, threads=2) as model:
        yield model


def test_order_failures_and_indices_are_those_of_one_process(model: runtime.Embedder, exported_text: Path) -> None:
    items: list[Any] = [*TEXTS, None, *TEXTS, 3]
    ours, theirs = (each.embed(items, on_error="skip") for each in (model, runtime.load(exported_text)))
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=2e-6)
    np.testing.assert_array_equal(ours.kept, theirs.kept)
    assert [str(failure) for failure in ours.failures] == [str(failure) for failure in theirs.failures]


def test_each_has_its_share_of_the_threads(model: runtime.Embedder) -> None:
    assert (model.threads, model.provider, model.towers) == (1, "cpu", ("text",))


def test_an_error_has_the_index_in_the_whole_stream_and_the_workers_continue(model: runtime.Embedder) -> None:
    with pytest.raises(runtime.ItemError, match=r"item 400 \(NoneType\)"):
        model.embed(itertools.chain(TEXTS, [None], TEXTS))  # type: ignore[list-item]
    assert model.embed(TEXTS[:3]).shape == (3, 24)


def test_an_abandoned_stream_leaves_idle_workers(model: runtime.Embedder) -> None:
    stream = model.embed_stream(itertools.repeat("text"))
    next(stream)
    del stream
    assert model.embed(["text"]).shape == (1, 24)


def test_an_error_while_workers_load_is_raised(exported_text: Path) -> None:
    with pytest.raises(runtime.ProviderError, match="cuda is not in the installed package"):
        runtime.load(exported_text, workers=2, provider="cuda")


def test_a_killed_worker_is_an_error_and_nothing_hangs(exported_text: Path) -> None:
    with runtime.load(exported_text, workers=2, provider="cpu") as model:
        stream = model.embed_stream(itertools.repeat("text " * 60))
        next(stream)
        victim = cast("Workers", model.backend).processes[0]
        os.kill(cast("int", victim.pid), signal.SIGKILL)
        with pytest.raises(runtime.InferenceError, match=r"a worker process has died \(exit code -9\)"):
            for _ in stream:
                pass


def test_closing_ends_the_processes(exported_text: Path) -> None:
    model = runtime.load(exported_text, workers=1, provider="cpu")
    process = cast("Workers", model.backend).processes[0]
    assert process.is_alive()
    model.close()
    deadline = time.monotonic() + 20
    while process.is_alive():
        assert time.monotonic() < deadline


def test_gpus_have_a_worker_each() -> None:
    options = SessionOptions(threads=8, provider_options=runtime.CudaOptions(tf32=True), provider="cuda")
    shares = split_options(options, None, [0, 3])
    assert [share.threads for share in shares] == [4, 4]
    assert [share.provider_options for share in shares] == [
        runtime.CudaOptions(tf32=True, device_id=0),
        runtime.CudaOptions(tf32=True, device_id=3),
    ]


@pytest.mark.parametrize(
    ("workers", "device_ids", "options", "message"),
    [
        (0, None, {}, "workers is 0"),
        (3, [0], {}, "workers is 3 with 1 device_ids"),
        (None, [], {}, "one or more different GPUs"),
        (None, [1, 1], {}, "one or more different GPUs"),
        (None, [0], {"provider": "cpu"}, "device_ids are for GPUs"),
        (None, [-1], {}, "device_id is -1"),
    ],
)
def test_invalid_numbers_of_workers_are_refused(
    workers: int | None, device_ids: list[int] | None, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        split_options(SessionOptions(threads=2, **options), workers, device_ids)
