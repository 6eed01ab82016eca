"""Records that describe backbones. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from runtime.artifact.manifest import Projection, Task

Architecture = Literal["cnn", "transformer", "pointnet"]


@dataclass(frozen=True, kw_only=True)
class TorchvisionSource:
    """A backbone that torchvision builds.

    Attributes:
        builder: torchvision's name of the model. ``DEFAULT`` of its weights enum is the pretrained weights.
        pool: Name of the module that pools the feature map.
        head: Name of the classification head. The embedding is the input of this module.
        licence: Licence of the pretrained weights.
    """

    builder: str
    pool: str = "avgpool"
    head: str
    licence: str = "BSD-3-Clause (torchvision); trained on ImageNet-1k, whose own terms of access apply"

    @property
    def descriptor(self) -> str:
        """Finetuner's name of the backbone."""
        return self.builder


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A model on the Hugging Face hub.

    Attributes:
        model_id: Its name on the hub.
        revision: Commit to download; ``None`` for the newest.
        licence: Licence of the pretrained weights.
    """

    model_id: str
    revision: str | None = None
    licence: str | None = None

    @property
    def descriptor(self) -> str:
        """Finetuner's name of the backbone."""
        return self.model_id.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class HuggingFaceSource(HubSource):
    """A text backbone in the layout of transformers or sentence-transformers.

    Attributes:
        model_type: transformers' name of the architecture.
        config: Differences from the architecture's default configuration; for random weights and state dicts.
        max_length: Largest number of tokens; for random weights.
        projection: Linear layer after the pooling; for random weights.
    """

    model_type: Literal["bert", "distilbert", "t5"]
    config: Mapping[str, int]
    max_length: int = 512
    projection: Projection | None = None


@dataclass(frozen=True, kw_only=True)
class ClipSource(HubSource):
    """A CLIP in the layout of transformers.

    Attributes:
        text_config: Differences of the text model from the default configuration; for random weights and state dicts.
        vision_config: The same for the image model.
        projection_dim: Length of an embedding; for random weights and state dicts.
    """

    text_config: Mapping[str, int]
    vision_config: Mapping[str, int]
    projection_dim: int


@dataclass(frozen=True, kw_only=True)
class OpenClipSource:
    """A CLIP that open_clip builds, with a text model of transformers.

    Attributes:
        model_name: open_clip's name of the model.
        tag: open_clip's name of its pretrained weights.
        text_config: Differences of its XLM-RoBERTa from the default configuration. Without them, open_clip would
            download the configuration from the hub, even for a checkpoint of the user.
        tokenizer_id: Name of its tokenizer on the hub.
        tokenizer_revision: Commit of the tokenizer; ``None`` for the newest.
        licence: Licence of the pretrained weights.
    """

    model_name: str
    tag: str
    text_config: Mapping[str, int]
    tokenizer_id: str
    tokenizer_revision: str | None = None
    licence: str | None = None

    @property
    def descriptor(self) -> str:
        """Finetuner's name of the backbone."""
        return f"{self.model_name}::{self.tag}"


@dataclass(frozen=True, kw_only=True)
class PointNetSource:
    """PointNet++ as Finetuner built it, with its number of points. Its pretrained weights are no longer published."""

    num_points: int = 2048
    descriptor: ClassVar[str] = "pointnet++"


BackboneSource = TorchvisionSource | HuggingFaceSource | ClipSource | OpenClipSource | PointNetSource


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """An entry of the catalogue.

    Attributes:
        name: Name on the command line and in Python.
        task: Task of its embeddings.
        output_dim: Length of an embedding.
        architecture: Kind of network, for the manifest.
        description: One line for the catalogue.
        note: Difference from Finetuner's table, if any.
        source: Where its weights come from; ``None`` for a network outside the catalogue, whose towers you build
            yourself.
    """

    name: str
    task: Task
    output_dim: int
    architecture: Architecture
    description: str
    note: str = ""
    source: BackboneSource | None = None
