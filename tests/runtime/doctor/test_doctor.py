"""The doctor tells the truth: also of machines that these tests cannot have, whose answers are pretended."""

from __future__ import annotations

import ctypes
import dataclasses
import importlib.metadata
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.cli.main import main
from runtime.doctor import Report, describe_report, examine, find_advice
from runtime.doctor import collect as examination
from runtime.doctor import probe as witness
from runtime.machine.child_process import Answer, listen
from runtime.machine.limits import examine_memory, examine_threads
from runtime.session import providers
from runtime.session.providers import PROVIDERS

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
    """A convolution and a matrix product, of which every provider has a kernel; old enough for onnxruntime 1.21."""
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
    assert onnx.load(witness.PROBE) == probe_graph()


def test_a_real_run_tells_of_every_provider(capsys: pytest.CaptureFixture[str]) -> None:
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


class Machine:
    """Another machine: its packages, and what its witnesses answer."""

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

    def examine(self, answers: Mapping[str, Answer | dict[str, Any]]) -> Report:
        survey = {"providers": ["cuda", "cpu"], "cuda_version": "13.0"}
        known = {"survey": survey, "cpu": {}, "cuda": {}, "libraries": CUDA_WORKS} | dict(answers)

        def ask(question: str, *words: str) -> Answer:
            answer = known["libraries" if question == "cuda" else words[0] if words else question]
            return answer if isinstance(answer, Answer) else Answer(facts=answer, failure=None, log="")

        self._monkeypatch.setattr(examination, "ask", ask)
        return examine()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def failed(failure: str, log: str = "") -> Answer:
    return Answer(facts={}, failure=failure, log=log)


def line_of(report: Report, name: str) -> str:
    (line,) = [line for line in describe_report(report).splitlines() if line.split(" ")[2:3] == [name]]
    return line


def test_a_gpu_that_works_needs_no_advice(machine: Machine) -> None:
    report = machine.examine({})
    assert report.healthy
    assert find_advice(report) == ()
    assert "nothing to do" in describe_report(report)
    assert "NVIDIA H200" in describe_report(report)
    assert line_of(report, "cuda").endswith("usable (ran a graph, and its numbers are right)")


def test_the_gpu_package_without_a_gpu_gets_one_advice_and_the_cpu_is_usable(machine: Machine) -> None:
    libraries = {"devices": {"error": NO_DRIVER}, "driver": {"error": NO_DRIVER}, "cudnn": {"error": NO_CUDNN}}
    report = machine.examine({"cuda": {"obstacle": NO_GPU}, "libraries": CUDA_WORKS | libraries})
    assert report.healthy, "the CPU provider of the GPU package is there"
    assert "NOT usable: finds no usable GPU" in line_of(report, "cuda")
    (advice,) = find_advice(report)
    assert "nvidia-smi" in advice
    assert "embedding-backbones[cpu]" in advice
    assert "none (there is no libcudnn.so.9)" in describe_report(report)


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
def test_cuda_that_does_not_fit_gets_its_own_advice(machine: Machine, libraries: dict[str, Any], advice: str) -> None:
    report = machine.examine({"cuda": {"failure": "failed: CUDA failure 36"}, "libraries": CUDA_WORKS | libraries})
    (line,) = find_advice(report)
    assert advice in line


def test_cuda_that_works_is_not_talked_down(machine: Machine) -> None:
    """A build may hold its libraries somewhere that only itself knows."""
    assert find_advice(machine.examine({"libraries": CUDA_WORKS | {"cudnn": {"error": NO_CUDNN}}})) == ()


def test_hidden_gpus_are_told_from_missing_ones(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    libraries = CUDA_WORKS | {"devices": {"error": "cuInit returned 100"}}
    (advice,) = find_advice(machine.examine({"cuda": {"obstacle": NO_GPU}, "libraries": libraries}))
    assert "unset CUDA_VISIBLE_DEVICES" in advice


def test_what_cuda_needs_is_read_from_the_installed_package(machine: Machine) -> None:
    report = machine.examine({"survey": {"obstacle": "broken; mend it"}})
    assert report.cuda is not None
    assert (report.cuda.driver.needed, report.cuda.runtime.needed, report.cuda.cudnn.needed) == ("13", "13", "9")


def test_wheels_are_told_by_either_of_their_names(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = type("Wheel", (), {"version": "9.1"})
    names = ["nvidia-cudnn-cu12", "nvidia-cuda-runtime", "numpy"]
    monkeypatch.setattr(
        importlib.metadata, "distributions", lambda: [type("Named", (wheel,), {"name": name})() for name in names]
    )
    report = machine.examine({})
    assert "nvidia-cuda-runtime 9.1, nvidia-cudnn-cu12 9.1" in describe_report(report)


def test_a_crash_and_a_hang_are_told(machine: Machine) -> None:
    crash = failed("crashed with SIGSEGV", "cannot find symbol")
    report = machine.examine({"cuda": crash, "cpu": failed("gave no answer within 60 s"), "libraries": crash})
    assert not report.healthy
    assert "NOT usable: crashed with SIGSEGV (its log ends with: cannot find symbol)" in line_of(report, "cuda")
    assert "NOT usable: gave no answer within 60 s" in line_of(report, "cpu")
    assert "looking for it crashed with SIGSEGV" in describe_report(report)


def test_a_crash_where_cuda_fits_is_mended_by_what_is_installed(machine: Machine) -> None:
    (advice,) = find_advice(machine.examine({"cuda": failed("crashed with SIGSEGV")}))
    assert advice.startswith("cuda: ")
    assert advice.endswith("`pip install --force-reinstall onnxruntime-gpu`")


def test_an_onnxruntime_that_crashes_when_imported_is_told(machine: Machine) -> None:
    report = machine.examine({"survey": failed("crashed with SIGILL")})
    assert not report.healthy
    assert "importing onnxruntime crashed with SIGILL" in describe_report(report)
    assert find_advice(report) == ("Reinstall onnxruntime: `pip install --force-reinstall onnxruntime-gpu`",)


@pytest.mark.parametrize(
    ("onnxruntimes", "problem", "advice"),
    [
        (("onnxruntime", "onnxruntime-gpu"), "overwrite each other's files", "pip uninstall -y"),
        ((), "no onnxruntime is installed", "Install one: "),
    ],
    ids=["both", "none"],
)
def test_a_conflict_of_packages_is_told_with_the_way_out(
    machine: Machine, onnxruntimes: tuple[str, ...], problem: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.install(*onnxruntimes)
    witness.main("survey")
    report = machine.examine({"survey": json.loads(capsys.readouterr().out)})
    assert not report.healthy
    assert report.providers == ()
    assert problem in describe_report(report)
    (line,) = find_advice(report)
    assert advice in line
    assert all(name in line for name in onnxruntimes)


def test_a_conflict_tells_whose_files_were_left(machine: Machine) -> None:
    machine.install("onnxruntime", "onnxruntime-gpu")
    text = describe_report(machine.examine({"survey": {"obstacle": "two packages; remove one"}}))
    assert "those of onnxruntime\n" in text


def test_a_missing_package_is_a_problem_and_a_missing_extra_is_none(machine: Machine) -> None:
    machine.install("onnxruntime-gpu", missing=("tokenizers", "trimesh"))
    report = machine.examine({})
    assert find_advice(report) == ("Install what is missing: `pip install tokenizers`",)
    assert "the extra mesh brings it" in line_of(report, "trimesh")


def test_a_machine_without_a_usable_provider_ends_with_1(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
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
def test_variables_that_mislead_are_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str, value: str, advice: str
) -> None:
    monkeypatch.setenv(name, value)
    report = machine.examine({})
    (line,) = find_advice(report)
    assert advice in line
    assert line_of(report, name).endswith(value)


def test_little_memory_is_told(machine: Machine) -> None:
    report = machine.examine({})
    little = dataclasses.replace(report, memory=dataclasses.replace(report.memory, limit=512 << 20))
    assert "1 GiB" in find_advice(little)[0]
    assert "limit 0.5 GiB" in describe_report(little)


def run(code: str, timeout_s: float = 20.0) -> Answer:
    return listen([sys.executable, "-S", "-c", code], timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("code", "failure"),
    [
        ("import os; os.abort()", "crashed with SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "crashed with SIGKILL"),
        ("import sys; sys.exit('\\x1b[31mno such library\\x1b[0m')", "ended with exit code 1: no such library"),
        ("print('no JSON')", "ended with exit code 0: no message"),
    ],
)
def test_a_process_that_does_not_answer_is_told(code: str, failure: str) -> None:
    assert run(code).failure == failure


def test_a_process_that_hangs_is_ended() -> None:
    assert run("import time; time.sleep(60)", timeout_s=0.2).failure == "gave no answer within 0.2 s"


def test_an_answer_is_the_last_line() -> None:
    answer = run("print('a library talks'); print('{\"a\": 1}'); import sys; print('log', file=sys.stderr)")
    assert answer == Answer(facts={"a": 1}, failure=None, log="log")


def test_a_witness_finds_the_runtime_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert examination.ask("probe", "cpu") == Answer(facts={}, failure=None, log="")


def test_wrong_numbers_are_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "PROBE_OUTPUT", witness.PROBE_OUTPUT + 1)
    assert witness.probe("cpu") == {
        "failure": "computed [44.0, 64.0, 92.0, 136.0], where [45.0, 65.0, 93.0, 137.0] is right"
    }


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_onnxruntime_passes_over_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(witness, "find_obstacle", lambda _: None)
    assert witness.probe("cuda") == {"failure": "failed: onnxruntime did not start it and went on with the CPU"}


def test_what_cuda_says_is_taken_out_of_the_signatures_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("cuda_call.cc:154 [with THRW = true] CUDA failure 36: too old ; GPU=-1 ; line=355")

    monkeypatch.setattr(witness, "_open", fail)
    assert witness.probe("cpu") == {"failure": "failed: CUDA failure 36: too old"}


class Function:
    """A function of C that writes through its first pointer."""

    def __init__(self, name: str, written: int | None = None, returned: int = 0) -> None:
        self.__name__ = name
        self._written = written
        self._returned = returned

    def __call__(self, *arguments: Any) -> int:
        if self._written is not None:
            arguments[0]._obj.value = self._written
        return self._returned


class DeviceName:
    def __call__(self, name: Any, size: int, device: Any) -> int:
        name.value = b"NVIDIA H200"
        return 0


class Driver:
    def __init__(self, version: int, status: int = 0) -> None:
        self.cuDriverGetVersion = Function("cuDriverGetVersion", version)
        self.cuInit = Function("cuInit", returned=status)
        self.cuDeviceGetCount = Function("cuDeviceGetCount", 2)
        self.cuDeviceGet = Function("cuDeviceGet", 0)
        self.cuDeviceGetName = DeviceName()


def pretend_libraries(monkeypatch: pytest.MonkeyPatch, libraries: Mapping[str, object]) -> None:
    def load(name: str) -> object:
        if name not in libraries:
            raise OSError(f"{name}: cannot open")
        return libraries[name]

    monkeypatch.setattr(ctypes, "CDLL", load)
    monkeypatch.setattr(witness, "import_onnxruntime", lambda: object())


@pytest.mark.parametrize(("number", "version"), [(92400, "9.24.0"), (90100, "9.1.0"), (8907, "8.9.7")])
def test_the_versions_of_cuda_are_read(monkeypatch: pytest.MonkeyPatch, number: int, version: str) -> None:
    runtime = type("Runtime", (), {"cudaRuntimeGetVersion": Function("cudaRuntimeGetVersion", 13000)})
    cudnn = type("Cudnn", (), {"cudnnGetVersion": Function("cudnnGetVersion", returned=number)})
    libraries = {"libcuda.so.1": Driver(12040), "libcudart.so.13": runtime, "libcudnn.so.9": cudnn}
    pretend_libraries(monkeypatch, libraries)
    assert witness.examine_cuda("13", "9") == {
        "devices": {"found": ["NVIDIA H200", "NVIDIA H200"]},
        "driver": {"found": "12.4"},
        "runtime": {"found": "13.0"},
        "cudnn": {"found": version},
    }


def test_libraries_that_are_missing_or_refuse_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_libraries(monkeypatch, {"libcuda.so.1": Driver(13010, status=100), "libcudart.so.13": object()})
    facts = witness.examine_cuda("13", "9")
    assert facts["driver"] == {"found": "13.1"}
    assert facts["devices"] == {"error": "cuInit returned 100"}
    assert "cudaRuntimeGetVersion" in facts["runtime"]["error"]
    assert facts["cudnn"] == {"error": "libcudnn.so.9: cannot open"}


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, None, None),
        ({"cpu.max": "150000 100000\n", "memory.max": "1073741824\n"}, 1.5, 1 << 30),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n", "a/memory.max": "2048\n"}, 3.0, 2048),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5, None),
        ({"cpu/a/cpu.cfs_quota_us": "200000\n", "cpu/a/cpu.cfs_period_us": "100000\n"}, 2.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None, None),
        ({"memory/memory.limit_in_bytes": "4096\n"}, None, 4096),
    ],
    ids=str,
)
def test_control_groups_are_read_up_to_the_root(
    tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None
) -> None:
    written = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    written["proc/self/cgroup"] = "4:memory:/not/mounted/here\n2:cpu,cpuacct:/a\n1:name=systemd:/x\n0::/a/b\n"
    written["proc/meminfo"] = "MemTotal:  16 kB\nMemAvailable:  8 kB\nHugePages_Total: 0\n"
    for name, text in written.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    memory = examine_memory(tmp_path)
    assert examine_threads(tmp_path).quota == quota
    assert (memory.total, memory.available, memory.limit) == (16 << 10, 8 << 10, limit)


def test_a_system_without_proc_has_no_figures_and_no_error(tmp_path: Path) -> None:
    memory = examine_memory(tmp_path)
    assert (memory.total, memory.available, memory.limit) == (None, None, None)


def test_the_budget_is_the_one_that_load_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 3}, raising=False)
    budget = examine_threads()
    assert (budget.cores, budget.affinity) == (64, 3)
    assert budget.threads <= 3


def test_the_documented_messages_of_the_providers_can_be_split() -> None:
    """The doctor takes the runtime's own messages apart at their last semicolon."""
    obstacle = providers.find_obstacle(PROVIDERS["openvino"])
    assert obstacle is not None
    finding = examination._split(obstacle)
    assert "not in the installed package" in finding.cause
    assert "pip uninstall" not in finding.cause
    assert finding.remedy.startswith("run `pip uninstall")
    assert examination._split("no way out").cause == "no way out"
