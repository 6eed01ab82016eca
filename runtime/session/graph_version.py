"""Tells from ONNX Runtime's words whether it is too old for a graph, which is no fault of the graph's."""

from __future__ import annotations

import re

# ONNX Runtime has one type of exception for this and for damaged files, so its words have to tell.
# Source: onnxruntime/core/graph/model_load_utils.h, model.cc, graph.cc (https://github.com/microsoft/onnxruntime)
_TOO_NEW = (
    (re.compile(r"Opset ([0-9]+) is under development.*?till opset ([0-9]+)", re.DOTALL), "opset {} and it knows {}"),
    (re.compile(r"model IR version: ([0-9]+), max supported IR version: ([0-9]+)"), "IR version {} and it knows {}"),
    (re.compile(r"No Op registered for (\S+) with domain_version of ([0-9]+)"), "the operator {} of opset {}"),
    (re.compile(r"Fatal error: (\S*:[^(\s]+)\S* is not a registered function/op"), "the operator {}"),
)


def find_newer_need(message: str) -> str | None:
    """Returns what a graph needs that the installed ONNX Runtime does not know, in words; ``None`` if it is not that.

    Args:
        message: What ONNX Runtime said when it refused to load the graph.
    """
    for pattern, words in _TOO_NEW:
        found = pattern.search(message)
        if found:
            return words.format(*found.groups())
    return None
