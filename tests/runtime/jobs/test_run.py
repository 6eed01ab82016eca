from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, chdir
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import runtime
from runtime.artifact.manifest import PointCloudPreprocessing
from runtime.cli.main import main
from runtime.jobs.items import Unreadable
from runtime.jobs.journal import work_folder
from runtime.jobs.read_vectors import read_vectors
from runtime.preprocess.item import UnusableItemError
from runtime.preprocess.point_cloud import PointCloudPreprocessor
from tests.paths import ROOT
from tests.runtime.toy_artifact import write_artifact

ITEMS = 2500  # more than two windows of a stream
# Runs embed, commits after every batch, and sends itself a signal at the n-th call of a method.
SCRIPT = """
import os, signal, sys
from runtime.cli.main import main
from runtime.jobs import journal
owner, name, call, moment = journal.{owner}, "{method}", {call}, "{moment}"
journal.COMMIT_INTERVAL_S = 0
method, calls = getattr(owner, name), []
def struck(self):
    calls.append(0)
    if len(calls) == call and moment == "before":
        os.kill(os.getpid(), signal.{signal})
    method(self)
    if len(calls) == call and moment == "after":
        os.kill(os.getpid(), signal.{signal})
setattr(owner, name, struck)
sys.exit(main(sys.argv[1:]))
"""


def lines(count: int = ITEMS) -> list[str]:
    return [" ".join(["word"] * (index * 7 % 11)) + f" {index}" for index in range(count)]


@pytest.fixture(scope="module")
def uninterrupted(exported_text: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "t.txt").write_text("\n".join(lines()))
    with chdir(folder):  # the output records the names of the inputs
        assert main(["embed", str(exported_text), "t.txt", "-o", "v.npz", "--batch-size", "8"]) == 0
    return (folder / "v.npz").read_bytes()


@pytest.mark.process
@pytest.mark.parametrize(
    ("owner", "method", "call", "moment", "signal"),
    [
        ("Journal", "commit", 1, "after", "SIGKILL"),
        ("VectorFile", "sync", 2, "before", "SIGKILL"),  # the vectors are written, but their entry is not
        ("Journal", "commit", 1, "after", "SIGINT"),
        ("VectorFile", "sync", 2, "after", "SIGTERM"),
    ],
)
def test_a_run_that_is_ended_goes_on_where_it_was(
    owner: str,
    method: str,
    call: int,
    moment: str,
    signal: str,
    exported_text: Path,
    embed: Callable[..., int],
    embedded: list[Any],
    uninterrupted: bytes,
    tmp_path: Path,
) -> None:
    (tmp_path / "t.txt").write_text("\n".join(lines()))
    words = ["t.txt", "-o", "v.npz", "--batch-size", "8"]
    script = SCRIPT.format(owner=owner, method=method, call=call, moment=moment, signal=signal)
    command = [sys.executable, "-c", script, "embed", str(exported_text), *words]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    entries = (work_folder(tmp_path / "v.npz") / "journal.jsonl").read_text().splitlines()[1:]
    stop = json.loads(entries[-1])["stop"]
    assert 0 < stop < ITEMS
    if signal == "SIGKILL":
        assert ended.returncode == -9
    else:
        assert ended.returncode == 130
        assert f"interrupted; {stop} items are kept: run the same command with --resume" in ended.stderr
    assert embed(*words, "--resume") == 0
    assert embedded == lines()[stop:]
    assert (tmp_path / "v.npz").read_bytes() == uninterrupted
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.txt", "v.npz"]


def test_an_item_that_fails_ends_the_run_and_can_be_mended(
    embed: Callable[..., int], embedded: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = tmp_path / "t.txt"
    texts.write_bytes(b"a\nb\n\xff\nc")
    assert embed("t.txt", "-o", "v.npz") == 1
    assert "item 2 (t.txt:3): the line is not UTF-8" in capsys.readouterr().err
    assert embed("t.txt", "-o", "v.npz") == 1
    assert "v.npz is begun and not finished; go on with --resume, or start again" in capsys.readouterr().err
    texts.write_bytes(b"a\nb\nmended\nc")
    embedded.clear()
    assert embed("t.txt", "-o", "v.npz", "--resume") == 0
    assert "an earlier run embedded 2 of 4 inputs" in capsys.readouterr().out
    assert embedded == ["mended", "c"]
    assert np.load("v.npz")["names"].tolist() == ["a", "b", "mended", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A\naaa\n\xff\nc", "2 items are done, but these items or their order differ"),
        (b"aaa\na\n\xff\nc", "2 items are done, but these items or their order differ"),
        (b"aa\naa\n\xff\nc", "2 items are done, but these items or their order differ"),
        (b"a", "2 items are done, but there are now only 1"),
    ],
)
def test_inputs_that_changed_are_not_resumed(
    content: bytes, message: str, embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_bytes(b"a\naaa\n\xff\nc")
    assert embed("t.txt", "-o", "v.npy") == 1
    (tmp_path / "t.txt").write_bytes(content)
    assert embed("t.txt", "-o", "v.npy", "--resume", "--on-error", "skip") == 2
    assert message in capsys.readouterr().err
    assert embed("t.txt", "-o", "v.npy", "--force", "--on-error", "skip") == 0
    assert len(np.load("v.npy")) == len(content.replace(b"\xff\n", b"").split(b"\n"))


@pytest.mark.parametrize(
    "option",
    [
        ["--normalize"],
        ["--truncate-dim", "3"],
        ["--prompt", "query: "],
        ["more"],
        ["--provider", "cpu", "--provider-option", "arm_bf16=true"],
    ],
)
def test_other_options_are_not_resumed(
    option: list[str],
    embed: Callable[..., int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runtime.session.open_graph.check_arm_bf16", lambda _: None)
    (tmp_path / "t.txt").write_bytes(b"a\n\xff")
    assert embed("t.txt", "-o", "v.npy") == 1
    assert embed("t.txt", *option, "-o", "v.npy", "--resume") == 2
    assert "the unfinished v.npy is another job: its " in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("runtime.jobs.run.__version__", "99")
        assert embed("t.txt", "-o", "v.npy", "--resume", "--on-error", "skip") == 2
    assert 'but now it is "99"; repeat the same command with the same version' in capsys.readouterr().err
    assert embed("t.txt", "-o", "v.npy", "--resume", "--on-error", "skip", "--dtype", "float16") == 0
    assert np.load("v.npy").dtype == np.float16


def test_a_job_is_resumed_with_the_prompt_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_artifact(tmp_path / "toy", prompts={"query": "query : ", "passage": "passage : "})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_bytes(b"a\n\xff\nb")
    words = ["embed", str(folder), "t.txt", "-o", "v.npy"]
    assert main([*words, "--prompt-name", "query"]) == 1
    for other, shown in (["--prompt-name", "passage"], '"passage : "'), ([], '""'), (["--prompt", ""], '""'):
        assert main([*words, *other, "--resume"]) == 2
        assert f'its prompt is "query : ", but now it is {shown}' in capsys.readouterr().err
    (tmp_path / "t.txt").write_text("a\nc\nb")
    assert main([*words, "--prompt", "query : ", "--resume"]) == 0, "the same prompt by its text"
    expected = runtime.load(folder, provider="cpu").embed_query(["a", "c", "b"])
    np.testing.assert_array_equal(np.load("v.npy"), expected)


def test_another_variant_is_not_resumed(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").write_bytes(b"a\n\xff")
    assert embed("t.txt", "-o", "v.npy") == 1
    journal = work_folder(tmp_path / "v.npy") / "journal.jsonl"
    journal.write_text(journal.read_text().replace('"variant": "fp32"', '"variant": "int8"'))
    assert embed("t.txt", "-o", "v.npy", "--resume") == 2
    assert 'its variant is "int8", but now it is "fp32"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_a_full_disk_at_the_end_costs_no_vector(
    name: str,
    embed: Callable[..., int],
    embedded: list[Any],
    tmp_path: Path,
    small_disk: Callable[[], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The vectors fit on the disk, but the output with names does not."""
    (tmp_path / name).write_bytes(b"old")
    words = [*lines(18), "-o", name, "--force"]
    with small_disk():
        assert embed(*words) == 1
    assert "free some disk space, then run the same command with --resume" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"old"
    embedded.clear()
    assert embed(*words, "--resume") == 0
    assert embedded == []
    assert len(read_vectors(tmp_path / name, 24).vectors) == 18


def test_what_is_left_out_is_reported_and_shifts_no_row(embed: Callable[..., int], tmp_path: Path) -> None:
    bad = {7, 8, 70, 199}
    texts = lines(200)
    content = [
        b'{"text": 5}' if index in bad else json.dumps({"text": text}).encode() for index, text in enumerate(texts)
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(content))
    assert embed("t.jsonl", "-o", "v.parquet", "--on-error", "skip", "--batch-size", "8") == 0
    table = pq.read_table("v.parquet").to_pydict()
    assert table["index"] == [index for index in range(200) if index not in bad]
    assert table["name"] == [" ".join(texts[index].split()) for index in table["index"]]
    report = [json.loads(line) for line in (tmp_path / "v.parquet.skipped.jsonl").read_text().splitlines()]
    assert [(each["index"], each["item"]) for each in report] == [
        (index, f"t.jsonl:{index + 1}") for index in sorted(bad)
    ]
    assert {each["reason"] for each in report} == {"'text' is of type int, not a string"}
    assert embed(*[texts[index] for index in (0, 9, 198)], "-o", "alone.npy") == 0
    rows = [table["embedding"][table["index"].index(index)] for index in (0, 9, 198)]
    np.testing.assert_allclose(rows, np.load("alone.npy"), atol=1e-5)


def test_duplicates_are_rows_of_their_own(embed: Callable[..., int]) -> None:
    assert embed("a", "b", "a", "-o", "v.npz") == 0
    arrays = np.load("v.npz")
    assert arrays["names"].tolist() == ["a", "b", "a"]
    np.testing.assert_allclose(arrays["vectors"][0], arrays["vectors"][2], atol=1e-6)


def test_no_item_is_wrong_usage_and_no_good_one_a_failure(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.txt").touch()
    assert embed("t.txt", "-o", "v.npy") == 2
    assert "there is nothing to embed: t.txt holds no item" in capsys.readouterr().err
    assert embed("a text", "--column", "other", "-o", "v.npy") == 2
    assert "--column other names a column of" in capsys.readouterr().err
    (tmp_path / "t.txt").write_bytes(b"\xff\n\xff")
    assert embed("t.txt", "-o", "v.npy", "--on-error", "skip") == 1
    assert "item 0 (t.txt:1): the line is not UTF-8" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_vectors_are_normalised_and_cut_as_asked(embed: Callable[..., int]) -> None:
    assert embed("a", "b", "-o", "v.npy", "--normalize", "--truncate-dim", "5") == 0
    vectors = np.load("v.npy")
    assert vectors.shape == (2, 5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_cut_texts_are_counted_once(
    embed: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = b"long " * 99
    (tmp_path / "t.txt").write_bytes(long + b"\nb\n\xff\n" + long)
    assert embed("t.txt", "-o", "v.npy") == 1
    assert embed("t.txt", "-o", "v.npy", "--resume", "--on-error", "skip") == 0
    assert "2 of 3 texts were cut to the model's token limit" in capsys.readouterr().out


@pytest.mark.parametrize(("option", "shown"), [([], False), (["--progress"], True), (["--no-progress"], False)])
def test_progress_is_drawn_where_it_is_watched(
    option: list[str], shown: bool, embed: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed("a", "b", "-o", "v.npy", *option) == 0
    assert bool(re.search(r"100%.* 2/2 \[.*item/s\]", capsys.readouterr().err)) == shown


def test_images_come_from_files_lists_and_tables(
    exported: Path, photo_paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photo = photo_paths[0]
    pq.write_table(pa.table({"image": [{"bytes": photo.read_bytes(), "path": "x.jpg"}, None]}), "t.parquet")
    (tmp_path / "l.txt").write_text(f"{photo}\nno.jpg\n")
    words = ["embed", str(exported), "t.parquet", "l.txt", str(photo.parent), "-o", "v.npz", "--on-error", "skip"]
    assert main(words) == 0
    arrays = np.load("v.npz")
    photos = sorted(map(str, photo_paths))
    assert arrays["names"].tolist() == ["x.jpg", str(photo), *photos]
    assert arrays["index"].tolist() == [0, 2, *range(4, 4 + len(photos))]
    np.testing.assert_allclose(arrays["vectors"], runtime.load(exported).embed([photo, photo, *photos]), atol=1e-5)
    report = [json.loads(line) for line in (tmp_path / "v.npz.skipped.jsonl").read_text().splitlines()]
    assert [(each["item"], each["reason"]) for each in report] == [
        ("t.parquet:2", "'image' is null"),
        ("no.jpg (l.txt:2)", "there is no such file"),
    ]


def test_no_mesh_is_no_point_cloud() -> None:
    preprocessor = PointCloudPreprocessor(PointCloudPreprocessing(num_points=9, min_points=2, seed=0))
    item: Any = Unreadable("the line is not JSON")
    with pytest.raises(UnusableItemError, match="Unreadable"):
        preprocessor.prepare(item)


@pytest.mark.process
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_workers_that_are_interrupted_leave_the_hint_to_resume(tmp_path: Path, name: str) -> None:
    script = (
        "import signal, sys\n"
        "from runtime.cli.main import main\n"
        "from runtime.inference import workers\n"
        "embed, calls = workers._WorkerProcess.embed, []\n"
        "def struck(*arguments):\n"
        "    calls.append(arguments)\n"
        "    if len(calls) == 5:\n"
        f"        signal.raise_signal(signal.{name})\n"
        "    return embed(*arguments)\n"
        "workers._WorkerProcess.embed = struck\n"
        "if __name__ == '__main__':\n"
        "    sys.exit(main(sys.argv[1:]))\n"
    )
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "texts.txt").write_text("a\n" * 9000)
    write_artifact(tmp_path / "toy")
    command = [sys.executable, "script.py", "embed", "toy", "texts.txt", "-o", "v.npy", "--workers", "2"]
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (130, ""), ended.stderr
    assert "items are kept: run the same command with --resume" in ended.stderr
