"""Which of an artifact's graphs runs: what is fastest here among what has passed its gate, or what was asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from runtime.artifact.manifest import Tower
from runtime.artifact.variants import VARIANT_NAMES, Variant, VariantName
from runtime.errors import ProviderError, UsageError
from runtime.machine import cpu as hardware
from runtime.session.provider_options import CudaOptions, ProviderOptions, TensorRtOptions
from runtime.session.providers import ExecutionProvider, installed_packages

_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A graph to run.

    Attributes:
        name: The variant's name; ``fp32`` is the graph as it was exported.
        graph: Its file.
        reason: Why it is this one, for a person.
    """

    name: VariantName
    graph: str
    reason: str


def choose(tower: Tower, provider: ExecutionProvider, options: ProviderOptions, asked: str) -> Choice:
    """Returns the graph of ``tower`` to run on ``provider``.

    Args:
        tower: The tower.
        provider: Where it will run.
        options: The provider's settings.
        asked: ``auto``, or the name of a variant.

    Raises:
        UsageError: The tower has no such variant.
        ProviderError: The variant is not for this provider or this CPU.
    """
    if asked != "auto":
        return _named(tower, provider, asked)
    refused = []
    for name, judge in _PREFERENCES[provider.name].items():
        variant = tower.variants.get(name)
        if variant is None:
            continue
        obstacle = find_obstacle(variant, provider)
        fits, reason = (False, obstacle) if obstacle else judge(options)
        if fits:
            _warn_of_version(name, variant)
            return Choice(name=name, graph=variant.graph, reason=f"auto: {reason}")
        refused.append(f"{name} passed over: {reason}")
    reason = "; ".join(refused) or f"the artifact has no variant that {provider.name} prefers"
    return Choice(name="fp32", graph=tower.graph, reason=f"auto: {reason}")


def find_obstacle(variant: Variant, provider: ExecutionProvider) -> str | None:
    """Returns why ``variant`` cannot run on ``provider`` here, or ``None``."""
    if provider.name not in variant.providers:
        return f"it is for {' and '.join(variant.providers)}, not for {provider.name}{_operators(variant)}"
    missing = sorted(set(variant.cpu_features) - hardware.cpu_flags())
    if missing:
        return f"its weights are laid out for CPUs with {', '.join(missing)}"
    return None


def _named(tower: Tower, provider: ExecutionProvider, asked: str) -> Choice:
    if asked not in VARIANT_NAMES:
        raise UsageError(f"there is no variant {asked!r}; take auto or one of {', '.join(VARIANT_NAMES)}")
    if asked == "fp32":
        return Choice(name="fp32", graph=tower.graph, reason="as requested")
    variant = next((variant for name, variant in tower.variants.items() if name == asked), None)
    if variant is None:
        raise UsageError(
            f"the artifact has no {asked} of its {tower.preprocessing.kind} tower, but "
            f"{', '.join(['fp32', *tower.variants])}; make it with `python -m exporters optimize`"
        )
    obstacle = find_obstacle(variant, provider)
    if obstacle:
        raise ProviderError(f"the variant {asked} cannot run here: {obstacle}; take fp32, or another provider")
    if variant.precision == "int8" and not hardware.int8_units():
        _LOG.warning(
            "this CPU has no units for int8: check with `tune` that it is faster here, with `verify` that it is right"
        )
    _warn_of_version(asked, variant)
    return Choice(name=variant_name(asked), graph=variant.graph, reason="as requested")


def variant_name(name: str) -> VariantName:
    """Returns ``name``, which is known to be that of a variant."""
    return next(known for known in VARIANT_NAMES if known == name)


def _operators(variant: Variant) -> str:
    shown = ", ".join(variant.operators[:3])
    return f", which lacks the operators {shown}" if shown else ""


def _warn_of_version(name: str, variant: Variant) -> None:
    installed = next(iter(installed_packages().values()))
    if installed.split(".")[:2] != variant.onnxruntime.split(".")[:2]:
        _LOG.warning(
            "the variant %s was proven with onnxruntime %s, and %s is installed: check it with `python -m runtime "
            "verify --variant %s`",
            name,
            variant.onnxruntime,
            installed,
            name,
        )


def _judge_int8(options: ProviderOptions) -> tuple[bool, str]:
    units = sorted(hardware.int8_units())
    return bool(units), f"the CPU has {', '.join(units)}" if units else "the CPU has no units for 8-bit products"


def _judge_fp16(options: ProviderOptions) -> tuple[bool, str]:
    device = options.device_id if isinstance(options, CudaOptions | TensorRtOptions) else 0
    fits = hardware.has_fp16_units(device)
    return fits, f"the GPU {device} has {'' if fits else 'no '}tensor cores"


def _judge_optimized(options: ProviderOptions) -> tuple[bool, str]:
    return True, "its operators are fused"


# What is tried before fp32, the fastest first; each tells whether the machine is made for it.
_Preference = dict[VariantName, Callable[[ProviderOptions], tuple[bool, str]]]
_PREFERENCES: dict[str, _Preference] = {
    "cpu": {"int8": _judge_int8, "optimized": _judge_optimized},
    "openvino": {"int8": _judge_int8},
    "cuda": {"fp16": _judge_fp16, "optimized": _judge_optimized},
    "tensorrt": {"fp16": _judge_fp16},
}
