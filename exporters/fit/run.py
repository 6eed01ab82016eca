"""Fine-tune a model and export it. Importing this module does not import torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact_writer import check_destination, writing
from exporters.catalogue.names import default_name, find_model
from exporters.catalogue.options import ExportOptions
from exporters.errors import DestinationError, TrainingDataError, WorseModelError
from exporters.fit.dataset import (
    Data,
    DataSource,
    Entry,
    check_items,
    check_labels,
    describe_bad,
    read_data,
)
from exporters.fit.losses import choose_loss
from exporters.fit.options import FitOptions
from exporters.fit.report import FitReport
from exporters.progress import Stage, silent
from runtime.errors import MissingDependencyError, UsageError
from runtime.session.providers import check_packages

if TYPE_CHECKING:
    from exporters.fit.learner import Learner
    from exporters.fit.metrics import Evaluation

_LOG = logging.getLogger("exporters")
_REQUEST = "request.json"


@dataclass(frozen=True, kw_only=True)
class Fit(os.PathLike[str]):
    """The result of a fine-tuning. It is a path, that of the artifact.

    Attributes:
        artifact: Folder of the artifact, for :func:`runtime.load`.
        checkpoint: The trained weights, for ``--weights``: a folder of sentence-transformers, or a state dict.
        report: The figures.
    """

    artifact: Path
    checkpoint: Path
    report: FitReport

    def __fspath__(self) -> str:
        """Return the artifact's folder."""
        return str(self.artifact)


def fit(
    name: str,
    train_data: DataSource,
    eval_data: DataSource | None = None,
    *,
    output: str | os.PathLike[str] = "artifacts",
    artifact_name: str | None = None,
    options: FitOptions | None = None,
    export_options: ExportOptions | None = None,
    stage: Stage = silent,
) -> Fit:
    """Fine-tune a model, and export it as :func:`exporters.export` does.

    Args:
        name: Name of the model, as for :func:`exporters.export`.
        train_data: Training data; see :func:`exporters.fit.dataset.read_data`.
        eval_data: Evaluation data of the same model; ``None`` for a share of the training data, or none.
        output: Folder of the artifact's folder, and of a folder ``NAME-training`` with the checkpoint and a report.
        artifact_name: Name of the artifact; by default the model's name with ``-fit``.
        options: Options of the training.
        export_options: Weights to start from, and other options of the export.
        stage: Called with the name of each stage; the stage runs in the context manager that it returns.

    Raises:
        TrainingDataError: Rows of the data are bad, or too few.
        FitError: The loss is no longer a number.
        WorseModelError: The model is worse than before. Its checkpoint is kept, and no artifact is written.
        EmbeddingBackbonesError: As for :func:`exporters.export`.
        KeyboardInterrupt: The training is interrupted, and a checkpoint is written.
    """
    options, export_options = options or FitOptions(), export_options or ExportOptions()
    if eval_data is not None and options.val_split:
        raise UsageError("give evaluation data or --val-split, not both")
    spec = find_model(name, revision=export_options.revision)
    artifact_name = artifact_name or f"{default_name(spec)}-fit"
    if Path(artifact_name).name != artifact_name:
        raise UsageError(f"an artifact cannot have the name {artifact_name!r}; --name takes the name of a folder")
    destination = Path(output) / artifact_name
    check_destination(destination, force=export_options.force)
    check_packages()
    with stage("import torch"):
        libraries = _import_libraries()
    _check_device(options)
    with stage("load weights"):
        learner = libraries.load_learner(spec, export_options, options)
    with stage("read data"):
        data, others, skipped = _read(train_data, eval_data, learner, options)
    task = _Task(
        name=name,
        data=data,
        others=others,
        skipped=skipped,
        loss=choose_loss(options.loss, data),
        options=options,
        folder=destination.with_name(f"{artifact_name}-training"),
    )
    task.open_folder(weights=export_options.weights)
    report, checkpoint = task.train(learner, libraries, artifact_name, stage)
    report.write(task.folder)
    if report.worse:
        raise WorseModelError(
            f"the model is worse than before, so it is not exported:\n{report.describe()}\nthe checkpoint is "
            f"{checkpoint}; try a lower --learning-rate, fewer --epochs or more data",
            report.before,
            report.after,
        )
    learner.export(checkpoint, destination, stage)
    shutil.rmtree(task.steps, ignore_errors=True)
    return Fit(artifact=destination, checkpoint=checkpoint, report=report)


@dataclass(frozen=True, kw_only=True)
class _Libraries:
    """The functions of this folder that need torch."""

    load_learner: Any
    evaluation: Any
    train: Any


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A fine-tuning: its data, and the folder of checkpoints beside the artifact."""

    name: str
    data: Data
    others: Data | None
    skipped: int
    loss: str
    options: FitOptions
    folder: Path

    @property
    def steps(self) -> Path:
        """The folder from which an interrupted training goes on."""
        return self.folder / "steps"

    def open_folder(self, *, weights: str) -> None:
        """Make the folder, or check that the training in it is the same.

        Raises:
            DestinationError: It is another training.
        """
        path, request = self.folder / _REQUEST, self._request(weights)
        with writing(self.folder):
            if self.steps.is_dir() and self.options.resume:
                begun = json.loads(path.read_text("utf-8"))
                changed = [key for key, value in request.items() if begun.get(key) != value]
                if not changed:
                    return
                raise DestinationError(
                    f"the training in {self.folder} has another {', '.join(changed)}; give the same, or start again "
                    "without --resume"
                )
            shutil.rmtree(self.steps, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(request, indent=2), "utf-8")

    def _request(self, weights: str) -> dict[str, str]:
        """Return what has to be the same for a training to go on."""
        free = ("resume", "on_error", "device")
        settings = {key: str(value) for key, value in asdict(self.options).items() if key not in free}
        rows = {"training data": self.data, "evaluation data": self.others}
        hashes = {
            key: hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest() for key, value in rows.items()
        }
        return {"model": self.name, "weights": weights, **settings, "loss": self.loss, **hashes}

    def train(self, learner: Learner, libraries: _Libraries, name: str, stage: Stage) -> tuple[FitReport, Path]:
        """Measure, train, save and measure again; return the figures and the checkpoint ``name``."""
        options, model = self.options, learner.model
        evaluation: Evaluation | None = None
        before, after = dict[str, float](), dict[str, float]()
        if self.others is not None:
            evaluation = libraries.evaluation(self.others, model, batch_size=options.batch_size, dims=options.dims)
            with stage("evaluate before"):
                before = evaluation.measure(model)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        with stage("train"):
            training = libraries.train(learner, self.data, evaluation, self.loss, options, self.steps)
        if evaluation is not None:
            with stage("evaluate after"):
                after = evaluation.measure(model)
        checkpoint = learner.save(self.folder / name)
        report = FitReport(
            model=self.name,
            kind=self.data.kind,
            loss=self.loss,
            rows=len(self.data.rows),
            eval_rows=len(self.others.rows) if self.others else 0,
            skipped=self.skipped,
            main_metric=evaluation.main_metric if evaluation else None,
            before=before,
            after=after,
            parameters=trained,
            options=asdict(options),
            **vars(training),
        )
        return report, checkpoint


def _import_libraries() -> _Libraries:
    """Import what needs torch.

    Raises:
        MissingDependencyError: A package of the extra ``fit`` is not installed.
    """
    try:
        import accelerate
        import datasets
        import peft

        from exporters.fit.learner import load_learner
        from exporters.fit.metrics import Evaluation
        from exporters.fit.training import train
    except ModuleNotFoundError as exc:
        raise MissingDependencyError(
            f"fine-tuning needs {exc.name}; install it with `pip install 'embedding-backbones[fit,cpu]'`"
        ) from exc
    del (
        accelerate,
        datasets,
        peft,
    )  # sentence-transformers imports them, and would only say that training is not available
    return _Libraries(load_learner=load_learner, evaluation=Evaluation, train=train)


def _check_device(options: FitOptions) -> None:
    import torch

    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    if options.device == "cuda" and not on_gpu:
        raise UsageError("torch finds no GPU on this machine; leave out --device")
    if options.precision != "fp32" and not on_gpu:
        raise UsageError(
            f"--precision {options.precision} is for a GPU, and this training runs on the CPU; leave it out"
        )


def _read(
    train_data: DataSource, eval_data: DataSource | None, learner: Learner, options: FitOptions
) -> tuple[Data, Data | None, int]:
    """Return training data, evaluation data, and the number of bad rows that were left out."""
    data, skipped = _read_good(train_data, learner, options)
    others = None
    if eval_data is not None:
        others, more = _read_good(eval_data, learner, options)
        skipped += more
    elif options.val_split:
        data, others = data.split(options.val_split, options.seed)
    check_labels(data, "the training data")
    if len(data.rows) < 2 or (others is not None and not others.rows):
        raise TrainingDataError(
            "there are too few rows to train or to evaluate with; give more, or another --val-split"
        )
    if data.kind == "labels" and (options.batch_size < 4 or options.batch_size % 2):
        raise UsageError(f"--batch-size {options.batch_size} is not an even number from 4, which labels need")
    return data, others, skipped


def _read_good(source: DataSource, learner: Learner, options: FitOptions) -> tuple[Data, int]:
    data, unread = read_data(source, learner.towers, options.columns)
    data, unusable = check_items(data, learner.prepare)
    bad: Sequence[Entry] = [*unread, *unusable]
    if bad and options.on_error == "skip":
        _LOG.warning("%d bad rows are left out:\n%s", len(bad), describe_bad(bad))
    elif bad:
        raise TrainingDataError(
            f"{len(bad)} bad rows:\n{describe_bad(bad)}\ncorrect them, or leave them out with --on-error skip"
        )
    return data, len(bad)
