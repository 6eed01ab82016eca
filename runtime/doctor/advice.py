"""One line of advice for each problem in a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runtime.doctor.report import Cuda, Report
from runtime.machine.limits import ThreadBudget
from runtime.session.providers import PROVIDERS

_GPU, _CPU = PROVIDERS["cuda"], PROVIDERS["cpu"]
_INSTALL_CUDA = f"`pip install 'embedding-backbones[{_GPU.extra}]'`"
# onnxruntime has a thread pool of its own, and has not been built with OpenMP since 1.7
_OF_OTHERS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_LITTLE_MEMORY = 1 << 30


def find_advice(report: Report) -> tuple[str, ...]:
    """Returns what to do, the most pressing first; nothing where nothing is wrong."""
    suffers = any(state.name == _GPU.name and state.finding for state in report.providers)
    cuda = list(_advise_cuda(report.cuda, report.threads.variables)) if report.cuda and suffers else []
    return (
        *([_sentence(report.finding.remedy)] if report.finding else []),
        *_advise_packages(report),
        *cuda,
        *_advise_providers(report, cuda_is_broken=bool(cuda)),
        *_advise_threads(report.threads),
        *_advise_memory(report),
    )


def _sentence(remedy: str) -> str:
    return remedy[:1].upper() + remedy[1:]


def _advise_packages(report: Report) -> Iterator[str]:
    missing = [name for name, version in report.packages.items() if version is None]
    if missing:
        yield f"Install what is missing: `pip install {' '.join(missing)}`"


def _advise_cuda(cuda: Cuda, variables: Mapping[str, str]) -> Iterator[str]:
    """Without a driver nothing else of CUDA matters, and its wheels would be gigabytes for nothing."""
    if cuda.driver.error and cuda.driver.found and "CUDA_VISIBLE_DEVICES" in variables:
        value = variables["CUDA_VISIBLE_DEVICES"]
        yield f"CUDA_VISIBLE_DEVICES={value!r} may hide the GPUs: run `unset CUDA_VISIBLE_DEVICES`, or name others"
    elif cuda.driver.error:
        yield (
            "No GPU can be used: check the driver with `nvidia-smi`, and start a container with `--gpus all`; on a "
            f"machine without a GPU run `pip uninstall -y {_GPU.package}`, then "
            f"`pip install 'embedding-backbones[{_CPU.extra}]'`"
        )
    elif _older(cuda.driver.found, cuda.driver.needed):
        yield (
            f"Update NVIDIA's driver to one for CUDA {cuda.driver.needed}, or install an older {_GPU.package}, "
            f"built for CUDA {_first(cuda.driver.found)}"
        )
    elif cuda.runtime.error or cuda.cudnn.error:
        yield f"Install the CUDA and cuDNN that {_GPU.package} was built for: {_INSTALL_CUDA}"


def _older(found: str | None, needed: str | None) -> bool:
    return bool(found and needed) and int(_first(found)) < int(_first(needed))


def _first(version: str | None) -> str:
    return (version or "").split(".")[0]


def _advise_providers(report: Report, *, cuda_is_broken: bool) -> Iterator[str]:
    for state in report.providers:
        if state.finding and not (cuda_is_broken and state.package == _GPU.package):
            yield f"{state.name}: {state.finding.remedy or state.finding.cause}"


def _advise_threads(threads: ThreadBudget) -> Iterator[str]:
    for name in _OF_OTHERS:
        value = threads.variables.get(name)
        if value not in (None, str(threads.threads)):
            yield f"{name}={value} does not bound onnxruntime: pass `--threads {value}`, or `threads={value}` to load()"
    if threads.variables.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "no", "off"):
        yield "TOKENIZERS_PARALLELISM keeps the tokenizer to one thread: run `unset TOKENIZERS_PARALLELISM`"


def _advise_memory(report: Report) -> Iterator[str]:
    sizes = [size for size in (report.memory.available, report.memory.limit) if size is not None]
    if min(sizes, default=_LITTLE_MEMORY) < _LITTLE_MEMORY:
        yield "Less than 1 GiB of memory is left: end other programs, or raise the container's limit (`--memory`)"
