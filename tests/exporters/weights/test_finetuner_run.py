"""Artifacts of Finetuner runs are read, and nothing in them is trusted."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from exporters.catalogue.weights_ref import FinetunerRun, parse_weights
from exporters.errors import WeightsError
from exporters.weights import archive, finetuner_run
from exporters.weights.finetuner_run import combine_records, read_run
from exporters.weights.projection_head import read_head
from tests.exporters.toys import (
    RUN_METADATA,
    save_toy,
    to_bytes,
    zip_folder,
)


def test_layers_are_taken_in_the_order_of_their_numbers() -> None:
    head = {f"head.{index}.weight": torch.full((1, 1), float(index)) for index in range(12)}
    assert [float(layer.weight.item()) for _, layer in read_head(head, "run")] == list(range(12))


def test_both_models_are_in_the_hash(clip_run: Path) -> None:
    models = read_run(clip_run, "both")
    assert combine_records(models).sha256 != combine_records([models[0], models[0]]).sha256
    assert combine_records(models).description == "Finetuner run clip-run, model clip-text and clip-vision"


def is_run(path: Path) -> bool:
    return isinstance(parse_weights(str(path)), FinetunerRun)


def test_what_is_no_run_is_told_apart(tmp_path: Path, run: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    assert not is_run(tmp_path / "a.pt"), "a checkpoint is a zip, too"
    assert not is_run(save_toy(tmp_path / "toy"))
    assert is_run(run)
    assert is_run(zip_folder(run))


def _in_zip(name: str, content: bytes, run: Path) -> Path:
    path = zip_folder(run)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, content)
    return path


class _Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("__import__('pathlib').Path('evil').touch()",)


def _replace(file: str, content: bytes) -> Callable[[Path], Path]:
    def damage(run: Path) -> Path:
        next(run.rglob(file)).write_bytes(content)
        return zip_folder(run)

    return damage


def _remove(file: str) -> Callable[[Path], Path]:
    def damage(run: Path) -> Path:
        (run / "models" / "toy" / file).unlink()
        return zip_folder(run)

    return damage


def _flip(run: Path) -> Path:
    path = zip_folder(run)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    return path


def _as_graph(run: Path) -> Path:
    (run / "models" / "toy" / "model.pt").rename(run / "models" / "toy" / "model.onnx")
    return run


def _truncate(run: Path) -> Path:
    path = zip_folder(run)
    path.write_bytes(path.read_bytes()[:1000])
    return path


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_truncate, "is damaged or cannot be read"),
        (_flip, "damaged"),
        (lambda run: _in_zip("../evil", b"", run), r"leaves the archive"),
        (lambda run: _in_zip("/evil", b"", run), r"leaves the archive"),
        (lambda run: _in_zip("a\\..\\..\\evil", b"", run), r"leaves the archive"),
        (_replace("model.pt", pickle.dumps(_Evil())), "cannot be read"),
        (_replace("model.pt", to_bytes([1])), "is not a state dict"),
        (_remove("model.pt"), "holds no model"),
        (_remove("metadata.yml"), "holds no model"),
        (_as_graph, r"model\.onnx.*to_onnx=False"),
        (lambda run: _replace_metadata(run, b"{"), "is not YAML"),
        (lambda run: _replace_metadata(run, b"!!python/object/apply:os.system ['touch evil']"), "is not YAML"),
        (lambda run: _replace_metadata(run, b"[1]"), "does not name its model"),
        (lambda run: _replace_metadata(run, b"name: x\n" + b"#" * 2**20), "larger than"),
        (lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: sum}"), "has the pooler 'sum'"),
        (lambda run: _replace_metadata(run, b"name: x\noptions: 3"), "does not have the expected form"),
        (
            lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: 3}"),
            "does not have the expected form",
        ),
        (
            lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: {p: x}}"),
            "the expected form",
        ),
        (
            lambda run: _replace_metadata(run, b"name: x\noptions: {pooler: GeM, pooler_options: {p: 0}}"),
            "the expected form",
        ),
        (
            lambda run: _replace_metadata(run, b"name: x\npreprocess_options: {image: {height: 2, width: 3}}"),
            "expected a square",
        ),
    ],
)
def test_a_run_that_cannot_be_right_is_refused(
    damage: Callable[[Path], Path], message: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=message):
        read_run(damage(run), None)
    assert not list(tmp_path.rglob("evil")), "something in the archive was run, or left its folder"


def _replace_metadata(run: Path, content: bytes) -> Path:
    (run / "models" / "toy" / "metadata.yml").write_bytes(content)
    return zip_folder(run)


def test_a_model_larger_than_any_is_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetuner_run, "MAX_MODEL_BYTES", 1000)
    for path in (run, zip_folder(run)):
        with pytest.raises(WeightsError, match="larger than 1000 bytes"):
            read_run(path, None)


def test_thousands_of_files_are_not_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    with pytest.raises(WeightsError, match="far more than a run's artifact"):
        read_run(zip_folder(run), None)


def test_two_models_of_one_name_are_refused(run: Path) -> None:
    place = run / "models" / "again"
    place.mkdir()
    (place / "metadata.yml").write_text(yaml.safe_dump(RUN_METADATA))
    (place / "model.pt").write_bytes((run / "models" / "toy" / "model.pt").read_bytes())
    with pytest.raises(WeightsError, match="the same name"):
        read_run(run, "both")
