from __future__ import annotations

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter

from converter.quantize import BATCHES, export_int8

# The frameworks warn of one another.
pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SHAPE = (8, 2)
WIDEST = 6.0


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(4)
        self.dense = torch.nn.Linear(16, 3)

    def forward(self, windows):
        return self.dense(windows.flatten(1))


@pytest.fixture(scope="module")
def windows():
    """Return 96 windows whose largest values stand in the second batch of 32 alone."""
    made = np.random.default_rng(1).uniform(-1, 1, (96, *SHAPE)).astype(np.float32)
    made[32:64] *= WIDEST
    return made


@pytest.fixture(scope="module")
def interpreter(windows, tmp_path_factory):
    network = Small().eval()
    path = tmp_path_factory.mktemp("model") / "small.tflite"
    path.write_bytes(export_int8(network, windows))
    return Interpreter(str(path))


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


@pytest.mark.parametrize("batch", BATCHES)
def test_quantized_outputs_are_close_to_the_float_ones_and_the_same_in_every_batch(interpreter, windows, batch):
    def run(size, taken):
        runner = interpreter.get_signature_runner(f"batch_{size}")
        (input_name, given), (output_name, made) = details(runner)
        scale, zero_point = given["quantization"]
        integers = np.clip(np.rint(taken / scale) + zero_point, -128, 127).astype(np.int8)
        out = np.concatenate([runner(**{input_name: integers[i : i + size]})[output_name] for i in range(0, 32, size)])
        scale, zero_point = made["quantization"]
        return (out.astype(np.float32) - zero_point) * scale

    taken = windows[32:64]
    with torch.no_grad():
        expected = Small().eval()(torch.from_numpy(taken)).numpy()
    found = run(batch, taken)
    assert np.abs(found - expected).max() < 0.03 * np.abs(expected).max()
    np.testing.assert_array_equal(found, run(1, taken))


def test_too_few_windows_are_refused(windows):
    with pytest.raises(ValueError, match="expected at least 32 representative windows, found 31"):
        export_int8(Small(), windows[:31])
