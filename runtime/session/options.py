"""Make ONNX Runtime's session options. Every session of this project gets its options here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runtime.machine import cpu
from runtime.session.providers import LOG_ERRORS_ONLY, import_onnxruntime

if TYPE_CHECKING:
    import onnxruntime

# Every x86 CPU then computes with unsigned 8-bit weights. Source: MlasPlatformU8S8Overflow in
# onnxruntime/core/mlas/lib/platform.cpp in https://github.com/microsoft/onnxruntime
UNSIGNED_WEIGHTS = {"session.x64quantprecision": "1"}
# Products of float32 matrices in bfloat16. Source: include/onnxruntime/core/session/
# onnxruntime_session_options_config_keys.h in https://github.com/microsoft/onnxruntime
ARM_BF16 = {"mlas.enable_gemm_fastmath_arm64_bfloat16": "1"}
# In onnxruntime 1.31, the operator that this optimizer makes takes three times as long as the two that it fuses.
SLOW_ON_CPU = ["SkipLayerNormFusion"]


def exact_int8() -> Mapping[str, str]:
    """Return the configuration entries with which products of 8-bit integers are exact on this CPU.

    Without VNNI, ONNX Runtime adds products of unsigned and signed integers in 16 bits, and the sums saturate. Products
    by unsigned weights are exact on every CPU. With VNNI the others are exact too, and 1.6 to 2.5 times as fast.
    """
    return {} if cpu.int8_units() else UNSIGNED_WEIGHTS


def session_options(
    *, threads: int, optimization: str = "ORT_ENABLE_ALL", config: Mapping[str, str] | None = None
) -> onnxruntime.SessionOptions:
    """Make session options that log errors only.

    Args:
        threads: Threads of one run; 0 lets ONNX Runtime choose.
        optimization: Name of a member of ``onnxruntime.GraphOptimizationLevel``.
        config: Session configuration entries.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = LOG_ERRORS_ONLY
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, optimization)
    for key, value in (config or {}).items():
        options.add_session_config_entry(key, value)
    return options
