"""What the CPU and the GPU have units for."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
INT8_FLAGS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp"})  # the last is Arm's
# CUDA driver API, CUdevice_attribute: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_TENSOR_CORES = (7, 0)  # the first with units for float16 products; before, float16 is slower than float32 or level


def cpu_flags(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns what the CPU can do, as Linux names it; empty on another system."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return frozenset()
    found = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(found.partition(":")[2].split())


def bf16_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns which of ``amx_bf16`` and ``avx512_bf16`` the CPU has."""
    return cpu_flags(cpu_info) & {"amx_bf16", "avx512_bf16"}


def int8_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns which units for products of 8-bit integers the CPU has."""
    return cpu_flags(cpu_info) & INT8_FLAGS


def has_fp16_units(device_id: int = 0) -> bool:
    """Tells whether the GPU multiplies float16 by tensor cores, so that it is faster than float32."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    device, values = ctypes.c_int(), []
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), device_id):
        return False
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return False
        values.append(value.value)
    return tuple(values) >= _TENSOR_CORES
