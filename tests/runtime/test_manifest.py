from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import runtime
from runtime.artifact import check_files, read_manifest
from runtime.manifest import SCHEMA_VERSION

Edit = Callable[[Callable[[dict[str, Any]], None]], Path]


def test_what_was_written_is_read_back(artifact: Path) -> None:
    manifest = read_manifest(artifact)
    assert (artifact / "manifest.json").read_text() == manifest.to_json()


def test_the_manifest_tells_the_whole_preprocessing(artifact: Path) -> None:
    recipe = read_manifest(artifact).towers["image"].preprocessing
    assert dataclasses.asdict(recipe) == {
        "kind": "image",
        "exif_orientation": "apply",
        "colour_order": "RGB",
        "resize": "short_side",
        "resize_size": 44,
        "interpolation": "bilinear",
        "antialias": True,
        "crop_size": 40,
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
        (lambda m: m.update(colour="red"), runtime.ManifestError, "unknown colour"),
        (lambda m: m.update(output_dim="12"), runtime.ManifestError, "output_dim is '12' instead of int"),
        (lambda m: m.update(output_dim=True), runtime.ManifestError, "output_dim is True"),
        (lambda m: m.update(task="image-to-smell"), runtime.ManifestError, "task is 'image-to-smell'"),
        (lambda m: m.update(towers=[]), runtime.ManifestError, "towers"),
        (lambda m: m.update(towers={}), runtime.ManifestError, "embeds text, image, mesh, not nothing"),
        (lambda m: m["towers"].update(smell=m["towers"]["image"]), runtime.ManifestError, "smell"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(std=[1, 0, 1]), runtime.ManifestError, "zero"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(mean=[1, 0]), runtime.ManifestError, "2 members"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(crop_size=99), runtime.ManifestError, "crop_size 99"),
        (lambda m: m["towers"]["image"]["pooling"].update(method="gem"), runtime.ManifestError, "p and eps"),
        (lambda m: m["towers"]["image"].update(graph="other.onnx"), runtime.ManifestError, r"files lacks other\.onnx"),
        (lambda m: m["files"].pop("golden.npz"), runtime.ManifestError, r"files lacks golden\.npz"),
        (lambda m: m.update(output_dim=13), runtime.ManifestError, "13 columns"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(crop_size=32), runtime.ManifestError, "inputs are not"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(arithmetic="caller"), runtime.ManifestError, "inputs"),
        (lambda m: m["towers"]["image"]["preprocessing"].pop("antialias"), runtime.ManifestError, "lacks antialias"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(antialias=1), runtime.ManifestError, "antialias is 1"),
        (lambda m: m["towers"]["image"]["preprocessing"].update(mean=[1, 1, 10**400]), runtime.ManifestError, "large"),
        (lambda m: m.update(schema_version=SCHEMA_VERSION + 1), runtime.SchemaVersionError, "upgrade"),
        (
            lambda m: m.update(schema_version=SCHEMA_VERSION - 1),
            runtime.SchemaVersionError,
            "export the artifact again",
        ),
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
def test_what_is_not_a_manifest_is_refused(artifact: Path, text: str) -> None:
    (artifact / "manifest.json").write_text(text, "latin-1")
    with pytest.raises(runtime.ManifestError, match="export"):
        runtime.load(artifact)


def test_one_changed_byte_of_the_manifest_is_noticed(artifact: Path) -> None:
    path = artifact / "manifest.json"
    path.write_text(path.read_text().replace('"resize_size": 44', '"resize_size": 45'))
    with pytest.raises(runtime.IntegrityError, match=r"manifest\.json has changed since export"):
        runtime.load(artifact)


@pytest.mark.parametrize("path", ["a" * 300, "a\0b"])
def test_a_path_that_no_file_system_takes_is_no_artifact(path: str) -> None:
    with pytest.raises(runtime.ArtifactError):
        runtime.load(path)


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(runtime.ManifestError, match="not an artifact"):
        runtime.load(tmp_path)


def test_a_missing_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(runtime.ArtifactError, match=r"nowhere; export one with `python -m exporters NAME`"):
        runtime.load(tmp_path / "nowhere")


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


def test_a_folder_in_place_of_a_file_is_noticed(artifact: Path) -> None:
    (artifact / "golden.npz").unlink()
    (artifact / "golden.npz").mkdir()
    with pytest.raises(runtime.IntegrityError, match="cannot be read"):
        check_files(artifact, read_manifest(artifact))
