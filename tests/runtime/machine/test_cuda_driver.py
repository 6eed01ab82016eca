"""NVIDIA's libraries are asked for GPUs and versions; fakes answer here."""

from __future__ import annotations

import pytest

from runtime.machine import cuda_driver
from tests.runtime.machine.fake_libraries import CudaRuntime, Cudnn, Driver, Function, Nvml, install_libraries


def test_gpus_are_described_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    install_libraries(monkeypatch, {"libcuda.so.1": Driver(13010), "libnvidia-ml.so.1": Nvml()})
    assert cuda_driver.gpu_names() == ("NVIDIA H200", "NVIDIA H200")
    assert cuda_driver.memory_bytes(1) == 141 << 30
    assert cuda_driver.kernel_driver_version() == "580.95.05"


@pytest.mark.parametrize(("capability", "expected"), [((6, 1), False), ((7, 0), True), ((10, 0), True)])
def test_fp16_units_depend_on_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: bool
) -> None:
    install_libraries(monkeypatch, {"libcuda.so.1": Driver(13010, capability=capability)})
    assert cuda_driver.has_fp16_units() is expected


@pytest.mark.parametrize(
    "libraries",
    [{}, {"libcuda.so.1": Driver(13010, status=100), "libnvidia-ml.so.1": Nvml(status=9)}, {"libcuda.so.1": object()}],
    ids=["no driver", "a driver that does not start", "another library"],
)
def test_without_a_usable_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, libraries: dict[str, object]) -> None:
    install_libraries(monkeypatch, libraries)
    assert cuda_driver.gpu_names() == ()
    assert not cuda_driver.has_fp16_units()
    assert cuda_driver.memory_bytes(0) == 0
    assert cuda_driver.kernel_driver_version() == ""


@pytest.mark.parametrize(("number", "version"), [(92400, "9.24.0"), (90100, "9.1.0"), (8907, "8.9.7")])
def test_versions_are_decoded(monkeypatch: pytest.MonkeyPatch, number: int, version: str) -> None:
    libraries = {"libcuda.so.1": Driver(12040), "libcudart.so.13": CudaRuntime(13000), "libcudnn.so.9": Cudnn(number)}
    install_libraries(monkeypatch, libraries)
    assert cuda_driver.cuda_driver_version() == "12.4"
    assert cuda_driver.cuda_runtime_version("13") == "13.0"
    assert cuda_driver.cudnn_version("9") == version


def test_a_driver_that_does_not_start_still_reports_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    install_libraries(monkeypatch, {"libcuda.so.1": Driver(13010, status=100)})
    assert cuda_driver.cuda_driver_version() == "13.1"
    with pytest.raises(OSError, match="cuInit returned 100"):
        cuda_driver.device_names()


def test_a_device_that_cannot_be_asked_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver(13010)
    driver.cuDeviceGet = Function(returned=101)
    install_libraries(monkeypatch, {"libcuda.so.1": driver})
    with pytest.raises(OSError, match="cuDeviceGet returned 101"):
        cuda_driver.device_names()
    assert cuda_driver.gpu_names() == ()


def test_a_missing_library_or_function_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    install_libraries(monkeypatch, {"libcudart.so.13": object()})
    with pytest.raises(OSError, match="cudaRuntimeGetVersion"):
        cuda_driver.cuda_runtime_version("13")
    with pytest.raises(OSError, match=r"libcudnn\.so\.9: cannot open"):
        cuda_driver.cudnn_version("9")
