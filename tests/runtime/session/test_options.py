"""Every session gets its options from one place."""

from __future__ import annotations

import onnxruntime
import pytest

from runtime.session.options import UNSIGNED_WEIGHTS, session_options


def test_options_are_those_that_are_passed() -> None:
    options = session_options(threads=2, optimization="ORT_ENABLE_BASIC", config=UNSIGNED_WEIGHTS)
    assert options.intra_op_num_threads == 2
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    assert {key: options.get_session_config_entry(key) for key in UNSIGNED_WEIGHTS} == UNSIGNED_WEIGHTS


def test_defaults_are_those_of_onnxruntime_except_for_the_log() -> None:
    options, default = session_options(threads=0), onnxruntime.SessionOptions()
    assert options.graph_optimization_level == default.graph_optimization_level
    assert options.intra_op_num_threads == default.intra_op_num_threads
    assert options.log_severity_level == 3, "errors only"


def test_an_unknown_optimization_is_an_error() -> None:
    with pytest.raises(AttributeError, match="ORT_ENABLE_SOME"):
        session_options(threads=1, optimization="ORT_ENABLE_SOME")
