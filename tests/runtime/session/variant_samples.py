"""Records of variants for tests."""

from __future__ import annotations

from typing import Any

from runtime.artifact.variants import Floors, Variant, VariantParity

FLOORS = Floors(min_cosine=0.99, min_overlap=0.9, min_invariance=0.999)
PARITY = VariantParity(
    provider="cpu",
    items=64,
    min_cosine=0.999,
    p1_cosine=0.999,
    mean_cosine=0.9999,
    max_abs_error=0.01,
    reference_scale=1.0,
    neighbour_overlap=0.95,
    batch_cosine=1.0,
    thread_cosine=1.0,
    floors=FLOORS,
)


def make_variant(name: str, *providers: str, **changes: Any) -> Variant:
    """Make a variant of an image tower that runs on ``providers``."""
    common: dict[str, Any] = {
        "precision": "fp32" if name == "optimized" else name,
        "level": "none",
        "graph": f"image.{name}.onnx",
        "providers": providers,
        "onnxruntime": "1.31.1",
        "parity": PARITY,
    }
    return Variant(**common | changes)
