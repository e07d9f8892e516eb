"""Which operators a model holds, in which versions, and since which runtime release they are there.

The releases are in operators.json, from the table that the runtime's own authors keep (its field `source`). A model is
read here with the standard library: on a device nothing else is there to read it with.
"""

from __future__ import annotations

import struct
from functools import cache
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.adapters.tflite import IDENTIFIER
from agent.errors import BundleError

LAST_TFLITE_RUNTIME: Final = (2, 14, 0)  # the package tflite-runtime ended with it; ai-edge-litert goes on
SUCCESSOR: Final = "ai-edge-litert"
_REQUIRED: Final = {
    "int8": ("CONV_2D", 3),
    "int8-dynamic": ("CONV_2D", 5),
    "int8-weights": ("DEQUANTIZE", 5),
    "float16": ("DEQUANTIZE", 3),
}
_OPERATOR_CODES: Final = 1  # field numbers, from the schema's tables Model and OperatorCode
_SUBGRAPHS: Final = 2
_OLD_CODE, _CUSTOM, _VERSION, _CODE = 0, 1, 2, 3
_OPERATORS: Final = 3
_OPCODE_INDEX: Final = 0


class Operator(msgspec.Struct, frozen=True, order=True):
    """An operator, its version, how often it occurs, and the first TFLite release that has it, where that is known."""

    name: str
    version: int
    count: int
    release: str | None


@cache
def _table() -> dict[str, Any]:
    return msgspec.json.decode(Path(__file__).with_suffix(".json").read_bytes())["operators"]


@cache
def _names() -> dict[int, str]:
    return {entry["code"]: name for name, entry in _table().items()}


def release_of(name: str, version: int) -> str | None:
    """Return the first release that has this version of an operator, None where the table does not tell."""
    releases = _table().get(name, {}).get("releases", [])
    return releases[version - 1] if 0 < version <= len(releases) else None


def operators_of(model: bytes) -> list[Operator]:
    """Return the operators of a TFLite model, by name and version. Raises BundleError if it cannot be read."""
    if model[4:8] != IDENTIFIER:
        raise BundleError("expected a TFLite model, found something else; install the bundle again")
    try:
        root = _Table(model, struct.unpack_from("<I", model, 0)[0])
        codes = [_code(table) for table in root.tables(_OPERATOR_CODES)]
        counts = [0] * len(codes)
        for graph in root.tables(_SUBGRAPHS):
            for operator in graph.tables(_OPERATORS):
                counts[operator.scalar(_OPCODE_INDEX, "<I", 0)] += 1
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise BundleError(
            f"expected a TFLite model, found something else ({error}); install the bundle again"
        ) from None
    return sorted(
        Operator(name, version, count, release_of(name, version))
        for (name, version), count in zip(codes, counts, strict=True)
    )


def required(precision: str) -> list[Operator]:
    """Return what a precision needs besides what the model says: the quantizer leaves operators at version 1.

    Versions as the runtime's authors give them to a convolution of int8 by channel (3), to one that makes int8 of float
    inputs (5), and to weights that are made float by channel (5) or from half precision (3).
    """
    name, version = _REQUIRED.get(precision, ("ADD", 1))
    return [Operator(name, version, 0, release_of(name, version))]


def oldest_runtime(operators: list[Operator]) -> str:
    """Return the oldest runtime that has all these operators: a TFLite release, or its successor."""
    releases = [_parsed(one.release) for one in operators if one.release is not None]
    newest = max(releases, default=(1, 5, 0))
    if len(releases) < len(operators) or newest > LAST_TFLITE_RUNTIME:
        return SUCCESSOR
    return ".".join(map(str, newest))


def too_new(operators: list[Operator]) -> list[Operator]:
    """Return the operators that the last tflite-runtime lacks, or of which the table does not tell."""
    return [one for one in operators if one.release is None or _parsed(one.release) > LAST_TFLITE_RUNTIME]


def _parsed(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def _code(table: _Table) -> tuple[str, int]:
    # Codes above 127 stand in the newer field; a model that uses only old ones may leave it out.
    number = max(table.scalar(_OLD_CODE, "<b", 0), table.scalar(_CODE, "<i", 0))
    name = _names().get(number, f"operator {number}")
    if name == "CUSTOM":
        name = f"CUSTOM {table.text(_CUSTOM)}"
    return name, table.scalar(_VERSION, "<i", 1)


class _Table:
    """A table of a flatbuffer: a place in the bytes, and through its vtable where each field stands."""

    def __init__(self, data: bytes, place: int) -> None:
        self._data, self._place = data, place
        self._vtable = place - struct.unpack_from("<i", data, place)[0]
        (self._size,) = struct.unpack_from("<H", data, self._vtable)

    def _field(self, number: int) -> int:
        """Return where a field stands, 0 if it is left out."""
        slot = 4 + 2 * number
        offset: int = struct.unpack_from("<H", self._data, self._vtable + slot)[0] if slot < self._size else 0
        return self._place + offset if offset else 0

    def _pointed(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._data, place)[0])

    def scalar(self, number: int, form: str, default: int) -> int:
        place = self._field(number)
        return int(struct.unpack_from(form, self._data, place)[0]) if place else default

    def text(self, number: int) -> str:
        place = self._field(number)
        if not place:
            return ""
        begin = self._pointed(place)
        (length,) = struct.unpack_from("<I", self._data, begin)
        return self._data[begin + 4 : begin + 4 + length].decode()

    def tables(self, number: int) -> list[_Table]:
        place = self._field(number)
        if not place:
            return []
        begin = self._pointed(place)
        (count,) = struct.unpack_from("<I", self._data, begin)
        if count * 4 > len(self._data):
            raise IndexError(f"a list of {count}")
        return [_Table(self._data, self._pointed(begin + 4 + 4 * index)) for index in range(count)]
