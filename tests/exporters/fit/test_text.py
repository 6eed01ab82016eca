"""Text encoders are fine-tuned: better, reproducibly, resumably, and exported with their proof."""

from __future__ import annotations

import errno
import json
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.evaluation import SequentialEvaluator

import runtime
from exporters import ExportOptions, finetuner
from exporters.catalogue.names import find_model
from exporters.cli.main import main
from exporters.errors import DestinationError, TrainingDataError, WorseModelError
from exporters.fit import training
from exporters.fit.dataset import read_data
from exporters.fit.learner import Learner, load_learner
from exporters.fit.losses import LOSSES, build_loss, choose_loss
from exporters.fit.metrics import Evaluation
from exporters.fit.options import FitOptions
from exporters.fit.report import FitReport
from exporters.fit.run import fit
from exporters.fit.training_folder import TrainingFolder
from runtime.errors import UsageError
from tests.exporters.fit.toy_data import make_labels, make_pairs, write_checkpoint

FAST = FitOptions(epochs=3, batch_size=16, learning_rate=5e-3, warmup=0.0, device="cpu")


@pytest.mark.usefixtures("no_export")
def test_the_models_similarity_is_kept(toy: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(toy, tmp_path / "toy"))
    config = folder / "config_sentence_transformers.json"
    settings = json.loads(config.read_text()) if config.exists() else {}
    config.write_text(json.dumps(settings | {"similarity_fn_name": "dot"}))
    assert load(folder).model.similarity_fn_name == "dot"
    fit(str(folder), make_pairs(8), output=tmp_path, artifact_name="mine", options=replace(FAST, epochs=1))
    saved = json.loads((tmp_path / "mine-training/mine/config_sentence_transformers.json").read_text())
    assert saved["similarity_fn_name"] == "dot"


@pytest.mark.parametrize(("similarity", "last", "warned"), [("dot", 2, True), ("dot", 3, False), ("cosine", 2, False)])
def test_a_loss_that_compares_in_another_way_is_named(
    similarity: Any, last: int, warned: bool, toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    modules = list(SentenceTransformer(str(toy), device="cpu"))[:last]  # without or with Normalize
    build_loss("ranking", SentenceTransformer(modules=modules, similarity_fn_name=similarity), FAST)
    assert ("the loss compares by cosine, and the model and its evaluation by dot" in caplog.text) == warned


def test_losses_compare_by_cosine_and_clip_by_its_own_scale(toy: Path) -> None:
    model = SentenceTransformer(str(toy), device="cpu")
    assert build_loss("clip", model, FAST).scale == 100
    for name in (name for name, loss in LOSSES.items() if "labels" in loss.kinds):
        assert build_loss(name, model, FAST).get_config_dict()["distance_metric"] == "cosine_distance"


def load(toy: Path, options: FitOptions = FAST) -> Learner:
    return load_learner(find_model(str(toy)), ExportOptions(), options)


def train(toy: Path, rows: list[dict[str, Any]], folder: Path, options: FitOptions = FAST) -> dict[str, torch.Tensor]:
    learner, (data, _) = load(toy, options), read_data(rows, ["text"])
    evaluation = Evaluation(data, learner.model, batch_size=16, dims=()) if options.patience else None
    training.train(learner, data, evaluation, choose_loss(options.loss, data), options, TrainingFolder(folder, "mine"))
    return {name: value.clone() for name, value in learner.model.state_dict().items()}


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_text_encoder_learns_pairs_and_runs_without_torch(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = {row["a"]: row for row in make_pairs(300, 1)}
    for name, rows in (("train", [*pairs.values()][:96]), ("eval", [*pairs.values()][96:136])):
        (tmp_path / f"{name}.csv").write_text("a,b\n" + "".join(f"{row['a']},{row['b']}\n" for row in rows), "utf-8")
    arguments = ["fit", str(toy), str(tmp_path / "train.csv"), "--eval", str(tmp_path / "eval.csv"), "--name", "mine"]
    arguments += ["--output", str(tmp_path), "--batch-size", "16", "--learning-rate", "5e-3", "--output-dim", "16"]
    assert main([*arguments, "--device", "cpu", "--dims", "8"]) == 0
    printed = capsys.readouterr().out
    assert "96 rows of pairs, loss ranking" in printed
    assert "ndcg@10 (8 dimensions)" in printed
    report = json.loads((tmp_path / "mine-training" / "report.json").read_text())
    assert report["after"]["recall@1"] > report["before"]["recall@1"] + 0.2
    assert len(report["losses"]) == report["steps"] == 18
    assert "<polyline" in (tmp_path / "mine-training" / "report.html").read_text()
    assert not (tmp_path / "mine-training" / "steps").exists()
    texts = ["the dog is near", "piano", ""]
    expected = SentenceTransformer(str(tmp_path / "mine-training" / "mine"), device="cpu").encode(texts)
    vectors = runtime.load(tmp_path / "mine").embed(texts)
    assert vectors.shape == (3, 16)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert main([*arguments, "--resume"]) == 1
    assert "exists; use --force" in capsys.readouterr().err


def test_a_seed_gives_the_same_weights(toy: Path, tmp_path: Path) -> None:
    first, again, other = (
        train(toy, make_pairs(32), tmp_path / str(number), replace(FAST, epochs=1, seed=seed))
        for number, seed in enumerate((0, 0, 1))
    )
    assert equal(first, again)
    assert not equal(first, other)


@pytest.mark.parametrize(
    ("rows", "stop", "patience"),
    [
        pytest.param(make_pairs(40), 2, 5, id="pairs within the first epoch", marks=pytest.mark.tried),
        pytest.param(make_labels(40), 4, None, id="labels within the second epoch"),
        pytest.param(
            [row | {"score": index % 3 / 2} for index, row in enumerate(make_pairs(40))],
            4,
            None,
            id="scores within the second epoch",
            marks=pytest.mark.tried,
        ),
        pytest.param(make_pairs(40), 3, 5, id="pairs at the end of an epoch"),
    ],
)
def test_an_interruption_does_not_change_the_weights(
    rows: list[dict[str, Any]],
    stop: int,
    patience: int | None,
    toy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = replace(FAST, epochs=2, patience=patience)
    whole = train(toy, rows, tmp_path / "whole", options)
    on_step_begin = training._Guard.on_step_begin

    def interrupt(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.interrupted = state.global_step == stop - 1
        on_step_begin(self, args, state, control, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(training._Guard, "on_step_begin", interrupt)
        with pytest.raises(KeyboardInterrupt, match=rf"interrupted at step {stop}; run the same command with --resume"):
            train(toy, rows, tmp_path / "parts", options)
    assert equal(whole, train(toy, rows, tmp_path / "parts", options))


def test_an_interruption_after_the_last_step_ends_the_command(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, load_best = replace(FAST, epochs=1, patience=1), training._Trainer._load_best_model

    def interrupt(self: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        load_best(self)

    with monkeypatch.context() as patch:
        patch.setattr(training._Trainer, "_load_best_model", interrupt)
        with pytest.raises(KeyboardInterrupt, match="interrupted at step 2; run the same command with --resume"):
            train(toy, make_pairs(32), tmp_path / "parts", options)
    whole = train(toy, make_pairs(32), tmp_path / "whole", options)
    assert equal(whole, train(toy, make_pairs(32), tmp_path / "parts", options))


def test_a_training_that_patience_has_stopped_does_not_go_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, scores = SequentialEvaluator.__call__, iter([0.5, 0.9, 0.1])

    def score(*arguments: Any, **named: Any) -> dict[str, float]:
        return measure(*arguments, **named) | {"cosine_ndcg@10": next(scores)}

    monkeypatch.setattr(SequentialEvaluator, "__call__", score)
    options = replace(FAST, epochs=6, patience=1)
    stopped = train(toy, make_pairs(16), tmp_path, options)
    assert list(scores) == []
    assert equal(stopped, train(toy, make_pairs(16), tmp_path, options))


def test_a_checkpoint_that_cannot_be_written_is_named(
    toy: Path, tmp_path: Path, small_disk: Callable[..., AbstractContextManager[None]]
) -> None:
    options, folder = replace(FAST, epochs=2), tmp_path / "parts"
    size = (toy / "model.safetensors").stat().st_size
    for limit in (size // 2, size + 10_000):  # the disk is full in the weights, or in the state of the optimizer
        with (
            small_disk(limit),
            pytest.raises(DestinationError, match=r"checkpoint-3 cannot be written .*; free some space if the"),
        ):
            train(toy, make_pairs(40), folder, options)
    assert (folder / "steps/checkpoint-3/optimizer.pt").stat().st_size == size + 10_000
    whole = train(toy, make_pairs(40), tmp_path / "whole", options)
    assert equal(whole, train(toy, make_pairs(40), folder, options))


@pytest.mark.usefixtures("no_export")
def test_a_report_that_cannot_be_written_is_named_and_resumed(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    options = replace(FAST, epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(FitReport, "write", fail)
        with pytest.raises(DestinationError, match=r"mine-training cannot be written .*, and go on with --resume"):
            fit(str(toy), make_pairs(16), output=tmp_path, artifact_name="mine", options=options)
    options = replace(options, resume=True)
    done = fit(str(toy), make_pairs(16), output=tmp_path, artifact_name="mine", options=options)
    assert done.report.resumed_at == done.report.steps == 1
    assert (tmp_path / "mine-training" / "report.json").exists()


@pytest.mark.usefixtures("no_export")
def test_a_resumed_command_has_to_be_the_same(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        write_checkpoint(tmp_path / "mine-training", 1)
        raise KeyboardInterrupt

    def start(options: FitOptions, *rows: list[dict[str, str]], **export_options: Any) -> None:
        chosen = ExportOptions(**export_options)
        fit(str(model), *rows, output=tmp_path, artifact_name="mine", options=options, export_options=chosen)

    model = shutil.copytree(toy, tmp_path / "toy")

    monkeypatch.setattr(training, "train", interrupt)
    rows = make_pairs(20)
    with pytest.raises(KeyboardInterrupt):
        start(FAST, rows)
    resumed = replace(FAST, resume=True)
    with pytest.raises(DestinationError, match="has another seed; give the same"):
        start(replace(resumed, seed=5), rows)
    with pytest.raises(DestinationError, match="has another training data; give the same"):
        start(resumed, rows[1:])
    with pytest.raises(DestinationError, match="has another evaluation data; give the same"):
        start(resumed, rows, [{"a": "x", "b": "y"}])
    with pytest.raises(DestinationError, match=r"another content of the model, max_length; give .* --force instead"):
        start(resumed, rows, max_length=8)
    with pytest.raises(DestinationError, match="go on with --resume, or replace it with --force"):
        start(FAST, rows)
    monkeypatch.setattr(training, "train", lambda *_: (_ for _ in ()).throw(ZeroDivisionError))
    with pytest.raises(ZeroDivisionError):
        start(resumed, rows)
    weights = model / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(DestinationError, match="has another content of the model; give the same"):
        start(resumed, rows)
    with pytest.raises(ZeroDivisionError):
        start(FAST, rows, force=True)
    assert not (tmp_path / "mine-training" / "steps").exists()


def test_a_model_that_became_worse_is_not_exported(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, strange = make_pairs(32), make_pairs(32, seed=5)
    contradiction = [{"a": row["a"], "b": other["b"]} for row, other in zip(learned, strange, strict=True)]
    with pytest.raises(WorseModelError, match="the model is worse than before, so it is not exported") as raised:
        fit(
            str(toy),
            contradiction,
            make_pairs(64, seed=8),
            output=tmp_path,
            artifact_name="mine",
            options=replace(FAST, learning_rate=0.5),
        )
    assert raised.value.after["ndcg@10"] < raised.value.before["ndcg@10"]
    assert not (tmp_path / "mine").exists()
    assert (tmp_path / "mine-training" / "mine" / "modules.json").exists()
    shutil.rmtree(tmp_path / "mine-training" / "steps")
    with pytest.raises(DestinationError, match="is the checkpoint of an earlier training; replace it with --force"):
        fit(str(toy), learned, output=tmp_path, artifact_name="mine", options=replace(FAST, resume=True))

    def fail(*_: Any, **__: Any) -> None:
        raise raised.value

    monkeypatch.setattr("exporters.cli.fit.fit", fail)
    assert main(["fit", "x", "y"]) == 1
    assert "worse than before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        ({"freeze": True, "output_dim": 8}, ("linear",)),
        ({"lora": 2}, ("lora_A", "lora_B")),
        ({"lora": 2, "output_dim": 8}, ("lora_A", "lora_B", "linear")),
    ],
)
def test_only_what_is_asked_for_is_trained(
    given: dict[str, Any], trained: tuple[str, ...], toy: Path, tmp_path: Path
) -> None:
    learner = load(toy, replace(FAST, **given))
    names = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    assert names
    assert all(any(word in name for word in trained) for name in names)
    assert learner.learning_rate == pytest.approx(1e-3 if "freeze" in given else 5e-4)
    data, _ = read_data(make_pairs(16), ["text"])
    training.train(learner, data, None, "ranking", replace(FAST, epochs=1), TrainingFolder(tmp_path, "mine"))
    vector = learner.model.encode(["a cat"])
    saved = SentenceTransformer(str(learner.save(tmp_path / "saved")), device="cpu")
    assert not any("lora" in name for name, _ in saved.named_parameters())
    np.testing.assert_allclose(saved.encode(["a cat"]), vector, atol=1e-6)
    assert not np.allclose(vector, load(toy, replace(FAST, **given)).model.encode(["a cat"]), atol=1e-6)


def test_the_trainer_gets_the_users_learning_rate_and_warmup(toy: Path, tmp_path: Path) -> None:
    learner, (data, _) = load(toy), read_data(make_pairs(16), ["text"])
    arguments = training._arguments(learner, data, None, replace(FAST, warmup=0.5), tmp_path)
    assert (arguments.learning_rate, arguments.get_warmup_steps(9)) == (5e-3, 4)


def test_cached_gradients_are_those_of_the_whole_batch(toy: Path, tmp_path: Path) -> None:
    without_dropout: Any = SentenceTransformer(str(toy), device="cpu")
    config = without_dropout[0].model.config
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0
    without_dropout.save(str(tmp_path / "toy"))
    options = replace(FAST, epochs=1, learning_rate=1e-3)
    whole = train(tmp_path / "toy", make_pairs(32), tmp_path / "whole", options)
    cached = train(tmp_path / "toy", make_pairs(32), tmp_path / "cached", replace(options, mini_batch_size=4))
    for name, value in whole.items():
        torch.testing.assert_close(cached[name], value, atol=2e-4, rtol=0)


@pytest.mark.usefixtures("no_export")
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"freeze": True}, "leaves nothing to train"),
        ({"dims": (24,)}, "not smaller than the model's 24 dimensions"),
        ({"patience": 2}, "give --eval or --val-split"),
        ({"val_split": 0.01}, "too few rows"),
        ({"precision": "bf16"}, "is for a GPU"),
        ({"loss": "cosent"}, "is not for pairs"),
    ],
)
def test_what_cannot_be_trained_is_refused(given: dict[str, Any], message: str, toy: Path, tmp_path: Path) -> None:
    with pytest.raises((UsageError, TrainingDataError), match=message):
        fit(str(toy), make_pairs(16), output=tmp_path, options=replace(FAST, **given))


@pytest.mark.usefixtures("no_export")
def test_bad_rows_are_refused_or_left_out(toy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [*make_pairs(16), {"a": "x", "b": ""}]
    with pytest.raises(TrainingDataError, match=r"1 bad rows:\n  row 17: 'b' is empty\n.*--on-error skip"):
        fit(str(toy), rows, output=tmp_path, options=FAST)
    done = fit(str(toy), rows, output=tmp_path, options=replace(FAST, on_error="skip", epochs=1))
    assert (done.report.rows, done.report.skipped) == (16, 1)
    assert "row 17: 'b' is empty" in caplog.text
    assert "nothing tells whether the model is better" in done.report.describe()


@pytest.mark.usefixtures("no_export")
def test_finetuners_words_train(toy: Path, tmp_path: Path) -> None:
    done = finetuner.fit(
        str(toy), make_labels(24), val_split=0.5, run_name="mine", loss="TripletMarginLoss", epochs=1, batch_size=8,
        learning_rate=1e-4, device="cpu", output=tmp_path, options=FitOptions(seed=3),
    )  # fmt: skip
    assert (done.report.loss, done.report.options["seed"], done.report.steps) == ("triplet-hard", 3, 1)
    assert Path(done) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("prompts", "default", "calls"),
    [
        ({"query": "ask: ", "document": "found: "}, None, ("encode_query", "encode_document")),
        ({"query": "ask: ", "passage": "found: "}, None, ("encode_query", "encode_document")),  # document is there
        ({"query": "ask: ", "document": ""}, "query", ("encode_query", "encode_document")),
        ({"topic": "about: "}, "topic", ("encode", "encode")),
    ],
)
def test_the_prompts_of_a_search_are_trained(
    prompts: dict[str, str], default: str | None, calls: tuple[str, str], toy: Path, tmp_path: Path
) -> None:
    model = SentenceTransformer(str(toy), device="cpu", prompts=prompts, default_prompt_name=default)
    model.save(str(tmp_path / "toy"))
    learner, (data, _) = load(tmp_path / "toy"), read_data(make_pairs(16), ["text"])
    trained: Any = training._arguments(learner, data, None, FAST, tmp_path / "steps").prompts
    evaluator: Any = Evaluation(data, learner.model, batch_size=8, dims=()).evaluator
    assert (evaluator.evaluators[0].query_prompt, evaluator.evaluators[0].corpus_prompt) == (trained["a"], trained["b"])
    for prompt, call in zip(trained.values(), calls, strict=True):
        expected = getattr(learner.model, call)(["a cat"])
        np.testing.assert_array_equal(learner.model.encode(["a cat"], prompt=prompt), expected)
    triplets = read_data([row | {"negative": "no"} for row in make_pairs(16)], ["text"])[0]
    with_negatives: Any = training._arguments(learner, triplets, None, FAST, tmp_path / "steps").prompts
    assert with_negatives == {**trained, "negative": trained["b"]}


@pytest.mark.usefixtures("no_export")
def test_a_negative_that_is_found_first_is_pushed_back(toy: Path, tmp_path: Path) -> None:
    rows = [row | {"negative": f"{row['a']} {row['a']}"} for row in {row["a"]: row for row in make_pairs(200)}.values()]
    learner, (data, _) = load(toy), read_data(rows[96:], ["text"])
    evaluation = Evaluation(data, learner.model, batch_size=16, dims=())
    evaluator: Any = evaluation.evaluator
    assert {row["negative"] for row in rows[96:]} <= set(evaluator.evaluators[0].corpus)
    recalls = {}
    for name, columns in (("pairs", ("a", "b")), ("triplets", ("a", "b", "negative"))):
        chosen = [{column: row[column] for column in columns} for row in rows[:96]]
        done = fit(str(toy), chosen, rows[96:], output=tmp_path, artifact_name=name, options=FAST)
        recalls[name] = done.report.after["recall@1"]
    assert recalls["triplets"] > recalls["pairs"] + 0.2, recalls


def test_a_missing_package_is_named(toy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(runtime.MissingDependencyError, match=r"fine-tuning needs datasets; .*\[fit,cpu\]"):
        fit(str(toy), make_pairs(4), output=tmp_path)
