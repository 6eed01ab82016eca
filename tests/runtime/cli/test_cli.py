from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.artifact.reader import read_manifest
from runtime.cli.main import build_parser, main
from tests.runtime.spaces import name_toy
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


def test_similarity_prints_a_table(exported: Path, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["similarity", str(exported), *map(str, photo_paths)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cosine", *(path.stem for path in photo_paths), "nearest"]
    assert len(lines) == 2 + len(photo_paths)
    assert lines[2].split()[:2] == ["astronaut", "1.000"]


def test_similarity_tells_namesakes_apart(
    exported: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [tmp_path / folder / "x.jpg" for folder in "ab"]
    for place, photo in zip(places, photo_paths, strict=False):
        place.parent.mkdir()
        place.write_bytes(photo.read_bytes())
    assert main(["similarity", str(exported), *map(str, places)]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["a/x.jpg", "b/x.jpg"]
    assert main(["similarity", str(exported), str(places[0]), str(places[0])]) == 0
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["x.jpg", "x.jpg (2)"]


def test_nothing_embedded_is_a_failure_and_leaves_the_old_vectors(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "v.npy").write_bytes(b"old")
    assert main(["embed", str(exported), "no.jpg", "-o", str(tmp_path / "v.npy"), "--on-error", "skip", "--force"]) == 1
    assert (tmp_path / "v.npy").read_bytes() == b"old"


def test_random_weights_are_called_random(
    exported: Path, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["similarity", str(exported), str(photo_paths[0])]) == 0
    assert capsys.readouterr().err == "WARNING: the weights are random (seed 0): the vectors mean nothing\n"


def test_similarity_of_one_image_has_no_neighbour(
    exported: Path, photo_paths: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["similarity", str(exported), str(photo_paths[0])]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["astronaut", "1.000", "-"]


def test_a_vector_of_zeros_is_nearest_to_none(
    exported_text: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = np.array([[0, 0], [1, 0], [1, 1]], np.float32)
    monkeypatch.setattr(runtime.Embedder, "embed", lambda *_, **__: vectors)
    assert main(["similarity", str(exported_text), "zero", "a", "b"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[-1] for row in rows] == ["-", "b", "a"]
    assert rows[0][1:4] == ["nan"] * 3


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
    [(closed_pipe, b""), (full_disk, b"error: [Errno 28] No space left on device\n")],
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
    assert (ended.returncode, ended.stderr) == (1, error)


@pytest.mark.process
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_a_program_without_standard_streams_does_its_work(exported_text: Path, tmp_path: Path) -> None:
    command = f"{sys.executable} -m runtime embed {exported_text} a b -o {tmp_path / 'v.npy'} <&- >&- 2>&-"
    assert subprocess.run(["/bin/sh", "-c", command], check=False).returncode == 0
    assert np.load(tmp_path / "v.npy").shape == (2, 24)
    command = f"{sys.executable} -m runtime embed {exported_text} - -o {tmp_path / 'none.npy'} <&-"
    ended = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (2, "error: there is nothing to embed: - holds no item")


def test_texts_are_compared_as_they_stand(
    exported_text: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["similarity", str(exported_text), "a", "b/c.jpg"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]] == ["a", "b/c.jpg"]
    assert main(["embed", str(exported_text), "a", "b", "-o", str(tmp_path / "v.npy")]) == 0
    assert np.load(tmp_path / "v.npy").shape == (2, 24)


def test_search_prints_the_nearest_first(
    artifact: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors, names = tmp_path / "vectors.npy", tmp_path / "names.txt"
    assert main(["embed", str(artifact), *map(str, photo_paths), "-o", str(vectors)]) == 0
    names.write_text("".join(f"{path.stem}\n" for path in photo_paths))
    capsys.readouterr()
    words = ["search", str(artifact), str(photo_paths[3]), str(vectors), "--names", str(names), "--top", "2"]
    assert main(words) == 0
    _, _, best, second = capsys.readouterr().out.splitlines()
    assert best.split() == ["3", "1.000", photo_paths[3].stem]
    assert float(second.split()[1]) < 1


@pytest.mark.parametrize(
    ("names", "code", "message"),
    [
        ("\ufeffone\u2028still one\ntwo\n".encode(), 0, "still one"),
        (b"one\n\n", 0, ""),
        (b"one\n\xff\n", 2, "names.txt:2: the line is not UTF-8"),
        ("one\ntwo\n".encode("utf-16"), 2, "names.txt is UTF-16"),
    ],
)
def test_names_have_the_lines_of_embed(
    names: bytes, code: int, message: str, exported_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "v.npy", runtime.load(exported_text).embed(["one", "two"]))
    (tmp_path / "names.txt").write_bytes(names)
    words = ["search", str(exported_text), "one", str(tmp_path / "v.npy"), "--names", str(tmp_path / "names.txt")]
    assert main(words) == code
    printed = capsys.readouterr()
    assert message in (printed.err if code else printed.out)


def test_search_puts_the_prompt_of_queries_before_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts: list[str | None] = []
    embed = runtime.Embedder.embed

    def note(self: Any, items: Any, **options: Any) -> Any:
        prompts.append(runtime.EmbedOptions(prompt=options["prompt"], prompt_name=options["prompt_name"]).prompt)
        return embed(self, items, **options)

    folder = str(write_artifact(tmp_path / "toy", prompts={"query": "query : ", "passage": "passage : "}))
    vectors = str(tmp_path / "vectors.npz")
    assert main(["embed", folder, "a", "b c", "-o", vectors]) == 0
    assert "no prompt applies; --prompt-name takes 'query', 'passage'" in capsys.readouterr().err
    assert main(["embed", folder, "a", "b c", "-o", vectors, "--prompt-name", "passage", "--force"]) == 0
    assert "no prompt applies" not in capsys.readouterr().err
    monkeypatch.setattr(runtime.Embedder, "embed", note)
    search = ["search", folder, "a", vectors]
    assert [main([*search, *words]) for words in ([], ["--prompt", ""], ["--prompt-name", "passage"])] == [0, 0, 0]
    assert prompts == ["query : ", "", None]
    assert main(["similarity", folder, "a", "b", "--prompt", "c "]) == 0
    assert prompts[-1] == "c "
    assert main([*search, "--prompt-name", "document"]) == 2
    assert "no prompt called 'document'; it has 'query', 'passage'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "words"), [("npz", []), ("parquet", []), ("npy", ["--normalize", "--truncate-dim", "2"])]
)
def test_search_scales_the_query_as_embed_scaled_the_vectors(
    suffix: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_artifact(tmp_path / "toy")
    name_toy(folder, lambda manifest: replace(manifest, similarity_function="euclidean"))
    vectors = str(tmp_path / f"vectors.{suffix}")
    assert main(["embed", str(folder), "a b c", "b", "-o", vectors, "--normalize", "--truncate-dim", "2"]) == 0
    capsys.readouterr()
    assert main(["search", str(folder), "b", vectors, *words]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()[2:]] == [["1", "-0.000"], ["0", "-0.046"]]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_search_names_the_rows_of_files_that_have_names(
    suffix: str, artifact: Path, photo_paths: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = tmp_path / f"vectors.{suffix}"
    photos = [*map(str, photo_paths)]
    assert main(["embed", str(artifact), *photos, "-o", str(vectors), "--truncate-dim", "9"]) == 0
    capsys.readouterr()
    words = ["search", str(artifact), photos[3], str(vectors), "--top", "1"]
    assert main([*words, "--truncate-dim", "9"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["3", "1.000", photos[3]]
    assert main([*words, "--truncate-dim", "8"]) == 2
    assert "give the artifact and the --truncate-dim that made them" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as vectors"),
        (Path.mkdir, "is a folder, but vectors are read from one file"),
        (b"no vectors", "cannot be read as vectors"),
        (np.ones((2, 5), np.float32), r"but floats \[rows, 12\] are expected"),
        (np.ones((2, 12), np.int64), r"but floats \[rows, 12\] are expected"),
        (np.ones((2, 12), np.float32), "has 1 lines, but the vectors have 2 rows"),
    ],
)
def test_vectors_that_cannot_be_searched_are_wrong_usage(
    content: Any, message: str, artifact: Path, photo_paths: list[Path], tmp_path: Path, capsys: Any
) -> None:
    path, names = tmp_path / "vectors.npy", tmp_path / "names.txt"
    names.write_text("one\n")
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif callable(content):
        content(path)
    elif content is not None:
        np.save(path, content)
    assert main(["search", str(artifact), str(photo_paths[0]), str(path), "--names", str(names)]) == 2
    assert re.search(message, capsys.readouterr().err)


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
