"""The doctor reports problems of this machine, and of other machines whose answers are faked."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.cli.main import main
from runtime.doctor import DoctorReport, collect, examine, find_advice, probe, render_text
from runtime.machine.child_process import Answer
from runtime.machine.limits import Memory
from runtime.session import providers
from runtime.session.providers import PROVIDERS
from tests.paths import ROOT
from tests.runtime.machine.fake_libraries import CudaRuntime, Cudnn, Driver, install_libraries

GPU_REQUIREMENTS = [
    "numpy>=1.21.6",
    'nvidia-cuda-nvrtc~=13.0; extra == "cuda"',
    'nvidia-cuda-runtime~=13.0; extra == "cuda"',
    'nvidia-cudnn-cu13~=9.0; extra == "cudnn"',
]
NO_DRIVER = "libcuda.so.1: cannot open shared object file: No such file or directory"
NO_CUDNN = "libcudnn.so.9: cannot open shared object file: No such file or directory"
NO_GPU = f"the provider cuda finds no usable GPU ({NO_DRIVER}); check the driver with `nvidia-smi`"
CUDA_WORKS: dict[str, Any] = {
    "devices": {"found": ["NVIDIA H200"]},
    "driver": {"found": "13.1"},
    "runtime": {"found": "13.0"},
    "cudnn": {"found": "9.24.0"},
}


def probe_graph() -> onnx.ModelProto:
    """Make a convolution and a matrix product, which every provider supports, for onnxruntime 1.22 and later."""
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "kernel"], ["sums"]),
            helper.make_node("MatMul", ["sums", "matrix"], ["products"]),
        ],
        "probe",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 1, 3, 3])],
        [helper.make_tensor_value_info("products", TensorProto.FLOAT, [1, 1, 2, 2])],
        [
            numpy_helper.from_array(np.ones((1, 1, 2, 2), np.float32), "kernel"),
            numpy_helper.from_array(np.array([[1, 2], [3, 4]], np.float32), "matrix"),
        ],
    )
    return helper.make_model(graph, ir_version=7, opset_imports=[helper.make_opsetid("", 13)])


def test_the_probe_is_this_graph() -> None:
    assert onnx.load(probe.PROBE) == probe_graph()


@pytest.mark.process
def test_a_real_run_reports_every_provider(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["healthy"]
    assert {state["name"]: state["status"] for state in report["providers"]} == {
        name: "usable" if name == "cpu" else "absent" for name in PROVIDERS
    }
    assert report["packages"]["numpy"] == np.__version__
    assert report["onnxruntimes"] == {"onnxruntime": importlib.metadata.version("onnxruntime")}
    assert report["files_of"] == "onnxruntime"
    assert report["cuda"] is None


class FakeMachine:
    """Another machine: its packages, and the answers of its probes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._versions = importlib.metadata.version
        monkeypatch.setattr(importlib.metadata, "requires", lambda _: GPU_REQUIREMENTS)
        self.install("onnxruntime-gpu")
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)

    def install(self, *onnxruntimes: str, missing: tuple[str, ...] = ()) -> None:
        def version(name: str) -> str:
            if name in onnxruntimes:
                return "1.31.1"
            if name.startswith("onnxruntime") or name in missing:
                raise importlib.metadata.PackageNotFoundError(name)
            return self._versions(name)

        self._monkeypatch.setattr(importlib.metadata, "version", version)

    def examine(self, answers: Mapping[str, Answer | dict[str, Any]]) -> DoctorReport:
        survey = {"providers": ["cuda", "cpu"], "cuda_version": "13.0"}
        known = {"survey": survey, "cpu": {}, "cuda": {}, "libraries": CUDA_WORKS} | dict(answers)

        def run_probe(question: str, *words: str) -> Answer:
            answer = known["libraries" if question == "cuda" else words[0] if words else question]
            return answer if isinstance(answer, Answer) else Answer(facts=answer, failure=None, log="")

        self._monkeypatch.setattr(collect, "run_probe", run_probe)
        return examine()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return FakeMachine(monkeypatch)


def failed(failure: str, log: str = "") -> Answer:
    return Answer(facts={}, failure=failure, log=log)


def line_of(report: DoctorReport, name: str) -> str:
    (line,) = [line for line in render_text(report).splitlines() if line.split(" ")[2:3] == [name]]
    return line


def test_a_working_gpu_needs_no_advice(machine: FakeMachine) -> None:
    report = machine.examine({})
    assert report.healthy
    assert find_advice(report) == ()
    assert "nothing to do" in render_text(report)
    assert "NVIDIA H200" in render_text(report)
    assert line_of(report, "cuda").endswith("usable (ran a graph and computed the right numbers)")


def test_the_gpu_package_without_a_gpu_gets_one_advice_and_the_cpu_is_usable(machine: FakeMachine) -> None:
    libraries = {"devices": {"error": NO_DRIVER}, "driver": {"error": NO_DRIVER}, "cudnn": {"error": NO_CUDNN}}
    report = machine.examine({"cuda": {"obstacle": NO_GPU}, "libraries": CUDA_WORKS | libraries})
    assert report.healthy, "the CPU provider of the GPU package is there"
    assert "NOT usable: finds no usable GPU" in line_of(report, "cuda")
    (advice,) = find_advice(report)
    assert "nvidia-smi" in advice
    assert "embedding-backbones[cpu]" in advice
    assert "none (there is no libcudnn.so.9)" in render_text(report)


@pytest.mark.parametrize(
    ("libraries", "advice"),
    [
        ({"driver": {"found": "12.4"}}, "Update NVIDIA's driver to one for CUDA 13"),
        ({"cudnn": {"error": NO_CUDNN}}, r"embedding-backbones[gpu]"),
        ({"runtime": {"error": "libcudart.so.13: cannot open"}}, r"embedding-backbones[gpu]"),
        ({"devices": {"error": "cuInit returned 999"}}, "nvidia-smi"),
    ],
    ids=["old driver", "no cuDNN", "no CUDA runtime", "no device"],
)
def test_unfitting_cuda_gets_its_own_advice(machine: FakeMachine, libraries: dict[str, Any], advice: str) -> None:
    report = machine.examine({"cuda": {"failure": "failed: CUDA failure 36"}, "libraries": CUDA_WORKS | libraries})
    (line,) = find_advice(report)
    assert advice in line


def test_a_working_cuda_needs_no_advice(machine: FakeMachine) -> None:
    """A build of onnxruntime may find its libraries in a place of its own."""
    assert find_advice(machine.examine({"libraries": CUDA_WORKS | {"cudnn": {"error": NO_CUDNN}}})) == ()


def test_hidden_gpus_are_distinguished_from_missing_ones(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    libraries = CUDA_WORKS | {"devices": {"error": "cuInit returned 100"}}
    (advice,) = find_advice(machine.examine({"cuda": {"obstacle": NO_GPU}, "libraries": libraries}))
    assert "unset CUDA_VISIBLE_DEVICES" in advice


def test_required_versions_of_cuda_are_read_from_the_installed_package(machine: FakeMachine) -> None:
    report = machine.examine({"survey": {"obstacle": "broken; mend it"}})
    assert report.cuda is not None
    assert (report.cuda.driver.needed, report.cuda.runtime.needed, report.cuda.cudnn.needed) == ("13", "13", "9")


def test_wheels_are_found_under_both_kinds_of_names(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = type("Wheel", (), {"version": "9.1"})
    names = ["nvidia-cudnn-cu12", "nvidia-cuda-runtime", "numpy"]
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda: [type("Named", (wheel,), {"name": name})() for name in names]
    )
    report = machine.examine({})
    assert "nvidia-cuda-runtime 9.1, nvidia-cudnn-cu12 9.1" in render_text(report)


def test_a_crash_and_a_hang_are_reported(machine: FakeMachine) -> None:
    crash = failed("crashed with SIGSEGV", "cannot find symbol")
    report = machine.examine({"cuda": crash, "cpu": failed("gave no answer within 60 s"), "libraries": crash})
    assert not report.healthy
    assert "NOT usable: crashed with SIGSEGV (its log ends with: cannot find symbol)" in line_of(report, "cuda")
    assert "NOT usable: gave no answer within 60 s" in line_of(report, "cpu")
    assert "its check crashed with SIGSEGV" in render_text(report)


def test_a_crash_with_a_fitting_cuda_gets_the_advice_to_reinstall(machine: FakeMachine) -> None:
    (advice,) = find_advice(machine.examine({"cuda": failed("crashed with SIGSEGV")}))
    assert advice.startswith("cuda: ")
    assert advice.endswith("`pip install --force-reinstall onnxruntime-gpu`")


def test_an_onnxruntime_that_crashes_when_imported_is_reported(machine: FakeMachine) -> None:
    report = machine.examine({"survey": failed("crashed with SIGILL")})
    assert not report.healthy
    assert "importing onnxruntime crashed with SIGILL" in render_text(report)
    assert find_advice(report) == ("Reinstall onnxruntime: `pip install --force-reinstall onnxruntime-gpu`",)


@pytest.mark.parametrize(
    ("onnxruntimes", "module", "problem", "advice"),
    [
        (("onnxruntime", "onnxruntime-gpu"), True, "overwrite each other's files", "pip uninstall -y"),
        ((), False, "no onnxruntime is installed", "Install one: "),
        ((), True, "this Python lists none of the packages", "--copy-metadata"),
    ],
    ids=["both", "none", "another"],
)
def test_a_conflict_of_packages_is_reported_with_a_remedy(
    machine: FakeMachine,
    onnxruntimes: tuple[str, ...],
    module: bool,
    problem: str,
    advice: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine.install(*onnxruntimes)
    if not module:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    probe.main("survey")
    report = machine.examine({"survey": json.loads(capsys.readouterr().out)})
    assert not report.healthy
    assert report.providers == ()
    assert problem in render_text(report)
    (line,) = find_advice(report)
    assert advice in line
    assert all(name in line for name in onnxruntimes)


def test_a_conflict_reports_whose_files_are_on_disk(machine: FakeMachine) -> None:
    machine.install("onnxruntime", "onnxruntime-gpu")
    text = render_text(machine.examine({"survey": {"obstacle": "two packages; remove one"}}))
    assert "those of onnxruntime\n" in text


def test_a_missing_package_is_a_problem_but_a_missing_extra_is_not(machine: FakeMachine) -> None:
    machine.install("onnxruntime-gpu", missing=("tokenizers", "mapbox_earcut"))
    report = machine.examine({})
    assert find_advice(report) == ("Install the missing packages: `pip install tokenizers`",)
    assert "the extra mesh installs it" in line_of(report, "mapbox_earcut")


def test_every_optional_package_of_the_runtime_is_listed(machine: FakeMachine) -> None:
    machine.install("onnxruntime")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    others = {"cpu", "gpu", "openvino", "export", "lora", "fit", "publish", "publish-openvino", "bench", "bench-peers"}
    others |= {"test", "docs", "dev"}
    extras = {name: words for name, words in project["optional-dependencies"].items() if name not in others}
    wanted = {re.split(r"[\[>=;]", package)[0] for words in extras.values() for package in words}
    report = machine.examine({})
    assert {each.package for each in report.extras} == wanted - {"embedding-backbones"}


def test_without_a_usable_provider_the_exit_code_is_1(machine: FakeMachine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.examine({"cuda": {"obstacle": NO_GPU}, "cpu": {"failure": "computed [0.0], where [44.0] is right"}})
    assert main(["doctor"]) == 1
    assert "NOT usable: computed [0.0], where [44.0] is right" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "advice"),
    [
        ("OMP_NUM_THREADS", "77", "`--threads 77`"),
        ("TOKENIZERS_PARALLELISM", "False", "unset TOKENIZERS_PARALLELISM"),
    ],
)
def test_misleading_variables_are_reported(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(name, value)
    report = machine.examine({})
    (line,) = find_advice(report)
    assert advice in line
    assert line_of(report, name).endswith(value)


@pytest.mark.parametrize(("value", "words"), [("1", "switched off"), ("0", "allowed by ORT_DISABLE_TELEMETRY")])
def test_telemetry_is_reported(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch, value: str, words: str) -> None:
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", value)
    assert re.search(rf" telemetry +{words}\n", render_text(machine.examine({})))


def test_little_memory_is_reported(machine: FakeMachine) -> None:
    report = machine.examine({})
    little = dataclasses.replace(report, memory=Memory(total=64 << 30, available=512 << 20, limit=4 << 30))
    assert "1 GiB" in find_advice(little)[0]
    assert "0.5 GiB available of 64.0 GiB, limit 4.0 GiB" in render_text(little)


@pytest.mark.process
def test_a_probe_finds_the_runtime_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert collect.run_probe("probe", "cpu") == Answer(facts={}, failure=None, log="")


def test_wrong_numbers_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PROBE_OUTPUT", probe.PROBE_OUTPUT + 1)
    assert probe.probe("cpu") == {
        "failure": "computed [44.0, 64.0, 92.0, 136.0], where [45.0, 65.0, 93.0, 137.0] is right"
    }


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_onnxruntime_does_not_start_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "find_provider_obstacle", lambda _: None)
    assert probe.probe("cuda") == {"failure": "failed: onnxruntime did not start it and continued with the CPU"}


def test_the_message_of_cuda_is_extracted_from_the_signatures_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("cuda_call.cc:154 [with THRW = true] CUDA failure 36: too old ; GPU=-1 ; line=355")

    monkeypatch.setattr(probe, "open_probe", fail)
    assert probe.probe("cpu") == {"failure": "failed: CUDA failure 36: too old"}


def install(monkeypatch: pytest.MonkeyPatch, libraries: Mapping[str, object]) -> None:
    install_libraries(monkeypatch, libraries)
    monkeypatch.setattr(providers, "import_onnxruntime", lambda: object())


def test_the_libraries_of_cuda_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries = {"libcuda.so.1": Driver(12040), "libcudart.so.13": CudaRuntime(13000), "libcudnn.so.9": Cudnn(92400)}
    install(monkeypatch, libraries)
    assert probe.examine_cuda("13", "9") == {
        "devices": {"found": ["NVIDIA H200", "NVIDIA H200"]},
        "driver": {"found": "12.4"},
        "runtime": {"found": "13.0"},
        "cudnn": {"found": "9.24.0"},
    }


def test_libraries_that_are_missing_or_fail_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"libcuda.so.1": Driver(13010, status=100), "libcudart.so.13": object()})
    facts = probe.examine_cuda("13", "9")
    assert facts["driver"] == {"found": "13.1"}
    assert facts["devices"] == {"error": "cuInit returned 100"}
    assert "cudaRuntimeGetVersion" in facts["runtime"]["error"]
    assert facts["cudnn"] == {"error": "libcudnn.so.9: cannot open"}


def test_messages_about_providers_can_be_split() -> None:
    """The doctor splits the runtime's messages at their last semicolon."""
    obstacle = providers.find_provider_obstacle(PROVIDERS["openvino"])
    assert obstacle is not None
    finding = collect.split_obstacle(obstacle)
    assert "not in the installed package" in finding.cause
    assert "pip uninstall" not in finding.cause
    assert finding.remedy.startswith("run `pip uninstall")
    assert collect.split_obstacle("no way out").cause == "no way out"
