"""Fakes of NVIDIA's libraries, as ctypes would load them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import pytest


class Function:
    """A C function that writes a number through its first pointer and returns a status."""

    def __init__(self, written: int | None = None, returned: int = 0) -> None:
        self._written = written
        self._returned = returned

    def __call__(self, *arguments: Any) -> int:
        if self._written is not None:
            arguments[0]._obj.value = self._written
        return self._returned


class TextFunction:
    """A C function that writes a text into its first buffer."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def __call__(self, buffer: Any, *arguments: Any) -> int:
        buffer.value = self._text
        return 0


class ComputeCapability:
    """``cuDeviceGetAttribute`` of a GPU with a compute capability."""

    def __init__(self, major: int, minor: int) -> None:
        self._values = {75: major, 76: minor}

    def __call__(self, value: Any, attribute: int, device: Any) -> int:
        value._obj.value = self._values[attribute]
        return 0


class Driver:
    """``libcuda`` with two GPUs."""

    def __init__(self, version: int, status: int = 0, capability: tuple[int, int] = (9, 0)) -> None:
        self.cuDriverGetVersion = Function(version)
        self.cuInit = Function(returned=status)
        self.cuDeviceGetCount = Function(2)
        self.cuDeviceGet = Function(0)
        self.cuDeviceGetName = TextFunction(b"NVIDIA H200")
        self.cuDeviceGetAttribute = ComputeCapability(*capability)
        self.cuDeviceTotalMem_v2 = Function(141 << 30)


class Nvml:
    """``libnvidia-ml``."""

    def __init__(self, status: int = 0) -> None:
        self.nvmlInit_v2 = Function(returned=status)
        self.nvmlSystemGetDriverVersion = TextFunction(b"580.95.05")
        self.nvmlShutdown = Function()


class CudaRuntime:
    """``libcudart``."""

    def __init__(self, version: int) -> None:
        self.cudaRuntimeGetVersion = Function(version)


class Cudnn:
    """``libcudnn``."""

    def __init__(self, version: int) -> None:
        self.cudnnGetVersion = Function(returned=version)


def install_libraries(monkeypatch: pytest.MonkeyPatch, libraries: Mapping[str, object]) -> None:
    """Let ctypes find these libraries, by file name, and no others."""

    def load(name: str) -> object:
        if name not in libraries:
            raise OSError(f"{name}: cannot open")
        return libraries[name]

    monkeypatch.setattr(ctypes, "CDLL", load)
