"""Finetuner's functions export and load artifacts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporters import finetuner
from exporters.catalogue.options import ExportOptions
from exporters.errors import DestinationError, UnknownBackboneError
from exporters.fit.options import FitOptions
from runtime.errors import UsageError
from tests.exporters.toys import (
    BERT,
    CLIP,
    RUN_METADATA,
    bert_run_weights,
    toy_spec,
    write_run,
    zip_folder,
)


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    """A catalogue of toys."""
    toys = {"toy-base-en": toy_spec(BERT, "toy-base-en"), "toy-clip-en": toy_spec(CLIP, "toy-clip-en")}
    for module in ("registry", "names"):
        monkeypatch.setattr(f"exporters.catalogue.{module}.BACKBONES", toys)


@pytest.mark.slow
@pytest.mark.usefixtures("catalogue")
def test_finetuners_words_export_a_run_once_and_load_it(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    packed, chosen = zip_folder(run), ExportOptions(tokenizer=tokenizer)
    model = finetuner.get_model(packed, output=tmp_path / "out", options=chosen)
    vectors = finetuner.encode(model, ["a cat", "a dog"], batch_size=1)
    assert vectors.shape == (2, 32)
    again = finetuner.get_model(packed, device="cpu", output=tmp_path / "out", options=chosen)
    np.testing.assert_array_equal(finetuner.encode(again, ["a cat", "a dog"]), vectors)
    exported = finetuner.get_model(tmp_path / "out" / "my-run")
    assert finetuner.cos_sim(finetuner.encode(exported, ["a cat"])[0], vectors[0]) == pytest.approx(1)
    other = write_run(
        tmp_path / "other" / "my-run", {"toy": (RUN_METADATA, {k: v + 1 for k, v in bert_run_weights().items()})}
    )
    with pytest.raises(DestinationError, match="from another run"):
        finetuner.get_model(other, output=tmp_path / "out", options=chosen)


@pytest.mark.parametrize(
    ("options", "given", "epochs"),
    [(None, None, 5), (None, 4, 4), (FitOptions(epochs=3), None, 3), (FitOptions(epochs=7), None, 7)],
)
def test_epochs_are_those_of_the_call_or_of_the_options_or_of_finetuner(
    options: FitOptions | None, given: int | None, epochs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[int]()
    monkeypatch.setattr(finetuner, "_fit", lambda *_, options, **__: taken.append(options.epochs))
    finetuner.fit("x", "x.csv", epochs=given, options=options)
    assert taken == [epochs]


def test_an_option_is_given_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="epochs is an argument of fit; give it there, and not in options"):
        finetuner.fit("x", "x.csv", epochs=5, options=FitOptions(epochs=7))
    weights = ExportOptions(weights="random")
    with pytest.raises(UsageError, match="by model_artifact or by export_options, not by both"):
        finetuner.fit("x", "x.csv", model_artifact=tmp_path, export_options=weights)
    with pytest.raises(UsageError, match="has arguments for the weights"):
        finetuner.get_model(tmp_path, options=weights)


@pytest.mark.slow
@pytest.mark.usefixtures("catalogue")
def test_finetuners_words_build_a_backbone_once(tmp_path: Path) -> None:
    random = ExportOptions(weights="random:2")
    model = finetuner.build_model("toy-clip-en", "clip-text", output=tmp_path, options=random)
    assert (model.towers, model.manifest.backbone) == (("text",), "toy-clip-en")
    assert model.manifest.name == "toy-clip-en-clip-text"
    again = finetuner.build_model("toy-clip-en", "clip-text", output=tmp_path, options=random)
    assert again.manifest == model.manifest
    with pytest.raises(DestinationError, match="with other weights"):
        finetuner.build_model("toy-clip-en", "clip-text", output=tmp_path, options=ExportOptions(weights="random:3"))
    with pytest.raises(UnknownBackboneError, match="there is no backbone 'toy'"):
        finetuner.build_model("toy", output=tmp_path)


def test_a_run_of_a_strange_backbone_names_the_way_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"toy": (RUN_METADATA | {"descriptor": "someone/strange"}, bert_run_weights())})
    with pytest.raises(UnknownBackboneError, match=r"someone/strange.*exporters NAME --weights"):
        finetuner.get_model(run, output=tmp_path / "out")
