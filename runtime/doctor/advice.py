"""Give one line of advice for each problem in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runtime.doctor.report import CudaState, DoctorReport
from runtime.machine.limits import ThreadBudget
from runtime.session.providers import PROVIDERS

_GPU, _CPU = PROVIDERS["cuda"], PROVIDERS["cpu"]
_INSTALL_CUDA = f"`pip install 'embedding-backbones[{_GPU.extra}]'`"
# onnxruntime has its own thread pool and ignores these since version 1.7, which dropped OpenMP
_OPENMP_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LITTLE_MEMORY = 1 << 30


def find_advice(report: DoctorReport) -> tuple[str, ...]:
    """Return the advice, the most urgent first; empty if there is no problem."""
    cuda_fails = any(state.name == _GPU.name and state.finding for state in report.providers)
    cuda = list(_advise_cuda(report.cuda, report.threads.variables)) if report.cuda and cuda_fails else []
    return (
        *([report.finding.remedy[:1].upper() + report.finding.remedy[1:]] if report.finding else []),
        *_advise_packages(report),
        *cuda,
        *_advise_providers(report, cuda_is_broken=bool(cuda)),
        *_advise_threads(report.threads),
        *_advise_memory(report),
    )


def _advise_packages(report: DoctorReport) -> Iterator[str]:
    missing = [name for name, version in report.packages.items() if version is None]
    if missing:
        yield f"Install the missing packages: `pip install {' '.join(missing)}`"


def _advise_cuda(cuda: CudaState, variables: Mapping[str, str]) -> Iterator[str]:
    """Give advice on the first problem of CUDA. The libraries are useless, and large, without a driver."""
    if cuda.driver.error and cuda.driver.found and "CUDA_VISIBLE_DEVICES" in variables:
        value = variables["CUDA_VISIBLE_DEVICES"]
        yield f"CUDA_VISIBLE_DEVICES={value!r} may hide the GPUs: run `unset CUDA_VISIBLE_DEVICES`, or list other GPUs"
    elif cuda.driver.error:
        yield (
            "No GPU can be used: check the driver with `nvidia-smi`, and start a container with `--gpus all`; on a "
            f"machine without a GPU run `pip uninstall -y {_GPU.package}`, then "
            f"`pip install 'embedding-backbones[{_CPU.extra}]'`"
        )
    elif _older(cuda.driver.found, cuda.driver.needed):
        yield (
            f"Update NVIDIA's driver to one for CUDA {cuda.driver.needed}, or install an older {_GPU.package}, "
            f"built for CUDA {_major(cuda.driver.found)}"
        )
    elif cuda.runtime.error or cuda.cudnn.error:
        yield f"Install the CUDA and cuDNN that {_GPU.package} was built for: {_INSTALL_CUDA}"


def _older(found: str | None, needed: str | None) -> bool:
    return bool(found and needed) and int(_major(found)) < int(_major(needed))


def _major(version: str | None) -> str:
    return (version or "").split(".")[0]


def _advise_providers(report: DoctorReport, *, cuda_is_broken: bool) -> Iterator[str]:
    for state in report.providers:
        if state.finding and not (cuda_is_broken and state.package == _GPU.package):
            yield f"{state.name}: {state.finding.remedy or state.finding.cause}"


def _advise_threads(threads: ThreadBudget) -> Iterator[str]:
    for name in _OPENMP_VARIABLES:
        value = threads.variables.get(name)
        if value not in (None, str(threads.threads)):
            yield f"{name}={value} does not limit onnxruntime: pass `--threads {value}`, or `threads={value}` to load()"
    if threads.variables.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "no", "off"):
        yield "TOKENIZERS_PARALLELISM limits the tokenizer to one thread: run `unset TOKENIZERS_PARALLELISM`"


def _advise_memory(report: DoctorReport) -> Iterator[str]:
    available = report.memory.available
    if available is not None and available < _LITTLE_MEMORY:
        yield "Less than 1 GiB of memory is available: end other programs, or raise the container's limit (`--memory`)"
