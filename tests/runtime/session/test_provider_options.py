from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import runtime
from runtime.machine import cpu
from runtime.machine.cache_folder import usable_cache
from runtime.session.options import session_options
from runtime.session.provider_options import OPTIONS, find_reduced_precision, parse_options, resolve_options
from runtime.session.providers import PROVIDERS


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMBEDDING_BACKBONES_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_every_provider_has_options() -> None:
    assert list(OPTIONS) == list(PROVIDERS)


def test_cuda_options_are_translated() -> None:
    assert runtime.CudaOptions(memory_limit_bytes=10**9, device_id=1).settings(2) == {
        "device_id": "1",
        "use_tf32": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "0",
        "gpu_mem_limit": "1000000000",
    }
    assert runtime.CudaOptions(tf32=True, cuda_graphs=True).settings(2)["use_tf32"] == "1"
    assert runtime.CudaOptions(cuda_graphs=True).settings(2)["enable_cuda_graph"] == "1"


def test_compiled_graphs_are_kept(cache: Path, tmp_path: Path) -> None:
    assert runtime.OpenVinoOptions().settings(2)["cache_dir"] == str(cache / "openvino")
    assert runtime.OpenVinoOptions(cache_folder=str(tmp_path / "mine")).settings(2)["cache_dir"] == str(
        tmp_path / "mine"
    )


def test_without_tf32_tensorrt_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert find_reduced_precision(runtime.TensorRtOptions()) is None
    assert find_reduced_precision(runtime.TensorRtOptions(fp16=True)) is not None


def test_an_unusable_cache_folder_is_an_error_only_if_it_was_named(cache: Path) -> None:
    cache.write_text("a file instead of a folder")
    assert "cache_dir" not in runtime.OpenVinoOptions().settings(2)
    with pytest.raises(runtime.UsageError, match=r"the cache folder .*/x cannot be written"):
        usable_cache("openvino", str(cache / "x"))


@pytest.mark.parametrize(("dtype", "hint"), [("auto", "f32"), ("fp32", "f32"), ("bf16", "bf16")])
def test_openvino_options_are_translated(dtype: Any, hint: str) -> None:
    settings = runtime.OpenVinoOptions(dtype=dtype, hint="throughput").settings(3)
    assert json.loads(settings["load_config"])["CPU"] == {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": "3",
        "PERFORMANCE_HINT": "THROUGHPUT",
    }


def test_options_imply_their_provider() -> None:
    options = runtime.CudaOptions()
    assert resolve_options("auto", options) == ("cuda", options)
    assert resolve_options("cpu", None) == ("cpu", None)
    with pytest.raises(runtime.UsageError, match="CudaOptions, which is not for the provider cpu"):
        resolve_options("cpu", options)


def test_words_of_a_command_line_become_options() -> None:
    words = ["tf32=true", "device_id=2", "memory_limit_bytes=5", "cudnn_search=exhaustive"]
    assert parse_options("cuda", words) == runtime.CudaOptions(
        tf32=True, device_id=2, memory_limit_bytes=5, cudnn_search="exhaustive"
    )
    assert parse_options("openvino", ["cache_folder=/x"]) == runtime.OpenVinoOptions(cache_folder="/x")
    assert parse_options("auto", []) is None


@pytest.mark.parametrize(
    ("provider", "word", "message"),
    [
        ("auto", "tf32=true", "needs --provider"),
        ("cuda", "tf33=true", "cuda has no option 'tf33'; it has device_id, tf32"),
        ("cuda", "tf32=yes", "use true or false"),
        ("cuda", "tf32", "use true or false"),
        ("cuda", "device_id=one", "not an integer"),
        ("cuda", "device_id=-1", "it must be 0 or more"),
        ("cuda", "memory_limit_bytes=0", "it must be above 0"),
        ("openvino", "dtype=int8", "take one of auto, bf16, fp32"),
    ],
)
def test_invalid_words_are_refused(provider: str, word: str, message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        parse_options(provider, [word])


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (
            runtime.CpuOptions,
            {"memory_limit_bytes": 4e8},
            "memory_limit_bytes of CpuOptions is 400000000.0, it must be a",
        ),
        (runtime.CpuOptions, {"memory_limit_bytes": "400"}, "is '400', it must be a whole number or None"),
        (
            runtime.CpuOptions,
            {"spinning": "false"},
            "spinning of CpuOptions is 'false', it must be True or False or None",
        ),
        (runtime.CudaOptions, {"device_id": True}, "device_id of CudaOptions is True, it must be a whole number"),
        (runtime.CudaOptions, {"cudnn_search": "x"}, "is 'x', it must be one of 'heuristic', 'exhaustive'"),
        (
            runtime.TensorRtOptions,
            {"cache_folder": 3},
            "cache_folder of TensorRtOptions is 3, it must be a path or None",
        ),
        (
            runtime.OpenVinoOptions,
            {"dtype": "fp16"},
            "dtype of OpenVinoOptions is 'fp16', it must be one of 'auto', 'bf",
        ),
        (runtime.OpenVinoOptions, {"hint": ["latency"]}, "it must be one of 'latency', 'throughput'"),
    ],
)
def test_values_of_another_type_are_refused(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(runtime.UsageError, match=message):
        kind(**values)


def test_numbers_of_numpy_and_paths_are_values(tmp_path: Path) -> None:
    assert runtime.CudaOptions(device_id=np.int64(1)).settings(1)["device_id"] == "1"  # type: ignore[arg-type]
    options = runtime.OpenVinoOptions(cache_folder=tmp_path)  # type: ignore[arg-type]
    assert options.settings(1)["cache_dir"] == str(tmp_path)


def test_bfloat16_on_arm_is_off_by_default_and_refused_where_it_has_no_effect(
    exported: Path, exported_text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[dict[str, str]] = []

    def record(*, threads: int, config: dict[str, str]) -> Any:
        configs.append(config)
        return session_options(threads=threads, config=config)

    monkeypatch.setattr("runtime.session.open_graph.session_options", record)
    options = parse_options("cpu", ["arm_bf16=true"])
    monkeypatch.setattr(cpu, "cpu_flags", lambda *_: frozenset({"avx512_bf16", "amx_bf16"}))
    with pytest.raises(runtime.ProviderError, match=r"arm_bf16 needs Linux on an Arm CPU .* leave the option out"):
        runtime.load(exported, provider_options=options)
    assert configs == [], "it is refused before the graph is loaded"
    monkeypatch.setattr(cpu, "cpu_flags", lambda *_: frozenset({"asimd", "bf16"}))
    with pytest.raises(runtime.ProviderError, match=r"arm_bf16 is for the operator MatMul, and .* leave the option"):
        runtime.load(exported, provider_options=options)
    runtime.load(exported_text, provider="cpu")
    runtime.load(exported_text, provider_options=options)
    assert ["mlas.enable_gemm_fastmath_arm64_bfloat16" in config for config in configs] == [False, True]
