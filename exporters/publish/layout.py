"""A layout, and the contents of its README."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from exporters.publish.source import Source
from runtime.artifact.variants import VariantName

# The dtypes by which transformers.js finds the graph of a variant.
JS_DTYPES: Mapping[VariantName, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "q8"}


@dataclass(frozen=True, kw_only=True)
class Held:
    """A graph of a layout, held to the golden vectors.

    Attributes:
        file: The graph's path in the layout.
        what: The variant in words.
        min_cosine: Smallest cosine similarity to the vectors of the export.
    """

    file: str
    what: str
    min_cosine: float


@dataclass(kw_only=True)
class Card:
    """Contents of a layout's README.

    Attributes:
        usage: How each consumer opens the layout, in Markdown.
        held: The graphs with their measurements.
        differences: How a consumer's vectors differ from those of the runtime, and by how much.
        metadata: Fields of the model card on the hub.
    """

    usage: str
    held: list[Held] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A way to lay an artifact out.

    Attributes:
        name: Its name on the command line.
        consumers: The programs that read it.
        find_obstacle: Returns why an artifact cannot have this layout, or ``None``.
        write: Writes the layout of an artifact into an empty folder, opens it again, and holds it to the golden
            vectors. Raises :class:`exporters.errors.PublishError`.
        takes_token_types: Whether :attr:`exporters.publish.source.Source.token_types` changes its graphs.
    """

    name: str
    consumers: str
    find_obstacle: Callable[[Source], str | None]
    write: Callable[[Source, Path], Card]
    takes_token_types: bool = False


def text_obstacle(source: Source) -> str | None:
    """Return why no text graph of the artifact can be published, or ``None``."""
    if "text" not in source.manifest.towers:
        return f"it takes texts, and the artifact embeds {', '.join(source.manifest.towers)}"
    if source.text.padding == "max_length":
        return f"its consumers pad to the longest text of a batch, and this graph takes {source.text.max_length} tokens"
    return cleaning_obstacle(source)


def cleaning_obstacle(source: Source) -> str | None:
    """Return why the graph's vectors would be wrong for consumers that give texts as they are, or ``None``."""
    if source.text.cleaning == "ftfy_canonicalize":
        return "the model takes texts in lower case without punctuation, and no consumer of the layout changes them so"
    return None


def prompt_obstacle(source: Source) -> str | None:
    """Return why the graph's vectors would be wrong for consumers that know no prompt, or ``None``."""
    if "pooling_mask" in source.text.inputs:
        return "the model leaves the tokens of its prompt out of the pooling, and no consumer tells the graph which"
    return None


def image_obstacle(source: Source) -> str | None:
    """Return why consumers cannot prepare images for the artifact, or ``None``."""
    if "image" not in source.manifest.towers:
        return f"it takes images, and the artifact embeds {', '.join(source.manifest.towers)}"
    recipe = source.image
    if recipe.resize == "long_side" or recipe.resize_dtype == "float32":
        return "its consumers resize the shorter side, or both, with Pillow's filters; this model needs another resize"
    if recipe.resize_size < recipe.crop_size and any(recipe.fill):
        return f"its consumers fill the border of a small image with black, and this model with {recipe.fill}"
    return None
