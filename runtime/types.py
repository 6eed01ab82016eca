"""Types of arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, Any]
UInt8Array: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Float32Array: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]
Float64Array: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]
Feeds: TypeAlias = Mapping[str, Array]  # the inputs of a graph, by name
