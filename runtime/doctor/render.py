"""Render a report as text or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from textwrap import indent

from runtime.console import table
from runtime.doctor.advice import find_advice
from runtime.doctor.report import CudaLibrary, CudaState, DoctorReport, ProviderState
from runtime.machine import telemetry

_WIDTH = 24
_ABSENT = ": cannot open shared object file: No such file"  # message of the dynamic linker


def render_text(report: DoctorReport) -> str:
    """Return the report as sections with one fact a line and the advice at the end."""
    sections = [
        _section("installation", _describe_installation(report)),
        _section("providers", _describe_providers(report)),
        *([_section("CUDA", _describe_cuda(report.cuda))] if report.cuda else []),
        _section("limits", _describe_limits(report)),
        _section("advice", [f"- {line}" for line in find_advice(report)] or ["nothing to do"]),
    ]
    return "\n\n".join(sections)


def render_json(report: DoctorReport) -> str:
    """Return the report as JSON, with ``healthy`` and ``advice``."""
    return json.dumps({"healthy": report.healthy, "advice": find_advice(report)} | asdict(report), indent=2)


def _section(title: str, lines: Sequence[str]) -> str:
    return f"{title}\n{indent(chr(10).join(lines), '  ')}"


def _fact(name: str, value: object) -> str:
    return f"{name:{_WIDTH}}{value}"


def _describe_installation(report: DoctorReport) -> list[str]:
    host = report.host
    extras = [
        _fact(extra.package, extra.version or f"not installed (optional; the extra {extra.extra} installs it)")
        for extra in report.extras
    ]
    return [
        _fact("embedding-backbones", f"{host.version} ({host.folder})"),
        _fact("python", f"{host.python} ({host.executable})"),
        _fact("platform", host.platform),
        *_describe_versions(report.onnxruntimes),
        *_describe_problem(report),
        _fact("  telemetry", f"allowed by {telemetry.VARIABLE}" if report.telemetry else "switched off"),
        *_describe_versions(report.packages),
        *extras,
    ]


def _describe_problem(report: DoctorReport) -> list[str]:
    if not report.finding:
        return []
    files = [_fact("  files on disk", f"those of {report.files_of}")] if report.files_of else []
    return [_fact("  PROBLEM", report.finding.cause), *files]


def _describe_versions(versions: Mapping[str, str | None]) -> list[str]:
    return [_fact(name, version or "MISSING") for name, version in versions.items()]


def _describe_providers(report: DoctorReport) -> list[str]:
    if report.finding:
        return ["none was tried, because onnxruntime cannot be used: see the problem above"]
    absent = [f"{state.name} ({state.package})" for state in report.providers if state.status == "absent"]
    return [
        *(_describe_provider(state) for state in report.providers if state.status != "absent"),
        *([_fact("in other packages", ", ".join(absent))] if absent else []),
    ]


def _describe_provider(state: ProviderState) -> str:
    if state.finding:
        return _fact(state.name, f"NOT usable: {state.finding.cause.removeprefix(f'the provider {state.name} ')}")
    return _fact(state.name, "usable (ran a graph and computed the right numbers)")


def _describe_cuda(cuda: CudaState) -> list[str]:
    parts = {"driver": cuda.driver, "CUDA runtime": cuda.runtime, "cuDNN": cuda.cudnn}
    rows = [[name, library.needed or "?", _describe_found(library)] for name, library in parts.items()]
    return [
        *table(["part", "needed", "found"], rows).splitlines(),
        _fact("GPUs", ", ".join(cuda.devices) or "none"),
        _fact("NVIDIA's wheels", ", ".join(f"{name} {version}" for name, version in cuda.wheels.items()) or "none"),
    ]


def _describe_found(library: CudaLibrary) -> str:
    if not library.error:
        return library.found or "?"
    name, absent, _ = library.error.partition(_ABSENT)
    return f"{library.found or 'none'} ({f'there is no {name}' if absent else library.error})"


def _describe_limits(report: DoctorReport) -> list[str]:
    threads, memory = report.threads, report.memory
    quota = "no container quota" if threads.quota is None else f"container quota {threads.quota:g}"
    return [
        _fact(
            "threads of one run", f"{threads.threads} (host {threads.cores}, affinity mask {threads.affinity}, {quota})"
        ),
        _fact("memory", f"{_size(memory.available)} available of {_size(memory.total)}, {_limit(memory.limit)}"),
        *(_fact(name, value or "(empty)") for name, value in threads.variables.items()),
    ]


def _size(size: int | None) -> str:
    return "?" if size is None else f"{size / (1 << 30):.1f} GiB"


def _limit(limit: int | None) -> str:
    return "no limit" if limit is None else f"limit {_size(limit)}"
