"""Train a model with sentence-transformers' trainer: reproducible, and resumable at any step."""

from __future__ import annotations

import logging
import math
import signal
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model, save_model
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.sampler import BatchSamplers, DefaultBatchSampler
from torch.utils.data import RandomSampler
from transformers import EarlyStoppingCallback, PrinterCallback, ProgressCallback, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from exporters.errors import DestinationError, FitError, TrainingDataError
from exporters.fit.dataset import COLUMNS, Data, DataKind, find_single_labels, number_labels
from exporters.fit.learner import Learner
from exporters.fit.losses import build_loss
from exporters.fit.metrics import Evaluation, choose_prompts, wrap_items
from exporters.fit.options import FitOptions
from exporters.fit.training_folder import TrainingFolder
from exporters.weights.model_folder import quiet_transformers
from runtime.errors import UsageError, one_line
from runtime.machine.limits import read_peak_bytes

_LOG = logging.getLogger("exporters")
_APART = "rows with an equal item are never in one batch%s; lower --batch-size"
_PAIRS = _APART % ", and a row alone trains nothing"
# Reasons for which an epoch does not train on all rows.
_UNUSED: Mapping[DataKind, str] = {
    "labels": "each batch takes two items of a label in turn, until one label is left; give labels equally many items",
    "triplets": _APART % "",
    "pairs": _PAIRS,
    "captions": _PAIRS,
    "scores": "the last batch has one row, and nothing to compare it with; give another --batch-size",
}
_TENSORS = "model.safetensors"
_INTERRUPTED = "interrupted at step {}; run the same command with --resume to go on"


@dataclass(frozen=True, kw_only=True)
class Training:
    """The record of a training.

    Attributes:
        losses: The loss at each step.
        evaluations: The metrics after each epoch.
        rows_per_epoch: Number of rows that the first epoch trains on.
        single_labels: Number of labels with one item, which no epoch trains on.
        steps: Number of steps.
        resumed_at: Step from which this process went on; 0 if it began the training.
        seconds: Time of this process in the trainer.
        peak_memory_bytes: Largest memory of this process, on a GPU the largest memory there.
    """

    losses: list[float]
    evaluations: list[dict[str, float]]
    rows_per_epoch: int
    single_labels: int
    steps: int
    resumed_at: int
    seconds: float
    peak_memory_bytes: int


def train(
    learner: Learner, data: Data, evaluation: Evaluation | None, loss: str, options: FitOptions, folder: TrainingFolder
) -> Training:
    """Train the model in place, and leave the weights of the best epoch in it if there is an evaluation.

    Args:
        learner: The model.
        data: The training data.
        evaluation: The evaluation after each epoch; ``None`` for none.
        loss: Name of the loss.
        options: The options.
        folder: The folder with the checkpoints from which an interrupted training goes on.

    Raises:
        TrainingDataError: No step would have two rows to compare.
        FitError: The loss is no longer a number, or the training changed no weights.
        DestinationError: A checkpoint cannot be written.
        KeyboardInterrupt: The user interrupts the training. A checkpoint of the last step is written first.
    """
    model = learner.model
    trainer = _Trainer(
        model=model,
        args=_arguments(learner, data, evaluation, options, folder.steps),
        train_dataset=_dataset(data),
        loss=build_loss(loss, model, options),
        evaluator=evaluation.evaluator if evaluation else None,
        callbacks=_callbacks(options, watched=evaluation is not None),
    )
    rows_per_epoch = _count_rows(trainer, alone=loss == "cosine" or data.kind == "triplets")
    _check_rows(rows_per_epoch, data)
    trainer.remove_callback(PrinterCallback)
    if sys.stderr.isatty():
        trainer.add_callback(_ProgressBar)
    start, before = time.perf_counter(), _sum_weights(model)
    checkpoint = folder.find_checkpoint()
    with _interruptible(trainer), _without_notes():
        if checkpoint and (stopped := _read_stopped(checkpoint, options)):
            trainer.load_best_of(stopped)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if _sum_weights(model) == before:
        raise FitError(
            "the training changed no weights; give it more rows or --epochs, or a higher --learning-rate, and --force "
            "to replace this training"
        )
    history: list[dict[str, Any]] = trainer.state.log_history
    main = f"eval_{evaluation.main}" if evaluation else ""
    return Training(
        losses=[entry["loss"] for entry in history if "loss" in entry],
        evaluations=[evaluation.select(entry) for entry in history if evaluation and main in entry],
        rows_per_epoch=rows_per_epoch,
        single_labels=len(find_single_labels(data)),
        steps=trainer.state.global_step,
        resumed_at=int(checkpoint.name.removeprefix("checkpoint-")) if checkpoint else 0,
        seconds=time.perf_counter() - start,
        peak_memory_bytes=_peak_memory(),
    )


@contextmanager
def saving(path: Path) -> Iterator[None]:
    """Report that ``path`` cannot be written in the block.

    Raises:
        DestinationError: The disk is full, for which torch and safetensors have errors of their own, or it fails.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as exc:
        raise DestinationError(
            f"{path} cannot be written ({one_line(exc)}); free some space if the disk is full, and go on with --resume"
        ) from exc


class _Arguments(SentenceTransformerTrainingArguments):
    """The arguments of the trainer, with a warm-up that is no longer than its share.

    The learning rate of a warm-up's first step is 0, so a training of one step would change nothing.
    """

    def get_warmup_steps(self, num_training_steps: int) -> int:
        return int(num_training_steps * self.warmup_steps)


class _Trainer(SentenceTransformerTrainer):
    """The trainer, with the tensors of any model in one file, and without a model card."""

    def _save_checkpoint(self, *args: Any) -> None:
        with saving(Path(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")):
            super()._save_checkpoint(*args)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        del state_dict
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(self.model, str(folder / _TENSORS))

    def _load_from_checkpoint(self, checkpoint_path: str, model: Any = None) -> None:
        del model
        load_model(self.model, Path(checkpoint_path) / _TENSORS, device=str(self.model.device))

    def _load_best_model(self) -> None:
        if self.state.best_model_checkpoint is not None:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

    def load_best_of(self, state: TrainerState) -> None:
        """Load the best weights of a training that has ended in ``state``."""
        self.state = state
        self._load_best_model()

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        del default_args_dict


def _read_stopped(checkpoint: Path, options: FitOptions) -> TrainerState | None:
    """Return the state of a training that ``patience`` has ended, else ``None``. The trainer itself would go on."""
    if options.patience is None:
        return None
    state: Any = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    saved = state.stateful_callbacks[EarlyStoppingCallback.__name__]
    return state if saved["attributes"]["early_stopping_patience_counter"] >= options.patience else None


def _sum_weights(model: torch.nn.Module) -> list[float]:
    """Return the sum of each tensor that is trained."""
    with torch.no_grad():
        return [float(each.double().sum()) for each in model.parameters() if each.requires_grad]


def _count_rows(trainer: SentenceTransformerTrainer, *, alone: bool) -> int:
    """Return the number of rows that the first epoch trains on: an epoch may end before its sampler does.

    Most losses compare the rows of a batch, so a batch of one row trains nothing, unless a row trains ``alone``.
    """
    sampler: Any = trainer.get_batch_sampler(
        trainer.train_dataset,
        batch_size=trainer.args.train_batch_size,
        drop_last=trainer.args.dataloader_drop_last,
        valid_label_columns=trainer.data_collator.valid_label_columns,
        generator=torch.Generator(),
        seed=trainer.args.seed,
    )
    sizes = [len(batch) for batch in islice(sampler, len(sampler))]
    return sum(size for size in sizes if alone or size > 1)


def _check_rows(used: int, data: Data) -> None:
    reason = _UNUSED[data.kind]
    if not used:
        raise TrainingDataError(f"no batch has two rows to compare: {reason}")
    if used < len(data.rows):
        _LOG.warning("an epoch trains on %d of %d rows: %s", used, len(data.rows), reason)


class _ShuffledBatches(DefaultBatchSampler):
    """Random batches whose order depends on the seed and the epoch alone, so that a resumed epoch has the same."""

    def __init__(self, dataset: Any, **settings: Any) -> None:
        super().__init__(RandomSampler(dataset, generator=settings["generator"]), **settings)

    def __iter__(self) -> Iterator[list[int]]:
        if self.generator is not None:
            self.generator.manual_seed(self.seed + self.epoch)
        return super().__iter__()


class _ProgressBar(ProgressCallback):
    """The library's progress bar with the loss, instead of a line for each step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self.training_bar is not None and "loss" in (logs or {}):
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


class _Guard(TrainerCallback):
    """Ends a training whose loss is no longer a number, and an interrupted one after a checkpoint."""

    interrupted = False

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            raise FitError(
                f"the loss is {logs['loss']} at step {state.global_step}; lower --learning-rate, or use --precision "
                "fp32, and --force to replace this training"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # The last step of an epoch has a checkpoint anyway, after the evaluation.
        if self.interrupted and state.global_step % (state.max_steps // state.num_train_epochs):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt(_INTERRUPTED.format(state.global_step))


@contextmanager
def _interruptible(trainer: SentenceTransformerTrainer) -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM in the block end the training after a checkpoint; the second ends it at once."""
    guard = _Guard()
    trainer.add_callback(guard)

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if guard.interrupted:
            raise KeyboardInterrupt
        guard.interrupted = True
        print("interrupted: writing a checkpoint after this step; once more ends at once", file=sys.stderr)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
        if guard.interrupted:  # after the last checkpoint
            raise KeyboardInterrupt(_INTERRUPTED.format(trainer.state.global_step))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _without_notes() -> Iterator[None]:
    """Keep the libraries' notes for developers from the user."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        yield


def _arguments(
    learner: Learner, data: Data, evaluation: Evaluation | None, options: FitOptions, folder: Path
) -> _Arguments:
    watched = evaluation is not None
    samplers: dict[str, Any] = {"labels": BatchSamplers.GROUP_BY_LABEL, "scores": _ShuffledBatches}
    return _Arguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate or learner.learning_rate,
        warmup_steps=options.warmup,
        seed=options.seed,
        data_seed=options.seed,
        bf16=options.precision == "bf16",
        fp16=options.precision == "fp16",
        use_cpu=options.device == "cpu",
        eval_strategy="epoch" if watched else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=watched,
        metric_for_best_model=evaluation.main if evaluation else None,
        greater_is_better=True if watched else None,
        logging_strategy="steps",
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=torch.cuda.is_available() and options.device != "cpu",
        restore_callback_states_from_checkpoint=True,
        batch_sampler=samplers.get(data.kind, BatchSamplers.NO_DUPLICATES),
        prompts=dict(zip(COLUMNS[data.kind], choose_prompts(learner.model, data), strict=False)),
    )


def _callbacks(options: FitOptions, *, watched: bool) -> list[TrainerCallback]:
    if options.patience is None:
        return []
    if not watched:
        raise UsageError("--patience stops by the evaluation; give --eval or --val-split, too")
    return [EarlyStoppingCallback(early_stopping_patience=options.patience)]


def _dataset(data: Data) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    names = COLUMNS[data.kind][: len(data.towers)]
    columns: dict[str, list[Any]] = {name: wrap_items(data, position) for position, name in enumerate(names)}
    if data.kind == "labels":
        columns["label"] = number_labels(data.rows)
    elif data.kind == "scores":
        columns["score"] = [row.target for row in data.rows]
    return Dataset.from_dict(columns)


def _peak_memory() -> int:
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    return read_peak_bytes()
