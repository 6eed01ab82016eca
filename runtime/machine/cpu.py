"""What the CPU and the GPU have units for."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
INT8_FLAGS = frozenset({"amx_int8", "avx512_vnni", "avx_vnni", "asimddp"})  # the last is Arm's
# CUDA driver API, CUdevice_attribute: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_LONGEST_NAME = 256
_TENSOR_CORES = (7, 0)  # the first with units for float16 products; before, float16 is slower than float32 or level


def cpu_flags(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns what the CPU can do, as Linux names it; empty on another system."""
    return frozenset(_cpu_fact(cpu_info, "flags", "Features").split())


def cpu_model(cpu_info: Path = _CPU_INFO) -> str:
    """Returns what the CPU calls itself; empty where nothing is known."""
    return _cpu_fact(cpu_info, "model name", "CPU part") or platform.processor()


def bf16_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns which of ``amx_bf16`` and ``avx512_bf16`` the CPU has."""
    return cpu_flags(cpu_info) & {"amx_bf16", "avx512_bf16"}


def int8_units(cpu_info: Path = _CPU_INFO) -> frozenset[str]:
    """Returns which units for products of 8-bit integers the CPU has."""
    return cpu_flags(cpu_info) & INT8_FLAGS


def gpu_names() -> tuple[str, ...]:
    """Returns what NVIDIA's driver calls the GPUs that this process may use; empty without one."""
    driver = _start_driver()
    count = ctypes.c_int()
    if driver is None or driver.cuDeviceGetCount(ctypes.byref(count)):
        return ()
    names = []
    for number in range(count.value):
        device, name = ctypes.c_int(), ctypes.create_string_buffer(_LONGEST_NAME)
        if not driver.cuDeviceGet(ctypes.byref(device), number):
            driver.cuDeviceGetName(name, _LONGEST_NAME, device)
        names.append(name.value.decode(errors="replace"))
    return tuple(names)


def has_fp16_units(device_id: int = 0) -> bool:
    """Tells whether the GPU multiplies float16 by tensor cores, so that it is faster than float32."""
    driver = _start_driver()
    device, values = ctypes.c_int(), []
    if driver is None or driver.cuDeviceGet(ctypes.byref(device), device_id):
        return False
    for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
        value = ctypes.c_int()
        if driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device):
            return False
        values.append(value.value)
    return tuple(values) >= _TENSOR_CORES


def _start_driver() -> ctypes.CDLL | None:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return None
    return None if driver.cuInit(0) else driver


def _cpu_fact(cpu_info: Path, *names: str) -> str:
    """Returns what the first line that begins with one of ``names`` says, of the first core; empty for no such line."""
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(names)), "").partition(":")[2].strip()
