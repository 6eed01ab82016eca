"""The options of an export."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal, get_args

from exporters.catalogue.weights_ref import WeightsRef, parse_weights
from runtime.artifact.manifest import MIN_TEXT_LENGTH, Arithmetic, Interpolation, Pooling, TowerName
from runtime.artifact.parity import Tolerance
from runtime.errors import UsageError

# Torch's exporter writes ONNX operator set 18, and onnxscript converts it to newer ones. onnxruntime 1.24, the newest
# with OpenVINO, loads sets up to 23.
OPSETS = range(18, 24)

# A correct graph differs from torch only by the order of float32 additions. Measured for the four CNNs on a CPU: at
# most 5e-12 in cosine, 6e-6 of the largest value, and 3e-5 of the distance between inputs. The bounds leave a factor
# of 15 or more for other machines and providers.
DEFAULT_TOLERANCE = Tolerance(min_cosine=1 - 1e-7, max_error=1e-4, max_distance_share=1e-3)

IMAGE_SIZES = range(32, 2049)
# Options that state the preprocessing of images instead of the model's library.
IMAGE_OPTIONS = ("preprocessing", "resize", "crop", "interpolation", "antialias", "mean", "std")
# Options that have no effect if only the other tower of a model of texts and images is exported.
_FOR_TOWER: Mapping[TowerName, tuple[str, ...]] = {
    "image": (*IMAGE_OPTIONS, "image_size", "input"),
    "text": ("max_length", "tokenizer"),
}
_RESIZE = re.compile(r"[1-9]\d{0,4}(,squash)?")
GEM_P = 3.0  # Source: Finetuner's default, and Radenović et al. 2018, https://arxiv.org/abs/1711.02512, section 3.2
GEM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export.

    Attributes:
        weights: ``pretrained``, ``random``, ``random:SEED``, or a path: a state dict, a folder in the layout of
            transformers or sentence-transformers, or a Finetuner run.
        select_model: Model of a Finetuner run that holds two; ``both`` for both.
        tokenizer: Folder of the tokenizer, for weights without one; ``None`` for the backbone's tokenizer on the hub.
        tower: The only tower to export; ``None`` for all.
        pooling: Pooling of features to one vector; ``None`` for that of the checkpoint, else the backbone's default.
        normalize: Whether the graph scales embeddings to unit length; ``None`` for what the checkpoint says, else no.
        revision: Branch, tag or commit of a model on the hub; ``None`` for its newest commit.
        trust_remote_code: Whether to run Python code that a checkpoint brings.
        max_length: Largest number of tokens; ``None`` for that of the checkpoint.
        image_size: Side of the centre crop in pixels; ``None`` for that of the weights.
        preprocessing: JSON file with the preprocessing of images: a ``pretrained_cfg`` of timm, a
            ``preprocessor_config.json`` of transformers, or fields of the manifest's ``preprocessing``.
        resize: ``"256"`` scales the shorter side to 256 pixels; ``"256,squash"`` scales both sides. This and the next
            five: ``None`` for the model's own.
        crop: Side of the centre crop in pixels.
        interpolation: Filter that resizes.
        antialias: Whether the filter widens with the downscaling factor.
        mean: Mean of each channel, for pixels from 0 to 1.
        std: Standard deviation of each channel.
        input: ``uint8``: the graph takes raw pixels; ``float32``: it takes normalised ``pixel_values``.
        opset: ONNX operator set, one of :data:`OPSETS`.
        tolerance: Largest allowed differences between the graph and torch.
        force: Whether to replace an existing artifact.
        weights_ref: ``weights``, parsed.
    """

    weights: str | os.PathLike[str] = "pretrained"
    select_model: str | None = None
    tokenizer: str | os.PathLike[str] | None = None
    tower: TowerName | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    max_length: int | None = None
    image_size: int | None = None
    preprocessing: str | os.PathLike[str] | None = None
    resize: str | None = None
    crop: int | None = None
    interpolation: Interpolation | None = None
    antialias: bool | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    input: Literal["uint8", "float32"] = "uint8"
    opset: int = OPSETS.start
    tolerance: Tolerance = DEFAULT_TOLERANCE
    force: bool = False
    weights_ref: WeightsRef = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check the values that are wrong for every backbone, and parse ``weights``."""
        if self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}")
        if self.image_size is not None and self.image_size not in IMAGE_SIZES:
            raise UsageError(
                f"image_size {self.image_size} is not from {IMAGE_SIZES.start}, the stride of the networks, to "
                f"{IMAGE_SIZES.stop - 1}"
            )
        if self.input not in ("uint8", "float32"):
            raise UsageError(f"input {self.input!r} is neither uint8 nor float32")
        if self.tower not in (None, "text", "image"):
            raise UsageError(f"tower {self.tower!r} is neither text nor image")
        if self.max_length is not None and self.max_length < MIN_TEXT_LENGTH:
            raise UsageError(f"max_length {self.max_length} is below {MIN_TEXT_LENGTH}: there is no room for a text")
        self._check_image_options()
        self._check_tower()
        object.__setattr__(self, "weights_ref", parse_weights(os.fspath(self.weights)))

    def _check_image_options(self) -> None:
        if self.resize is not None and not _RESIZE.fullmatch(self.resize):
            raise UsageError(f"resize {self.resize!r} is neither a number of pixels nor a number followed by ,squash")
        if self.interpolation not in (None, *get_args(Interpolation)):
            raise UsageError(f"interpolation {self.interpolation!r} is not one of {', '.join(get_args(Interpolation))}")
        for name in ("mean", "std"):
            value = getattr(self, name)
            if value is not None and len(value) != 3:
                raise UsageError(f"{name} {value} does not have three values, for red, green and blue")
        if self.preprocessing is not None and len(self.stated_preprocessing) > 1:
            raise UsageError("--preprocessing states all settings; put the others into its file")
        if self.image_size is not None and self.stated_preprocessing:
            raise UsageError("--image-size keeps the model's own preprocessing; use --resize and --crop instead of it")

    def _check_tower(self) -> None:
        for tower, names in _FOR_TOWER.items():
            if self.tower not in (None, tower) and (given := given_flags(self, names)):
                raise UsageError(
                    f"only the {self.tower} tower is exported, and {given[0]} is for {tower}s; leave it out"
                )

    @property
    def stated_preprocessing(self) -> tuple[str, ...]:
        """Names of the options that state the preprocessing of images."""
        return tuple(name for name in IMAGE_OPTIONS if getattr(self, name) is not None)

    @property
    def tokenizer_folder(self) -> Path | None:
        """Folder of the tokenizer, if one is given."""
        return None if self.tokenizer is None else Path(self.tokenizer)

    @property
    def arithmetic(self) -> Arithmetic:
        """Where pixels are normalised: in the graph for ``uint8`` input, by the caller for ``float32``."""
        return "graph" if self.input == "uint8" else "caller"


def given_flags(options: ExportOptions, names: Collection[str]) -> list[str]:
    """Return those of the options ``names`` that differ from their defaults, as flags of the command line."""
    defaults = {each.name: each.default for each in fields(options)}
    given = [name for name in sorted(names) if getattr(options, name) != defaults[name]]
    return [f"--{name.replace('_', '-')}" for name in given]
