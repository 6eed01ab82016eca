from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from runtime.cli.main import main
from tests.runtime.spaces import change_toy

Verify = Callable[..., tuple[int, str, str]]


@pytest.fixture
def verify(toy: Path, capsys: pytest.CaptureFixture[str]) -> Verify:
    """Write images, and return a function that verifies a file of vectors."""
    for index in range(3):
        Image.new("RGB", (4, 4), (index, index, index + 9)).save(f"{index}.png")

    def run(path: str, *words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(["verify", "toy", "--vectors", path, *words])
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
@pytest.mark.parametrize(
    "words",
    [
        ["--tower", "text", "t.txt", "b c", "--dtype", "int8"],
        ["--tower", "text", "t.txt", "--prompt-name", "query", "--normalize", "--truncate-dim", "3"],
        ["--tower", "text", "t.txt", "--variant", "int8", "--dtype", "float16"],
        ["0.png", "b c"],
    ],
)
def test_what_was_written_is_verified(name: str, words: list[str], verify: Verify) -> None:
    assert main(["embed", "toy", *words, "-o", name]) == 0
    code, out, err = verify(name)
    assert (code, "lost:" in err, "changed:" in err) == (0, False, False), err
    assert "verified: hashes" in out
    assert f"verified: {name}, " in out


def test_a_damaged_file_of_the_tower_that_did_not_embed_is_noticed(verify: Verify) -> None:
    assert main(["embed", "toy", "--tower", "text", "b c", "-o", "v.npz"]) == 0
    Path("toy", "image.onnx").write_bytes(b"")
    code, out, err = verify("v.npz")
    assert (code, out) == (1, "")
    assert "image.onnx has changed since export" in err


def test_a_sample_is_spread_over_the_file(verify: Verify) -> None:
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-o", "v.npz"]) == 0
    Path("t.txt").unlink()
    code, _, err = verify("v.npz", "--sample", "2")
    assert code == 0, "both texts are their own names"
    code, _, err = verify("v.npz", "--sample", "5")
    assert code == 1
    (line,) = [line for line in err.splitlines() if line.startswith("lost:")]
    assert line.startswith("lost: row 3 (d d")
    assert "is not found again in t.txt" in line


def test_vectors_of_another_machine_are_named(verify: Verify) -> None:
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-o", "v.npz", "--variant", "fp32"]) == 0
    with np.load("v.npz") as arrays:
        changed = dict(arrays)
    changed["vectors"][1] *= [1, 2, 1, 1]
    changed["vectors"][2] *= 1.1  # the same direction
    np.savez("v.npz", **changed)
    code, out, err = verify("v.npz", "--variant", "fp32")
    assert code == 1
    assert [line.partition(":")[2].strip().partition(":")[0] for line in err.splitlines() if "changed:" in line] == [
        "row 1 (c)",
        "row 2 ()",
    ]
    assert "NOT VERIFIED: v.npz, 5 rows embedded again" in out


def test_vectors_made_in_less_than_float32_have_its_bounds(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.session.open_graph.check_arm_bf16", lambda _: None)
    words = ["--provider", "cpu", "--provider-option", "arm_bf16=true", "--variant", "fp32"]
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-o", "v.npz", *words]) == 0
    code, out, _ = verify("v.npz", "--variant", "fp32")
    assert (code, "(at least 1 - 5.0e-04)" in out) == (0, True)


def test_items_that_changed_or_are_gone_are_named(verify: Verify) -> None:
    assert main(["embed", "toy", "--tower", "image", "0.png", "1.png", "2.png", "-o", "v.npz"]) == 0
    Path("0.png").unlink()
    Image.new("RGB", (4, 4), (99, 0, 0)).save("1.png")
    code, out, err = verify("v.npz")
    assert code == 1
    assert "lost: row 0 (0.png): it is not found again in 0.png 1.png 2.png" in err
    assert "lost: row 1 (1.png): the file of this name has other content now" in err
    assert "1 rows embedded again" in out


def test_standard_input_is_not_read_again(verify: Verify, monkeypatch: pytest.MonkeyPatch) -> None:
    import io
    import sys

    class Stdin:
        buffer = io.BytesIO(b"a b\n" + b"c " * 60 + b"\n")

    monkeypatch.setattr(sys, "stdin", Stdin)
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-", "-o", "v.npz"]) == 0
    code, out, err = verify("v.npz")
    assert code == 1
    assert "6 rows embedded again" in out, "those of t.txt, and a short text, which is its own name"
    assert "it is not found again in t.txt, or has changed; standard input cannot be read again" in err


def test_an_input_that_is_gone_hides_no_other(verify: Verify) -> None:
    Path("gone.txt").write_text("c " * 60)
    Path("t.jsonl").write_text(json.dumps({"body": "b " * 60}))
    words = ["--tower", "text", "gone.txt", "t.txt", "t.jsonl", "--column", "body"]
    assert main(["embed", "toy", *words, "-o", "v.npz"]) == 0
    Path("gone.txt").unlink()
    code, out, err = verify("v.npz")
    assert (code, "6 rows embedded again" in out) == (1, True)
    (line,) = [line for line in err.splitlines() if line.startswith("lost:")]
    assert line.startswith("lost: row 0 (c c")


def test_vectors_of_another_space_are_refused(verify: Verify, tmp_path: Path) -> None:
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-o", "v.npz"]) == 0
    change_toy(tmp_path / "toy", weights={"text": "c" * 64})
    code, _, err = verify("v.npz")
    assert code == 1
    assert "v.npz holds vectors of the space vs1-" in err


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("v.npy", [], "does not tell what its vectors were made of"),
        ("v.npz", ["--dtype", "binary"], "int8 or binary vectors"),
    ],
)
def test_what_cannot_be_verified_is_wrong_usage(name: str, words: list[str], message: str, verify: Verify) -> None:
    assert main(["embed", "toy", "--tower", "text", "t.txt", "-o", name, *words]) == 0
    code, _, err = verify(name)
    assert code == 2
    assert message in err
