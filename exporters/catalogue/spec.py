"""What a backbone is and how it is to be exported, as plain records; imports no torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from runtime.artifact.manifest import Arithmetic, Pooling, Projection, Task, Tolerance, TowerName
from runtime.errors import UsageError

Architecture = Literal["cnn", "transformer", "pointnet"]

# ONNX operator sets that torch's exporter writes itself (18) or reaches by onnxscript's version converter, and that
# onnxruntime 1.24 (the newest with OpenVINO) still loads.
OPSETS = range(18, 24)

# A correct export differs from torch by the order of float32 additions alone: at most 5e-12 in cosine and 6e-6 of the
# largest value, measured for the four CNNs on a CPU. The bounds leave a factor of 15 for other machines and providers.
# The third: errors have to vanish beside the differences that vectors exist to tell. Measured: at most 3e-5.
DEFAULT_TOLERANCE = Tolerance(min_cosine=1 - 1e-7, max_error=1e-4, max_distance_share=1e-3)

IMAGE_SIZES = range(32, 2049)
GEM_P = 3.0  # Source: Finetuner's default, and Radenović et al. 2018, https://arxiv.org/abs/1711.02512, section 3.2
GEM_EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource:
    """A backbone that torchvision builds.

    Attributes:
        builder: torchvision's name of the model; its weights enum's ``DEFAULT`` are the pretrained weights.
        pool: Name of the module that pools the feature map.
        head: Name of the classification head, the module whose input is the embedding.
        licence: Terms of the pretrained weights.
    """

    builder: str
    pool: str = "avgpool"
    head: str
    licence: str = "BSD-3-Clause (torchvision); trained on ImageNet-1k, whose own terms of access apply"

    @property
    def descriptor(self) -> str:
        """What Finetuner called it."""
        return self.builder


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource:
    """A text backbone on the Hugging Face hub, in transformers' or sentence-transformers' layout.

    Attributes:
        model_id: Its name on the hub.
        revision: The commit that is downloaded; ``None`` for the newest, where none is known to be good.
        model_type: transformers' name of its architecture.
        config: What differs there from the architecture's default configuration; for random weights and state dicts.
        max_length: Tokens that it takes; for random weights.
        projection: Linear layer after the pooling; for random weights.
        licence: Terms of the pretrained weights.
    """

    model_id: str
    revision: str | None = None
    model_type: Literal["bert", "distilbert", "t5"]
    config: Mapping[str, int]
    max_length: int = 512
    projection: Projection | None = None
    licence: str | None = None

    @property
    def descriptor(self) -> str:
        """What Finetuner called it."""
        return self.model_id.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class ClipSource:
    """A CLIP on the Hugging Face hub, in transformers' layout.

    Attributes:
        model_id: Its name on the hub.
        revision: The commit that is downloaded; ``None`` for the newest.
        text_config: What differs in its text half from the default configuration; for random weights and state dicts.
        vision_config: The same for its image half.
        projection_dim: Length of its embeddings, likewise.
        licence: Terms of the pretrained weights.
    """

    model_id: str
    revision: str | None = None
    text_config: Mapping[str, int]
    vision_config: Mapping[str, int]
    projection_dim: int
    licence: str | None = None

    @property
    def descriptor(self) -> str:
        """What Finetuner called it."""
        return self.model_id.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class OpenClipSource:
    """A CLIP that open_clip builds, with a text half of transformers.

    Attributes:
        model_name: open_clip's name of the model.
        tag: open_clip's name of its pretrained weights.
        text_config: What differs in the configuration of its XLM-RoBERTa from the default; open_clip would fetch it
            from the hub even for weights of your own.
        tokenizer_id: The name of its tokenizer on the hub.
        tokenizer_revision: The commit of that; ``None`` for the newest.
        licence: Terms of the pretrained weights.
    """

    model_name: str
    tag: str
    text_config: Mapping[str, int]
    tokenizer_id: str
    tokenizer_revision: str | None = None
    licence: str | None = None

    @property
    def descriptor(self) -> str:
        """What Finetuner called it."""
        return f"{self.model_name}::{self.tag}"


@dataclass(frozen=True, kw_only=True)
class PointNetSource:
    """PointNet++ as Finetuner built it; there are no pretrained weights of it any more.

    Attributes:
        num_points: Points that are sampled from a mesh.
    """

    num_points: int = 2048

    @property
    def descriptor(self) -> str:
        """What Finetuner called it."""
        return "pointnet++"


Source = TorchvisionSource | HuggingFaceSource | ClipSource | OpenClipSource | PointNetSource


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """One entry of the catalogue.

    Attributes:
        name: What users call it.
        task: What its vectors are for.
        output_dim: Length of an embedding.
        architecture: Its family.
        description: One line for the catalogue.
        note: What differs from Finetuner's table, if anything.
        source: Where its weights come from; ``None`` for a network of your own, whose towers you build yourself.
    """

    name: str
    task: Task
    output_dim: int
    architecture: Architecture
    description: str
    note: str = ""
    source: Source | None = None


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a user may choose for an export.

    Attributes:
        weights: ``pretrained``, ``random``, ``random:SEED``, or the path of a state dict, of a folder in the layout of
            transformers or sentence-transformers, or of a Finetuner run artifact.
        select_model: Which model of a Finetuner run artifact to take, where it holds two; ``both`` for both.
        tokenizer: Folder of the tokenizer for weights that come without one; ``None`` for that of the hub.
        tower: The only tower to export, where there are two; ``None`` for both.
        pooling: How features become one vector; ``None`` for what the checkpoint says, or the backbone's own way.
        normalize: Whether the graph scales embeddings to unit length; ``None`` for what the checkpoint says, else not.
        image_size: Side of the centre crop in pixels; ``None`` for that of the weights.
        input: ``uint8``: the graph takes raw pixels; ``float32``: it takes normalised ``pixel_values``.
        opset: ONNX operator set, one of :data:`OPSETS`.
        tolerance: How far the graph may be from torch.
        force: Whether an existing artifact is replaced.
    """

    weights: str = "pretrained"
    select_model: str | None = None
    tokenizer: str | os.PathLike[str] | None = None
    tower: TowerName | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    image_size: int | None = None
    input: Literal["uint8", "float32"] = "uint8"
    opset: int = OPSETS.start
    tolerance: Tolerance = DEFAULT_TOLERANCE
    force: bool = False

    def __post_init__(self) -> None:
        """Refuses what no backbone can be exported with."""
        if self.opset not in OPSETS:
            raise UsageError(f"opset {self.opset} is not one of {OPSETS.start} to {OPSETS.stop - 1}")
        if self.image_size is not None and self.image_size not in IMAGE_SIZES:
            raise UsageError(
                f"image_size {self.image_size} is not from {IMAGE_SIZES.start}, the stride of the networks, to "
                f"{IMAGE_SIZES.stop - 1}"
            )
        random_seed(self.weights)
        if self.input not in ("uint8", "float32"):
            raise UsageError(f"input {self.input!r} is neither uint8 nor float32")

    @property
    def tokenizer_folder(self) -> Path | None:
        """The folder of the tokenizer, if one is named."""
        return None if self.tokenizer is None else Path(self.tokenizer)

    @property
    def arithmetic(self) -> Arithmetic:
        """Who normalises pixels: the graph, or the caller of one that takes ``float32``."""
        return "graph" if self.input == "uint8" else "caller"


# What each family takes of the options that not all take; the others say so instead of ignoring it.
_TAKES: Mapping[type, frozenset[str]] = MappingProxyType(
    {
        TorchvisionSource: frozenset({"pooling", "image_size", "input"}),
        HuggingFaceSource: frozenset({"pooling", "tokenizer"}),
        ClipSource: frozenset({"input", "tokenizer", "tower"}),
        OpenClipSource: frozenset({"input", "tokenizer", "tower"}),
        PointNetSource: frozenset(),
    }
)
_NOT_FOR_ALL = ("pooling", "image_size", "input", "tokenizer", "tower")


def check_options(spec: BackboneSpec, options: ExportOptions) -> None:
    """Refuses, before anything is loaded, options that a backbone of this family does not take.

    Raises:
        UsageError: There is one.
    """
    defaults = ExportOptions()
    for name in _NOT_FOR_ALL:
        given = getattr(options, name) != getattr(defaults, name)
        if given and spec.source is not None and name not in _TAKES[type(spec.source)]:
            raise UsageError(f"--{name.replace('_', '-')} is not for {spec.name}; leave it out")


def random_seed(weights: str) -> int | None:
    """Returns N for the weights ``random:N``, 0 for ``random``, ``None`` for weights that are not random.

    Raises:
        UsageError: N is not a number that torch takes for a seed.
    """
    origin, colon, seed = weights.partition(":")
    if origin != "random":
        return None
    if colon and not (seed.isdecimal() and int(seed) < 2**63):
        raise UsageError(
            f"the seed in the weights {weights!r} is not a number from 0 to 2**63 - 1; write random:0, say"
        )
    return int(seed or 0)
