"""Load a CLIP model with the library that owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporters.catalogue.spec import ClipSource, ExportOptions, OpenClipSource

if TYPE_CHECKING:
    from exporters.families.clip.tower import Clip
    from exporters.weights.state_dict import Checkpoint


def load_any_clip(
    source: ClipSource | OpenClipSource,
    weights: str | Checkpoint,
    options: ExportOptions,
    *,
    unused: tuple[str, ...] = (),
) -> Clip:
    """Builds a CLIP by the library that has it, and fills it.

    Args:
        source: Which one.
        weights: As ``options.weights``, or a state dict that has been read.
        options: For ``tokenizer`` and ``input``.
        unused: Parts that a state dict may lack.

    Raises:
        WeightsError: The weights cannot be had, or do not fit.
    """
    arithmetic, tokenizer = options.arithmetic, options.tokenizer_folder
    if isinstance(source, ClipSource):
        from exporters.families.clip.huggingface import load_clip

        return load_clip(source, weights, arithmetic=arithmetic, tokenizer=tokenizer, unused=unused)
    from exporters.families.clip.open_clip import load_open_clip

    return load_open_clip(source, weights, arithmetic=arithmetic, tokenizer=tokenizer, unused=unused)
