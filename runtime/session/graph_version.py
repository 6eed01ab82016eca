"""Recognize graphs that are too new for the installed ONNX Runtime. Such a graph is not damaged."""

from __future__ import annotations

import re

# ONNX Runtime raises the same exceptions for damaged files, so only the message tells.
# Source: onnxruntime/core/graph/model_load_utils.h, model.cc, graph.cc (https://github.com/microsoft/onnxruntime)
_TOO_NEW = (
    (re.compile(r"Opset ([0-9]+) is under development.*?till opset ([0-9]+)", re.DOTALL), "opset {} and it knows {}"),
    (re.compile(r"model IR version: ([0-9]+), max supported IR version: ([0-9]+)"), "IR version {} and it knows {}"),
    (re.compile(r"No Op registered for (\S+) with domain_version of ([0-9]+)"), "the operator {} of opset {}"),
    (re.compile(r"Fatal error: (\S*:[^(\s]+)\S* is not a registered function/op"), "the operator {}"),
)


def find_missing_support(message: str) -> str | None:
    """Return the part of a graph that ONNX Runtime's error calls unknown; ``None`` if the graph is not too new."""
    for pattern, words in _TOO_NEW:
        found = pattern.search(message)
        if found:
            return words.format(*found.groups())
    return None
