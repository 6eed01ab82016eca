from __future__ import annotations

import dataclasses
import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.artifact.json_schema import decode
from runtime.artifact.manifest import OLDEST_READABLE, SCHEMA_VERSION, ImagePreprocessing, Preprocessing
from runtime.artifact.reader import check_files, read_manifest
from tests.fuzz.seeds import documents
from tests.runtime.session.variant_samples import make_variant
from tests.runtime.toy_artifact import write_artifact

Edit = Callable[[Callable[[dict[str, Any]], None]], Path]


def _without_providers() -> dict[str, Any]:
    return dataclasses.asdict(make_variant("optimized", "cpu")) | {"providers": []}


def test_a_manifest_is_read_as_it_was_written(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert (artifact / "manifest.json").read_text() == manifest.to_json()


def test_the_manifest_records_all_preprocessing(artifact: Path) -> None:
    recipe = read_manifest(artifact).towers["image"].preprocessing
    assert dataclasses.asdict(recipe) == {
        "kind": "image",
        "exif_orientation": "apply",
        "colour_order": "RGB",
        "alpha": "drop",
        "resize": "short_side",
        "resize_size": 44,
        "interpolation": "bilinear",
        "antialias": True,
        "resize_dtype": "uint8",
        "crop_size": 40,
        "fill": (0, 0, 0),
        "crop_rounding": "half_even",
        "rescale": "1/255",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "arithmetic": "graph",
    }


def test_every_file_is_recorded(artifact: Path) -> None:
    on_disk = {path.name for path in artifact.iterdir()}
    assert on_disk == {*read_manifest(artifact).files, "manifest.json"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.pop("weights"), runtime.ManifestError, "lacks weights"),
        (lambda m: m.update(output_dim="12"), runtime.ManifestError, "output_dim is '12' instead of int"),
        (lambda m: m.update(output_dim=True), runtime.ManifestError, "output_dim is True"),
        (lambda m: m.update(task="image-to-smell"), runtime.ManifestError, "task is 'image-to-smell'"),
        (lambda m: m.update(towers=[]), runtime.ManifestError, "towers"),
        (lambda m: m.update(towers={}), runtime.ManifestError, "no tower, but this runtime embeds text, image, mesh"),
        (lambda m: m["towers"].update(smell=m["towers"]["image"]), runtime.ManifestError, "smell"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(std=[1, 0, 1]), runtime.ManifestError, "zero"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(mean=[1, 0]), runtime.ManifestError, "2 members"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(crop_size=-9), runtime.ManifestError, "crop_size -9"),
        (lambda m: m["towers"]["image"]["pooling"].update(method="gem"), runtime.ManifestError, "p and eps"),
        (lambda m: m["towers"]["image"].update(graph="other.onnx"), runtime.ManifestError, r"files lacks other\.onnx"),
        (lambda m: m["files"].pop("golden.npz"), runtime.ManifestError, r"files lacks golden\.npz"),
        (lambda m: m.update(output_dim=13), runtime.ManifestError, "13 columns"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(crop_size=32), runtime.ManifestError, "do not fit"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(arithmetic="caller"), runtime.ManifestError, "inputs"),
        (lambda m: m["towers"]["image"]["preprocessing"].pop("antialias"), runtime.ManifestError, "lacks antialias"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(antialias=1), runtime.ManifestError, "antialias is 1"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(mean=[1, 1, 10**400]), runtime.ManifestError, "large"),
        (
            lambda m: m["towers"]["image"].update(variants={"optimized": _without_providers()}),
            runtime.ManifestError,
            "providers is empty",
        ),
        (lambda m: m["towers"]["image"]["parity"].update(items=0), runtime.ManifestError, "needs at least 1"),
        (lambda m: m.pop("schema_version"), runtime.ManifestError, "no schema_version"),
    ],
)
def test_a_wrong_manifest_is_refused(
    edit_manifest: Edit, change: Callable[[dict[str, Any]], None], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        runtime.load(edit_manifest(change))


@pytest.mark.parametrize("path", ["../golden.npz", "/etc/passwd", "a/../../b", "C:\\x", "\\\\host\\x", "..\\x", ""])
def test_a_path_that_leaves_the_folder_is_refused(edit_manifest: Edit, path: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][path] = manifest["files"]["golden.npz"]

    with pytest.raises(runtime.ManifestError, match="leaves the artifact's folder"):
        runtime.load(edit_manifest(change))


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", '{"schema_version": NaN}', "[" * 100_000, "\xff\xfe"])
def test_a_file_that_is_not_a_manifest_is_refused(artifact: Path, text: str) -> None:
    (artifact / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(runtime.ManifestError, match="export"):
        runtime.load(artifact)


def test_one_changed_byte_of_the_manifest_is_noticed(artifact: Path) -> None:
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace('"resize_size": 44', '"resize_size": 45'))
    with pytest.raises(runtime.IntegrityError, match=r"manifest\.json has changed since export"):
        runtime.load(artifact)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b"])
def test_an_invalid_path_is_no_artifact(path: str) -> None:
    with pytest.raises(runtime.ArtifactError):
        runtime.load(path)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(runtime.ManifestError, match="not an artifact"):
        runtime.load(tmp_path)


@pytest.mark.parametrize("name", ["image.onnx", "manifest.json"])
def test_a_file_in_place_of_its_folder_is_named(artifact: Path, name: str) -> None:
    with pytest.raises(runtime.ArtifactError, match=f"an artifact is a folder; give its folder, .*{artifact.name}"):
        runtime.load(artifact / name)
    (artifact.parent / "model.onnx").touch()
    with pytest.raises(runtime.ArtifactError, match="an artifact is a folder; make one with"):
        runtime.load(artifact.parent / "model.onnx")


def test_a_missing_folder_is_reported_with_a_remedy(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(runtime.ArtifactError, match=r"nowhere; export one with `python -m exporters NAME`"):
        runtime.load(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    Path("artifacts").mkdir()
    artifact.rename("artifacts/mine")
    for name in ("mine", "someone/mine", "artifacts"):
        with pytest.raises(runtime.ArtifactError, match=r"did you mean artifacts.mine\?"):
            runtime.load(name)


@pytest.mark.parametrize("name", ["image.onnx", "golden.npz", "README.md"])
def test_a_missing_file_is_noticed(artifact: Path, name: str) -> None:
    (artifact / name).unlink()
    with pytest.raises(runtime.IntegrityError, match=f"{name} is missing"):
        runtime.load(artifact)


@pytest.mark.parametrize("name", ["image.onnx", "golden.npz", "README.md"])
def test_one_changed_byte_is_noticed(artifact: Path, name: str) -> None:
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    with pytest.raises(runtime.IntegrityError, match=f"{name} has changed"):
        runtime.load(artifact)


def test_a_damaged_file_that_a_load_does_not_open_is_noticed_by_verify_alone(
    artifact: Path, edit_manifest: Edit
) -> None:
    variant = make_variant("optimized", "cpu")
    (artifact / variant.graph).write_bytes((artifact / "image.onnx").read_bytes())

    def add(document: dict[str, Any]) -> None:
        document["towers"]["image"]["variants"]["optimized"] = dataclasses.asdict(variant)
        document["files"][variant.graph] = dict(document["files"]["image.onnx"])

    edit_manifest(add)
    assert runtime.load(artifact, provider="cpu").variant == "optimized"
    with (artifact / variant.graph).open("ab") as file:
        file.write(b"\0")
    runtime.load(artifact, provider="cpu", variant="fp32")
    for call, asked in ((runtime.load, "auto"), (runtime.verify, "fp32")):
        with pytest.raises(runtime.IntegrityError, match=f"{variant.graph} has changed"):
            call(artifact, provider="cpu", variant=asked)


def test_a_damaged_file_of_a_tower_that_is_left_out_is_not_noticed(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "toy", image=True)
    (folder / "text.onnx").unlink()
    runtime.load(folder, provider="cpu", tower="image")
    with pytest.raises(runtime.IntegrityError, match=r"text\.onnx is missing"):
        runtime.load(folder, provider="cpu")


def test_a_pointer_of_git_lfs_is_named(artifact: Path) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n"
    (artifact / "image.onnx").write_text(pointer)
    with pytest.raises(runtime.IntegrityError, match=r"image\.onnx is a pointer of Git LFS.*; run `git lfs pull`"):
        runtime.load(artifact)


@pytest.mark.parametrize("name", ["image.onnx", "manifest.json"])
def test_a_file_without_permission_is_named_with_its_way_out(
    name: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_file(path, *arguments, **options)

    open_file = Path.open
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(runtime.ArtifactError, match=rf"{name} cannot be read \(Permission denied\); check its"):
        runtime.load(artifact)


def test_a_folder_in_place_of_a_file_is_noticed(artifact: Path) -> None:
    (artifact / "golden.npz").unlink()
    (artifact / "golden.npz").mkdir()
    with pytest.raises(runtime.IntegrityError, match="not a regular file"):
        check_files(artifact, read_manifest(artifact))


def test_an_artifact_of_a_newer_package_with_the_same_schema_is_read(edit_manifest: Edit) -> None:
    """Only the schema version decides whether a manifest can be read, not the version of the package."""
    packages = {"embedding-backbones": "99.0.0", "torch": "99.0", "some-new-tool": "1.0"}
    folder = edit_manifest(lambda m: m["provenance"].update(packages=packages))
    model = runtime.load(folder, provider="cpu")
    assert model.manifest.provenance.packages == packages
    assert model.embed([np.zeros((9, 9, 3), np.uint8)]).shape == (1, model.output_dim)


@pytest.mark.parametrize(
    ("version", "remedy"),
    [
        (SCHEMA_VERSION + 1, "upgrade"),
        (10**60, "upgrade"),
        (OLDEST_READABLE - 1, "export"),
        (-1, "export the artifact"),
    ],
)
def test_another_schema_is_refused_before_its_members_are_read(artifact: Path, version: int, remedy: str) -> None:
    """The members and the hash of another schema are unknown."""
    (artifact / "manifest.json").write_text(json.dumps({"schema_version": version, "everything": "else"}))
    with pytest.raises(
        runtime.SchemaVersionError, match=f"this runtime reads {OLDEST_READABLE} to {SCHEMA_VERSION}; {remedy}"
    ) as caught:
        runtime.load(artifact)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("place", [[], ["towers", "image"], ["towers", "image", "preprocessing"], ["weights"]])
def test_an_unknown_member_of_the_same_schema_is_refused_by_its_path(edit_manifest: Edit, place: list[str]) -> None:
    """An unknown member could change the meaning of the vectors."""

    def change(manifest: dict[str, Any]) -> None:
        for name in place:
            manifest = manifest[name]
        manifest["quantised"] = True

    with pytest.raises(runtime.ManifestError, match=rf"{'.'.join(['manifest', *place])} has unknown quantised; export"):
        runtime.load(edit_manifest(change))


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "x" * 5000, "\ud800", "\u2028"])
def test_messages_stay_on_one_short_line(edit_manifest: Edit, name: str) -> None:
    """Names of members are foreign text. Fuzzing with atheris found them unescaped in messages."""
    changes: list[Callable[[dict[str, Any]], None]] = [
        lambda m: m.update({name: 1}),
        lambda m: m.update({f"{name}{i}": 1 for i in range(50)}),
        lambda m: m["files"].update({name: 1}),
        lambda m: m["towers"].update({name: m["towers"]["image"]}),
        lambda m: m.update(task=name),
    ]
    for change in changes:
        with pytest.raises(runtime.ManifestError) as caught:
            read_manifest(edit_manifest(change))
        message = str(caught.value).replace(str(caught.value).split(" ")[0], "")
        assert message.isprintable()
        assert len(message) < 700


@pytest.mark.parametrize("place", ["top", "member"])
def test_no_depth_of_nesting_is_a_recursion_error(artifact: Path, place: str) -> None:
    """Some depths can be read but not written again to compute the hash."""
    document = json.loads((artifact / "manifest.json").read_text())
    for depth in range(300, 1100, 5):
        nested = "[" * depth + "]" * depth
        text = json.dumps(document | {"name": "NESTED"}).replace('"NESTED"', nested) if place == "member" else nested
        (artifact / "manifest.json").write_text(text)
        with pytest.raises((runtime.ManifestError, runtime.IntegrityError)):
            read_manifest(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "image", "resize_size": 10**400}, "resize_size .* is not from 1 to 8192"),
        ({"kind": "image", "std": [1e-50, 1, 1]}, "is out of range"),
        ({"kind": "image", "mean": [1e300, 0, 0]}, "is out of range"),
        ({"kind": "text", "max_length": 10**30}, "max_length .* is above"),
        ({"kind": "text", "pad_token_id": 10**30}, "pad_token_id .* is not from 0"),
        ({"kind": "text", "pad_token_id": -1}, "pad_token_id -1 is not from 0"),
        ({"kind": "mesh", "num_points": 10**18}, "num_points .* is above"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    """Otherwise a library would raise OverflowError or MemoryError at the first item."""
    document = documents()[change["kind"]]["towers"][change["kind"]]["preprocessing"]
    decode(Preprocessing, document, "preprocessing")  # type: ignore[arg-type]
    with pytest.raises(runtime.ManifestError, match=message):
        decode(Preprocessing, document | change, "preprocessing")  # type: ignore[arg-type]


def test_one_of_two_towers_must_be_named(tmp_path: Path) -> None:
    one, both = (read_manifest(write_artifact(tmp_path / name, image=name == "both")) for name in ("one", "both"))
    assert (one.choose_tower(None), both.choose_tower("image")) == ("text", "image")
    assert ([*both.select_towers(None)], [*both.select_towers("image")]) == (["text", "image"], ["image"])
    with pytest.raises(runtime.UsageError, match="has text and image towers; name one with --tower or tower="):
        both.choose_tower(None)
    with pytest.raises(runtime.UsageError, match="there is no image tower; the artifact has text"):
        one.choose_tower("image")


def test_a_manifest_of_schema_4_is_read_with_the_defaults_of_new_fields(edit_manifest: Edit) -> None:
    def age(document: dict[str, Any]) -> None:
        document["schema_version"] = 4
        del document["similarity_function"], document["towers"]["image"]["preprocessing"]["alpha"]

    manifest = read_manifest(edit_manifest(age))
    recipe = manifest.towers["image"].preprocessing
    assert isinstance(recipe, ImagePreprocessing)
    assert (manifest.schema_version, manifest.similarity_function, recipe.alpha) == (SCHEMA_VERSION, "cosine", "drop")


def test_the_schema_of_the_reader_does_not_change_the_identity(edit_manifest: Edit) -> None:
    def age(document: dict[str, Any]) -> None:
        document["schema_version"] = 5
        del document["towers"]["image"]["preprocessing"]["alpha"]

    folder = edit_manifest(age)
    manifest, stated = read_manifest(folder), json.loads((folder / "manifest.json").read_text())["sha256"]
    assert manifest.sha256 == stated
    assert json.loads(manifest.to_json())["sha256"] == dataclasses.replace(manifest).sha256 != stated


def test_an_older_manifest_still_needs_the_fields_without_default(edit_manifest: Edit) -> None:
    def age(document: dict[str, Any]) -> None:
        document["schema_version"] = 4
        del document["towers"]["image"]["graph"]

    with pytest.raises(runtime.ManifestError, match="lacks graph"):
        read_manifest(edit_manifest(age))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_place_of_a_file_is_refused_at_once(artifact: Path) -> None:
    (artifact / "image.onnx").unlink()
    os.mkfifo(artifact / "image.onnx")
    with pytest.raises(runtime.IntegrityError, match=r"image\.onnx is not a regular file"):
        check_files(artifact, read_manifest(artifact))
    (artifact / "manifest.json").unlink()
    os.mkfifo(artifact / "manifest.json")
    with pytest.raises(runtime.ManifestError, match="not a regular file"):
        read_manifest(artifact)


def test_a_huge_manifest_is_not_read(artifact: Path) -> None:
    with (artifact / "manifest.json").open("r+b") as file:
        file.truncate(10**10)  # a sparse file
    with pytest.raises(runtime.ManifestError, match="has 10000000000 bytes, more than"):
        read_manifest(artifact)


def test_of_many_unknown_towers_the_first_is_enough(edit_manifest: Edit) -> None:
    def multiply(document: dict[str, Any]) -> None:
        document["towers"] = {f"tower{index}": document["towers"]["image"] for index in range(1000)}

    with pytest.raises(runtime.ManifestError, match=r"a name in manifest\.towers is 'tower0'") as caught:
        read_manifest(edit_manifest(multiply))
    assert len(str(caught.value)) < 1000
