"""Test that several processes give the same results as one process."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image

import runtime
from runtime.artifact.manifest import ImagePreprocessing
from runtime.artifact.reader import read_manifest
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


def test_streams_of_one_thread_take_turns(model: runtime.Embedder) -> None:
    streams = [model.embed_stream(TEXTS * 8), model.embed_stream(TEXTS * 8)]
    for one, other in zip(*streams, strict=True):
        np.testing.assert_array_equal(one.kept, other.kept)
        np.testing.assert_array_equal(one.vectors, other.vectors)
        assert model.embed(TEXTS[:3]).shape == (3, 24)


class Unreadable:
    """An object that has a pickle, which cannot be read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("none",)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        (lambda: 0, r"item 1 \(function\): it cannot be sent to a worker process .*pickle"),
        (Unreadable(), r"item 1 \(Unreadable\): it cannot be sent to a worker process \(ValueError: invalid literal"),
    ],
    ids=["no pickle", "a bad pickle"],
)
def test_an_item_that_cannot_be_sent_affects_no_other(model: runtime.Embedder, item: Any, reason: str) -> None:
    found = model.embed(["a", item, "b"], on_error="skip")
    np.testing.assert_allclose(found.vectors, model.embed(["a", "b"]), atol=2e-6)
    with pytest.raises(runtime.ItemError, match=reason):
        raise found.failures[0]


def write_uint32_tiff() -> bytes:
    """Return a TIFF of unsigned 32-bit greys. Only its tags tell them from signed ones."""
    file = io.BytesIO()
    greys = np.linspace(0, 2**31 - 2, 64 * 64).reshape(64, 64).astype(np.int32)
    Image.fromarray(greys).save(file, "TIFF")
    tag = (339).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")  # SampleFormat
    head, _, rest = file.getvalue().partition(tag)
    return head + tag + (1).to_bytes(2, "little") + rest[2:]


def test_pil_images_give_the_vectors_and_errors_of_one_process(
    exported: Path, photo_paths: list[Path], tmp_path: Path
) -> None:
    tiff, photo = write_uint32_tiff(), photo_paths[0].read_bytes()
    exported = shutil.copytree(exported, tmp_path / "on-white")
    manifest = read_manifest(exported)
    tower = manifest.towers["image"]
    recipe = replace(cast("ImagePreprocessing", tower.preprocessing), alpha="white")
    changed = replace(manifest, towers={"image": replace(tower, preprocessing=recipe)})
    (exported / "manifest.json").write_text(changed.to_json(), "utf-8")

    def items() -> list[Any]:  # an image that failed once always fails
        files = [Image.open(io.BytesIO(data)) for data in (tiff, photo[: len(photo) // 2], photo)]
        return [*files, Image.new("RGBA", (90, 70), (0, 0, 0, 60))]

    alone = runtime.load(exported, provider="cpu").embed(items(), on_error="skip")
    with runtime.load(exported, provider="cpu", workers=1) as model:
        ours = model.embed(items(), on_error="skip")
    np.testing.assert_allclose(ours.vectors, alone.vectors, atol=2e-6)
    assert ours.kept.tolist() == [0, 2, 3]
    assert [str(failure) for failure in ours.failures] == [str(failure) for failure in alone.failures]


@pytest.mark.parametrize("kind", [str, Path])
def test_the_pixel_limit_of_the_caller_holds_in_workers(
    kind: type, exported: Path, photo_paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = kind(photo_paths[0])
    with runtime.load(exported, provider="cpu", workers=1) as model:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 99)
        with pytest.raises(runtime.ItemError, match="MAX_IMAGE_PIXELS"):
            model.embed([photo])
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        assert len(model.embed([photo])) == 1


def test_an_error_while_workers_load_is_raised(exported_text: Path) -> None:
    with pytest.raises(runtime.ProviderError, match="cuda is not in the installed package"):
        runtime.load(exported_text, workers=2, provider="cuda")


def test_a_process_that_the_system_does_not_start_is_an_error(
    exported_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(process: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("multiprocessing.context.SpawnProcess.start", fail)
    with pytest.raises(runtime.EmbeddingBackbonesError, match=r"cannot start a worker process \(Too many .*ulimit -n"):
        runtime.load(exported_text, workers=2)


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


def test_closing_during_a_call_is_no_death_of_a_worker(exported_text: Path) -> None:
    model = runtime.load(exported_text, workers=1, provider="cpu")
    stream = model.embed_stream(itertools.repeat("text " * 60))
    next(stream)
    model.close()
    with pytest.raises(runtime.UsageError, match=r"the model was closed, by close\(\) or Ctrl-C; load it again"):
        for _ in stream:
            pass


def test_gpus_have_a_worker_each() -> None:
    options = SessionOptions(
        threads=8, concurrent_batches=8, provider_options=runtime.CudaOptions(tf32=True), provider="cuda"
    )
    shares = split_options(options, None, [0, 3])
    assert [(share.threads, share.concurrent_batches) for share in shares] == [(4, 4), (4, 4)]
    assert [share.provider_options for share in shares] == [
        runtime.CudaOptions(tf32=True, device_id=0),
        runtime.CudaOptions(tf32=True, device_id=3),
    ]


@pytest.mark.parametrize(
    ("workers", "device_ids", "options", "message"),
    [
        (0, None, {}, "workers is 0"),
        (True, None, {}, "workers is True"),
        (None, [True], {}, r"device_ids is \[True\], it must be a list of the numbers of GPUs"),
        (3, [0], {}, "workers is 3 with 1 device_ids"),
        (None, [], {}, "one or more different GPUs"),
        (None, [1, 1], {}, "one or more different GPUs"),
        (None, 0, {}, "device_ids is 0, it must be a list of the numbers of GPUs"),
        (None, "0", {}, "device_ids is '0', it must be a list of the numbers of GPUs"),
        (None, [0], {"provider": "cpu"}, "device_ids are for GPUs"),
        (None, [-1], {}, "device_id is -1"),
    ],
)
def test_invalid_numbers_of_workers_are_refused(
    workers: int | None, device_ids: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        split_options(SessionOptions(threads=2, **options), workers, device_ids)
