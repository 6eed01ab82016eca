"""Ask NVIDIA's libraries about GPUs and versions, through ctypes: no CUDA package is needed.

Sources: https://docs.nvidia.com/cuda/cuda-driver-api, https://docs.nvidia.com/cuda/cuda-runtime-api,
https://docs.nvidia.com/deploy/nvml-api and https://docs.nvidia.com/deeplearning/cudnn.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_NAME_SIZE = 256
_VERSION_SIZE = 80  # NVML_SYSTEM_DRIVER_VERSION_BUFFER_SIZE
# CUdevice_attribute: https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html
_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR = 75, 76
_TENSOR_CORES = (7, 0)  # compute capability; on older GPUs float16 is not faster than float32


def start_driver() -> ctypes.CDLL:
    """Load and initialize the CUDA driver.

    Raises:
        OSError: There is no driver, or it does not start.
    """
    driver = _load_driver()
    _call(driver, "cuInit", 0)
    return driver


def device_names() -> list[str]:
    """Return the names of the GPUs that this process may use, in the order of CUDA's device numbers.

    Raises:
        OSError: There is no driver, it does not start, or it reports an error.
    """
    driver, count = start_driver(), ctypes.c_int()
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    names = []
    for number in range(count.value):
        name = ctypes.create_string_buffer(_NAME_SIZE)
        _call(driver, "cuDeviceGetName", name, _NAME_SIZE, _device(driver, number))
        names.append(name.value.decode(errors="replace"))
    return names


def gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that this process may use; empty if there is none."""
    try:
        return tuple(device_names())
    except OSError:
        return ()


def has_fp16_units(device_id: int = 0) -> bool:
    """Return whether a GPU has tensor cores, which make float16 faster than float32."""
    try:
        driver = start_driver()
        device = _device(driver, device_id)
        capability = []
        for attribute in (_COMPUTE_CAPABILITY_MAJOR, _COMPUTE_CAPABILITY_MINOR):
            value = ctypes.c_int()
            _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            capability.append(value.value)
    except OSError:
        return False
    return tuple(capability) >= _TENSOR_CORES


def memory_bytes(device_id: int) -> int:
    """Return the total memory of a GPU; 0 if it is unknown."""
    size = ctypes.c_size_t()
    try:
        driver = start_driver()
        _call(driver, "cuDeviceTotalMem_v2", ctypes.byref(size), _device(driver, device_id))
    except OSError:
        return 0
    return size.value


def kernel_driver_version() -> str:
    """Return the version of the kernel driver, such as ``580.95.05``; empty if it is unknown."""
    version = ctypes.create_string_buffer(_VERSION_SIZE)
    try:
        library = _load("nvml.dll", "libnvidia-ml.so.1")
        _call(library, "nvmlInit_v2")
        try:
            _call(library, "nvmlSystemGetDriverVersion", version, _VERSION_SIZE)
        finally:
            _function(library, "nvmlShutdown")()
    except OSError:
        return ""
    return version.value.decode(errors="replace")


def cuda_driver_version() -> str:
    """Return the CUDA version that the driver supports. The driver answers even if it does not start.

    Raises:
        OSError: There is no driver, or it reports an error.
    """
    return _version(_load_driver(), "cuDriverGetVersion")


def cuda_runtime_version(major: str) -> str:
    """Return the version of the CUDA runtime library of a major version.

    Raises:
        OSError: The library cannot be loaded, or reports an error.
    """
    return _version(_load(f"cudart64_{major}.dll", f"libcudart.so.{major}"), "cudaRuntimeGetVersion")


def cudnn_version(major: str) -> str:
    """Return the version of the cuDNN of a major version.

    Raises:
        OSError: The library cannot be loaded.
    """
    ask = _function(_load(f"cudnn64_{major}.dll", f"libcudnn.so.{major}"), "cudnnGetVersion")
    ask.restype = ctypes.c_size_t
    number = ask()
    first, rest = divmod(number, 10_000 if number >= 90_000 else 1_000)  # two digits for the minor version, since 9
    return f"{first}.{rest // 100}.{rest % 100}"


def _load_driver() -> ctypes.CDLL:
    return _load("nvcuda.dll", "libcuda.so.1")


def _load(windows: str, linux: str) -> ctypes.CDLL:
    return ctypes.CDLL(windows if os.name == "nt" else linux)


def _call(library: ctypes.CDLL, name: str, *arguments: Any) -> None:
    status = _function(library, name)(*arguments)
    if status:
        raise OSError(f"{name} returned {status}")


def _function(library: ctypes.CDLL, name: str) -> Any:
    try:
        return getattr(library, name)
    except AttributeError as exc:  # another library of that file name
        raise OSError(str(exc)) from exc


def _device(driver: ctypes.CDLL, number: int) -> ctypes.c_int:
    device = ctypes.c_int()
    _call(driver, "cuDeviceGet", ctypes.byref(device), number)
    return device


def _version(library: ctypes.CDLL, function: str) -> str:
    number = ctypes.c_int()
    _call(library, function, ctypes.byref(number))
    return f"{number.value // 1000}.{number.value % 1000 // 10}"
