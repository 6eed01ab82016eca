from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from runtime.errors import OutputError, UsageError
from runtime.jobs import outputs
from runtime.jobs.journal import Journal, JournalEntry
from runtime.jobs.origin import VectorOrigin
from runtime.jobs.outputs import OutputOptions, write_output
from runtime.jobs.read_vectors import find_ranges, read_ranges, read_vectors
from runtime.postprocess import Dtype

ROWS, DIM = 100, 12
NAMES = ["", "é", "\udcff.jpg", *(f"name {index}" for index in range(ROWS - 3))]
DIGESTS = [2**64 - 1 - row for row in range(ROWS)]
ORIGIN = VectorOrigin(
    space="vs1-0000000000000000",
    facts={},
    artifact="toy",
    variant="fp32",
    towers=("text",),
    prompt="",
    normalize=False,
    truncate_dim=None,
    dtype="float32",
    inputs=("t.txt",),
    column=None,
    precision="float32",
)


@pytest.fixture
def vectors() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "CHUNK_BYTES", 7 * 4 * DIM)


@pytest.fixture
def open_journal(tmp_path: Path, vectors: Any) -> Iterator[Callable[[str], Journal]]:
    """Open a journal of two entries. One item in the middle and one at the end were skipped."""
    opened: list[Journal] = []

    def open_one(name: str) -> Journal:
        journal = Journal(tmp_path / name, {}, dim=DIM, resume=False, force=False)
        first = JournalEntry(31, 30, [(10, "x", "bad")], NAMES[:30], 0, "", DIGESTS[:30])
        last = JournalEntry(102, 100, [(101, "\udcff", "très bad")], NAMES[30:], 0, "", DIGESTS[30:])
        journal.append(first, vectors[:30])
        journal.append(last, vectors[30:])
        journal.commit()
        opened.append(journal)
        return journal

    yield open_one
    for journal in opened:
        journal.discard()
        journal.close()


def as_float(vectors: Any, dtype: Dtype) -> Any:
    """Return the expected vectors by the definition of ``dtype``."""
    if dtype == "binary":
        return (np.packbits(vectors > 0, axis=1) - 128).astype(np.int8)
    if dtype == "int8":
        low, high = vectors.min(axis=0), vectors.max(axis=0)
        return np.clip((vectors - low) / ((high - low) / 255) - 128, -128, 127).astype(np.int8)
    return vectors.astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "binary"])
@pytest.mark.parametrize("suffix", ["npy", "npz", "parquet"])
def test_every_format_holds_every_dtype(
    suffix: str, dtype: Dtype, open_journal: Callable[[str], Journal], vectors: Any, tmp_path: Path
) -> None:
    path = tmp_path / f"v.{suffix}"
    if (suffix, dtype) == ("npy", "int8"):
        with pytest.raises(UsageError, match=r"int8 needs its ranges, but .*v\.npy has no room for them; write \.npz"):
            OutputOptions(path=path, dtype=dtype)
        return
    write_output(open_journal(path.name), OutputOptions(path=path, dtype=dtype), ORIGIN)
    expected = as_float(vectors, dtype)
    if suffix == "npy":
        found = np.load(path)
    elif suffix == "npz":
        arrays = np.load(path)
        found = arrays["vectors"]
        assert arrays["names"].tolist() == NAMES
        assert arrays["digests"].tolist() == DIGESTS
        np.testing.assert_array_equal(arrays["index"], [*range(10), *range(11, 101)], strict=True)
        assert ("ranges" in arrays) == (dtype == "int8")
    else:
        table = pq.read_table(path)
        assert [str(kind) for kind in table.schema.types[:2]] == ["int64", "string"]
        assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
        assert table["index"].to_pylist() == [*range(10), *range(11, 101)]
        assert table["name"].to_pylist() == [*NAMES[:2], "\\udcff.jpg", *NAMES[3:]]
        assert table["digest"].to_pylist() == DIGESTS
        found = np.array(table["embedding"].to_pylist(), dtype=expected.dtype)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, atol=dtype == "int8")  # a value on the border between two steps
    if dtype == "int8":
        np.testing.assert_array_equal(find_ranges(path), [vectors.min(axis=0), vectors.max(axis=0)])


def test_ranges_of_the_user_are_taken(open_journal: Callable[[str], Journal], vectors: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "r.npy", np.stack([np.full(DIM, -8, np.float32), np.full(DIM, 8, np.float32)]))
    options = OutputOptions(path=tmp_path / "v.npz", dtype="int8", ranges=read_ranges(tmp_path / "r.npy"))
    write_output(open_journal("v.npz"), options, ORIGIN)
    found = np.load(tmp_path / "v.npz")["vectors"].astype(float)
    np.testing.assert_allclose((found + 128) * 16 / 255 - 8, vectors, atol=16 / 255)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (np.ones((2, 3), np.int64), r"holds int64 \[2, 3\]"),
        (np.ones((3, 3), np.float32), r"holds float32 \[3, 3\]"),
        (np.array([[1.0], [0.0]]), "a smallest value above the largest"),
        (np.array([[np.nan], [0.0]]), "a NaN or infinity"),
        (None, "cannot be read as ranges"),
    ],
)
def test_ranges_that_are_none_are_refused(ranges: Any, message: str, tmp_path: Path) -> None:
    if ranges is not None:
        np.save(tmp_path / "r.npy", ranges)
    with pytest.raises(UsageError, match=message):
        read_ranges(tmp_path / "r.npy")


def test_ranges_go_with_int8_and_tell_vectors_apart(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="ranges are for dtype int8, not float16; leave them out"):
        OutputOptions(path=tmp_path / "v.npy", dtype="float16", ranges=np.ones((2, DIM)))
    with pytest.raises(UsageError, match="all codes would be equal; take ranges of more, different vectors"):
        OutputOptions(path=tmp_path / "v.npz", dtype="int8", ranges=np.ones((2, DIM)))


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_equal_vectors_are_not_written_as_int8(suffix: str, tmp_path: Path) -> None:
    journal = Journal(tmp_path / f"v.{suffix}", {}, dim=DIM, resume=False, force=False)
    entry = JournalEntry(2, 2, [], NAMES[:2], 0, "", DIGESTS[:2])
    journal.append(entry, np.tile(np.arange(DIM, dtype=np.float32), (2, 1)))
    journal.commit()
    with pytest.raises(UsageError, match="all codes would be equal"):
        write_output(journal, OutputOptions(path=tmp_path / f"v.{suffix}", dtype="int8"), ORIGIN)
    journal.discard()
    journal.close()
    assert not list(tmp_path.iterdir())


def test_the_report_is_an_object_a_line(open_journal: Callable[[str], Journal], tmp_path: Path) -> None:
    write_output(open_journal("v.npy"), OutputOptions(path=tmp_path / "v.npy"), ORIGIN)
    report = (tmp_path / "v.npy.skipped.jsonl").read_text("utf-8")
    assert "très" in report
    assert [json.loads(line) for line in report.splitlines()] == [
        {"index": 10, "item": "x", "reason": "bad"},
        {"index": 101, "item": "\udcff", "reason": "très bad"},
    ]


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_was_written_can_be_searched(
    name: str, dtype: Dtype, open_journal: Callable[[str], Journal], vectors: Any, tmp_path: Path
) -> None:
    write_output(open_journal(name), OutputOptions(path=tmp_path / name, dtype=dtype), ORIGIN)
    found, names = read_vectors(tmp_path / name, DIM)
    np.testing.assert_array_equal(found, vectors.astype(dtype))
    assert names is not None
    assert names[3:] == NAMES[3:]


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_int8_is_searched_with_its_ranges(
    name: str, open_journal: Callable[[str], Journal], vectors: Any, tmp_path: Path
) -> None:
    write_output(open_journal(name), OutputOptions(path=tmp_path / name, dtype="int8"), ORIGIN)
    found = read_vectors(tmp_path / name, DIM).vectors
    assert found.dtype == np.float32
    steps = (vectors.max(axis=0) - vectors.min(axis=0)) / 255
    assert (np.abs(found - vectors) <= 0.501 * steps).all()


@pytest.mark.parametrize("name", ["v.npy", "v.npz"])
def test_int8_without_ranges_is_not_searched(name: str, tmp_path: Path) -> None:
    codes = np.zeros((2, DIM), np.int8)
    np.save(tmp_path / "v.npy", codes)
    np.savez(tmp_path / "v.npz", vectors=codes, names=NAMES[:2])
    with pytest.raises(UsageError, match=r"int8 or binary vectors .* which cannot be searched"):
        read_vectors(tmp_path / name, DIM)


@pytest.mark.parametrize("name", ["v.npz", "v.parquet", "v.npy"])
@pytest.mark.parametrize("content", [b"", b"PK\x05\x06" + b"\0" * 18, b"PK\x03\x04" + b"\0" * 99, b"PAR1PAR1", None])
def test_what_holds_no_vectors_is_wrong_usage(name: str, content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match="cannot be read as vectors"):
        read_vectors(tmp_path / name, DIM)


@pytest.mark.parametrize("name", ["v.npz", "v.parquet", "v.npy"])
def test_a_full_disk_leaves_the_old_output_and_the_journal(
    name: str,
    open_journal: Callable[[str], Journal],
    tmp_path: Path,
    small_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    (tmp_path / name).write_bytes(b"old")
    journal = open_journal(name)
    before = sorted(path.name for path in journal.work_path("").iterdir())
    options = OutputOptions(path=tmp_path / name, dtype="float32" if name != "v.npy" else "float16")
    with (
        small_disk(),
        pytest.raises(OutputError, match="free some disk space, then run the same command with --resume"),
    ):
        outputs.write_output(journal, options, ORIGIN)
    assert (tmp_path / name).read_bytes() == b"old"
    assert sorted(path.name for path in journal.work_path("").iterdir()) == before
    write_output(journal, options, ORIGIN)
    assert read_vectors(tmp_path / name, DIM).vectors.shape == (ROWS, DIM)
