"""A TFLite file of the user's own becomes a bundle: cut behind a tensor, scaled, as it is or quantized."""

from __future__ import annotations

import copy

import litert_torch
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools.flatbuffer_utils import convert_object_to_bytearray, read_model_from_bytearray
from ai_edge_quantizer import quantizer, recipe

from agent.adapters.tflite import available_runtimes, load_encoder, load_picture_encoder
from agent.bundle import load_bundle
from converter.brought import Scaling, scaling_of
from converter.cli import main
from converter.quantize import AS_GIVEN, quiet
from converter.sources import SourceError
from converter.tflite_file import read_tflite

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SIDE = 64


class Classifier(torch.nn.Module):
    """Two convolutions and a head that is heavier than both; takes pictures from -1 to 1."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.first, self.second = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.Conv2d(8, 12, 2, stride=2)
        self.head = torch.nn.Linear(12 * 8 * 8, 500)

    def maps(self, scaled):
        made = torch.relu(self.first(scaled.permute(0, 3, 1, 2)))
        return torch.relu(self.second(made)).permute(0, 2, 3, 1)

    def forward(self, scaled):
        return self.head(self.maps(scaled).flatten(1))


class Windows(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.first, self.last = torch.nn.Linear(128, 64), torch.nn.Linear(64, 16)

    def forward(self, windows):
        return self.last(torch.relu(self.first(windows.flatten(1))))


def file_of(path, network, *shape):
    with quiet():
        litert_torch.convert(network.eval(), (torch.zeros(shape),)).export(str(path))
    return path


def quantized(path, source, given):
    """Write the full int8 model of another file, as a user's own tool would."""
    with quiet():
        tool = quantizer.Quantizer(str(source))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        seen = tool.calibrate({"serving_default": [{"args_0": one[None]} for one in given]})
        tool.quantize(seen).export_model(str(path))
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Return the user's files: a classifier of pictures, an encoder of windows, and that one in int8."""
    folder = tmp_path_factory.mktemp("tflite")
    made = {
        "eyes": file_of(folder / "eyes.tflite", Classifier(), 1, SIDE, SIDE, 3),
        "windows": file_of(folder / "windows.tflite", Windows(), 1, 64, 2),
    }
    given = np.random.default_rng(1).normal(0, 2, (64, 64, 2)).astype(np.float32)
    return made | {"int8": quantized(folder / "int8.tflite", made["windows"], given)}


def tensor_of(path, shape):
    """Return the name of the last tensor of a shape that an operator makes."""
    (graph,) = read_model_from_bytearray(bytearray(path.read_bytes())).subgraphs
    made = [graph.tensors[one] for operator in graph.operators for one in operator.outputs]
    return [one.name.decode() for one in made if list(one.shape) == shape][-1]


@pytest.fixture(scope="session")
def maps(files):
    return tensor_of(files["eyes"], [1, 8, 8, 12])


@pytest.fixture
def pictures():
    return np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)


def maps_of(pictures):
    with torch.no_grad():
        return Classifier().eval().maps(torch.from_numpy((pictures - 127.5) / 127.5)).numpy()


def test_a_classifier_is_cut_behind_its_maps_scaled_and_proven(capsys, files, maps, pictures, tmp_path):
    out = tmp_path / "eyes"
    scaled = ["--mean", "127.5", "--deviation", "127.5"]
    given = ["--output", maps, *scaled, "--licence", "MIT", "--out", str(out)]
    assert main(["tflite", str(files["eyes"]), *given]) == 0
    assert "float32 is kept for tflite-runtime, ai-edge-litert" in capsys.readouterr().out
    bundle = load_bundle(out)
    assert bundle.manifest.kind == "image"
    assert bundle.manifest.licence == "MIT"
    assert [one.shape for one in bundle.manifest.outputs] == [[8, 8, 12]]
    (variant,) = bundle.manifest.variants
    for runtime in available_runtimes():
        (found,) = load_picture_encoder(bundle, runtime, variant.file).run(pictures)
        np.testing.assert_allclose(found, maps_of(pictures), rtol=1e-4, atol=1e-5)
    assert (out / variant.file).stat().st_size < files["eyes"].stat().st_size / 10  # without the head's weights
    about = (out / "PROVENANCE.md").read_text()
    assert maps in about
    assert "what it gives itself" in about
    assert main(["verify", str(out)]) == 0


def test_a_float_file_is_quantized_where_that_is_asked_for(files, maps, pictures, tmp_path):
    scaled = ["--mean", "127.5", "--deviation", "127.5", "--precision", "int8"]
    out = str(tmp_path / "eyes")
    assert main(["tflite", str(files["eyes"]), "--output", maps, *scaled, "--out", out]) == 0
    bundle = load_bundle(tmp_path / "eyes")
    assert [one.precision for one in bundle.manifest.variants] == ["int8"]
    found, expected = load_picture_encoder(bundle).run(pictures)[0], maps_of(pictures)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99


def test_a_file_of_int8_is_bundled_as_it_is(convert, files, tmp_path):
    done = convert("tflite", files["int8"], "--name", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "mine")
    (variant,) = bundle.manifest.variants
    assert (variant.precision, variant.file) == (AS_GIVEN, "mine.as-given.tflite")
    given = np.random.default_rng(3).normal(0, 2, (5, 64, 2)).astype(np.float32)
    with torch.no_grad():
        expected = Windows().eval()(torch.from_numpy(given)).numpy()
    encoder = load_encoder(bundle)
    assert np.corrcoef(encoder.encode(given).ravel(), expected.ravel())[0, 1] > 0.99
    assert encoder.output_step == variant.outputs[0].scale
    assert convert("verify", "mine", cwd=tmp_path).returncode == 0


def too_new(model):
    (code,) = [one for one in model.operatorCodes if one.builtinCode == schema.BuiltinOperator.FULLY_CONNECTED]
    code.version = 13


def test_a_quantized_file_is_kept_for_the_runtime_that_has_its_operators(capsys, files, tmp_path):
    path = changed(files["int8"], tmp_path / "new.tflite", too_new)
    assert main(["tflite", str(path), "--out", str(tmp_path / "out")]) == 0
    assert "as-given is not for tflite-runtime: " in capsys.readouterr().out
    (variant,) = load_bundle(tmp_path / "out").manifest.variants
    assert variant.runtimes == ["ai-edge-litert"]


def test_int8_pictures_are_scaled_by_the_grid_of_the_input(files, maps, pictures, tmp_path):
    path = quantized(tmp_path / "int8.tflite", files["eyes"], (pictures - 127.5) / 127.5)
    file = read_tflite(path, [maps], Scaling((127.5,) * 3, (127.5,) * 3))
    plain = read_tflite(path, [maps], None)
    assert file.content == plain.content
    assert file.input.scale == pytest.approx(127.5 * plain.input.scale)
    assert np.corrcoef(file.run(pictures)[0].ravel(), maps_of(pictures).ravel())[0, 1] > 0.99
    with pytest.raises(SourceError, match="expected one mean and one deviation for all colours, for it takes int8"):
        read_tflite(path, [maps], Scaling((127.5, 0.0, 1.0), (127.5,) * 3))


def changed(source, path, change):
    """Write a model that is another one, changed."""
    model = read_model_from_bytearray(bytearray(source.read_bytes()))
    change(model)
    path.write_bytes(convert_object_to_bytearray(model))
    return path


def without_signature(model):
    model.signatureDefs = None


def any_batch(model):
    for tensor in model.subgraphs[0].tensors[:1]:
        tensor.shapeSignature = [-1, 64, 2]


@pytest.mark.parametrize("change", [without_signature, any_batch])
def test_files_of_older_converters_are_taken(files, tmp_path, change):
    given = np.random.default_rng(3).normal(0, 2, (5, 64, 2)).astype(np.float32)
    file = read_tflite(changed(files["windows"], tmp_path / "old.tflite", change), [], None)
    with torch.no_grad():
        np.testing.assert_allclose(file.run(given)[0], Windows().eval()(torch.from_numpy(given)), atol=1e-5)


def two_signatures(model):
    (one,) = model.signatureDefs
    model.signatureDefs = [one, schema.SignatureDefT(one.inputs, one.outputs, b"train", 0)]


def two_graphs(model):
    model.subgraphs = 2 * model.subgraphs


def two_inputs(model):
    model.subgraphs[0].inputs = 2 * model.subgraphs[0].inputs


def unsigned(model):
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].type = schema.TensorType.UINT8


def grey(model):
    model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]].shape = [1, 28, 28, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (two_signatures, "expected one signature, found serving_default, train"),
        (two_graphs, "expected one graph, found 2"),
        (two_inputs, "expected one input, found"),
        (unsigned, "expected float32 or int8 with one scale for .*, found uint8; convert the model with such"),
        (grey, r"expected an input \[batch, length, 2\] .* found \[batch, 28, 28, 1\]"),
    ],
)
def test_a_model_that_the_agent_has_no_use_for_is_refused(files, tmp_path, change, message):
    with pytest.raises(SourceError, match=rf"odd\.tflite: {message}"):
        read_tflite(changed(files["windows"], tmp_path / "odd.tflite", change), [], None)


def test_outputs_that_do_not_depend_on_the_input_are_refused(files, tmp_path):
    def cut_off(model):
        (graph,) = model.subgraphs
        graph.operators = graph.operators[1:]

    with pytest.raises(SourceError, match="expected outputs that depend on the input, found none"):
        read_tflite(changed(files["windows"], tmp_path / "odd.tflite", cut_off), [], None)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no model", b"\x40\x00\x00\x00TFL3\x01\x02"])
def test_a_file_that_holds_no_model_is_an_error_that_names_it(tmp_path, content):
    (tmp_path / "none.tflite").write_bytes(content)
    with pytest.raises(SourceError, match=r"none\.tflite: expected a TFLite model, found"):
        read_tflite(tmp_path / "none.tflite", [], None)


def test_the_tensors_that_can_be_chosen_are_named(files, maps):
    with pytest.raises(
        SourceError, match="expected a tensor that an operator makes, found 'conv9'; the last are"
    ) as told:
        read_tflite(files["eyes"], ["conv9"], None)
    assert f"{maps} [1, 8, 8, 12]" in str(told.value)


def test_weights_that_are_prepared_by_operators_are_not_among_the_tensors_that_can_be_chosen(files, tmp_path):
    def dequantized(model):
        (graph,) = model.subgraphs
        weights = next(
            one for one in graph.tensors if len(one.shape) == 4 and model.buffers[one.buffer].data is not None
        )
        made = copy.deepcopy(weights)
        made.name = b"conv/weights_dequant"
        graph.tensors.append(made)
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
        model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(model.operatorCodes) - 1
        operator.inputs, operator.outputs = [graph.tensors.index(weights)], [len(graph.tensors) - 1]
        graph.operators.append(operator)

    path = changed(files["eyes"], tmp_path / "weights.tflite", dequantized)
    with pytest.raises(SourceError, match="found 'conv9'; the last are") as told:
        read_tflite(path, ["conv9"], None)
    assert "dequant" not in str(told.value)


def test_an_embedding_of_a_picture_and_two_of_a_window_are_refused(files):
    with pytest.raises(SourceError, match=r"expected maps .* found .* \[1, 500\]; choose a tensor before it is pooled"):
        read_tflite(files["eyes"], [], None)
    made = tensor_of(files["windows"], [1, 64])
    with pytest.raises(SourceError, match=r"expected one embedding \[batch, dim\], found"):
        read_tflite(files["windows"], [made, tensor_of(files["windows"], [1, 16])], None)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("int8", ["--precision", "float16"], "expected a float32 model with --precision float16, found one that is"),
        ("windows", ["--mean", "1"], "expected no --mean and --deviation for an encoder of kind 'sensor'"),
        ("eyes", ["--deviation", "0"], "--deviation: expected numbers above 0, found '0'"),
        ("eyes", ["--mean", "1,2"], "--mean: expected one number, or three with commas"),
        ("eyes", ["--mean", "x"], "--mean: expected one number, or three with commas"),
    ],
)
def test_options_that_do_not_fit_end_with_78_and_a_sentence(capsys, files, tmp_path, name, options, message):
    assert main(["tflite", str(files[name]), *options, "--out", str(tmp_path / "out")]) == 78
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_colours_may_have_numbers_of_their_own():
    assert scaling_of("123.7,116,103", None) == Scaling((123.7, 116.0, 103.0), (1.0, 1.0, 1.0))
    assert scaling_of(None, None) is None
