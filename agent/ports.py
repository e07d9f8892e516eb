"""What the pipeline needs from the outside, as Protocols. Adapters fulfil them; tests bring their own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from agent.core.alerting import AlertTransition, Severity
from agent.core.budget import BudgetControl
from agent.core.types import F32, U8, Assessment, StreamPhase


class InboundMessage(msgspec.Struct, frozen=True, gc=False):
    """One MQTT publication as it arrived.

    `received_at` is wall-clock time (s since the epoch), `elapsed_s` a monotonic clock. `connection` counts
    connections made by this process: an acknowledgement is valid only on the connection it came from. `superseded`: it
    is only to be acknowledged, for it was taken on an earlier connection, or a newer picture came while it waited, and
    its payload was let go. `again`: the broker may have sent it before.
    """

    topic: str
    payload: bytes
    received_at: float
    elapsed_s: float
    qos: int = 0
    retained: bool = False
    message_id: int = 0
    connection: int = 0
    superseded: bool = False
    again: bool = False


class Scored(Protocol):
    """What is counted of a decision, on readings or on a picture."""

    @property
    def at(self) -> float:
        """Return its time, s since the epoch."""
        ...

    @property
    def score(self) -> float:
        """Return -log10 of the p-value."""
        ...

    @property
    def p_value(self) -> float | None:
        """Return the p-value."""
        ...


class Encoder(Protocol):
    """A loaded encoder bundle. `encode` maps float32 [n, length, features] to float32 [n, dim].

    The output is what the quantized network gave, dequantized: `round(y / output_step) + output_offset`
    is the int8 it came from, so references can be kept as int8 without loss.
    """

    name: str
    digest: str
    runtime: str
    length: int
    dim: int
    output_step: float
    output_offset: int

    def encode(self, windows: F32) -> F32:
        """Return one embedding per window, in order; any n >= 0."""
        ...


class PictureEncoder(Protocol):
    """A loaded encoder bundle of pictures; `shape` is (height, width, 3), `output_shapes` (rows, columns, dim) each.

    `run` maps uint8 [n, *shape], RGB from 0 to 255, to float32 [n, *output shape], one for each output.
    """

    name: str
    digest: str
    runtime: str
    shape: tuple[int, ...]
    output_shapes: list[tuple[int, ...]]

    def run(self, inputs: U8) -> list[F32]:
        """Return the outputs, in the manifest's order; any n >= 0."""
        ...


class Watched(Protocol):
    """What a scrape asks of a stream, in a thread that is not the worker's: it reads and changes nothing."""

    @property
    def name(self) -> str:
        """Return the stream's name."""
        ...

    @property
    def phase(self) -> StreamPhase:
        """Return the phase it is in."""
        ...

    @property
    def severity(self) -> Severity:
        """Return how loud its alerts are."""
        ...

    @property
    def firing(self) -> bool:
        """Tell whether one of its alerts fires."""
        ...

    @property
    def reference_fill(self) -> int:
        """Return how many references there are."""
        ...

    @property
    def budget(self) -> BudgetControl:
        """Return what steers the threshold."""
        ...


class Observer(Protocol):
    """Who counts what happens: Prometheus in the daemon, nobody in a replay."""

    def rejected(self, topic: str, reason: str) -> None:
        """Count a dropped payload or sample."""
        ...

    def timed_encode(self, encoder: Encoder, windows: F32) -> F32:
        """Call the encoder and measure how long it takes."""
        ...

    def timed_run(self, encoder: PictureEncoder, pictures: U8) -> list[F32]:
        """Call an encoder of pictures and measure how long it takes."""
        ...

    def dropped(self) -> None:
        """Count a picture that was not looked at because it came too soon."""
        ...

    def timed_step(self, step: Iterator[Assessment]) -> Assessment:
        """Take the next assessment and measure how long it takes."""
        ...

    def decided(self, stream: str, assessment: Scored, received_at: float) -> None:
        """Note a decision."""
        ...

    def transitioned(self, stream: str, transition: AlertTransition) -> None:
        """Note an alert's transition."""
        ...

    def commanded(self, command: str, outcome: str) -> None:
        """Count an operator's command; both words are from closed sets."""
        ...
