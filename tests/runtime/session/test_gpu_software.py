"""The versions of NVIDIA's software are read from its libraries."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from runtime.machine import cuda_driver
from runtime.session import gpu_software as module
from runtime.session.gpu_software import gpu_software, needed_majors


def fail(*_: Any) -> str:
    raise OSError("no such library")


def test_versions_are_those_of_the_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "preload_cuda_libraries", lambda: None)
    monkeypatch.setattr(cuda_driver, "kernel_driver_version", lambda: "580.95.05")
    monkeypatch.setattr(cuda_driver, "cuda_runtime_version", lambda major: f"{major}.0")
    monkeypatch.setattr(cuda_driver, "cudnn_version", lambda major: f"{major}.13.0")
    monkeypatch.setattr(module, "needed_majors", lambda built_with: ("13", "9"))
    gpu_software.cache_clear()
    assert gpu_software() == {"driver": "580.95.05", "cuda": "13.0", "cudnn": "9.13.0"}
    monkeypatch.setattr(cuda_driver, "kernel_driver_version", str)
    for name in ("cuda_driver_version", "cuda_runtime_version", "cudnn_version"):
        monkeypatch.setattr(cuda_driver, name, fail)
    gpu_software.cache_clear()
    assert gpu_software() == {"driver": "", "cuda": "", "cudnn": ""}
    gpu_software.cache_clear()


def test_major_versions_are_those_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    needs = ["nvidia-cuda-runtime~=13.0; extra == 'cuda'", "nvidia-cudnn-cu13~=9.0; extra == 'cudnn'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: needs)
    assert needed_majors("") == ("13", "9")
    assert needed_majors("12.8") == ("12", "9")
