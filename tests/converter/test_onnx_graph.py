"""Every operator of the table gives what ONNX's own reference implementation gives; whole networks do, too."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from converter.network_files import read_onnx
from converter.onnx_graph import OPERATORS, OnnxNetwork
from converter.sources import SourceError

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
MAP = (2, 4, 9, 9)


def array(*shape, seed=0, least=None):
    made = np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)
    return made if least is None else np.abs(made) + np.float32(least)


def ints(*values):
    return np.array(values, np.int64)


def number(value):
    return np.array(value, np.float32)


KERNEL = array(6, 4, 3, 3, seed=1)
ROW = array(1, 4, 1, 1, seed=2)
FOUR = [array(4, seed=seed) for seed in (3, 4, 5)] + [array(4, seed=6, least=0.1)]
# Operator, other inputs (constant), attributes, shape of the input, opset.
CASES = [
    ("Abs", [], {}, MAP, 17),
    ("Add", [ROW], {}, MAP, 17),
    ("AveragePool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, MAP, 17),
    ("AveragePool", [], {"kernel_shape": [2, 2], "count_include_pad": 1, "pads": [1, 1, 1, 1]}, MAP, 17),
    ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, MAP, 17),
    ("AveragePool", [], {"kernel_shape": [3], "strides": [2]}, (2, 4, 9), 17),
    ("BatchNormalization", FOUR, {"epsilon": 1e-3}, MAP, 17),
    ("Cast", [], {"to": TensorProto.FLOAT}, MAP, 17),
    ("Clip", [number(0.0), number(6.0)], {}, MAP, 17),
    ("Clip", [number(-0.5)], {}, MAP, 17),
    ("Concat", [array(2, 1, 9, 9, seed=9)], {"axis": 1}, MAP, 17),
    ("Conv", [KERNEL, array(6)], {"strides": [2, 2], "pads": [1, 1, 1, 1]}, MAP, 17),
    ("Conv", [KERNEL], {"pads": [0, 0, 1, 1], "dilations": [2, 2]}, MAP, 17),
    ("Conv", [KERNEL], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (2, 4, 8, 8), 17),
    ("Conv", [KERNEL], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, (2, 4, 8, 8), 17),
    ("Conv", [array(4, 1, 3, 3, seed=7)], {"group": 4, "kernel_shape": [3, 3]}, MAP, 23),
    ("Conv", [array(6, 4, 3, seed=8)], {"pads": [1, 1]}, (2, 4, 9), 17),
    ("Div", [ROW], {}, MAP, 17),
    ("Dropout", [], {}, MAP, 17),
    ("Elu", [], {"alpha": 0.7}, MAP, 17),
    ("Erf", [], {}, MAP, 17),
    ("Exp", [], {}, MAP, 17),
    ("Expand", [ints(2, 4, 9, 9)], {}, (2, 4, 1, 1), 17),
    ("Flatten", [], {"axis": 1}, MAP, 17),
    ("Flatten", [], {"axis": -1}, MAP, 17),
    ("Gather", [np.array(1, np.int64)], {"axis": 1}, MAP, 17),
    ("Gather", [ints(2, 0, 1)], {"axis": 1}, MAP, 17),
    ("Gelu", [], {}, MAP, 20),
    ("Gelu", [], {"approximate": "tanh"}, MAP, 20),
    ("Gemm", [array(5, 4), array(5)], {"transB": 1, "alpha": 0.5, "beta": 2.0}, (2, 4), 17),
    ("Gemm", [array(2, 5)], {"transA": 1}, (2, 4), 17),
    ("GlobalAveragePool", [], {}, MAP, 17),
    ("GlobalMaxPool", [], {}, MAP, 17),
    ("HardSigmoid", [], {"alpha": 0.3}, MAP, 17),
    ("HardSwish", [], {}, MAP, 17),
    ("Identity", [], {}, MAP, 17),
    ("InstanceNormalization", [array(4), array(4, seed=1)], {}, MAP, 17),
    ("LayerNormalization", [array(9, 9), array(9, 9, seed=1)], {"axis": -2}, MAP, 17),
    ("LeakyRelu", [], {"alpha": 0.2}, MAP, 17),
    ("Log", [], {}, MAP, 17),
    ("MatMul", [array(9, 3)], {}, MAP, 17),
    ("Max", [ROW, array(1)], {}, MAP, 17),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, MAP, 17),
    ("MaxPool", [], {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}, MAP, 17),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, (2, 4, 8, 8), 17),
    ("Min", [ROW], {}, MAP, 17),
    ("Mul", [ROW], {}, MAP, 17),
    ("Neg", [], {}, MAP, 17),
    ("PRelu", [ROW[0]], {}, MAP, 17),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1), number(0.5)], {}, MAP, 17),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1)], {"mode": "reflect"}, MAP, 17),
    ("Pad", [ints(1, 2), number(0.0), ints(3)], {"mode": "edge"}, MAP, 18),
    ("Pow", [number(2.0)], {}, MAP, 17),
    ("Reciprocal", [], {}, MAP, 17),
    ("ReduceMax", [], {"axes": [2, 3], "keepdims": 0}, MAP, 17),
    ("ReduceMean", [], {"axes": [2, 3]}, MAP, 17),
    ("ReduceMean", [ints(-1, -2)], {"keepdims": 0}, MAP, 18),
    ("ReduceMean", [], {"noop_with_empty_axes": 1}, MAP, 18),
    ("ReduceMin", [], {}, MAP, 17),
    ("ReduceSum", [ints(1)], {}, MAP, 17),
    ("Relu", [], {}, MAP, 17),
    ("Reshape", [ints(0, 2, -1)], {}, MAP, 17),
    ("Sigmoid", [], {}, MAP, 17),
    ("Slice", [ints(1, 0), ints(9, -1), ints(2, 3), ints(2, 1)], {}, MAP, 17),
    ("Slice", [ints(0, 1), ints(2, 3)], {}, MAP, 17),
    ("Softmax", [], {}, MAP, 17),
    ("Softplus", [], {}, MAP, 17),
    ("Split", [ints(1, 3)], {"axis": 1}, MAP, 17),
    ("Split", [], {"axis": 1, "num_outputs": 2}, MAP, 18),
    ("Sqrt", [], {}, MAP, 17),
    ("Squeeze", [ints(2)], {}, (2, 4, 1, 3), 17),
    ("Squeeze", [], {}, (2, 4, 1, 3), 17),
    ("Sub", [ROW], {}, MAP, 17),
    ("Tanh", [], {}, MAP, 17),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}, MAP, 17),
    ("Transpose", [], {}, MAP, 17),
    ("Unsqueeze", [ints(0, -1)], {}, MAP, 17),
]  # fmt: skip


def model_of(nodes, shape, outputs, opset=17, constants=()):
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", [given], made, [numpy_helper.from_array(a, n) for n, a in constants])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def both(model, given, outputs):
    """Return what ONNX's reference and the PyTorch module make of it, the latter traced as for a conversion."""
    network = OnnxNetwork("x.onnx", model, "x", outputs).eval()
    traced = torch.export.export(network, (torch.from_numpy(given),)).module()
    expected = ReferenceEvaluator(model).run(outputs, {"x": given})
    with torch.no_grad():
        return expected, [one.numpy() for one in traced(torch.from_numpy(given))]


@pytest.mark.parametrize(
    ("kind", "others", "attributes", "shape", "opset"), CASES, ids=[f"{one[0]} {i}" for i, one in enumerate(CASES)]
)
def test_an_operator_gives_what_the_reference_gives(kind, others, attributes, shape, opset):
    names = [f"constant_{index}" for index in range(len(others))]
    outputs = ["y", "z"] if kind == "Split" else ["y"]
    node = helper.make_node(kind, ["x", *names], outputs, **attributes)
    model = model_of([node], shape, outputs, opset, zip(names, others, strict=True))
    given = array(*shape, seed=20, least=0.1 if kind in {"Log", "Sqrt"} else None)
    expected, found = both(model, given, outputs)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_every_operator_of_the_table_is_compared():
    assert {one[0] for one in CASES} | {"Shape"} == set(OPERATORS)


def test_shapes_are_worked_out_while_the_graph_is_traced():
    """As exporters write a flattening: the batch is taken from the shape, and joined with -1."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["batches"]),
        helper.make_node("Concat", ["batches", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    constants = [("zero", np.array(0, np.int64)), ("axis", ints(0)), ("rest", ints(-1))]
    expected, found = both(model_of(nodes, MAP, ["y"], constants=constants), array(*MAP), ["y"])
    np.testing.assert_array_equal(found[0], expected[0])


def test_what_no_chosen_tensor_needs_is_not_read_and_constants_are_folded():
    nodes = [
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(number(2.0))),
        helper.make_node("Mul", ["two", "two"], ["four"]),
        helper.make_node("Add", ["x", "four"], ["y"]),
        helper.make_node("NonMaxSuppression", ["y"], ["boxes"]),
    ]
    network = OnnxNetwork("x.onnx", model_of(nodes, MAP, ["boxes"]), "x", ["y"])
    np.testing.assert_allclose(network(torch.ones(MAP))[0], 5.0)
    with pytest.raises(SourceError, match=r"x\.onnx: the operator NonMaxSuppression \(of boxes\) is not among those"):
        OnnxNetwork("x.onnx", model_of(nodes, MAP, ["boxes"]), "x", ["boxes"])


@pytest.mark.parametrize(
    ("kind", "others", "attributes", "message"),
    [
        ("Cast", [], {"to": TensorProto.INT64}, "expected floats all the way, found y made whole numbers"),
        ("Slice", [ints(8), ints(0), ints(2), ints(-1)], {}, "expected slices with steps above 0"),
        ("Pad", [ints(0, 0, 1, 1, 0, 0, 1, 1)], {"mode": "wrap"}, "expected padding by a constant, or in space"),
        ("Pad", [ints(0, 1, 0, 0, 0, 0, 0, 0)], {"mode": "edge"}, "expected padding by a constant, or in space"),
    ],
)
def test_what_an_operator_cannot_do_is_said(kind, others, attributes, message):
    names = [f"constant_{index}" for index in range(len(others))]
    node = helper.make_node(kind, ["x", *names], ["y"], **attributes)
    model = model_of([node], MAP, ["y"], 19, zip(names, others, strict=True))
    with pytest.raises(SourceError, match=message):
        OnnxNetwork("x.onnx", model, "x", ["y"])(torch.zeros(MAP))


def test_files_of_old_exporters_are_brought_to_a_newer_opset(tmp_path):
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["rows"], axes=[2]),
        helper.make_node("ReduceSum", ["rows"], ["y"], axes=[2, 3], keepdims=0),
    ]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 64, 2])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 64])
    graph = helper.make_graph(nodes, "graph", [given], [made])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), tmp_path / "x.onnx")
    windows = array(2, 64, 2)
    with torch.no_grad():
        (found,) = read_onnx(tmp_path / "x.onnx", [], None)(torch.from_numpy(windows))
    np.testing.assert_allclose(found, windows.sum(-1), rtol=1e-5, atol=1e-6)
