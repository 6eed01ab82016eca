"""List ONNX Runtime's execution providers, and find out why one cannot be used."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from runtime.errors import MissingDependencyError, ProviderError, UsageError
from runtime.machine import cuda_driver
from runtime.machine.packages import package_version

if TYPE_CHECKING:
    import onnxruntime


ProviderName = Literal["cpu", "cuda", "openvino", "tensorrt"]
LOG_ERRORS_ONLY = 3  # a severity of ONNX Runtime


@dataclass(frozen=True, kw_only=True)
class ExecutionProvider:
    """An execution provider of ONNX Runtime."""

    name: ProviderName
    onnxruntime_name: str
    package: str  # the PyPI package that contains the provider
    extra: str  # the extra of this project that installs the package
    device: Literal["cpu", "cuda"] = "cpu"  # ONNX Runtime's name of the device that holds the buffers
    in_auto: bool = True  # whether ``auto`` tries it
    sequence_multiple: int = 1  # texts are padded to a multiple of this, because each new length is compiled
    needs_few_shapes: bool = False  # whether batches have a power of two of items, because each new size is compiled
    max_items: int | None = None  # largest batch, because a range of sizes is compiled


_gpu_provider = functools.partial(
    ExecutionProvider, package="onnxruntime-gpu", extra="gpu", device="cuda", sequence_multiple=32
)
_IN_ORDER_OF_AUTO = (
    _gpu_provider(name="cuda", onnxruntime_name="CUDAExecutionProvider"),
    # The package lists TensorRT even if it is not installed, and TensorRT compiles for minutes.
    _gpu_provider(
        name="tensorrt",
        onnxruntime_name="TensorrtExecutionProvider",
        in_auto=False,
        needs_few_shapes=True,
        max_items=64,
    ),
    ExecutionProvider(
        name="openvino",
        onnxruntime_name="OpenVINOExecutionProvider",
        package="onnxruntime-openvino",
        extra="openvino",
        sequence_multiple=16,
    ),
    ExecutionProvider(name="cpu", onnxruntime_name="CPUExecutionProvider", package="onnxruntime", extra="cpu"),
)
PROVIDERS: Mapping[str, ExecutionProvider] = MappingProxyType({each.name: each for each in _IN_ORDER_OF_AUTO})


def find_provider(name: str) -> ExecutionProvider:
    """Return the provider called ``name``.

    Raises:
        UsageError: There is no such provider.
    """
    if name not in PROVIDERS:
        raise UsageError(f"there is no provider {name!r}; take one of auto, {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def installed_packages() -> dict[str, str]:
    """Return the versions of the installed onnxruntime packages."""
    names = dict.fromkeys(provider.package for provider in PROVIDERS.values())
    return {name: version for name in names if (version := package_version(name))}


def check_packages() -> None:
    """Check that exactly one onnxruntime package is installed.

    All of them write to the same folder, and pip overwrites one with another without a warning:
    https://github.com/microsoft/onnxruntime/issues/26996

    Raises:
        ProviderError: Two or more are installed.
        MissingDependencyError: None is installed, or only the module of another package.
    """
    packages = installed_packages()
    if len(packages) > 1:
        raise ProviderError(
            f"{' and '.join(packages)} are installed together and overwrite each other's files; "
            f"run `pip uninstall -y {' '.join(packages)}`, then install one: {_install_choices()}"
        )
    if not packages:
        spec = importlib.util.find_spec("onnxruntime")
        if spec and spec.origin:  # of another package, or in an application without metadata
            names = ", ".join(dict.fromkeys(provider.package for provider in PROVIDERS.values()))
            raise MissingDependencyError(
                f"this Python lists none of the packages {names}, but there is an onnxruntime in "
                f"{Path(spec.origin).parent}; replace it by one of them, or bundle the metadata of its package "
                "(`pyinstaller --copy-metadata PACKAGE`)"
            )
        raise MissingDependencyError(f"no onnxruntime is installed; install one: {_install_choices()}")


def available_providers() -> list[ExecutionProvider]:
    """Return the providers that the installed onnxruntime was built with, in the order of ``auto``.

    Raises:
        ProviderError: Two onnxruntime packages are installed.
        MissingDependencyError: No onnxruntime package is installed.
    """
    names = import_onnxruntime().get_available_providers()
    return [provider for provider in PROVIDERS.values() if provider.onnxruntime_name in names]


def import_onnxruntime() -> onnxruntime:
    """Import and return the ``onnxruntime`` module.

    Raises:
        ProviderError: Two onnxruntime packages are installed, or the only one cannot be imported.
        MissingDependencyError: No onnxruntime package is installed.
    """
    check_packages()
    try:
        import onnxruntime
    except ImportError as exc:
        if isinstance(exc.__cause__ or exc.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exc
        raise ProviderError(f"onnxruntime is installed but cannot be imported ({exc}); reinstall it") from exc
    if not hasattr(onnxruntime, "InferenceSession"):  # pip uninstalled one of two packages
        raise ProviderError(
            "files of onnxruntime are missing, as after one of two packages was uninstalled; run `pip install "
            f"--force-reinstall {' '.join(installed_packages())}`"
        )
    return onnxruntime


def expected_provider(name: str) -> ExecutionProvider:
    """Return the provider called ``name``; for ``auto``, the first without an obstacle. It may still fail to load.

    Raises:
        UsageError: There is no such provider.
        ProviderError: Two onnxruntime packages are installed.
        MissingDependencyError: No onnxruntime package is installed.
    """
    if name != "auto":
        return find_provider(name)
    usable = (each for each in available_providers() if each.in_auto and find_provider_obstacle(each) is None)
    return next(usable, PROVIDERS["cpu"])


def find_provider_obstacle(provider: ExecutionProvider) -> str | None:
    """Return why ``provider`` cannot run on this machine, and the remedy, as ``CAUSE; REMEDY``; ``None`` if it can.

    Call this before a session is made. ONNX Runtime only logs the cause and continues with the CPU:
    https://github.com/qdrant/fastembed/issues/238
    """
    if provider not in available_providers():
        packages = installed_packages()
        installed = " ".join(f"{name} {version}" for name, version in packages.items())
        return (
            f"the provider {provider.name} is not in the installed package {installed}; run `pip uninstall -y "
            f"{' '.join(packages)}`, then `pip install 'embedding-backbones[{provider.extra}]'`"
        )
    if provider.device == "cuda":
        try:
            cuda_driver.start_driver()
        except OSError as exc:
            return f"the provider {provider.name} finds no usable GPU ({exc}); check the driver with `nvidia-smi`"
        preload_cuda_libraries()
        if provider.name == "tensorrt":
            preload_tensorrt_libraries()
    missing = _load_error(provider)
    if missing:
        wanted = "tensorrt" if provider.name == "tensorrt" else f"'embedding-backbones[{provider.extra}]'"
        return (
            f"the provider {provider.name} cannot load its libraries ({missing}); install those that "
            f"{provider.package} needs with `pip install {wanted}`"
        )
    return None


def preload_cuda_libraries() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, which are not on the library path."""
    ort = import_onnxruntime()
    # Since 1.29 each session on a GPU warns that CUDA is no plugin, which reads as if CUDA were missing.
    ort.set_default_logger_severity(LOG_ERRORS_ONLY)
    with contextlib.redirect_stdout(None):  # it prints the libraries that it does not find
        ort.preload_dlls()


def preload_tensorrt_libraries() -> None:
    """Load TensorRT from NVIDIA's wheel, if it is installed; ``preload_dlls`` of ONNX Runtime leaves it out."""
    spec = importlib.util.find_spec("tensorrt_libs")
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):  # each needs those before it
            for library in sorted([*Path(folder).glob(f"lib{name}.so.*"), *Path(folder).glob(f"{name}_*.dll")]):
                with contextlib.suppress(OSError):  # _load_error tells what is missing
                    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


def _load_error(provider: ExecutionProvider) -> str | None:
    """Return the dynamic linker's error for the provider's library; ``None`` if it loads or is built in."""
    folder = Path(import_onnxruntime().__file__).parent / "capi"
    libraries = [folder / f"libonnxruntime_providers_{name}.so" for name in ("shared", provider.name)]
    if not all(library.exists() for library in libraries):
        return None
    try:
        for library in libraries:
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    except OSError as exc:
        return str(exc)
    return None


def _install_choices() -> str:
    extras = dict.fromkeys(provider.extra for provider in reversed(list(PROVIDERS.values())))
    return " or ".join(f"`pip install 'embedding-backbones[{extra}]'`" for extra in extras)
