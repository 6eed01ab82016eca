"""Test that a stream keeps the order, bounds memory, runs beside the caller, and ends at once."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.inference.tower import DEFAULT_BATCH_SIZES
from runtime.session.session import Session

WORDS = ("word", "another", "Grüße", "x", "sentence")
TEXTS = [" ".join(itertools.islice(itertools.cycle(WORDS), 1 + number % 12)) + f" {number}" for number in range(2500)]
IN_FLIGHT = 3  # windows: one yielded, one in inference, one in preparation


@pytest.fixture(scope="module")
def model(exported_text: Path) -> runtime.Embedder:
    return runtime.load(exported_text, provider="cpu")


@pytest.fixture(scope="module")
def alone(model: runtime.Embedder) -> np.ndarray[Any, Any]:
    return np.concatenate([model.embed([text]) for text in TEXTS])


def test_texts_of_any_length_come_back_in_order(model: runtime.Embedder, alone: np.ndarray[Any, Any]) -> None:
    np.testing.assert_allclose(model.embed(TEXTS), alone, atol=2e-6)
    np.testing.assert_allclose(model.embed(iter(TEXTS)), alone, atol=2e-6)
    np.testing.assert_allclose(model.embed(TEXTS, batch_size=7), alone, atol=2e-6)


def test_each_part_of_a_stream_continues_the_previous_one(model: runtime.Embedder, alone: np.ndarray[Any, Any]) -> None:
    items: list[Any] = list(TEXTS)
    items[5] = items[1500] = items[1501] = None
    items[2000] = "word " * 100
    parts = list(model.embed_stream(iter(items), on_error="skip"))
    assert len(parts) > 1
    end = 0
    for part in parts:
        indices = sorted([*part.kept.tolist(), *(failure.index for failure in part.failures)])
        assert indices == list(range(end, end + len(indices)))
        end += len(indices)
    assert end == len(items)
    assert [failure.index for part in parts for failure in part.failures] == [5, 1500, 1501]
    assert [index for part in parts for index in part.truncated.tolist()] == [2000]
    kept = np.concatenate([part.kept for part in parts])
    same = kept != 2000
    np.testing.assert_allclose(np.concatenate([part.vectors for part in parts])[same], alone[kept[same]], atol=2e-6)


def test_a_stream_reads_no_more_than_its_windows(model: runtime.Embedder) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for number in itertools.count():
            read += 1
            yield f"text {number}"

    stream = model.embed_stream(endless())
    for number, part in enumerate(itertools.islice(stream, 4), start=1):
        assert len(part.kept) == DEFAULT_BATCH_SIZES["text", "cpu"].window
        assert read <= (number + IN_FLIGHT - 1) * DEFAULT_BATCH_SIZES["text", "cpu"].window
    stream.close()


def test_an_error_of_an_early_item_stops_the_stream_early(model: runtime.Embedder) -> None:
    def endless() -> Iterator[Any]:
        yield from ["a", None]
        yield from itertools.repeat("text")

    with pytest.raises(runtime.ItemError, match=r"item 1 \(NoneType\)"):
        model.embed(endless())


def test_an_error_of_the_item_source_is_raised_unchanged(model: runtime.Embedder) -> None:
    def broken() -> Iterator[str]:
        yield "text"
        raise ValueError("from the source")

    with pytest.raises(ValueError, match="from the source"):
        model.embed(broken())


def test_options_stand_for_the_keywords(model: runtime.Embedder) -> None:
    options = runtime.EmbedOptions(batch_size=3, normalize=True, truncate_dim=8)
    counts: list[int] = []
    by_options = list(model.stream(TEXTS[:100], options, counts.append))
    by_keywords = list(model.embed_stream(TEXTS[:100], batch_size=3, normalize=True, truncate_dim=8))
    assert [part.kept.tolist() for part in by_options] == [part.kept.tolist() for part in by_keywords]
    np.testing.assert_array_equal(by_options[0].vectors, by_keywords[0].vectors)
    assert sum(counts) == 100


@pytest.mark.parametrize(
    ("options", "message"),
    [({"tower": "image"}, "there is no image tower"), ({"truncate_dim": 25}, "the vectors have 24 dimensions")],
)
def test_options_are_checked_before_the_first_item(
    model: runtime.Embedder, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        model.stream([], runtime.EmbedOptions(**options))


def test_progress_counts_every_item_once(model: runtime.Embedder) -> None:
    counts: list[int] = []
    items: list[Any] = [*TEXTS[:1500], None]
    list(model.embed_stream(items, on_error="skip", on_progress=counts.append))
    assert sum(counts) == 1501
    assert len(counts) > 2


def test_batches_stay_within_the_budget_of_tokens(model: runtime.Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    tokens = 0
    run = Session.run

    def record(self: Session, feeds: Any, stop: Any = None, **options: Any) -> Any:
        nonlocal tokens
        sizes.append(feeds["input_ids"].shape)
        tokens += int(feeds["attention_mask"].sum())
        return run(self, feeds, stop, **options)

    monkeypatch.setattr(Session, "run", record)
    model.embed(TEXTS)
    padded = [rows * length for rows, length in sizes]
    assert max(padded) <= DEFAULT_BATCH_SIZES["text", "cpu"].budget
    assert len({rows for rows, _ in sizes}) > 3, "a budget gives batches of different sizes"
    assert sum(padded) < 1.15 * tokens, "texts of similar length share a batch"
    sizes.clear()
    model.embed(TEXTS[:100], batch_size=9)
    assert sorted({rows for rows, _ in sizes}) == [1, 9]


def test_concurrent_callers_get_their_own_vectors(model: runtime.Embedder, alone: np.ndarray[Any, Any]) -> None:
    starts = [number * 97 % 2000 for number in range(24)]

    def call(start: int) -> np.ndarray[Any, Any]:
        return model.embed(TEXTS[start : start + 1 + start % 200])

    with ThreadPoolExecutor(8) as pool:
        for start, vectors in zip(starts, pool.map(call, starts), strict=True):
            np.testing.assert_allclose(vectors, alone[start : start + len(vectors)], atol=2e-6)


def test_inference_continues_while_the_caller_is_busy(model: runtime.Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = threading.Event()
    run = Session.run

    def record(self: Session, feeds: Any, stop: Any = None, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread() and first_is_there.is_set():
            ran.set()
        return run(self, feeds, stop, **options)

    first_is_there = threading.Event()
    monkeypatch.setattr(Session, "run", record)
    stream = model.embed_stream(itertools.repeat("text", 5000))
    next(stream)
    first_is_there.set()
    assert ran.wait(20), "the next window waits for the caller"
    assert len(list(stream)) > 1


def test_an_abandoned_stream_ends_its_threads(model: runtime.Embedder) -> None:
    before = set(threading.enumerate())
    stream = model.embed_stream(itertools.repeat("text"))
    next(stream)
    del stream
    deadline = time.monotonic() + 60
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("items", [iter(TEXTS), TEXTS[:40]], ids=["many", "few"])
def test_the_caller_never_holds_a_lock_that_ctrl_c_would_leave_taken(
    exported_text: Path, items: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = runtime.load(exported_text, provider="cpu", threads=2, concurrent_batches=2)
    held: list[threading.Condition] = []
    caller = threading.get_ident()
    enter, start = threading.Condition.__enter__, threading.Thread.start

    def record(self: threading.Condition) -> bool:
        if threading.get_ident() == caller:
            held.append(self)
        return enter(self)

    def start_and_forget(self: threading.Thread) -> None:
        start(self)  # waits for the new thread once per call: Python offers no other way
        if threading.get_ident() == caller:
            held.clear()

    monkeypatch.setattr(threading.Condition, "__enter__", record)
    monkeypatch.setattr(threading.Thread, "start", start_and_forget)
    assert len(model.embed(items, batch_size=4)) in (len(TEXTS), 40)
    assert not held


@pytest.mark.process
def test_ctrl_c_ends_an_endless_stream(exported_text: Path) -> None:
    code = f"""
import itertools, runtime
model = runtime.load({str(exported_text)!r})
stream = model.embed_stream(itertools.repeat("word " * 60))
next(stream)
print("running", flush=True)
for part in stream:
    pass
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    assert err.rstrip().endswith("KeyboardInterrupt")
