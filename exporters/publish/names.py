"""The names of the layouts. This module imports no heavy package, so the command line starts fast."""

from __future__ import annotations

from typing import Literal, get_args

LayoutName = Literal["huggingface", "openvino", "single", "clip-js", "immich", "triton", "opensearch", "fastembed"]
LAYOUT_NAMES: tuple[LayoutName, ...] = get_args(LayoutName)
