from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import runtime
from runtime.artifact.reader import read_manifest
from runtime.cli.main import main
from runtime.jobs.origin import read_origin
from tests.runtime.spaces import change_toy


@pytest.fixture
def other(toy: Path, tmp_path: Path) -> Path:
    """Write an artifact of other weights."""
    return change_toy(Path(shutil.copytree(toy, tmp_path / "other")), weights={"text": "c" * 64})


@pytest.mark.parametrize("name", ["v.npz", "v.parquet"])
def test_embed_writes_the_space_and_the_origin(name: str, toy: Path) -> None:
    options = ["--tower", "text", "--prompt-name", "query", "--dtype", "float16", "--variant", "fp32"]
    assert main(["embed", "toy", "t.txt", "a d", "-o", name, *options]) == 0
    origin, manifest = read_origin(Path(name)), read_manifest(toy)
    assert origin
    assert (origin.space, origin.inputs, origin.prompt) == (manifest.space.id, ("t.txt", "a d"), "query : ")
    assert (origin.dtype, origin.variant, origin.towers) == ("float16", "fp32", ("text",))
    if name == "v.npz":
        assert str(np.load(name)["space"]) == manifest.space.id
    else:
        assert pq.read_schema(name).metadata[b"space"].decode() == manifest.space.id


def test_search_refuses_vectors_of_another_space(toy: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "toy", "t.txt", "--tower", "text", "-o", "v.npz", "--variant", "fp32"]) == 0
    assert main(["search", "toy", "a", "v.npz", "--variant", "fp32"]) == 0
    assert main(["search", "other", "a", "v.npz", "--variant", "fp32"]) == 1
    assert "use that artifact, or embed the file again with this one" in capsys.readouterr().err
    assert main(["search", "toy", "a", "v.npz", "--tower", "text", "--variant", "int8"]) == 1
    assert "run the graph that made them, with --variant fp32" in capsys.readouterr().err


def test_search_notes_vectors_of_an_unknown_space(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["embed", "toy", "t.txt", "--tower", "text", "-o", "v.npy"]) == 0
    assert main(["search", "toy", "a", "v.npy"]) == 0
    assert "v.npy names no vector space" in capsys.readouterr().err


def test_a_job_is_resumed_in_its_space_only(toy: Path, other: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--tower", "image", "0.png", "1.png", "-o", "v.npz"]
    Image.new("RGB", (4, 4)).save("0.png")
    assert main(["embed", "toy", *words]) == 1
    Image.new("RGB", (4, 4)).save("1.png")
    assert main(["embed", "other", *words, "--resume"]) == 2
    assert "its space is" in capsys.readouterr().err
    twin = change_toy(Path(shutil.copytree(toy, "twin")), lambda manifest: replace(manifest, name="another export"))
    assert read_manifest(twin).sha256 != read_manifest(toy).sha256
    assert main(["embed", "twin", *words, "--resume"]) == 0
    assert "an earlier run embedded 1 of 2 inputs" in capsys.readouterr().out


def test_a_finished_output_of_another_space_is_not_called_finished(
    toy: Path, other: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["t.txt", "--tower", "text", "-o", "v.npz", "--resume"]
    for variant in (["--variant", "int8"], [], ["--variant", "int8"]):
        assert main(["embed", "toy", *words, *variant]) == 0
    assert main(["embed", "toy", *words, "--variant", "fp32"]) == 2
    assert 'its variant is "int8", but now it is "fp32"; name another output' in capsys.readouterr().err
    assert main(["embed", "other", *words]) == 1
    assert "v.npz is finished, but by another artifact" in capsys.readouterr().err


def test_parts_of_different_spaces_are_refused(toy: Path, other: Path) -> None:
    Path("parts").mkdir()
    for artifact in ("toy", "other"):
        words = f"embed {artifact} t.txt --tower text --variant fp32 -o parts/{artifact}.parquet"
        assert main(words.split()) == 0
    with pytest.raises(runtime.SpaceError, match="the parts in parts are of different spaces"):
        read_origin(Path("parts"))


def test_a_record_of_an_earlier_version_lacks_the_precision(toy: Path) -> None:
    assert main(["embed", "toy", "t.txt", "--tower", "text", "-o", "v.parquet"]) == 0
    before, table = read_origin(Path("v.parquet")), pq.read_table("v.parquet")
    origin = json.loads(table.schema.metadata[b"origin"])
    del origin["precision"]
    pq.write_table(table.replace_schema_metadata({"origin": json.dumps(origin)}), "v.parquet")
    assert read_origin(Path("v.parquet")) == before


def test_a_damaged_record_is_wrong_usage(toy: Path) -> None:
    table = pa.table({"embedding": [[1.0]]}).replace_schema_metadata({"origin": '{"space": 1}'})
    pq.write_table(table, "v.parquet")
    with pytest.raises(runtime.UsageError, match=r"record of the job in v\.parquet cannot be read"):
        read_origin(Path("v.parquet"))
