"""Execution providers: which are installed, and why one that was asked for is not usable."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from runtime.errors import MissingDependencyError, ProviderError, UsageError

if TYPE_CHECKING:
    import onnxruntime

Provider = Literal["auto", "cpu", "cuda", "openvino", "tensorrt"]


@dataclass(frozen=True, kw_only=True)
class ExecutionProvider:
    """One of ONNX Runtime's execution providers, as this project uses it.

    Attributes:
        name: Our name of it.
        onnxruntime_name: ONNX Runtime's name of it.
        package: The distribution that brings it.
        extra: Our extra that brings the distribution.
        device: Where its buffers are, in ONNX Runtime's words.
        in_auto: Whether "auto" tries it.
        sequence_multiple: Texts are padded to a multiple of this many tokens, since it compiles for every new length.
        pads_batches: Whether batches are filled to a power of two, since it searches or compiles for every new size.
    """

    name: Literal["cpu", "cuda", "openvino", "tensorrt"]
    onnxruntime_name: str
    package: str
    extra: str
    device: Literal["cpu", "cuda"] = "cpu"
    in_auto: bool = True
    sequence_multiple: int = 1
    pads_batches: bool = False


PROVIDERS: Mapping[str, ExecutionProvider] = MappingProxyType(
    {
        provider.name: provider
        for provider in (  # in the order in which "auto" tries them
            ExecutionProvider(
                name="cuda",
                onnxruntime_name="CUDAExecutionProvider",
                package="onnxruntime-gpu",
                extra="gpu",
                device="cuda",
                sequence_multiple=32,
                pads_batches=True,
            ),
            ExecutionProvider(
                name="tensorrt",
                onnxruntime_name="TensorrtExecutionProvider",
                package="onnxruntime-gpu",
                extra="gpu",
                device="cuda",
                in_auto=False,  # the package names it even where TensorRT itself, minutes to compile with, is absent
                sequence_multiple=32,
                pads_batches=True,
            ),
            ExecutionProvider(
                name="openvino",
                onnxruntime_name="OpenVINOExecutionProvider",
                package="onnxruntime-openvino",
                extra="openvino",
                sequence_multiple=16,
            ),
            ExecutionProvider(
                name="cpu",
                onnxruntime_name="CPUExecutionProvider",
                package="onnxruntime",
                extra="cpu",
            ),
        )
    }
)


def find_provider(name: str) -> ExecutionProvider:
    """Returns the provider of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in PROVIDERS:
        raise UsageError(f"there is no provider {name!r}; take one of auto, {', '.join(PROVIDERS)}")
    return PROVIDERS[name]


def installed_packages() -> dict[str, str]:
    """Returns the installed onnxruntime distributions and their versions."""
    found = {}
    for package in dict.fromkeys(provider.package for provider in PROVIDERS.values()):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def check_packages() -> None:
    """Makes sure that exactly one onnxruntime distribution is installed.

    All of them write the same folder, so pip lets the last one overwrite the others without a word:
    https://github.com/microsoft/onnxruntime/issues/26996

    Raises:
        ProviderError: There are two or more.
        MissingDependencyError: There is none.
    """
    packages = installed_packages()
    if len(packages) > 1:
        raise ProviderError(
            f"{' and '.join(packages)} are installed together and overwrite each other's files; "
            f"run `pip uninstall -y {' '.join(packages)}`, then install one: {_install_choices()}"
        )
    if not packages:
        raise MissingDependencyError(f"no onnxruntime is installed; install one: {_install_choices()}")


def available_providers() -> list[ExecutionProvider]:
    """Returns the providers that the installed onnxruntime was built with, in the order of "auto".

    Raises:
        ProviderError: Two onnxruntime packages are installed.
        MissingDependencyError: None is.
    """
    names = import_onnxruntime().get_available_providers()
    return [provider for provider in PROVIDERS.values() if provider.onnxruntime_name in names]


def import_onnxruntime() -> onnxruntime:
    """Imports and returns the ``onnxruntime`` module.

    Raises:
        ProviderError: Two onnxruntime packages are installed, or the one that is does not load.
        MissingDependencyError: None is installed.
    """
    check_packages()
    try:
        import onnxruntime
    except ImportError as exc:
        if isinstance(exc.__cause__ or exc.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from exc
        raise ProviderError(f"onnxruntime is installed but cannot be imported ({exc}); reinstall it") from exc
    if not hasattr(onnxruntime, "InferenceSession"):  # what pip leaves after uninstalling one of two
        raise ProviderError(
            "the files of onnxruntime are incomplete, as when one of two packages is uninstalled; run `pip install "
            f"--force-reinstall {' '.join(installed_packages())}`"
        )
    return onnxruntime


def find_obstacle(provider: ExecutionProvider) -> str | None:
    """Returns one sentence on why ``provider`` cannot run here, with the way out; ``None`` if nothing is in its way.

    Asked before a session is made, since ONNX Runtime itself only logs such a cause and goes on with the CPU:
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
        driver = _driver_error()
        if driver:
            return f"the provider {provider.name} finds no usable GPU ({driver}); check the driver with `nvidia-smi`"
        with contextlib.redirect_stdout(None):  # it prints what it does not find, and _load_error says it better
            import_onnxruntime().preload_dlls()  # CUDA and cuDNN from NVIDIA's wheels, which are on no library path
    missing = _load_error(provider)
    if missing:
        wanted = "tensorrt" if provider.name == "tensorrt" else f"'embedding-backbones[{provider.extra}]'"
        return (
            f"the provider {provider.name} cannot load its libraries ({missing}); install those that "
            f"{provider.package} needs with `pip install {wanted}`"
        )
    return None


def _load_error(provider: ExecutionProvider) -> str | None:
    """Returns what the dynamic linker says of the provider's library, ``None`` if it loads or is built in."""
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


def _driver_error() -> str | None:
    """Returns what is wrong with NVIDIA's driver, ``None`` if it starts. Source: CUDA driver API, cuInit."""
    try:
        status = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuInit(0)
    except OSError as exc:
        return str(exc)
    return f"cuInit returned {status}" if status else None


def _install_choices() -> str:
    extras = dict.fromkeys(provider.extra for provider in reversed(list(PROVIDERS.values())))
    return " or ".join(f"`pip install 'embedding-backbones[{extra}]'`" for extra in extras)
