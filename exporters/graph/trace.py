"""Trace an ``nn.Module`` to an ONNX graph with the names, dynamic axes and opset that the manifest records."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnxscript.optimizer import optimize_ir
from torch import nn

from exporters.catalogue.options import OPSETS
from exporters.errors import GraphError, TraceError
from exporters.graph.gathers import replace_gathers
from exporters.graph.graph_input import GraphInput
from exporters.graph.strip_metadata import strip_metadata
from exporters.graph.translations import TRANSLATIONS
from exporters.modules import point_sampling
from runtime.artifact.manifest import TensorSpec
from runtime.version import __version__


def build_graph(
    module: nn.Module, inputs: Sequence[GraphInput], output: TensorSpec, *, opset: int = OPSETS.start
) -> ir.Model:
    """Trace ``module`` and return its graph. ``graph.meta["program"]`` is the traced ``ExportedProgram``.

    Args:
        module: A module in evaluation mode that takes the inputs by position and returns one tensor.
        inputs: Names, shapes and example values of the module's inputs.
        output: Name, dtype and shape of the module's output.
        opset: The ONNX operator set, one of ``OPSETS``.

    Raises:
        TraceError: torch cannot trace the module.
        GraphError: A dynamic axis became a constant.
    """
    traced = _trace(module, inputs, opset)
    model: ir.Model = traced.model
    model.meta["program"] = traced.exported_program
    model.producer_name, model.producer_version = "embedding-backbones", __version__
    replace_gathers(model)
    strip_metadata(model)
    _name_output(model, output.name)
    _check_signature(model, [graph_input.spec for graph_input in inputs], output, opset)
    return model


def _trace(module: nn.Module, inputs: Sequence[GraphInput], opset: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # notes for torch's own developers; _check_signature follows
            traced: Any = torch.onnx.export(
                module,
                tuple(graph_input.example for graph_input in inputs),
                dynamo=True,
                opset_version=opset,
                input_names=[graph_input.spec.name for graph_input in inputs],
                dynamic_shapes=tuple(_dynamic_axes(graph_input.spec) for graph_input in inputs),
                custom_translation_table={**point_sampling.TRANSLATIONS, **TRANSLATIONS},
                optimize=False,  # at opset 23, torch fuses rotary positions for one text alone
                verbose=False,
            )
            optimize_ir(traced.model)
            return traced
    except Exception as exc:  # each stage of torch's exporter raises its own type
        raise TraceError(f"torch cannot export the model: {_root_cause(exc)}") from exc


def _root_cause(exc: BaseException) -> str:
    """Return the first line of the exception that stopped the exporter; the exporter's own message is a page long."""
    while exc.__cause__ is not None:
        exc = exc.__cause__
    return f"{type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}"


def _name_output(model: ir.Model, name: str) -> None:
    """Rename the graph's output to ``name``, after renaming any other value of that name.

    ``nn.Embedding`` gives such a value, or an initializer if it was folded to a constant. The exporter's own
    ``output_names`` would give both values the same name.
    """
    taken = model.graph.initializers.get(name)
    if taken is not None:
        taken.name = f"{name}_constant"
    for node in model.graph.all_nodes():
        for value in node.outputs:
            if value.name == name:
                value.name = f"{name}_of_{node.name or node.op_type}"
    model.graph.outputs[0].name = name


def _dynamic_axes(spec: TensorSpec) -> dict[int, torch.export.Dim]:
    return {axis: torch.export.Dim(size) for axis, size in enumerate(spec.shape) if isinstance(size, str)}


def _check_signature(model: ir.Model, inputs: Sequence[TensorSpec], output: TensorSpec, opset: int) -> None:
    expected = [*inputs, output]
    actual = [_describe(value) for value in [*model.graph.inputs, *model.graph.outputs]]
    if actual != expected:
        differences = [
            f"{a.name} {a.dtype} {list(a.shape)} instead of {e.name} {e.dtype} {list(e.shape)}"
            for a, e in zip(actual, expected, strict=False)
            if a != e
        ]
        described = ", ".join(differences) or f"{len(actual)} tensors"
        raise GraphError(f"the graph has {described}; correct the input and output specs of the tower")
    if (found := model.opset_imports.get("")) != opset:
        raise GraphError(f"the graph has opset {found} instead of {opset}; choose another --opset")


def _describe(value: ir.Value) -> TensorSpec:
    dtype = "" if value.dtype is None else str(value.dtype.numpy())
    shape = tuple(size if isinstance(size, int) else str(size.value) for size in value.shape or ())
    return TensorSpec(name=value.name or "", dtype=dtype, shape=shape)
