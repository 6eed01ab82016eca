"""Select the graph of a tower that runs.

``auto`` chooses a variant from CPU and GPU features. It does not measure speed; ``tune`` does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runtime.artifact.manifest import Tower
from runtime.artifact.variants import VARIANT_NAMES, Variant, VariantName
from runtime.errors import ProviderError, UsageError
from runtime.machine import cpu, cuda_driver
from runtime.session.provider_options import OPTIONS, ProviderOptions, device_of, provider_of
from runtime.session.providers import ExecutionProvider, available_providers, find_provider, installed_packages
from runtime.session.verdicts import find_verdict

_LOG = logging.getLogger("runtime")


@dataclass(frozen=True, kw_only=True)
class GraphChoice:
    """The graph that runs."""

    name: VariantName  # ``fp32`` is the graph as it was exported
    graph: str
    reason: str


def choose_graph(
    tower: Tower, provider: ExecutionProvider, options: ProviderOptions, asked: str, artifact: str
) -> GraphChoice:
    """Choose the graph of ``tower`` that runs on ``provider``: the variant ``asked``, or the best one for ``auto``.

    ``artifact`` is the hash of the manifest. On a GPU, ``auto`` needs a verdict for it.

    Raises:
        UsageError: The tower has no such variant.
        ProviderError: The variant does not support this provider or this CPU.
    """
    if asked != "auto":
        return _choose_named(tower, provider, asked)
    skipped = []
    for name, check in PREFERENCES[provider.name].items():
        variant = tower.variants.get(name)
        if variant is None:
            continue
        obstacle = find_variant_obstacle(variant, provider)
        fits, reason = (False, obstacle) if obstacle else check(variant, options, artifact)
        if fits:
            return GraphChoice(name=name, graph=variant.graph, reason=f"auto: {reason}")
        skipped.append(f"{name} skipped: {reason}")
    reason = "; ".join(skipped) or f"the artifact has no variant that {provider.name} prefers"
    return GraphChoice(name="fp32", graph=tower.graph, reason=f"auto: {reason}")


def find_possible_variants(tower: Tower, provider: str, asked: str) -> set[str]:
    """Return the names of the variants that :func:`choose_graph` may choose: on a GPU, all that ``auto`` prefers there.

    ``provider`` is a provider or ``auto``.
    """
    if asked != "auto":
        return {asked}
    is_auto, names = provider == "auto", set[str]()
    for each in [each for each in available_providers() if each.in_auto] if is_auto else [find_provider(provider)]:
        if each.device == "cpu":
            names.add(choose_graph(tower, each, OPTIONS[each.name](), asked, artifact="").name)
        else:  # which of them pass there is not known yet
            names.update(("fp32", *PREFERENCES[each.name]))
    return names


def warn_of_choice(choice: GraphChoice, tower: Tower, options: ProviderOptions, artifact: str) -> None:
    """Log a warning if the chosen variant is slow on this CPU, or was not checked with this onnxruntime."""
    variant = tower.variants.get(choice.name)
    if variant is None:
        return
    if variant.precision == "int8" and not cpu.int8_units():
        _LOG.warning(
            "this CPU has no 8-bit integer instructions: check with `tune` that int8 is faster here, and with `verify` "
            "that its vectors are right"
        )
    installed = next(iter(installed_packages().values()))
    same_version = installed.split(".")[:2] == variant.onnxruntime.split(".")[:2]
    if not same_version and not find_verdict(artifact, [variant.graph], options):
        _LOG.warning(
            "the variant %s was checked with onnxruntime %s, but %s is installed: run %s",
            choice.name,
            variant.onnxruntime,
            installed,
            _verify_command(choice.name, options),
        )


def find_variant_obstacle(variant: Variant, provider: ExecutionProvider) -> str | None:
    """Return why ``variant`` cannot run on ``provider`` on this machine; ``None`` if it can."""
    if provider.name not in variant.providers:
        lacking = f", which lacks the operators {', '.join(variant.operators[:3])}" * bool(variant.operators)
        return f"it is for {' and '.join(variant.providers)}, not for {provider.name}{lacking}"
    if provider.name == "tensorrt" and variant.operators:  # older artifacts list it for them
        return f"TensorRT has no {variant.operators[0]}; make the variant at --level basic"
    missing = sorted(set(variant.cpu_features) - cpu.cpu_flags())
    if missing:
        return f"its weights are laid out for CPUs with {', '.join(missing)}"
    return None


def _choose_named(tower: Tower, provider: ExecutionProvider, asked: str) -> GraphChoice:
    name = next((known for known in VARIANT_NAMES if known == asked), None)
    if name is None:
        raise UsageError(f"there is no variant {asked!r}; take auto or one of {', '.join(VARIANT_NAMES)}")
    if name == "fp32":
        return GraphChoice(name=name, graph=tower.graph, reason="as requested")
    variant = tower.variants.get(name)
    if variant is None:
        raise UsageError(
            f"the {tower.preprocessing.kind} tower of the artifact has no variant {name}, but "
            f"{', '.join(['fp32', *tower.variants])}; make it with `python -m exporters optimize "
            f"ARTIFACT --precision {name if name != 'optimized' else 'fp32'}`"
        )
    obstacle = find_variant_obstacle(variant, provider)
    if obstacle:
        raise ProviderError(f"the variant {name} cannot run here: {obstacle}; take fp32, or another provider")
    return GraphChoice(name=name, graph=variant.graph, reason="as requested")


def _check_int8(variant: Variant, options: ProviderOptions, artifact: str) -> tuple[bool, str]:
    units = sorted(cpu.int8_units())
    return bool(units), f"the CPU has {', '.join(units)}" if units else "the CPU has no 8-bit integer instructions"


def _check_fp16(variant: Variant, options: ProviderOptions, artifact: str) -> tuple[bool, str]:
    device = device_of(options)
    if not cuda_driver.has_fp16_units(device):
        return False, f"GPU {device} has no tensor cores"
    return _check_golden("fp16", variant, options, artifact, f"GPU {device} has tensor cores")


def _check_optimized(variant: Variant, options: ProviderOptions, artifact: str) -> tuple[bool, str]:
    fused = "its operators are fused"
    if provider_of(options) == "cpu":
        return True, fused
    return _check_golden("optimized", variant, options, artifact, fused)


def _check_golden(
    name: VariantName, variant: Variant, options: ProviderOptions, artifact: str, advantage: str
) -> tuple[bool, str]:
    """Check that this GPU reproduced the golden vectors. The variant's gate ran on a CPU, with other kernels."""
    device, command = device_of(options), _verify_command(name, options)
    verdict = find_verdict(artifact, [variant.graph], options)
    if verdict is None:
        return False, f"GPU {device} has not verified it; run {command}"
    if not verdict:
        return False, f"on GPU {device} the golden vectors failed; to compare them again, run {command}"
    return True, f"{advantage}; on GPU {device} the golden vectors pass"


def _verify_command(name: VariantName, options: ProviderOptions) -> str:
    command = f"`python -m runtime verify ARTIFACT --provider {provider_of(options)} --variant {name}`"
    return f"{command} with the same provider options"


# Variants to try before fp32, the fastest first, each with a check of the hardware and the reason for the result.
_Check = Callable[[Variant, ProviderOptions, str], tuple[bool, str]]
PREFERENCES: Mapping[str, Mapping[VariantName, _Check]] = {
    "cpu": {"int8": _check_int8, "optimized": _check_optimized},
    "openvino": {"int8": _check_int8},
    "cuda": {"fp16": _check_fp16, "optimized": _check_optimized},
    "tensorrt": {"fp16": _check_fp16},
}
