"""Keep onnxruntime from sending telemetry, unless the user wants it."""

from __future__ import annotations

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"


def switch_off() -> None:
    """Switch telemetry off for this process and its children, before onnxruntime is imported.

    From version 1.29 on, onnxruntime on Linux keeps a device id and a store of events in the home folder, and sends
    them. A value that the user has set stays: ``0`` allows telemetry.
    """
    os.environ.setdefault(VARIABLE, "1")


def is_off() -> bool:
    """Return whether telemetry is switched off."""
    return os.environ.get(VARIABLE, "0") not in ("", "0")
