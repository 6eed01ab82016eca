"""Test the commands ``similarity`` and ``search``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.cli.main import main
from tests.runtime.spaces import change_toy
from tests.runtime.toy_artifact import write_artifact


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
    prompts: list[tuple[str | None, str | None]] = []
    embed = runtime.Embedder.embed

    def note(self: Any, items: Any, **options: Any) -> Any:
        assert options["batch_size"] == 1
        prompts.append((options["prompt"], options["prompt_name"]))
        return embed(self, items, **options)

    folder = str(write_artifact(tmp_path / "toy", prompts={"query": "query : ", "passage": "passage : "}))
    vectors = str(tmp_path / "vectors.npz")
    assert main(["embed", folder, "a", "b c", "-o", vectors]) == 0
    assert "no prompt applies; --prompt-name takes 'query', 'passage'" in capsys.readouterr().err
    for chosen in (["--prompt", ""], ["--prompt-name", "passage"]):
        assert main(["embed", folder, "a", "b c", "-o", vectors, *chosen, "--force"]) == 0
        assert "no prompt applies" not in capsys.readouterr().err
    monkeypatch.setattr(runtime.Embedder, "embed", note)
    search = ["search", folder, "a", vectors, "--batch-size", "1"]
    assert [main([*search, *words]) for words in ([], ["--prompt", ""], ["--prompt-name", "passage"])] == [0, 0, 0]
    assert prompts == [(None, "query"), ("", None), (None, "passage")]
    assert main(["similarity", folder, "a", "b", "--prompt", "c ", "--batch-size", "1"]) == 0
    assert prompts[-1] == ("c ", None)
    assert main([*search, "--prompt-name", "passages"]) == 2
    assert "no prompt called 'passages'; the artifact has 'query', 'passage'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("suffix", "words"), [("npz", []), ("parquet", []), ("npy", ["--normalize", "--truncate-dim", "2"])]
)
def test_search_scales_the_query_as_embed_scaled_the_vectors(
    suffix: str, words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_artifact(tmp_path / "toy")
    change_toy(folder, lambda manifest: replace(manifest, similarity_function="euclidean"))
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
