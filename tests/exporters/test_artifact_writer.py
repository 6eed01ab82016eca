"""An artifact's folder: all of it or nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from exporters.artifact_writer import check_destination, new_artifact, write_golden, write_manifest
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import DestinationError
from exporters.families.cnn.tower import Cnn
from exporters.variants.build import add_variants
from exporters.variants.options import VariantOptions
from runtime.artifact.reader import read_manifest
from runtime.atomic_write import partial_path
from runtime.errors import ManifestError, UsageError
from runtime.loading.golden_file import read_golden
from tests.exporters.file_contents import contents

ExportTiny = Callable[[BackboneSpec, Cnn, Path], Path]


def test_the_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    destination = tmp_path / "deep" / "artifact"
    with new_artifact(destination, force=False) as folder:
        (folder / "manifest.json").write_text("new")
        assert not destination.exists()
    assert (destination / "manifest.json").read_text() == "new"
    assert [path.name for path in destination.parent.iterdir()] == ["artifact"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with new_artifact(tmp_path / "artifact", force=False) as folder:
            (folder / "image.onnx").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_removes_the_folders_that_it_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="late"), new_artifact(tmp_path / "made" / "too" / "artifact", force=False):
        raise ValueError("late")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_what_a_killed_export_left_is_removed_by_the_next_one(tmp_path: Path) -> None:
    left, other = tmp_path / ".artifact.0123abcd.partial", tmp_path / ".another.0123abcd.partial"
    for folder in (left, other):
        folder.mkdir()
        (folder / "image.onnx").touch()
        os.utime(folder, (0, 0))
    with new_artifact(tmp_path / "artifact", force=False) as running:
        assert not left.exists()
        os.utime(running, (0, 0))
        with new_artifact(tmp_path / "artifact", force=False):
            assert running.exists(), "an export that runs is left alone"
        (tmp_path / "artifact").rmdir()
    assert {path.name for path in tmp_path.iterdir()} == {"artifact", other.name}


def test_a_failure_leaves_the_old_artifact(artifact: Path) -> None:
    before = contents(artifact)
    with pytest.raises(ValueError, match="late"), new_artifact(artifact, force=True):
        raise ValueError("late")
    assert contents(artifact) == before
    assert list(artifact.parent.iterdir()) == [artifact]


def test_a_manifest_that_the_runtime_could_not_read_is_refused(artifact: Path) -> None:
    manifest, one = read_manifest(artifact), cast("bool", 1)
    with pytest.raises(ManifestError, match=r"manifest\.weights\.remote_code is 1 instead of bool"):
        write_manifest(artifact, replace(manifest, weights=replace(manifest.weights, remote_code=one)))


def test_what_appears_during_an_export_is_not_replaced(tmp_path: Path) -> None:
    destination = tmp_path / "artifact"

    def collide() -> None:
        with new_artifact(destination, force=False):
            destination.mkdir()
            (destination / "precious").touch()

    with pytest.raises(DestinationError, match="exists"):
        collide()
    assert [path.name for path in tmp_path.rglob("*")] == ["artifact", "precious"]


def test_an_interrupted_replacement_leaves_the_old_artifact(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(path.name for path in artifact.iterdir())
    rename = Path.rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise KeyboardInterrupt
        return rename(self, target)

    def replace() -> None:
        with new_artifact(artifact, force=True):
            monkeypatch.setattr(Path, "rename", interrupted)

    with pytest.raises(KeyboardInterrupt):
        replace()
    assert sorted(path.name for path in artifact.iterdir()) == before
    assert list(artifact.parent.iterdir()) == [artifact]


def test_a_replacement_that_was_killed_is_finished_by_the_next_command(artifact: Path, tmp_path: Path) -> None:
    new = partial_path(artifact)
    commands: list[Callable[[], object]] = [
        lambda: check_destination(artifact, force=False),
        lambda: add_variants(artifact, VariantOptions(calibration=tmp_path / "nowhere")),
    ]
    for command in commands:
        shutil.copytree(artifact, new)
        artifact.rename(new.with_suffix(".old"))
        with pytest.raises((DestinationError, UsageError), match=r"exists; use --force|nowhere"):
            command()
        assert list(artifact.parent.iterdir()) == [artifact]


def test_an_artifact_is_replaced_by_force_alone(artifact: Path) -> None:
    with pytest.raises(DestinationError, match="--force"), new_artifact(artifact, force=False):
        pass
    with new_artifact(artifact, force=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert [path.name for path in artifact.iterdir()] == ["manifest.json"]
    assert list(artifact.parent.iterdir()) == [artifact]


def test_what_is_no_artifact_is_not_replaced(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "only-copy.jpg").write_text("precious")
    with pytest.raises(DestinationError, match="not an artifact"):
        check_destination(photos, force=True)
    (photos / "manifest.json").write_text('{"name": "an app of somebody"}')
    with pytest.raises(DestinationError, match="not an artifact"):
        check_destination(photos, force=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(DestinationError, match=r"is a symbolic link to .*nowhere, so it is not replaced"):
        check_destination(link, force=True)


def test_a_damaged_artifact_can_be_exported_again(artifact: Path) -> None:
    (artifact / "manifest.json").write_text("half")
    check_destination(artifact, force=True)
    (artifact / "manifest.json").unlink()
    check_destination(artifact, force=True)
    (artifact / "thesis.txt").touch()
    with pytest.raises(DestinationError, match="not an artifact"):
        check_destination(artifact, force=True)


def test_what_lies_beside_the_artifacts_files_is_not_deleted(artifact: Path) -> None:
    (artifact / "vectors.npy").touch()
    with pytest.raises(
        DestinationError, match=r"holds vectors\.npy beside the artifact.*; move them away, or use --out"
    ):
        check_destination(artifact, force=True)
    (artifact / "vectors.npy").rename(artifact / "model.sig")
    with pytest.raises(DestinationError, match=r"holds model\.sig .*; remove it and sign again afterwards$"):
        check_destination(artifact, force=True, elsewhere="")


@pytest.mark.parametrize("path", ["artifact/../artifact", "link/../artifact", "./artifact/."])
def test_a_path_through_a_parent_names_the_same_artifact(
    path: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(artifact.parent)
    (artifact.parent / "other").mkdir()
    (artifact.parent / "link").symlink_to("other")
    with new_artifact(Path(path), force=True) as folder:
        (folder / "manifest.json").write_text("new")
    assert [path.name for path in artifact.iterdir()] == ["manifest.json"]
    assert sorted(path.name for path in artifact.parent.iterdir()) == ["artifact", "link", "other"]


@pytest.mark.parametrize(("folder", "path"), [(".", "."), (".", "../artifact"), ("below", "..")])
def test_the_current_folder_is_not_replaced(
    folder: str, path: str, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (artifact / "below").mkdir()
    monkeypatch.chdir(artifact / folder)
    with pytest.raises(
        DestinationError, match=r"artifact is the current folder or holds it.*; run the command in anot"
    ):
        check_destination(Path(path), force=True)


def test_the_new_folder_has_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").mkdir()
    with new_artifact(tmp_path / "artifact", force=False):
        pass
    assert (tmp_path / "artifact").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with (
        pytest.raises(
            DestinationError,
            match=r"cannot write /proc/artifacts/x \(.*; check its folder and its disk, or use --output",
        ),
        new_artifact(Path("/proc/artifacts/x"), force=False),
    ):
        pass


def test_a_read_only_folder_is_named_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    with pytest.raises(DestinationError, match=f"{tmp_path} is read-only"):
        check_destination(tmp_path / "deep" / "artifact", force=False)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DestinationError, match="is a file"):
        check_destination(tmp_path / "file" / "x", force=False)


def test_a_full_disk_leaves_nothing(
    export_default: ExportTiny,
    tiny_cnn: Cnn,
    tiny_spec: BackboneSpec,
    tmp_path: Path,
    small_disk: Callable[[], AbstractContextManager[None]],
) -> None:
    with small_disk(), pytest.raises(DestinationError, match="free some disk space"):
        export_default(tiny_spec, tiny_cnn, tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_golden_items_come_back(artifact: Path) -> None:
    images = [np.full((4, 5 + i, 3), i, np.uint8) for i in range(4)]
    vectors = np.eye(4, 12, dtype=np.float32)
    write_golden(artifact, {"image": (images, vectors)})
    read, read_vectors = read_golden(artifact, read_manifest(artifact), "image")
    for image, expected in zip(read, images, strict=True):
        np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(read_vectors, vectors)


def test_two_exports_of_the_same_weights_are_byte_identical(
    export_default: ExportTiny,
    exported: Path,
    tiny_cnn: Cnn,
    tiny_spec: BackboneSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    again = export_default(tiny_spec, tiny_cnn, Path("elsewhere") / exported.name)
    assert {path.name for path in again.iterdir()} == {path.name for path in exported.iterdir()}
    for path in exported.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_random_weights_are_called_random_in_the_readme(exported: Path) -> None:
    assert (
        "> **WARNING: the weights are random (seed 0): the vectors mean nothing.**"
        in (exported / "README.md").read_text()
    )


def test_an_artifact_bears_its_own_name_and_that_of_its_backbone(
    export_default: ExportTiny, tiny_cnn: Cnn, tiny_spec: BackboneSpec, tmp_path: Path
) -> None:
    manifest = read_manifest(export_default(tiny_spec, tiny_cnn, tmp_path / "mine"))
    assert (manifest.name, manifest.backbone) == ("mine", tiny_spec.name)
