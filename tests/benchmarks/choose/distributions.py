"""Service times whose queues have a solution in closed form."""

from __future__ import annotations

import numpy as np


def exponential(mean_s: float) -> list[float]:
    """Return a thousand evenly spaced quantiles of exponential times."""
    return [float(time) for time in -mean_s * np.log1p(-(np.arange(1000) + 0.5) / 1000)]
