"""Settings that the tests of contenders share."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

from benchmarks.contenders.protocol import Setup, Target
from benchmarks.contenders.registry import CONTENDERS, PEERS
from runtime.artifact.manifest import Tower

TEXTS = ["a text", "another one, which is longer than the first by some words " * 20, "", "eine Brücke"]
ADAPTERS = tuple(import_module(CONTENDERS[name]) for name in PEERS)
OTHER = "/other/bin/python"


def with_tower(target: Target, tower: Tower) -> Target:
    return replace(target, manifest=replace(target.manifest, towers={"text": tower}))


def make_setup(contender: str, model: Path, variant: str = "fp32") -> Setup:
    return Setup(
        contender=contender,
        variant=variant,
        provider="cpu",
        precision="bf16" if variant == "bf16" else "fp32",
        stages=("graph",),
        model=str(model),
        tower="text",
    )
