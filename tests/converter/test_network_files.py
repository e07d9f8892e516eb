"""Files of other frameworks become bundles: exported programs, ONNX, Keras; layouts, scaling, a choice of output."""

from __future__ import annotations

import logging
import os
import sys

os.environ["KERAS_BACKEND"] = "torch"  # read when it is loaded

import keras
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from agent.adapters.tflite import available_runtimes, load_picture_encoder
from agent.bundle import load_bundle
from converter.brought import Scaling
from converter.build import float_outputs
from converter.cli import main
from converter.network_files import layout_of, read_keras, read_onnx, read_program
from converter.sources import SourceError, _torchvision

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SIDE = 64
HALF = Scaling((127.5,) * 3, (127.5,) * 3)
SCALED = ["--mean", "127.5", "--deviation", "127.5"]


class Classifier(torch.nn.Module):
    """Channels first, as PyTorch has them; takes pictures from -1 to 1."""

    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second = torch.nn.Conv2d(channels, 8, 4, stride=4), torch.nn.Conv2d(8, 12, 2, stride=2)
        self.norm, self.head = torch.nn.BatchNorm2d(8), torch.nn.Linear(12, 5)

    def maps(self, scaled):
        return torch.relu(self.second(torch.relu(self.norm(self.first(scaled)))))

    def forward(self, scaled):
        return self.head(self.maps(scaled).mean((2, 3)))


class Windows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first, self.last = torch.nn.Conv1d(2, 16, 8, stride=4), torch.nn.Linear(16 * 15, 16)

    def forward(self, windows):
        return self.last(torch.relu(self.first(windows)).flatten(1))


def program_of(path, network, *shape, any_batch=True):
    open_batch = ({0: torch.export.Dim("batch")},) if any_batch else None
    given = (torch.zeros(2 if any_batch else 1, *shape),)
    torch.export.save(torch.export.export(network.eval(), given, dynamic_shapes=open_batch), path)
    return path


def weight(name, *shape, seed):
    rng = np.random.default_rng(seed)
    return numpy_helper.from_array(rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape).astype(np.float32), name)


def onnx_of(path, batch="n", channels=3, extra=()):
    """Write a classifier as other tools export it: convolutions, a pooled head; the maps are called "maps"."""
    nodes = [
        helper.make_node("Conv", ["pictures", "w1"], ["c1"], strides=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["maps"]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w3"], ["logits"], transB=1),
        *extra,
    ]
    given = helper.make_tensor_value_info("pictures", TensorProto.FLOAT, [batch, channels, SIDE, SIDE])
    made = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])
    weights = [weight("w1", 8, channels, 4, 4, seed=1), weight("w2", 12, 8, 2, 2, seed=2), weight("w3", 5, 12, seed=3)]
    graph = helper.make_graph(nodes, "classifier", [given], [made], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def keras_of(path):
    """Write the small convolutional network that Keras is taught with: grey pictures from 0 to 1."""
    keras.utils.set_random_seed(8)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1)),
            keras.layers.Conv2D(8, 4, strides=4, activation="relu"),
            keras.layers.Conv2D(12, 2, strides=2, activation="relu", name="maps"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )
    model.save(path)
    return path


@pytest.fixture
def pictures():
    return np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)


def luma(pictures):
    return pictures @ np.array([0.299, 0.587, 0.114], np.float32)


def check(folder, pictures, expected):
    """Check that a bundle passes, and gives the maps that the source's own framework gave."""
    assert main(["verify", str(folder)]) == 0
    bundle = load_bundle(folder)
    (variant,) = [one for one in bundle.manifest.variants if one.precision == "float32"]
    for runtime in available_runtimes():
        (found,) = load_picture_encoder(bundle, runtime, variant.file).run(pictures)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    coarse = load_picture_encoder(bundle, None, bundle.manifest.variants[0].file).run(pictures)[0]
    assert np.corrcoef(coarse.ravel(), expected.ravel())[0, 1] > 0.99


BOTH = ["--precision", "int8", "--precision", "float32", "--licence", "MIT"]


def test_an_exported_program_becomes_a_bundle_that_verify_passes(pictures, tmp_path):
    path = program_of(tmp_path / "eyes.pt2", Classifier(), 3, SIDE, SIDE)
    out = tmp_path / "eyes"
    assert main(["program", str(path), "--output", "relu_1", *SCALED, *BOTH, "--out", str(out)]) == 0
    bundle = load_bundle(out)
    assert bundle.manifest.licence == "MIT"
    assert "relu_1; pictures less [127.5, 127.5, 127.5], over" in (bundle.path / "PROVENANCE.md").read_text()
    given = torch.from_numpy((pictures - 127.5) / 127.5).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = Classifier().eval().maps(given).permute(0, 2, 3, 1).numpy()
    check(out, pictures, expected)


def test_an_onnx_file_becomes_a_bundle_that_verify_passes(pictures, tmp_path):
    path = onnx_of(tmp_path / "eyes.onnx")
    out = tmp_path / "eyes"
    assert main(["onnx", str(path), "--output", "maps", *SCALED, *BOTH, "--out", str(out)]) == 0
    given = ((pictures - 127.5) / 127.5).transpose(0, 3, 1, 2)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(["maps"], {"pictures": given})
    check(out, pictures, expected.transpose(0, 2, 3, 1))


def test_a_keras_file_becomes_a_bundle_that_verify_passes(pictures, tmp_path):
    path = keras_of(tmp_path / "eyes.keras")
    out = tmp_path / "eyes"
    assert main(["keras", str(path), "--output", "maps", "--deviation", "255", *BOTH, "--out", str(out)]) == 0
    model = keras.models.load_model(path)
    before = keras.Model(model.inputs, model.get_layer("maps").output)
    expected = np.asarray(before.predict(luma(pictures)[..., None] / 255, verbose=0))
    check(out, pictures, expected)


def test_windows_come_with_their_channels_where_the_program_has_them(tmp_path):
    network = read_program(program_of(tmp_path / "mine.pt2", Windows(), 2, 64), [], None)
    assert network.shape == (64, 2)
    given = np.random.default_rng(0).normal(0, 2, (5, 64, 2)).astype(np.float32)
    with torch.no_grad():
        expected = Windows().eval()(torch.from_numpy(given).movedim(-1, 1)).numpy()
    np.testing.assert_allclose(float_outputs(network, given)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_what_pytorch_exports_to_onnx_is_read(tmp_path, pictures, name):
    torch.manual_seed(3)
    network = _torchvision().get_model(name, weights=None).eval()
    given = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255
    torch.onnx.export(network, (given,), tmp_path / "x.onnx", opset_version=17, dynamo=False)
    with torch.no_grad():
        expected = network(given)
        (found,) = read_onnx(tmp_path / "x.onnx", [], Scaling((0.0,) * 3, (255.0,) * 3))(torch.from_numpy(pictures))
    torch.testing.assert_close(found[:, 0, 0], expected, rtol=1e-4, atol=1e-5)


def test_a_fixed_batch_is_kept(tmp_path, pictures):
    path = onnx_of(tmp_path / "x.onnx", 4)
    network = read_onnx(path, ["maps"], None)
    assert network.batch == 4
    given = ["--output", "maps", "--precision", "float32", "--out", str(tmp_path / "out")]
    assert main(["onnx", str(path), *given]) == 0
    assert load_bundle(tmp_path / "out").manifest.variants[0].signatures == {"batch_4": 4}
    free = read_onnx(onnx_of(tmp_path / "x.onnx"), ["maps"], None)
    (found,), (expected,) = float_outputs(network, pictures), float_outputs(free, pictures)
    assert found.shape == (3, 8, 8, 12)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_program_of_a_fixed_batch_says_so(tmp_path):
    assert read_program(program_of(tmp_path / "x.pt2", Windows(), 2, 64, any_batch=False), [], None).batch == 1
    assert read_program(program_of(tmp_path / "x.pt2", Windows(), 2, 64), [], None).batch is None


def test_grey_networks_see_the_brightness(tmp_path, pictures):
    network = read_onnx(onnx_of(tmp_path / "x.onnx", channels=1), ["maps"], HALF)
    given = (luma(pictures)[:, None] - 127.5) / 127.5
    (expected,) = ReferenceEvaluator(onnx.load(tmp_path / "x.onnx")).run(["maps"], {"pictures": given})
    np.testing.assert_allclose(
        float_outputs(network, pictures)[0], expected.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("own", "shape", "channels", "last"),
    [
        ((3, 64, 64), (64, 64, 3), 3, False),
        ((64, 64, 3), (64, 64, 3), 3, True),
        ((1, 28, 28), (28, 28, 3), 1, False),
        ((28, 28, 1), (28, 28, 3), 1, True),
        ((64, 2), (64, 2), 2, True),
        ((2, 64), (64, 2), 2, False),
        ((64, 1), (64, 2), 1, True),
        ((1, 64), (64, 2), 1, False),
        ((64,), (64, 2), 1, True),
    ],
)
def test_layouts_are_told_by_their_shape(own, shape, channels, last):
    found = layout_of("x", own)
    assert (found.shape, found.channels, found.last, found.flat) == (shape, channels, last, len(own) == 1)


@pytest.mark.parametrize("own", [(), (None, 2), (4, 64, 64), (3, None, None), (3, 64, 32), (3, 2, 64, 64), (7, 9)])
def test_other_inputs_are_refused(own):
    with pytest.raises(SourceError, match="x: expected an input"):
        layout_of("x", own)


def test_a_network_of_values_alone_is_given_no_differences(tmp_path):
    class Sum(torch.nn.Module):
        def forward(self, values):
            return values.sum(1, keepdim=True)

    program = torch.export.export(Sum(), (torch.zeros(1, 64),))
    given = np.random.default_rng(0).normal(0, 2, (3, 64, 2)).astype(np.float32)
    torch.export.save(program, tmp_path / "sum.pt2")
    (found,) = float_outputs(read_program(tmp_path / "sum.pt2", [], None), given)
    np.testing.assert_allclose(found[:, 0], given[..., 0].sum(1), rtol=1e-5)


@pytest.mark.parametrize(
    ("read", "name", "message"),
    [
        (read_program, "x.pt2", "expected a program that torch.export.save wrote, found none"),
        (read_onnx, "x.onnx", "expected an ONNX model, found something else"),
        (read_keras, "x.keras", "expected a model that Keras 3 can load, found something else"),
    ],
)
@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
def test_a_file_that_holds_no_network_is_an_error_that_names_it(tmp_path, caplog, read, name, message, content):
    (tmp_path / name).write_bytes(content)
    logger = logging.getLogger("torch.export")  # hands nothing on to others
    logger.addHandler(caplog.handler)
    with pytest.raises(SourceError, match=rf"{name}: {message}"):
        read(tmp_path / name, [], None)
    logger.removeHandler(caplog.handler)
    assert not caplog.records
    with pytest.raises(OSError, match="nothing"):
        read(tmp_path / f"nothing-{name}", [], None)


def test_what_can_be_chosen_is_named(tmp_path):
    with pytest.raises(SourceError, match=r"expected the name of a node, found 'x'; .*relu_1 \[1, 12, 8, 8\]"):
        read_program(program_of(tmp_path / "x.pt2", Classifier(), 3, SIDE, SIDE, any_batch=False), ["x"], None)
    with pytest.raises(SourceError, match="expected a tensor that depends on the input, found 'x'; the last are c1, "):
        read_onnx(onnx_of(tmp_path / "x.onnx"), ["x"], None)
    with pytest.raises(SourceError, match=r"expected the name of a layer, found 'x'; .*maps \[None, 8, 8, 12\]"):
        read_keras(keras_of(tmp_path / "x.keras"), ["x"], None)


def test_an_embedding_of_a_picture_is_a_map_of_one_place(tmp_path, pictures):
    path = onnx_of(tmp_path / "x.onnx")
    (found,) = float_outputs(read_onnx(path, ["flat"], None), pictures)
    (expected,) = ReferenceEvaluator(onnx.load(path)).run(["flat"], {"pictures": pictures.transpose(0, 3, 1, 2)})
    assert found.shape == (3, 1, 1, 12)
    np.testing.assert_allclose(found[:, 0, 0], expected, rtol=1e-4)


def test_a_map_of_a_window_is_refused(capsys, tmp_path):
    path = program_of(tmp_path / "x.pt2", Windows(), 2, 64)
    assert main(["program", str(path), "--output", "relu", "--out", str(tmp_path / "out")]) == 78
    assert "expected one embedding [batch, dim], found output 0 [1, 16, 15]" in capsys.readouterr().err


def test_a_program_that_was_exported_in_training_is_refused(tmp_path):
    program = torch.export.export(Classifier().train(), (torch.zeros(2, 3, SIDE, SIDE),))
    torch.export.save(program, tmp_path / "x.pt2")
    with pytest.raises(SourceError, match="expected a network in evaluation mode, found batch_norm in training"):
        read_program(tmp_path / "x.pt2", ["relu_1"], None)


def test_two_inputs_are_refused(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, a, b):
            return a + b

    torch.export.save(torch.export.export(Two(), (torch.zeros(1, 64), torch.zeros(1, 64))), tmp_path / "x.pt2")
    with pytest.raises(SourceError, match="expected one input, found a, b"):
        read_program(tmp_path / "x.pt2", [], None)
    a, b = (keras.Input((64,)) for _ in range(2))
    keras.Model([a, b], keras.layers.Add()([a, b])).save(tmp_path / "x.keras")
    with pytest.raises(SourceError, match="expected a model with one input, found 2"):
        read_keras(tmp_path / "x.keras", [], None)
    model = onnx.load(onnx_of(tmp_path / "x.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))
    onnx.save(model, tmp_path / "x.onnx")
    with pytest.raises(SourceError, match="expected one input, found pictures, more"):
        read_onnx(tmp_path / "x.onnx", [], None)


def test_a_saved_model_is_answered_with_the_way_to_go(tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(b"")
    with pytest.raises(SourceError, match="found a folder; make a TFLite file of it"):
        read_keras(tmp_path, [], None)


def test_a_keras_file_that_would_run_code_is_refused(tmp_path):
    given = keras.Input((64,))
    keras.Model(given, keras.layers.Lambda(lambda x: x * 2)(given)).save(tmp_path / "x.keras")
    with pytest.raises(SourceError, match="expected a model that Keras 3 can load"):
        read_keras(tmp_path / "x.keras", [], None)


@pytest.mark.parametrize("package", ["onnx", "keras"])
def test_without_its_package_a_source_names_the_extra(monkeypatch, capsys, tmp_path, package):
    for name in [one for one in sys.modules if one.startswith(f"{package}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "x").write_bytes(b"")
    assert main([package, str(tmp_path / "x")]) == 78
    told = f"{package} is not installed; pip install 'redshank[converter,{package}]' (Python 3.11)\n"
    assert capsys.readouterr().err == told
