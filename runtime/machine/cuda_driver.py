"""Ask NVIDIA's libraries about GPUs and versions, through ctypes: no CUDA package is needed."""

from __future__ import annotations

import ctypes
import os
from typing import Any

_LONGEST_NAME = 256
_LONGEST_VERSION = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
# CUdevice_attribute: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_TENSOR_CORES = (7, 0)  # compute capability; on older GPUs float16 is not faster than float32


def load_library(windows: str, linux: str) -> ctypes.CDLL:
    """Load a shared library by its file name on this system.

    Raises:
        OSError: The library is not there, or one that it needs is not.
    """
    return ctypes.CDLL(windows if os.name == "nt" else linux)


def start_driver() -> ctypes.CDLL:
    """Load the CUDA driver and initialize it.

    Raises:
        OSError: There is no driver, or it does not start.

    Source: CUDA driver API, cuInit.
    """
    driver = load_library("nvcuda.dll", "libcuda.so.1")
    call(driver.cuInit, 0)
    return driver


def call(function: Any, *arguments: Any) -> None:
    """Call a function that returns a status.

    Raises:
        OSError: The status is not 0.
    """
    status = function(*arguments)
    if status:
        raise OSError(f"{function.__name__} returned {status}")


def device_names(driver: ctypes.CDLL) -> list[str]:
    """Return the names of the GPUs that this process may use, in the order of CUDA's device numbers.

    Raises:
        OSError: The driver does not tell.

    Source: CUDA driver API, cuDeviceGetCount and cuDeviceGetName.
    """
    count = ctypes.c_int()
    call(driver.cuDeviceGetCount, ctypes.byref(count))
    names = []
    for number in range(count.value):
        name = ctypes.create_string_buffer(_LONGEST_NAME)
        call(driver.cuDeviceGetName, name, _LONGEST_NAME, _device(driver, number))
        names.append(name.value.decode(errors="replace"))
    return names


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use; empty if there is none."""
    try:
        return tuple(device_names(start_driver()))
    except OSError:
        return ()


def has_fp16_units(device_id: int = 0) -> bool:
    """Tell whether a GPU has tensor cores, which make float16 faster than float32."""
    try:
        driver = start_driver()
        device = _device(driver, device_id)
        values = []
        for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
            value = ctypes.c_int()
            call(driver.cuDeviceGetAttribute, ctypes.byref(value), attribute, device)
            values.append(value.value)
    except OSError:
        return False
    return tuple(values) >= _TENSOR_CORES


def memory_bytes(device_id: int) -> int:
    """Return the total memory of a GPU; 0 if the driver does not tell.

    Source: CUDA driver API, cuDeviceTotalMem, https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__DEVICE.html
    """
    size = ctypes.c_size_t()
    try:
        driver = start_driver()
        call(driver.cuDeviceTotalMem_v2, ctypes.byref(size), _device(driver, device_id))
    except OSError:
        return 0
    return size.value


def kernel_driver_version() -> str:
    """Return the version of the kernel driver, such as ``580.95.05``; empty if it is unknown.

    Source: NVML, nvmlSystemGetDriverVersion, https://docs.nvidia.com/deploy/nvml-api/group__nvmlSystemQueries.html
    """
    version = ctypes.create_string_buffer(_LONGEST_VERSION)
    try:
        library = load_library("nvml.dll", "libnvidia-ml.so.1")
        call(library.nvmlInit_v2)
    except OSError:
        return ""
    failed = library.nvmlSystemGetDriverVersion(version, _LONGEST_VERSION)
    library.nvmlShutdown()
    return "" if failed else version.value.decode(errors="replace")


def cuda_driver_version(driver: ctypes.CDLL) -> str:
    """Return the CUDA version that the driver supports. It can be asked without ``cuInit``.

    Source: CUDA driver API, cuDriverGetVersion.
    """
    number = ctypes.c_int()
    call(driver.cuDriverGetVersion, ctypes.byref(number))
    return _decode(number.value)


def cuda_runtime_version(library: ctypes.CDLL) -> str:
    """Return the version of the CUDA runtime library.

    Source: CUDA runtime API, cudaRuntimeGetVersion.
    """
    number = ctypes.c_int()
    call(library.cudaRuntimeGetVersion, ctypes.byref(number))
    return _decode(number.value)


def cudnn_version(library: ctypes.CDLL) -> str:
    """Return the version of cuDNN. From version 9 on, minor version and patch have two digits each.

    Source: cuDNN API, cudnnGetVersion.
    """
    library.cudnnGetVersion.restype = ctypes.c_size_t
    number = library.cudnnGetVersion()
    major, rest = divmod(number, 10_000 if number >= 90_000 else 1_000)
    return f"{major}.{rest // 100}.{rest % 100}"


def _device(driver: ctypes.CDLL, number: int) -> ctypes.c_int:
    device = ctypes.c_int()
    call(driver.cuDeviceGet, ctypes.byref(device), number)
    return device


def _decode(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
