"""The GPUs that this process may use, as NVIDIA's driver describes them."""

from __future__ import annotations

import ctypes
import os

from benchmarks.results.schema import Gpu
from runtime.machine.cuda_driver import gpu_names

_LONGEST_VERSION = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE


def find_gpus() -> tuple[Gpu, ...]:
    """Returns the GPUs, in the order of CUDA's numbers; empty without one. A version that is unknown is empty."""
    names = gpu_names()
    driver = _driver_version() if names else ""
    return tuple(Gpu(name=name, memory_bytes=_memory_bytes(number), driver=driver) for number, name in enumerate(names))


def _memory_bytes(number: int) -> int:
    """Returns the memory of a GPU whose driver runs already; 0 if it does not tell.

    Source: CUDA driver API, cuDeviceTotalMem, https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    library = _load("nvcuda.dll", "libcuda.so.1")
    device, size = ctypes.c_int(), ctypes.c_size_t()
    if library is None or library.cuDeviceGet(ctypes.byref(device), number):
        return 0
    return 0 if library.cuDeviceTotalMem_v2(ctypes.byref(size), device) else size.value


def _driver_version() -> str:
    """Returns the version of the driver, such as ``580.95.05``.

    Source: NVML, nvmlSystemGetDriverVersion, https://docs.nvidia.com/deploy/nvml-api/group__nvmlSystemQueries.html
    """
    library, version = _load("nvml.dll", "libnvidia-ml.so.1"), ctypes.create_string_buffer(_LONGEST_VERSION)
    if library is None or library.nvmlInit_v2():
        return ""
    failed = library.nvmlSystemGetDriverVersion(version, _LONGEST_VERSION)
    library.nvmlShutdown()
    return "" if failed else version.value.decode(errors="replace")


def _load(windows: str, linux: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(windows if os.name == "nt" else linux)
    except OSError:
        return None
