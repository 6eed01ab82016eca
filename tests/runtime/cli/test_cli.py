from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.cli.main import build_parser, main
from tests.runtime.toy_artifact import write_artifact


def test_embed_writes_a_row_per_input(
    exported: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vectors.npy"
    assert main(["embed", str(exported), *map(str, photo_paths), "-o", str(output), "--batch-size", "4"]) == 0
    np.testing.assert_array_equal(np.load(output), runtime.load(exported).embed(photo_paths, batch_size=4))
    assert "6 vectors of 12 dimensions by cpu" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.npy"]


def test_embed_stops_at_a_bad_input_and_keeps_what_came_before(
    exported: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "vectors.npy"
    assert main(["embed", str(exported), str(photo_paths[0]), "no.jpg", "-o", str(output)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: item 1 (no.jpg): there is no such file; 1 item before it is kept")
    assert [path.name for path in tmp_path.iterdir()] == [".vectors.npy.work"]
    assert main(["embed", str(exported), "no.jpg", "-o", str(tmp_path / "other.npy")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "error: item 0 (no.jpg): there is no such file"
    assert not (tmp_path / ".other.npy.work").exists(), "there is nothing to keep"


def test_embed_can_skip_and_reports_what_it_skipped(
    exported: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, report = tmp_path / "vectors.npy", tmp_path / "vectors.npy.skipped.jsonl"
    inputs = ["no.jpg", str(photo_paths[0])]
    assert main(["embed", str(exported), *inputs, "-o", str(output), "--on-error", "skip"]) == 0
    assert np.load(output).shape == (1, 12)
    assert json.loads(report.read_text()) == {"index": 0, "item": "no.jpg", "reason": "there is no such file"}
    assert "skipped 1 of 2 inputs" in capsys.readouterr().out
    assert main(["embed", str(exported), str(photo_paths[0]), "-o", str(output), "--on-error", "skip", "--force"]) == 0
    assert not report.exists(), "a report of an earlier job would be misleading"


@pytest.mark.parametrize(
    ("output", "code", "message"),
    [
        ("vectors.txt", 2, "must end in .npy, .npz, .parquet"),
        ("no/folder/v.npy", 1, "there is no folder"),
        ("v.npy", 1, "is a folder"),
    ],
)
def test_embed_checks_its_output_first(
    exported: Path, output: str, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "v.npy").mkdir()
    assert main(["embed", str(exported), "no.jpg", "-o", str(tmp_path / output)]) == code
    assert message in capsys.readouterr().err


def test_a_full_disk_leaves_the_old_vectors(
    exported: Path,
    photo_paths: list[Path],
    tmp_path: Path,
    small_disk: Callable[[], AbstractContextManager[None]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "vectors.npy"
    output.write_bytes(b"old")
    many = [str(photo_paths[0])] * 60
    with small_disk():
        assert main(["embed", str(exported), *many, "-o", str(output), "--force"]) == 1
    assert "free some disk space" in capsys.readouterr().err
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]


def test_an_output_behind_a_uri_is_refused_without_its_secret(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "toy", "a", "-o", "s3://key:secret@bucket/v.npz"]) == 2
    assert capsys.readouterr().err.startswith("error: s3://bucket/v.npz is a URI, and a local job takes paths")


def test_an_artifact_behind_a_uri_has_to_be_copied(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["info", "s3://key:secret@bucket/toy"])
    assert "s3://bucket/toy is a URI; give a path of this machine, and copy it" in capsys.readouterr().err
    with pytest.raises(runtime.ArtifactError, match="there is no folder s3://bucket/toy; copy it here first"):
        runtime.load("s3://key:secret@bucket/toy")


def test_nothing_embedded_is_a_failure_and_leaves_the_old_vectors(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"old")
    assert main(["embed", str(exported), "no.jpg", "-o", str(tmp_path / "v.npy"), "--on-error", "skip", "--force"]) == 1
    assert (tmp_path / "v.npy").read_bytes() == b"old"


def test_random_weights_are_called_random(
    exported: Path, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["similarity", str(exported), str(photo_paths[0])]) == 0
    assert capsys.readouterr().err == "WARNING: the weights are random (seed 0): the vectors mean nothing\n"


def test_info_tells_what_it_is(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(exported)]) == 0
    out = capsys.readouterr().out
    for fact in ("tiny", "random, seed 0", "pixels uint8", "[batch, 12]", "opset         18", "torch 2."):
        assert fact in out
    assert main(["info", str(exported), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(read_manifest(exported).to_json())


@pytest.mark.parametrize("words", [["--provider", "cpu"], ["--threads", "1"], ["--variant", "fp32"]])
def test_options_of_a_session_need_a_graph(
    words: list[str], exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(exported), *words]) == 2
    assert "need it; add it" in capsys.readouterr().err
    assert main(["info", str(exported), *words, "--placement"]) == 0
    assert "placement     image:" in capsys.readouterr().out


def test_the_manifest_as_json_has_no_placement(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(exported), "--json", "--placement"]) == 2
    assert "--json prints the manifest, which has no --placement; leave one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json"], "--json is for a measurement; leave it out with --forget"),
        (["--provider", "cuda"], "--provider is for a measurement; leave it out with --forget"),
        (["--batch-sizes", "2"], "--batch-sizes is for a measurement; leave it out with --forget"),
        (["--max-latency-ms", "-5"], "max_latency_ms is -5.0, it must be above 0"),
    ],
)
def test_nothing_is_measured_to_forget(
    words: list[str], message: str, exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(exported), "--forget", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["search", "a", "q", "v.npy", "--truncate-dim", "0"],
        ["search", "a", "q", "v.npy", "--top", "-1"],
        ["search", "a", "q", "v.npy", "--top", "x"],
        ["search", "a", "q", "v.npy", "--top", "1.5"],
        ["similarity", "a", "b", "--batch-size", "0"],
        ["embed", "a", "b", "-o", "v.npy", "--rows-per-part", "0"],
        ["verify", "a", "--vectors", "v.npz", "--sample", "0"],
        ["tune", "a", "--rounds", "0"],
        ["serve", "a", "--workers", "0"],
    ],
)
def test_other_than_a_whole_number_from_1_is_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert f"argument {words[-2]}: it is {words[-1]}, it must be a whole number from 1 up" in capsys.readouterr().err


def test_any_free_port_and_the_first_gpu_are_0() -> None:
    assert build_parser().parse_args(["serve", "a", "--port", "0"]).port == 0
    assert build_parser().parse_args(["embed", "a", "b", "-o", "v.npy", "--device-ids", "0"]).device_ids == (0,)


def test_sizes_are_in_powers_of_1024() -> None:
    parsed = build_parser().parse_args(["serve", "a", "--memory-limit", "4G", "--max-body-bytes", "3"])
    assert (parsed.memory_limit, parsed.max_body_bytes) == (4 << 30, 3)


@pytest.mark.parametrize(("word", "missing"), [("=a", "name"), ("a=", "folder")])
def test_an_artifact_to_serve_has_a_folder_and_a_name(
    word: str, missing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", word]) == 2
    assert f"'{word}' has no {missing}; give NAME=FOLDER" in capsys.readouterr().err


def test_the_folder_of_an_artifact_to_serve_may_have_an_equals_sign(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *[str(write_artifact(tmp_path / "a=b"))] * 2]) == 2
    assert "two artifacts are called toy; name one of them" in capsys.readouterr().err


def test_an_empty_address_is_for_a_cluster(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", str(exported), "a.jpg", "-o", "v.npy", "--address", ""]) == 2
    assert "--address and --rows-per-part are for a cluster" in capsys.readouterr().err


def test_verify_says_so(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(artifact)]) == 0
    assert capsys.readouterr().out.startswith("verified: hashes, and golden vectors with image min cosine 1 - ")
    (artifact / "README.md").unlink()
    assert main(["verify", str(artifact)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments", [[], ["embed"], ["embed", "a", "b"], ["fly", "a"], ["info", "a", "--workers", "1"]]
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m runtime" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(
    exported: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("runtime.cli.artifact.read_manifest", interrupt)
    assert main(["info", str(exported)]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def closed_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def full_disk() -> int:
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.process
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("open_output", "error"),
    [(closed_pipe, b""), (full_disk, b"error: [Errno 28] No space left on device; free some disk space, ")],
    ids=["pipe", "disk"],
)
def test_an_output_that_ends_is_no_traceback(
    open_output: Callable[[], int], error: bytes, unbuffered: str, exported: Path
) -> None:
    output = open_output()
    ended = subprocess.run(
        [sys.executable, "-m", "runtime", "info", str(exported)],
        stdout=output,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        check=False,
    )
    os.close(output)
    assert ended.returncode == 1
    assert ended.stderr.startswith(error)
    assert ended.stderr.count(b"\n") == bool(error)


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_program_without_standard_streams_does_its_work(exported_text: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m runtime embed {exported_text} a b -o {tmp_path / 'v.npy'} <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0
    assert np.load(tmp_path / "v.npy").shape == (2, 24)
    command = f"{sys.executable} -m runtime embed {exported_text} - -o {tmp_path / 'none.npy'} <&-"
    ended = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, "error: there is nothing to embed: - holds no item")


def test_lists_are_separated_by_spaces_or_commas() -> None:
    tune = build_parser().parse_args(["tune", "a", "--batch-sizes", "1", "8", "--threads", "1,2"])
    assert (tune.batch_sizes, tune.threads) == ((1, 8), (1, 2))
    embed = build_parser().parse_args(["embed", "a", "b", "-o", "v.npy", "--device-ids", "0,1", "2"])
    assert embed.device_ids == (0, 1, 2)


def test_options_of_a_provider_are_repeated_and_may_stand_before_the_artifact() -> None:
    words = [
        "verify",
        "--provider-option",
        "tf32=true",
        "--provider-option",
        "arena=a,b",
        "--provider-option",
        "x=1",
        "a",
    ]
    assert build_parser().parse_args(words).provider_option == ["tf32=true", "arena=a,b", "x=1"]
    assert build_parser().parse_args(["verify", "a"]).provider_option == []
