"""Fine-tune a model and export it. Importing this module does not import torch."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.artifact_writer import check_destination
from exporters.catalogue.names import default_name, find_model
from exporters.catalogue.options import ExportOptions
from exporters.catalogue.spec import BackboneSpec
from exporters.errors import TrainingDataError, WorseModelError
from exporters.fit.dataset import (
    Bad,
    Data,
    DataSource,
    check_columns,
    check_items,
    check_labels,
    describe_bad,
    leave_out_contradictions,
    leave_out_single_labels,
    leave_out_trained,
    read_data,
)
from exporters.fit.losses import choose_loss
from exporters.fit.options import FitOptions
from exporters.fit.report import FitReport
from exporters.fit.training_folder import PACKAGES, TrainingFolder
from exporters.progress import Stage, silent
from runtime.errors import UsageError, needs_extra
from runtime.machine.packages import package_version
from runtime.session.providers import check_packages

if TYPE_CHECKING:
    from exporters.fit.learner import Learner

_LOG = logging.getLogger("exporters")
# Options that may differ when a training goes on: they change neither the data nor the model.
_FREE = ("resume", "on_error", "device", "force", "opset", "tolerance", "weights_ref")
# Packages of which another version may read the same model differently.
_READERS = ("embedding-backbones", "torch", "sentence-transformers", "transformers", "tokenizers")


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
        TrainingDataError: Rows of the data are bad, or too few, or evaluation data is in the training data, too.
        DestinationError: The artifact exists, or a training of this name that is neither resumed nor replaced. Or
            another process trains under this name, or a file cannot be written.
        FitError: The loss is no longer a number.
        WorseModelError: The model is worse than before. Its checkpoint is kept, and no artifact is written.
        EmbeddingBackbonesError: As for :func:`exporters.export`.
        KeyboardInterrupt: The training is interrupted, and a checkpoint is written.
    """
    options, export_options = options or FitOptions(), export_options or ExportOptions()
    if eval_data is not None and options.val_split:
        raise UsageError("give evaluation data or --val-split, not both")
    spec = find_model(name, revision=export_options.revision)
    destination, folder = _choose_folders(Path(output), artifact_name or f"{default_name(spec)}-fit")
    check_destination(destination, force=export_options.force)
    folder.check(resume=options.resume, force=export_options.force)
    learner = _load(spec, options, export_options, stage)
    with stage("read data"):
        data, others, skipped = _read(train_data, eval_data, learner, options)
    task = _Task(
        name=name,
        learner=learner,
        data=data,
        others=others,
        skipped=skipped,
        loss=choose_loss(options.loss, data),
        options=options,
        folder=folder,
    )
    with folder.open(task.request(export_options), resume=options.resume, force=export_options.force):
        report, checkpoint = task.train(stage)
        if report.worse:
            raise WorseModelError(
                f"the model is worse than before, so it is not exported:\n{report.describe()}\nthe checkpoint is "
                f"{checkpoint}; try a lower --learning-rate, fewer --epochs or more data, and --force to replace it",
                report.before,
                report.after,
            )
        learner.export(checkpoint, destination, stage)
        shutil.rmtree(folder.steps, ignore_errors=True)
    return Fit(artifact=destination, checkpoint=checkpoint, report=report)


def _choose_folders(output: Path, name: str) -> tuple[Path, TrainingFolder]:
    """Return the folder of the artifact, and the one of the training beside it."""
    if Path(name).name != name:
        raise UsageError(f"an artifact cannot have the name {name!r}; --name takes the name of a folder")
    return output / name, TrainingFolder(output / f"{name}-training", name)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A fine-tuning: its model, its data, its options, and the folder of its checkpoints."""

    name: str
    learner: Learner
    data: Data
    others: Data | None
    skipped: int
    loss: str
    options: FitOptions
    folder: TrainingFolder

    def request(self, export_options: ExportOptions) -> dict[str, str]:
        """Return what has to be the same for a training to go on, and the versions of packages, which explain more."""
        settings = {
            field.name: str(getattr(options, field.name))
            for options in (self.options, export_options)
            for field in fields(options)
            if field.name not in _FREE
        }
        rows = {"training data": self.data, "evaluation data": self.others}
        hashes = {
            key: hashlib.sha256(repr(value).encode("utf-8", "replace")).hexdigest() for key, value in rows.items()
        }
        model = {"model": self.name, "content of the model": self.learner.fingerprint}
        packages = ", ".join(f"{name} {package_version(name)}" for name in _READERS)
        return {**model, **settings, "loss": self.loss, **hashes, PACKAGES: packages}

    def train(self, stage: Stage) -> tuple[FitReport, Path]:
        """Measure, train, save and measure again; return the figures and the checkpoint."""
        from exporters.fit.metrics import Evaluation
        from exporters.fit.training import saving, train

        options, model = self.options, self.learner.model
        evaluation: Evaluation | None = None
        before, after = dict[str, float](), dict[str, float]()
        if self.others is not None:
            evaluation = Evaluation(self.others, model, batch_size=options.batch_size, dims=options.dims)
            with stage("evaluate before"):
                before = evaluation.measure(model)
        trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        with stage("train"):
            training = train(self.learner, self.data, evaluation, self.loss, options, self.folder)
        if evaluation is not None:
            with stage("evaluate after"):
                after = evaluation.measure(model)
        with saving(self.folder.checkpoint):
            checkpoint = self.learner.save(self.folder.checkpoint)
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
        with saving(self.folder.path):
            report.write(self.folder.path)
        return report, checkpoint


def _load(spec: BackboneSpec, options: FitOptions, export_options: ExportOptions, stage: Stage) -> Learner:
    """Import torch and the packages that need it, and load the model."""
    check_packages()
    with stage("import torch"), needs_extra("fit,cpu", "fine-tuning"):
        # sentence-transformers imports the first three, and would only say that training is not available.
        for name in ("accelerate", "datasets", "peft", "exporters.fit.training"):
            import_module(name)
        from exporters.fit.learner import load_learner
    device = _choose_device(options)
    with stage("load weights"):
        learner = load_learner(spec, export_options, options)
        learner.model.to(device)  # the trainer would move it after the first evaluation
    return learner


def _choose_device(options: FitOptions) -> str:
    import torch

    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    if options.device == "cuda" and not on_gpu:
        raise UsageError("torch finds no GPU on this machine; leave out --device")
    if options.precision != "fp32" and not on_gpu:
        raise UsageError(
            f"--precision {options.precision} is for a GPU, and this training runs on the CPU; leave it out"
        )
    return "cuda" if on_gpu else "cpu"


def _read(
    train_data: DataSource, eval_data: DataSource | None, learner: Learner, options: FitOptions
) -> tuple[Data, Data | None, int]:
    """Return training data, evaluation data, and the number of bad rows that were left out."""
    check_columns(options.columns, train_data, eval_data)
    data, skipped = _read_good(train_data, learner, options)
    data, single = leave_out_single_labels(data)
    skipped += _leave_out(single, "rows with the only item of a label", options)
    others = None
    if eval_data is not None:
        others, more = _read_good(eval_data, learner, options)
        others, trained = leave_out_trained(others, data)
        skipped += more + _leave_out(trained, "rows of the evaluation data that are in the training data", options)
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
    data, contradictory = leave_out_contradictions(data)
    return data, _leave_out([*unread, *unusable, *contradictory], "bad rows", options)


def _leave_out(bad: Sequence[Bad], what: str, options: FitOptions) -> int:
    """Refuse rows, or leave them out if the user says so, and return their number."""
    if bad and options.on_error == "skip":
        _LOG.warning("%d %s are left out:\n%s", len(bad), what, describe_bad(bad))
    elif bad:
        raise TrainingDataError(
            f"{len(bad)} {what}:\n{describe_bad(bad)}\ncorrect them, or leave them out with --on-error skip"
        )
    return len(bad)
