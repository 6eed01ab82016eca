"""Read the CPU's model and instruction sets."""

from __future__ import annotations

import platform
from pathlib import Path

from runtime.machine.threads import read_or_empty

_CPU_INFO = Path("/proc/cpuinfo")
INT8_FLAGS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp"})  # asimddp is Arm's
# Arm's cores for servers. Source: sys-utils/lscpu-arm.c of https://github.com/util-linux/util-linux
_NEOVERSE = {"0xd0c": "N1", "0xd40": "V1", "0xd49": "N2", "0xd4f": "V2", "0xd84": "V3", "0xd8e": "N3"}


def cpu_flags(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Return the CPU's features under their Linux names; empty on other systems."""
    return frozenset(_cpu_fact(cpu_info, "flags", "Features").split())


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """Return the CPU's model name, on Arm that of its core; empty if it is unknown."""
    return _cpu_fact(cpu_info, "model name") or _arm_core(cpu_info) or platform.processor()


def bf16_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Return which of ``amx_bf16`` and ``avx512_bf16`` the CPU has."""
    return cpu_flags(cpu_info) & {"amx_bf16", "avx512_bf16"}


def is_faster_in_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Return whether the CPU multiplies in bfloat16 faster than in float32: by AMX, or AMD's AVX512-BF16.

    Intel's AVX512-BF16 without AMX took longer than float32 in all but one case; see docs/reports/xeon-vnni-2-cores.
    """
    units = bf16_units(cpu_info)
    return "amx_bf16" in units or ("avx512_bf16" in units and _cpu_fact(cpu_info, "vendor_id") == "AuthenticAMD")


def has_arm_bf16(cpu_info: Path = _CPU_INFO) -> bool:
    """Return whether the CPU is an Arm with instructions for bfloat16; always ``False`` on other systems than Linux."""
    return "bf16" in cpu_flags(cpu_info)  # x86 calls its own avx512_bf16 and amx_bf16


def int8_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Return the CPU's features that multiply 8-bit integers, a subset of :data:`INT8_FLAGS`."""
    return cpu_flags(cpu_info) & INT8_FLAGS


def _arm_core(cpu_info: Path) -> str:
    """Return the name of an Arm CPU's core, which Linux gives as two numbers; empty on other CPUs."""
    maker, part = _cpu_fact(cpu_info, "CPU implementer"), _cpu_fact(cpu_info, "CPU part")
    if maker == "0x41" and part in _NEOVERSE:
        return f"Arm Neoverse-{_NEOVERSE[part]}"
    return f"Arm CPU (implementer {maker}, part {part})" if part else ""


def _cpu_fact(cpu_info: Path, *names: str) -> str:
    """Return the value of the first line that begins with one of ``names``; empty if there is none."""
    lines = read_or_empty(cpu_info).splitlines()
    return next((line for line in lines if line.startswith(names)), "").partition(":")[2].strip()
