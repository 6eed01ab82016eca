"""The options of fine-tuning. Importing this module does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from runtime.errors import UsageError

OnError = Literal["raise", "skip"]
TrainingPrecision = Literal["fp32", "bf16", "fp16"]
DEFAULT_LORA_RANK = 16


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of fine-tuning.

    Attributes:
        loss: Name of the loss, one of :data:`exporters.fit.losses.LOSSES`; ``None`` for the usual one of the data.
        epochs: Number of passes over the training data.
        batch_size: Items in a step. Losses of pairs take the negatives from the same batch.
        mini_batch_size: Items that go through the model together. The gradients of a large batch are cached, so that it
            needs no more memory than this; ``None`` for the whole batch.
        learning_rate: Highest learning rate; ``None`` for the usual one of the model.
        warmup: Share of the steps in which the learning rate rises to its highest value.
        seed: Seed of new layers, of the order of the data, and of dropout.
        precision: Precision of the arithmetic; ``bf16`` and ``fp16`` mix it with float32, on a GPU.
        device: ``cpu`` or ``cuda``; ``None`` for a GPU if there is one.
        freeze: Whether to train only the layers after the pooling.
        lora: Rank of the LoRA adapters that are trained instead of all weights; ``None`` to train all weights.
        output_dim: Length of the embeddings of a new linear layer at the end; ``None`` for no such layer.
        dims: Smaller numbers of dimensions for which the embeddings are trained, too (Matryoshka).
        val_split: Share of the distinct rows of the training data to hold out for the evaluation.
        patience: Epochs without a better evaluation after which the training stops; ``None`` for all epochs.
        on_error: ``raise``: a bad row of the data ends the run; ``skip``: it is left out. Bad are also a label with
            one item, and evaluation data that is in the training data.
        columns: Names of the columns of CSV files without a header; empty if all files have one.
        resume: Whether to go on with an interrupted run.
    """

    loss: str | None = None
    epochs: int = 3
    batch_size: int = 64
    mini_batch_size: int | None = None
    learning_rate: float | None = None
    warmup: float = 0.1
    seed: int = 0
    precision: TrainingPrecision = "fp32"
    device: str | None = None
    freeze: bool = False
    lora: int | None = None
    output_dim: int | None = None
    dims: tuple[int, ...] = ()
    val_split: float = 0.0
    patience: int | None = None
    on_error: OnError = "raise"
    columns: tuple[str, ...] = ()
    resume: bool = False

    def __post_init__(self) -> None:
        """Check the values that are wrong for every model."""
        numbers = [self.epochs, self.mini_batch_size, self.lora, self.output_dim, self.patience, *self.dims]
        if any(number is not None and number < 1 for number in numbers):
            raise UsageError("epochs, mini_batch_size, lora, output_dim, patience and dims are numbers from 1")
        if self.batch_size < 2:
            raise UsageError(f"batch_size {self.batch_size} leaves no negatives in a batch; give at least 2")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise UsageError(f"learning_rate {self.learning_rate} is not above 0")
        if not (0 <= self.warmup < 1 and 0 <= self.val_split < 1):
            raise UsageError("warmup and val_split are shares, from 0 to below 1")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"the seed {self.seed} is not from 0 to 2**32 - 1")
        if self.device not in (None, "cpu", "cuda"):
            raise UsageError(f"the device {self.device!r} is neither cpu nor cuda")
        if self.freeze and self.lora:
            raise UsageError("freeze and lora exclude each other: LoRA trains adapters in the frozen layers")
