"""What a network that somebody brings has to take and to give, so that the agent can use it."""

from __future__ import annotations

from typing import Final

import msgspec

from converter.sources import SourceError

COLOURS: Final = 3
FEATURES: Final = 2
_PICTURE: Final = 3  # axes of one: rows, columns, colours


class Scaling(msgspec.Struct, frozen=True):
    """A network takes (x - mean) / deviation of pictures from 0 to 255: one number for each colour, red first."""

    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


def scaling_of(mean: str | None, deviation: str | None) -> Scaling | None:
    """Return what the options --mean and --deviation say, None where neither is given. Raises SourceError."""
    if mean is None and deviation is None:
        return None
    found = Scaling(_colours("--mean", mean or "0"), _colours("--deviation", deviation or "1"))
    if min(found.deviation) <= 0:
        raise SourceError(f"--deviation: expected numbers above 0, found {deviation!r}")
    return found


def _colours(option: str, text: str) -> tuple[float, float, float]:
    try:
        numbers = [float(one) for one in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= COLOURS
    if len(numbers) != COLOURS or not all(abs(one) < float("inf") for one in numbers):
        raise SourceError(f"{option}: expected one number, or three with commas (red, green, blue), found {text!r}")
    red, green, blue = numbers
    return red, green, blue


def kind_of(where: str, shape: tuple[int, ...]) -> str:
    """Return which kind of stream inputs of this shape come from: "sensor" or "image". Raises SourceError."""
    if len(shape) == _PICTURE and shape[0] == shape[1] > 0 and shape[2] == COLOURS:
        return "image"
    if len(shape) == FEATURES and shape[0] > 0 and shape[1] == FEATURES:
        return "sensor"
    raise SourceError(
        f"{where}: expected an input [batch, length, 2] of values and differences, or [batch, rows, columns, 3] of "
        f"square pictures, found [batch, {', '.join(map(str, shape))}]"
    )


def check_scaling(where: str, kind: str, scaling: Scaling | None) -> None:
    """Raise SourceError where readings would be scaled: the agent scales them."""
    if scaling is not None and kind != "image":
        raise SourceError(
            f"{where}: expected no --mean and --deviation for an encoder of kind {kind!r}; windows come scaled already"
        )


def check_outputs(where: str, kind: str, outputs: dict[str, list[int]], batch: int) -> None:
    """Raise SourceError unless the outputs, each [batch, ...] by its name, are what the agent takes of this kind.

    One embedding [batch, dim] of a window, one or several maps [batch, rows, columns, dim] of a picture.
    """
    axes = _PICTURE + 1 if kind == "image" else FEATURES
    fit = all(len(shape) == axes and shape[0] == batch and min(shape) > 0 for shape in outputs.values())
    if fit and (kind == "image" or len(outputs) == 1):
        return
    wanted = "maps [batch, rows, columns, dim] of pictures" if kind == "image" else "one embedding [batch, dim]"
    found = ", ".join(f"{name} {shape}" for name, shape in outputs.items())
    before = "before it is pooled or flattened" if kind == "image" else "behind pooling or flattening"
    raise SourceError(
        f"{where}: expected {wanted}, found {found}; choose a tensor {before}, or shape it in the network"
    )
