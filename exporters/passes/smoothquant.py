"""Smooth the input channels of matrix products, so that one int8 scale fits all channels of a tensor.

A few channels of a transformer's activations are ten times as large as the others, which then lose their bits.
SmoothQuant divides each channel by a factor and multiplies the matching row of the weights by it.
Source: SmoothQuant, equation 4 (https://arxiv.org/abs/2211.10438).

Smoothing alone moves the trouble to the weights. A channel that stands out by more is split into equal parts, each with
the same row of weights. Source: Outlier channel splitting, section 3 (https://arxiv.org/abs/1901.09504).

A very few channels are a hundred times as large, for some words only. Neither helps there. Nodes of their own multiply
these outlier channels in float32. Source: LLM.int8(), section 3.2 (https://arxiv.org/abs/2208.07339).

The wide tensor inside a feed-forward layer is not smoothed. There each row, such as a token, is divided by its own
largest value, and its product is multiplied by that value. No row depends on others, so no vector depends on its batch.
Source: per-token quantization in ZeroQuant, section 4.1 (https://arxiv.org/abs/2206.01861).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from exporters.graph.initializers import add_initializer
from runtime.array_types import Array

_ALPHA = 0.7  # migration strength; on MiniLM 0.5 to 0.7 differ by noise only, and less gives more outlier channels
_SPLIT_ALPHA = 0.8  # with split channels the weights suffer less
_OUTLIER_RATIO = 3.0  # to the median peak of the smoothed channels; MiniLM: five channels in four feed-forward layers
_MAX_OUTLIERS = 16  # per tensor; more cost the time that int8 saves. With 8 before narrow products, MiniLM has 0.9985
_MIN_PEAK = 1e-5  # keeps the logarithm of an unused channel finite
_SPLIT_RATIO = 8.0  # importance of a part of a split channel, relative to the median channel; less makes more parts
_MAX_PARTS = 16  # of a channel
_MAX_EXTRA = 32  # parts of a tensor that are added to its channels
_PLAIN_NOISE = 2.0  # of the smoothed tensor's; more would not be worth the time of smoothing
_NEGATIVE_SHARE = 0.25  # of a row's largest value, for its negative values; 0.15 to 0.4 differ by noise only on MiniLM


def input_channels(nodes: Iterable[ir.Node]) -> dict[str, int]:
    """Return the number of channels of each tensor that can be smoothed before ``nodes``: the inputs of MatMuls."""
    return {str(value.name): len(_weights(group[0])) for value, group in _by_input(nodes).items()}


def smooth_channels(model: ir.Model, nodes: Iterable[ir.Node], ranges: Mapping[str, Array]) -> None:
    """Smooth the tensors in ``ranges`` for the matrix products that take them, and separate outlier channels.

    Before: the products take the tensor. After: they take the smoothed tensor with its outlier channels set to 0, and
    their weights compensate. Nodes of their own multiply and add the outlier channels. The graph's results are the same
    but for rounding. All other nodes still take the tensor itself.

    Args:
        model: The graph, which is changed.
        nodes: Nodes whose products int8 will compute. They are replaced and keep their names.
        ranges: Smallest and largest value of each channel, ``[2, channels]`` float32, by tensor.
    """
    for value, group in _by_input(nodes).items():
        channels = _Channels.of(group, ranges[str(value.name)])
        _apply(model.graph, value, group, channels.smoothed())


def spread_channels(
    model: ir.Model, nodes: Iterable[ir.Node], ranges: Mapping[str, Array]
) -> dict[str, tuple[float, float]]:
    """Do as :func:`smooth_channels`, and also split channels, or scale the rows of a tensor instead.

    The tensors whose channels are left as they are have outlier channels, too. Their values must saturate.

    Returns:
        The range of each tensor that the nodes then take, without its outlier channels.
    """
    ranges_after: dict[str, tuple[float, float]] = {}
    for value, group in _by_input(nodes).items():
        channels = _Channels.of(group, ranges[str(value.name)])
        plan, plain = channels.spread(), channels.plain()
        if plain is not None and channels.noise(plain) <= _PLAIN_NOISE * channels.noise(plan):
            plan = plain
        low, high = channels.range(plan)
        source = _apply(model.graph, value, group, plan)
        ranges_after[str(source.name)] = (low, high) if plan.rows is None else (low / plan.rows[0], 1.0)
    return ranges_after


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How the channels of a tensor become the inputs of products.

    Attributes:
        sources: The channel that each input is from. All channels come first, and then the added parts of channels.
        divisors: The channel is divided by it; ``None`` if no channel is changed.
        factors: The row of the weights is multiplied by it.
        outliers: Channels that are multiplied in float32, in ascending order.
        rows: Bounds of the number by which a row is divided, its largest value; ``None`` if no row is.
    """

    sources: Array
    divisors: Array | None
    factors: Array
    outliers: Array
    rows: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Channels:
    """The channels of a tensor and the rows of the weights that they are multiplied with."""

    lowest: Array
    highest: Array
    rows: Array  # largest absolute weight of each row
    squares: Array  # sum of the squared weights of each row
    outputs: int

    @classmethod
    def of(cls, nodes: Sequence[ir.Node], ranges: Array) -> _Channels:
        weights = [_weights(node) for node in nodes]
        rows = np.max([np.abs(each).max(axis=1) for each in weights], axis=0)
        squares = np.sum([(each.astype(np.float64) ** 2).sum(axis=1) for each in weights], axis=0)
        return cls(ranges[0], ranges[1], rows, squares, sum(each.shape[1] for each in weights))

    @property
    def peaks(self) -> Array:
        return np.maximum(np.maximum(-self.lowest, self.highest), _MIN_PEAK)

    def smoothed(self, alpha: float = _ALPHA) -> _Plan:
        factors = self._factors(self.peaks, alpha)
        outliers = _find_outliers(self.peaks / factors)
        return _Plan(sources=np.arange(len(factors)), divisors=factors, factors=factors, outliers=outliers)

    def spread(self) -> _Plan:
        """Return the plan with split channels; adding parts to the wide input of a narrow product is not worth it."""
        if len(self.peaks) > self.outputs:
            return self.smoothed()
        parts, outliers = self._parts()
        factors = self._factors(self.peaks / parts, _SPLIT_ALPHA)
        channels = np.arange(len(parts))
        sources = np.concatenate([channels, np.repeat(channels, parts - 1)])
        divisors = (factors * parts)[sources]
        return _Plan(sources=sources, divisors=divisors, factors=factors[sources], outliers=outliers)

    def plain(self) -> _Plan | None:
        """Return the plan without smoothing for the wide input of a narrow product, else ``None``."""
        if len(self.peaks) <= max(self.outputs, 4 * _MAX_OUTLIERS):
            return None
        ones = np.ones(len(self.peaks), np.float32)
        outliers = np.sort(np.argsort(-self.peaks, kind="stable")[:_MAX_OUTLIERS])
        plan = _Plan(sources=np.arange(len(ones)), divisors=None, factors=ones, outliers=outliers)
        return replace(plan, rows=self.row_bounds(*self.range(plan)))

    @staticmethod
    def row_bounds(low: float, high: float) -> tuple[float, float] | None:
        """Return the bounds of a row's scale; ``None`` if the negative values of ReLU, GELU or SiLU are not small."""
        smallest = max(-low / _NEGATIVE_SHARE, _MIN_PEAK)
        return (smallest, high) if smallest < high else None

    def noise(self, plan: _Plan) -> float:
        """Return the rounding error of the activations in the products, up to a constant factor."""
        low, high = self.range(plan)
        sizes = np.ones(len(self.peaks)) if plan.divisors is None else plan.divisors[: len(self.peaks)].copy()
        sizes[plan.outliers] = 0
        return float((high - low) ** 2 * (sizes**2 @ self.squares))

    def range(self, plan: _Plan) -> tuple[float, float]:
        """Return the range of the values that the products take, without the outlier channels."""
        kept = np.setdiff1d(np.arange(len(self.peaks)), plan.outliers)
        divisors = 1 if plan.divisors is None else plan.divisors[kept]
        return float((self.lowest[kept] / divisors).min()), float((self.highest[kept] / divisors).max())

    def _factors(self, peaks: Array, alpha: float) -> Array:
        logarithms = alpha * np.log(peaks) - (1 - alpha) * np.log(np.maximum(self.rows, _MIN_PEAK))
        factors: Array = np.exp(logarithms - logarithms.mean()).astype(np.float32)
        return factors

    def _parts(self) -> tuple[Array, Array]:
        """Return the number of parts of each channel, and the outliers, which would need too many."""
        importance = self.peaks * np.maximum(self.rows, _MIN_PEAK)
        limit = _SPLIT_RATIO * np.median(importance)
        largest = np.argsort(-importance, kind="stable")[:_MAX_OUTLIERS]
        outliers = np.sort(largest[importance[largest] > _MAX_PARTS * limit])
        importance[outliers] = 0
        while (parts := np.clip(np.ceil(importance / limit), 1, _MAX_PARTS)).sum() > len(importance) + _MAX_EXTRA:
            limit *= 1.25
        return parts.astype(np.int64), outliers


def _by_input(nodes: Iterable[ir.Node]) -> dict[ir.Value, list[ir.Node]]:
    """Return the MatMuls by constant matrices, grouped by their input; inputs of the graph are left out."""
    groups: dict[ir.Value, list[ir.Node]] = defaultdict(list)
    for node in nodes:
        value = node.inputs[0]
        if node.op_type == "MatMul" and len(_weights(node)) and value is not None and value.producer() is not None:
            groups[value].append(node)
    return groups


def _apply(graph: ir.Graph, value: ir.Value, nodes: Sequence[ir.Node], plan: _Plan) -> ir.Value:
    """Change ``nodes``, which take ``value``, as ``plan`` says. Return what they take instead."""
    source = value if plan.divisors is None else _smooth(graph, value, nodes[0], plan, plan.divisors)
    sizes = None
    if plan.rows is not None:
        source, sizes = _scale_rows(graph, value, nodes[0], *plan.rows)
    for node in nodes:
        original = _weights(node)
        weights = (original[plan.sources] * plan.factors[:, None]).astype(np.float32)
        weights[plan.outliers] = 0
        node.replace_input_with(0, source)
        node.replace_input_with(1, add_initializer(graph, f"{node.name}/weights", weights))
        last = node if sizes is None else _extend(graph, node, "Mul", sizes, f"{node.name}/rows")
        if len(plan.outliers):
            product = _multiply_outliers(graph, node, value, plan.outliers, original[plan.outliers])
            _extend(graph, last, "Add", product, f"{node.name}/outliers/add")
    return source


def _scale_rows(
    graph: ir.Graph, value: ir.Value, before: ir.Node, smallest: float, largest: float
) -> tuple[ir.Value, ir.Value]:
    """Return the rows of ``value``, each divided by its largest value within bounds, and these divisors."""
    name = f"{value.name}/rows"
    axis, low, high = (
        add_initializer(graph, f"{name}/{each}", np.array(number))
        for each, number in (("axis", [-1]), ("smallest", np.float32(smallest)), ("largest", np.float32(largest)))
    )
    peak = ir.node("ReduceMax", [value, axis], {"keepdims": 1}, name=f"{name}/peak")
    size = ir.node("Clip", [peak.outputs[0], low, high], name=f"{name}/size")
    scaled = ir.node("Div", [value, size.outputs[0]], name=f"{name}/scale")
    graph.insert_before(before, [peak, size, scaled])
    for node in (peak, size, scaled):
        node.outputs[0].name, node.outputs[0].type = f"{node.name}/output", value.type
    scaled.outputs[0].shape = value.shape
    return scaled.outputs[0], size.outputs[0]


def _smooth(graph: ir.Graph, value: ir.Value, before: ir.Node, plan: _Plan, divisors: Array) -> ir.Value:
    """Return the inputs that ``plan`` makes of ``value``, by nodes that are inserted before a node."""
    inverse = (1 / divisors).astype(np.float32)
    inverse[plan.outliers] = 0
    channels, sources = len(inverse), value
    added = [index for index, source in enumerate(plan.sources) if index != source]
    if added:
        indices = add_initializer(graph, f"{value.name}/parts", plan.sources[added])
        parts = ir.node("Gather", [value, indices], {"axis": -1}, name=f"{value.name}/gather")
        joined = ir.node("Concat", [value, parts.outputs[0]], {"axis": -1}, name=f"{value.name}/join")
        graph.insert_before(before, [parts, joined])
        for node, size in ((parts, len(added)), (joined, channels)):
            node.outputs[0].name, node.outputs[0].type = f"{node.name}/output", value.type
            node.outputs[0].shape = None if value.shape is None else ir.Shape([*value.shape[:-1], size])
        sources = joined.outputs[0]
    scale = add_initializer(graph, f"{value.name}/smoothing", inverse)
    smoothed = ir.node("Mul", [sources, scale], name=f"{value.name}/smooth")
    smoothed.outputs[0].name = f"{value.name}/even"
    smoothed.outputs[0].shape, smoothed.outputs[0].type = sources.shape, value.type
    graph.insert_before(before, smoothed)
    return smoothed.outputs[0]


def _find_outliers(peaks: Array) -> Array:
    """Return the indices of channels with outlier peaks, in ascending order."""
    largest = np.argsort(-peaks, kind="stable")[:_MAX_OUTLIERS]
    return np.sort(largest[peaks[largest] > _OUTLIER_RATIO * np.median(peaks)])


def _multiply_outliers(graph: ir.Graph, node: ir.Node, value: ir.Value, outliers: Array, weights: Array) -> ir.Value:
    """Return the product of ``value``'s outlier channels, by nodes that are inserted before ``node``."""
    name = f"{node.name}/outliers"
    indices, rows = add_initializer(graph, name, outliers), add_initializer(graph, f"{name}/weights", weights)
    few = ir.node("Gather", [value, indices], {"axis": -1}, name=f"{name}/gather")
    product = ir.node("MatMul", [few.outputs[0], rows], name=f"{name}/matmul")
    for each in (few, product):
        each.outputs[0].name, each.outputs[0].type = f"{each.name}/output", value.type
    product.outputs[0].shape = node.outputs[0].shape
    graph.insert_before(node, [few, product])
    return product.outputs[0]


def _extend(graph: ir.Graph, node: ir.Node, operator: str, operand: ir.Value, name: str) -> ir.Node:
    """Let all users of the result of ``node`` take what ``operator`` makes of it; return the node of ``operator``."""
    value = node.outputs[0]
    after = ir.node(operator, [value, operand], name=name)
    result = after.outputs[0]
    result.name, result.type, result.shape = value.name, value.type, value.shape
    value.replace_all_uses_with(result, replace_graph_outputs=True)
    after.replace_input_with(0, value)
    value.name = f"{name}/input"
    graph.insert_after(node, after)
    return after


def _weights(node: ir.Node) -> Array:
    """Return the weight matrix of ``node``; an array of shape ``[0, 0]`` if it is not constant."""
    value = node.inputs[1]
    tensor = None if value is None else value.const_value
    return tensor.numpy() if tensor is not None and len(tensor.shape) == 2 else np.zeros((0, 0))
