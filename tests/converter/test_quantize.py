from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from converter.quantize import PRECISIONS, ConversionError, FloatModel, TooFewInputsError, uncovered

# The frameworks warn of one another.
pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SHAPE = (8, 2)
BATCHES = (1, 8, 32)
WIDEST = 6.0


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.dense = torch.nn.Linear(16, 512)
        self.last = torch.nn.Linear(512, 3)

    def forward(self, windows):
        return self.last(torch.relu(self.dense(windows.flatten(1))))


@pytest.fixture(scope="module")
def windows():
    """Return 96 windows whose largest values stand in the second batch of 32 alone."""
    made = np.random.default_rng(1).uniform(-1, 1, (96, *SHAPE)).astype(np.float32)
    made[32:64] *= WIDEST
    return made


@pytest.fixture(scope="module")
def model():
    return FloatModel.of_network(Small().eval(), SHAPE, BATCHES)


@pytest.fixture(scope="module")
def ranges(model, windows):
    return model.ranges(windows)


@pytest.fixture(scope="module")
def interpreter(model, ranges):
    return Interpreter(model_content=model.quantized("int8", ranges))


def details(runner):
    return [next(iter(part.items())) for part in (runner.get_input_details(), runner.get_output_details())]


def test_every_batch_has_its_signature_in_int8_with_the_same_ranges(interpreter):
    assert sorted(interpreter.get_signature_list()) == sorted(f"batch_{batch}" for batch in BATCHES)
    found = []
    for batch in BATCHES:
        (_, given), (_, made) = details(interpreter.get_signature_runner(f"batch_{batch}"))
        assert tuple(given["shape"]) == (batch, *SHAPE)
        assert tuple(made["shape"]) == (batch, 3)
        assert given["dtype"] == made["dtype"] == np.int8
        found.append((given["quantization"], made["quantization"]))
    assert len(set(found)) == 1


def test_ranges_cover_all_batches_of_the_representative_windows(interpreter):
    (_, given), _ = details(interpreter.get_signature_runner("batch_1"))
    scale, zero_point = given["quantization"]
    assert scale * (127 - zero_point) >= 0.95 * WIDEST
    assert scale * (-128 - zero_point) <= -0.95 * WIDEST


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_is_close_to_the_network_and_the_same_in_every_batch(model, ranges, windows, precision):
    interpreter = Interpreter(model_content=model.quantized(precision, ranges))

    def run(size, taken):
        runner = interpreter.get_signature_runner(f"batch_{size}")
        (input_name, given), (output_name, made) = details(runner)
        if precision == "int8":
            scale, zero_point = given["quantization"]
            taken = np.clip(np.rint(taken / scale) + zero_point, -128, 127).astype(np.int8)
        out = np.concatenate([runner(**{input_name: taken[i : i + size]})[output_name] for i in range(0, 32, size)])
        scale, zero_point = made["quantization"] if precision == "int8" else (1.0, 0)
        return (out.astype(np.float32) - zero_point) * scale

    taken = windows[32:64]
    with torch.no_grad():
        expected = Small().eval()(torch.from_numpy(taken)).numpy()
    tolerance = {"int8": 0.03, "int8-dynamic": 0.03, "int8-weights": 0.02, "float16": 2e-3, "float32": 1e-5}[precision]
    for size in BATCHES:
        assert np.abs(run(size, taken) - expected).max() < tolerance * np.abs(expected).max()
    if precision == "int8":
        np.testing.assert_array_equal(run(32, taken), run(1, taken))


def test_half_precision_takes_little_more_than_half(model, ranges):
    assert len(model.quantized("float16", ranges)) < 0.7 * len(model.content)


def test_the_same_inputs_give_the_same_bytes(model, ranges, windows):
    again = FloatModel.of_network(Small().eval(), SHAPE, BATCHES)
    assert again.content == model.content
    for precision in PRECISIONS:
        assert again.quantized(precision, again.ranges(windows)) == model.quantized(precision, ranges)


def test_too_few_windows_are_refused(model, windows):
    with pytest.raises(TooFewInputsError, match="expected at least 32 representative inputs, found 31; give more"):
        model.ranges(windows[:31])


def test_tensors_whose_values_leave_their_range_are_named(model, ranges, windows):
    assert uncovered(ranges, model.ranges(windows)) == []
    found = uncovered(model.ranges(windows[:32]), ranges)
    assert found[0].startswith("batch_32_args_0: ")
    assert "-5.955 to 5.993 in the held-out data" in found[0]
    assert all("in the representative data" in phrase and ";;" not in phrase for phrase in found)


class Odd(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, windows):
        return self.function(windows)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.linalg.svdvals, "aten._linalg_svd"),
        (lambda x: torch.cumprod(x, 1), "aten.cumprod"),
        (lambda x: torch.fft.rfft(x, dim=1).abs(), "aten._fft_r2c"),
        (lambda x: x[x > 0], "aten.index.Tensor"),
    ],
    ids=["svd", "cumprod", "fft", "index"],
)
def test_an_operator_that_cannot_be_converted_is_named_with_its_place_and_what_to_do(function, name):
    with pytest.raises(ConversionError) as caught:
        FloatModel.of_network(Odd(function).eval(), SHAPE, (1,))
    message = str(caught.value)
    assert f"the operator {name} (" in message
    assert f"{__file__}, line " in message
    assert "replace it by convolutions" in message
    assert "\n" not in message


def test_a_network_that_decides_by_its_values_is_an_error_of_one_line():
    with pytest.raises(ConversionError, match="cannot be converted"):
        FloatModel.of_network(Odd(lambda x: x if x.sum() > 0 else -x).eval(), SHAPE, (1,))
