"""An ONNX graph as a PyTorch module: each operator is a function here and an entry in the table below it.

Only what encoders are made of. Values that do not depend on the input are computed once, by ONNX's own reference
implementation; those that depend on its shape alone, while it is traced, by the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from converter.sources import SourceError

LEAST_OPSET: Final = 13  # older graphs are brought to it; since then axes are inputs
_FLOATS: Final = frozenset({1, 10, 11})  # of TensorProto's types: single, half and double precision
_NUMBERS: Final = frozenset({"Clip", "Pad"})  # whose constants are numbers of the operator, no tensors
_TOLD: Final = 12  # tensors that a message names


class OnnxNetwork(nn.Module):
    """The part of a graph that leads from its input to the tensors `outputs`, in float32."""

    def __init__(self, where: str, model: Any, given: str, outputs: list[str]) -> None:
        """Raise SourceError for an operator that is not in the table, or an output that nothing makes."""
        import onnx.numpy_helper  # noqa: PLC0415  the extra `onnx`

        super().__init__()
        self._given, self._outputs = given, outputs
        self._constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
        self._nodes: list[_Node] = []
        opset = next(one.version for one in model.opset_import if one.domain in {"", "ai.onnx"})
        for proto in _needed(model.graph.node, outputs):
            node = _Node(proto, opset)
            if all(name in self._constants for name in node.inputs if name):
                self._constants |= node.reference(*(self._constants.get(name) for name in node.inputs))
            elif node.kind not in OPERATORS or proto.domain not in {"", "ai.onnx"}:
                raise SourceError(
                    f"{where}: the operator {node.kind} (of {', '.join(node.outputs)}) is not among those that are "
                    f"read: {', '.join(sorted(OPERATORS))}; take a tensor before it with --output, or give the "
                    "network as an exported PyTorch program or a TFLite file"
                )
            else:
                self._nodes.append(node)
        made = {name for node in self._nodes for name in node.outputs}
        for name in outputs:
            if name not in made:
                told = ", ".join([one.output[0] for one in model.graph.node][-_TOLD:])
                raise SourceError(
                    f"{where}: expected a tensor that depends on the input, found {name!r}; the last are {told}"
                )
        self._buffer_names: dict[str, str] = {}
        for name in {name for node in self._nodes for name in node.inputs}:
            array = self._constants.get(name)
            if array is not None and array.dtype.kind == "f":
                self._buffer_names[name] = f"constant_{len(self._buffer_names)}"
                self.register_buffer(self._buffer_names[name], torch.from_numpy(array.astype(np.float32)))

    def forward(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the chosen tensors for the graph's input, as both are in the graph."""
        values: dict[str, Any] = {self._given: inputs}
        for node in self._nodes:
            raw = [values.get(name, self._constants.get(name)) for name in node.inputs]
            if node.kind != "Shape" and not any(isinstance(one, Tensor) for one in raw):
                values |= node.reference(*raw)
                continue
            tensors = [
                getattr(self, self._buffer_names[name])
                if name in self._buffer_names and node.kind not in _NUMBERS
                else one
                for name, one in zip(node.inputs, raw, strict=True)
            ]
            made = OPERATORS[node.kind](node, *tensors)
            values |= zip(node.outputs, made if isinstance(made, tuple | list) else (made,), strict=False)
        return tuple(values[name] for name in self._outputs)


def _needed(nodes: Any, outputs: list[str]) -> list[Any]:
    """Return the nodes that lead to the outputs, in order."""
    needed, kept = set(outputs), []
    for proto in reversed(nodes):
        if needed.intersection(proto.output):
            needed.update(proto.input)
            kept.append(proto)
    return kept[::-1]


class _Node:
    """One operator of a graph: kind, names, attributes."""

    def __init__(self, proto: Any, opset: int) -> None:
        from onnx.helper import get_attribute_value  # noqa: PLC0415  the extra `onnx`

        self.kind, self.inputs, self.outputs = proto.op_type, list(proto.input), list(proto.output)
        self._attributes = {one.name: get_attribute_value(one) for one in proto.attribute}
        self._proto, self._opset = proto, opset

    def __call__(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        found = self._attributes.get(name, default)
        return found.decode() if isinstance(found, bytes) else found

    def reference(self, *inputs: Any) -> dict[str, Any]:
        """Return what it makes of arrays, by name."""
        from onnx.reference import ReferenceEvaluator  # noqa: PLC0415  the extra `onnx`

        feeds = {name: one for name, one in zip(self.inputs, inputs, strict=True) if name}
        found = ReferenceEvaluator(self._proto, opsets={"": self._opset}).run(None, feeds)
        return dict(zip(self.outputs, map(np.asarray, found), strict=True))


def _ints(value: Any) -> list[int]:
    return [int(one) for one in np.asarray(value).reshape(-1)]


def _axes(node: _Node, given: Any, every: int) -> list[int]:
    """Return axes that are an input or, in older graphs, an attribute; all of them where none are named."""
    found = node("axes") if given is None else given
    return list(range(every)) if found is None or not len(found) else _ints(found)


def _sides(node: _Node, inputs: Tensor, kernel: list[int]) -> list[tuple[int, int]]:
    """Return by how much each side of each axis in space is padded, before and behind."""
    space, same = len(kernel), node("auto_pad", "NOTSET")
    if same not in {"SAME_UPPER", "SAME_LOWER"}:
        pads = node("pads") or [0] * 2 * space
        return [(pads[axis], pads[axis + space]) for axis in range(space)]
    steps, spread = node("strides") or [1] * space, node("dilations") or [1] * space
    made = []
    for size, step, wide, far in zip(inputs.shape[2:], steps, kernel, spread, strict=True):
        total = max(0, (-(-size // step) - 1) * step + (wide - 1) * far + 1 - size)
        less, more = total // 2, total - total // 2
        made.append((less, more) if same == "SAME_UPPER" else (more, less))
    return made


def _padded(node: _Node, inputs: Tensor, kernel: list[int], value: float) -> tuple[Tensor, list[int]]:
    """Return the input and the padding that is left to the operator: none where sides differ."""
    sides = _sides(node, inputs, kernel)
    if all(before == behind for before, behind in sides):
        return inputs, [before for before, _ in sides]
    return nnf.pad(inputs, [one for pair in reversed(sides) for one in pair], value=value), [0] * len(sides)


def _conv(node: _Node, inputs: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    kernel = list(weight.shape[2:])
    given, padding = _padded(node, inputs, kernel, 0.0)
    ones = [1] * len(kernel)
    convolution: Any = (nnf.conv1d, nnf.conv2d)[len(kernel) - 1]
    steps, spread = node("strides") or ones, node("dilations") or ones
    return convolution(given, weight, bias, steps, padding, spread, node("group", 1))


def _max_pool(node: _Node, inputs: Tensor) -> Tensor:
    kernel = node("kernel_shape")
    given, padding = _padded(node, inputs, kernel, float("-inf"))
    ones = [1] * len(kernel)
    pool: Any = (nnf.max_pool1d, nnf.max_pool2d)[len(kernel) - 1]
    steps, spread = node("strides") or ones, node("dilations") or ones
    return pool(given, kernel, steps, padding, spread, bool(node("ceil_mode", 0)))


def _average_pool(node: _Node, inputs: Tensor) -> Tensor:
    kernel, counted = node("kernel_shape"), bool(node("count_include_pad", 0))
    sides = _sides(node, inputs, kernel)
    if any(before != behind for before, behind in sides) and not counted:
        ones = torch.ones_like(inputs)  # the share of each place that is not padding
        return _pooled(node, inputs, kernel, counted=True) / _pooled(node, ones, kernel, counted=True)
    return _pooled(node, inputs, kernel, counted=counted)


def _pooled(node: _Node, inputs: Tensor, kernel: list[int], *, counted: bool) -> Tensor:
    given, padding = _padded(node, inputs, kernel, 0.0)
    pool: Any = (nnf.avg_pool1d, nnf.avg_pool2d)[len(kernel) - 1]
    steps = node("strides") or [1] * len(kernel)
    return pool(given, kernel, steps, padding, bool(node("ceil_mode", 0)), counted)


def _gemm(node: _Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    made = (a.T if node("transA", 0) else a) @ (b.T if node("transB", 0) else b)
    made = made if node("alpha", 1.0) == 1.0 else node("alpha") * made
    return made if c is None else made + (c if node("beta", 1.0) == 1.0 else node("beta") * c)


def _batch_norm(node: _Node, inputs: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return nnf.batch_norm(inputs, mean, variance, scale, bias, training=False, eps=node("epsilon", 1e-5))


def _layer_norm(node: _Node, inputs: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = node("axis", -1) % inputs.ndim
    return nnf.layer_norm(inputs, list(inputs.shape[axis:]), scale, bias, node("epsilon", 1e-5))


def _instance_norm(node: _Node, inputs: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return nnf.instance_norm(inputs, weight=scale, bias=bias, eps=node("epsilon", 1e-5))


def _prelu(_node: _Node, inputs: Tensor, slope: Tensor) -> Tensor:
    return torch.where(inputs < 0, slope * inputs, inputs)


def _clip(_node: _Node, inputs: Tensor, least: Any = None, most: Any = None) -> Tensor:
    low, high = (None if one is None else float(one) for one in (least, most))
    if (low, high) == (0.0, 6.0):
        return nnf.relu6(inputs)
    return torch.clamp(inputs, low, high)


def _reduced(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def reduce(node: _Node, inputs: Tensor, axes: Any = None) -> Tensor:
        if node("noop_with_empty_axes", 0) and (axes is None or not len(axes)):
            return inputs
        return function(inputs, dim=_axes(node, axes, inputs.ndim), keepdim=bool(node("keepdims", 1)))

    return reduce


def _whole(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def pool(_node: _Node, inputs: Tensor) -> Tensor:
        return function(inputs, dim=list(range(2, inputs.ndim)), keepdim=True)

    return pool


def _flatten(node: _Node, inputs: Tensor) -> Tensor:
    axis = node("axis", 1)
    axis = axis + inputs.ndim if axis < 0 else axis
    return inputs.reshape(int(np.prod(inputs.shape[:axis])), -1)


def _reshape(node: _Node, inputs: Tensor, shape: Any) -> Tensor:
    kept = bool(node("allowzero", 0))
    return inputs.reshape([inputs.shape[i] if one == 0 and not kept else one for i, one in enumerate(_ints(shape))])


def _squeeze(node: _Node, inputs: Tensor, axes: Any = None) -> Tensor:
    named = _axes(node, axes, 0)
    return inputs.squeeze(tuple(named) if named else tuple(i for i, one in enumerate(inputs.shape) if one == 1))


def _unsqueeze(node: _Node, inputs: Tensor, axes: Any = None) -> Tensor:
    named = _axes(node, axes, 0)
    for axis in sorted(one % (inputs.ndim + len(named)) for one in named):
        inputs = inputs.unsqueeze(axis)
    return inputs


def _split(node: _Node, inputs: Tensor, sizes: Any = None) -> list[Tensor]:
    axis = node("axis", 0)
    if sizes is not None:
        return list(inputs.split(_ints(sizes), axis))
    return list(inputs.split(-(-inputs.shape[axis] // len(node.outputs)), axis))


def _slice(_node: _Node, inputs: Tensor, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Tensor:
    begin, end = _ints(starts), _ints(ends)
    along = _ints(axes) if axes is not None else list(range(len(begin)))
    step = _ints(steps) if steps is not None else [1] * len(begin)
    if min(step) < 1:
        raise SourceError(f"expected slices with steps above 0, found {step}; turn the tensor in the network")
    index = [slice(None)] * inputs.ndim
    for axis, first, last, by in zip(along, begin, end, step, strict=True):
        index[axis] = slice(first, last, by)
    return inputs[tuple(index)]


def _gather(node: _Node, inputs: Tensor, indices: Any) -> Tensor:
    axis = node("axis", 0)
    if np.ndim(indices) == 0:
        return inputs.select(axis, int(indices))
    return torch.index_select(inputs, axis, torch.as_tensor(_ints(indices)))


def _pad(node: _Node, inputs: Tensor, pads: Any, value: Any = None, axes: Any = None) -> Tensor:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate"}.get(node("mode", "constant"))
    sides, along = _ints(pads), _axes(node, axes, inputs.ndim)
    pairs = {axis % inputs.ndim: (sides[i], sides[i + len(along)]) for i, axis in enumerate(along)}
    first = 0 if mode == "constant" else 2  # torch repeats what is there in space alone
    if mode is None or any(any(pairs.get(axis, ())) for axis in range(first)):
        raise SourceError(f"expected padding by a constant, or in space, found {node('mode')} of {sides}")
    flat = [one for axis in reversed(range(first, inputs.ndim)) for one in pairs.get(axis, (0, 0))]
    if mode == "constant":
        return nnf.pad(inputs, flat, value=0.0 if value is None else float(value))
    return nnf.pad(inputs, flat, mode=mode)


def _cast(node: _Node, inputs: Tensor) -> Tensor:
    if node("to") not in _FLOATS:
        raise SourceError(f"expected floats all the way, found {', '.join(node.outputs)} made whole numbers")
    return inputs


def _softmax(node: _Node, inputs: Tensor) -> Tensor:
    return torch.softmax(inputs, node("axis", -1))


def _most(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def fold(_node: _Node, first: Tensor, *others: Tensor) -> Tensor:
        for one in others:
            first = function(first, one)
        return first

    return fold


def _plain(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return an operator that has no attributes."""
    return lambda _node, *inputs: function(*inputs)


OPERATORS: Final[dict[str, Callable[..., Any]]] = {
    "Abs": _plain(torch.abs),
    "Add": _plain(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda node, *inputs: torch.cat(inputs, node("axis")),
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Dropout": lambda _node, inputs, *_: inputs,
    "Elu": lambda node, inputs: nnf.elu(inputs, node("alpha", 1.0)),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": lambda _node, inputs, shape: inputs.expand(torch.broadcast_shapes(inputs.shape, tuple(_ints(shape)))),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": lambda node, inputs: nnf.gelu(inputs, approximate=node("approximate", "none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _whole(torch.mean),
    "GlobalMaxPool": _whole(torch.amax),
    "HardSigmoid": lambda node, inputs: torch.clamp(node("alpha", 0.2) * inputs + node("beta", 0.5), 0.0, 1.0),
    "HardSwish": _plain(nnf.hardswish),
    "Identity": _plain(lambda inputs: inputs),
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, inputs: nnf.leaky_relu(inputs, node("alpha", 0.01)),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "Max": _most(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _most(torch.minimum),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": lambda node, inputs: np.array(inputs.shape[node("start", 0) : node("end", inputs.ndim)], np.int64),
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _plain(nnf.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda node, inputs: inputs.permute(node("perm") or list(range(inputs.ndim))[::-1]),
    "Unsqueeze": _unsqueeze,
}
