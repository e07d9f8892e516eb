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

    def __str__(self) -> str:
        return f"{self.figure} {'>=' if self.at_least else '<='} {self.bound:g}"


class Result(msgspec.Struct, frozen=True):
    """One gate applied: to which rows (empty for the model as a whole), what was found, and whether it passes."""

    gate: Gate
    rows: str
    value: float | None
    passes: bool

    def __str__(self) -> str:
        found = "unknown" if self.value is None else f"{self.value:.5g}"
        return f"{self.rows + ' ' if self.rows else ''}{self.gate}, found {found}"


_RANKING: Final = (
    Gate("cosine_mean", 0.97, True, "cosine between quantized and float rows, mean"),
    Gate("cosine_p01", 0.9, True, "the same, first percentile"),
    Gate("overlap", 0.7, True, "share of the 5 nearest neighbours that stay the same"),
    Gate("spearman_neighbours", 0.95, True, "rank correlation of mean distances to the nearest references"),
    Gate("spearman_gaussian", 0.95, True, "rank correlation of distances from the references' Gaussian"),
    Gate("tail_shift", 0.5, False, "decades by which the p-values of the most anomalous 1 % move"),
    Gate("auroc_loss", 0.03, False, "area under the ROC curve that is lost, where inputs are labelled"),
)
_MODEL: Final = (
    Gate("size_mb", 16.0, False, "the model file, in 10^6 bytes"),
    Gate("memory_mb", 192.0, False, "resident memory that loading and running it adds, in 10^6 bytes"),
    Gate("ms_1", 500.0, False, "milliseconds for one input"),
    Gate("ms_32", 16000.0, False, "milliseconds for 32 inputs"),
    Gate("operators_missing", 0.0, False, "operators that the runtime is not known to have in these versions"),
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
