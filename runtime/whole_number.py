"""Check whole numbers that a caller gives."""

from __future__ import annotations

import math
from numbers import Integral
from typing import TypeGuard


def is_whole(value: object, smallest: float = -math.inf, largest: float = math.inf) -> TypeGuard[int]:
    """Return whether ``value`` is a whole number in this range. Those of numpy are, ``True`` is not."""
    return isinstance(value, Integral) and not isinstance(value, bool) and smallest <= int(value) <= largest
