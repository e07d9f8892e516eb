"""What a variant must reach before it is written, and on a device before it is trusted: a table, one entry each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from agent.errors import RedshankError

if TYPE_CHECKING:
    from converter.verify import Measured


class GateError(RedshankError):
    """A gate that cannot be set as asked for, or a bundle of which nothing passes them."""


class Gate(msgspec.Struct, frozen=True):
    """A bound on one figure: `at_least` or `at_most` it."""

    figure: str
    bound: float
    at_least: bool
    meaning: str

    def passes(self, value: float) -> bool:
        """Tell whether a value keeps the bound; what is not a number does not."""
        return value >= self.bound if self.at_least else value <= self.bound

    @property
    def sign(self) -> str:
        """Return the bound's sign."""
        return ">=" if self.at_least else "<="

    def __str__(self) -> str:
        return f"{self.figure} {self.sign} {self.bound:g}"


class Result(msgspec.Struct, frozen=True):
    """One gate applied: to which rows (empty for the model as a whole), what was found, and whether it passes."""

    gate: Gate
    rows: str
    value: float
    passes: bool

    def __str__(self) -> str:
        return f"{self.rows + ' ' if self.rows else ''}{self.gate}, found {self.value:.5g}"


def _at_least(figure: str, bound: float, meaning: str) -> Gate:
    return Gate(figure, bound, at_least=True, meaning=meaning)


def _at_most(figure: str, bound: float, meaning: str) -> Gate:
    return Gate(figure, bound, at_least=False, meaning=meaning)


_RANKING: Final = (
    _at_least("cosine_mean", 0.97, "cosine between quantized and float rows, mean"),
    _at_least("cosine_p01", 0.9, "the same, first percentile"),
    _at_least("overlap", 0.7, "share of the 5 nearest neighbours that stay the same"),
    _at_least("spearman_neighbours", 0.95, "rank correlation of mean distances to the nearest references"),
    _at_least("spearman_gaussian", 0.95, "rank correlation of distances from the references' Gaussian"),
    _at_most("tail_shift", 0.5, "decades by which the p-values of the most anomalous 1 % move"),
    _at_most("auroc_loss", 0.03, "area under the ROC curve that is lost, where inputs are labelled"),
)
_MODEL: Final = (
    _at_most("size_mb", 16.0, "the model file, in 10^6 bytes"),
    _at_most("memory_mb", 192.0, "resident memory that loading and running it adds, in 10^6 bytes"),
    _at_most("ms_1", 500.0, "milliseconds for one input"),
    _at_most("ms_32", 16000.0, "milliseconds for 32 inputs"),
    _at_most("operators_missing", 0.0, "operators that the runtime is not known to have in these versions"),
)
GATES: Final = {gate.figure: gate for gate in (*_RANKING, *_MODEL)}


def with_bounds(bounds: list[str]) -> dict[str, Gate]:
    """Return the gates with other bounds, each given as `figure=number`. Raises GateError."""
    gates = dict(GATES)
    for text in bounds:
        figure, _, number = text.partition("=")
        try:
            gates[figure] = msgspec.structs.replace(gates[figure], bound=float(number))
        except (KeyError, ValueError):
            raise GateError(f"--gate: expected FIGURE=NUMBER with one of {', '.join(GATES)}, found {text!r}") from None
    return gates


def apply(gates: dict[str, Gate], found: Measured) -> list[Result]:
    """Return every gate's result, those of the ranking for each kind of rows."""
    results = []
    for gate in _RANKING:
        for rows, figures in found.rows.items():
            value = getattr(figures, gate.figure)
            bound = gates[gate.figure]
            if value is not None:
                results.append(Result(bound, rows, value, bound.passes(value)))
    for gate in _MODEL:
        value = getattr(found, gate.figure)
        if value is not None:
            results.append(Result(gates[gate.figure], "", value, gates[gate.figure].passes(value)))
    return results
