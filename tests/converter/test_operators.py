from __future__ import annotations

from collections import Counter

import pytest
from ai_edge_litert.schema_py_generated import BuiltinOperator, Model

from agent.bundle import find_bundle, read_model
from agent.errors import BundleError
from converter.operators import Operator, oldest_runtime, operators_of, release_of, required, too_new

MODELS = [
    (bundle, variant)
    for bundle in map(find_bundle, ("sensor-small", "efficientnet-lite0"))
    for variant in bundle.manifest.variants
]
NAMES = {code: name for name, code in vars(BuiltinOperator).items() if not name.startswith("_")}


@pytest.mark.parametrize(("bundle", "variant"), MODELS, ids=[variant.file for _, variant in MODELS])
def test_operators_are_those_that_the_runtimes_own_reader_finds(bundle, variant):
    content = read_model(bundle, variant)
    model = Model.GetRootAs(content)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    expected = Counter()
    for graph in map(model.Subgraphs, range(model.SubgraphsLength())):
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            code = codes[operator.OpcodeIndex()]
            expected[NAMES[code.BuiltinCode()], code.Version()] += 1
    assert {(one.name, one.version): one.count for one in operators_of(content)} == expected


@pytest.mark.parametrize(
    ("name", "version", "release"),
    [
        ("CONV_2D", 1, "1.5.0"), ("FULLY_CONNECTED", 12, "2.17.0"), ("DEQUANTIZE", 5, "2.7.0"),
        ("BROADCAST_TO", 1, None), ("CONV_2D", 0, None), ("CONV_2D", 99, None), ("CUSTOM Mine", 1, None),
    ],
)  # fmt: skip
def test_releases_are_those_of_the_table(name, version, release):
    assert release_of(name, version) == release


def operator(name, version):
    return Operator(name, version, 1, release_of(name, version))


def test_the_newest_operator_tells_the_oldest_runtime():
    old, new = operator("CONV_2D", 1), operator("FULLY_CONNECTED", 10)
    assert oldest_runtime([old]) == "1.5.0"
    assert oldest_runtime([old, new]) == "2.11.0"
    assert oldest_runtime([old, operator("FULLY_CONNECTED", 12)]) == "ai-edge-litert"
    assert oldest_runtime([old, operator("CUSTOM Mine", 1)]) == "ai-edge-litert"


def test_what_the_last_tflite_runtime_lacks_or_nobody_knows_is_too_new():
    kept = [operator("CONV_2D", 7), operator("STRIDED_SLICE", 8)]  # 2.11.0 and 2.14.0
    newer = [operator("TRANSPOSE", 7), operator("FULLY_CONNECTED", 12), operator("CUSTOM Mine", 1)]
    assert too_new(kept + newer) == newer


@pytest.mark.parametrize(
    ("precision", "release"), [("int8", "1.14.0"), ("int8-dynamic", "2.4.0"), ("int8-weights", "2.7.0")]
)
def test_a_precision_asks_for_more_than_the_model_says(precision, release):
    assert oldest_runtime([operator("CONV_2D", 1), *required(precision)]) == release


@pytest.mark.parametrize("content", [b"", b"abc", b"\xff" * 64, b"\0" * 64])
def test_what_is_no_model_is_an_error(content):
    with pytest.raises(BundleError, match="expected a TFLite model, found something else"):
        operators_of(content)


def test_a_model_cut_off_anywhere_is_an_error_or_shorter_never_a_crash():
    bundle, variant = MODELS[0]
    content = read_model(bundle, variant)
    for end in range(0, len(content), 997):
        try:
            operators_of(content[:end])
        except BundleError:
            continue
