"""Records that describe backbones. Importing this module does not import torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from runtime.artifact.manifest import Projection, Task

Architecture = Literal["cnn", "transformer", "pointnet"]


@dataclass(frozen=True, kw_only=True)
class CnnSource:
    """A convolutional network of torchvision whose pooling can be replaced.

    Attributes:
        builder: torchvision's name of the model. ``DEFAULT`` of its weights enum is the pretrained weights.
        pool: Name of the module that pools the feature map.
        head: Name of the classification head. The embedding is the input of this module.
    """

    builder: str
    pool: str = "avgpool"
    head: str

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


class NamedSource:
    """A model outside the catalogue, which its name describes. Finetuner had no name for it."""

    descriptor: ClassVar[str] = ""


@dataclass(frozen=True, kw_only=True)
class FolderSource(NamedSource):
    """A model folder of the user. Its contents decide the family."""

    path: Path


@dataclass(frozen=True, kw_only=True)
class HubModelSource(NamedSource):
    """Any model on the Hugging Face hub. The contents of its repository decide the family.

    Attributes:
        model_id: Its name on the hub, such as ``intfloat/e5-small-v2``.
        revision: Branch, tag or commit to download; ``None`` for the newest commit of the main branch.
    """

    model_id: str
    revision: str | None = None


@dataclass(frozen=True, kw_only=True)
class TimmSource(NamedSource):
    """An image encoder of timm, by timm's name of the architecture with or without its tag."""

    model_name: str


@dataclass(frozen=True, kw_only=True)
class TorchvisionModelSource(NamedSource):
    """An image classifier of torchvision, by torchvision's name of the model. Its embedding is the head's input."""

    builder: str


@dataclass(frozen=True, kw_only=True)
class OpenClipModelSource(NamedSource):
    """A CLIP of open_clip, by open_clip's name of the architecture.

    Attributes:
        model_name: Name of the architecture, such as ``ViT-B-32``.
        tag: open_clip's name of its pretrained weights; ``None`` for weights of the user or random weights.
    """

    model_name: str
    tag: str | None = None


BackboneSource = (
    CnnSource | TorchvisionModelSource | TimmSource | HuggingFaceSource | ClipSource | OpenClipSource | PointNetSource
)


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """An entry of the catalogue, or a model that a name outside the catalogue stands for.

    Attributes:
        name: Name on the command line and in Python.
        task: Task of its embeddings; ``None`` for the task that its towers have.
        output_dim: Length of an embedding; 0 if only the loaded model knows it.
        architecture: Kind of network, for the manifest; ``None`` for the one that its towers state.
        description: One line for the catalogue.
        note: Difference from Finetuner's table, if any.
        source: Where its weights come from; ``None`` for a network whose towers you build yourself.
    """

    name: str
    task: Task | None = None
    output_dim: int = 0
    architecture: Architecture | None = None
    description: str = ""
    note: str = ""
    source: BackboneSource | NamedSource | None = None
