"""What a replay's report remembers of a stream of pictures: the last ones, small, and those of its alerts.

Pictures are kept as JPEG, as the encoder saw them: in the shape of its input, tiles put together.
"""

from __future__ import annotations

import io
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.core.alerting import AlertKind, AlertState
from agent.core.types import U8
from agent.report_parts import History, ToldAlert, seconds

if TYPE_CHECKING:
    from agent.core.types import Frame
    from agent.picture_sight import Looked
    from agent.picture_stream import PictureStream

RECENT: Final = 400  # pictures, to show an alert's nearest references
RECENT_SIDE: Final = 96  # pixels at most
SIDE: Final = 320  # pixels at most, of an alert's picture and its heatmap
_QUALITY: Final = 80
_WAITING: Final = 256  # alerts that are not told yet: a replay takes so many messages at once
_SAME_S: Final = 0.001  # messages hold milliseconds


class PictureAlert(ToldAlert):
    """An alert of a stream of pictures, with JPEGs: of silence there is no picture, of a blind camera no heatmap.

    `nearest` are times and pictures of the references that the alert names, where they are still at hand.
    """

    picture: bytes | None = None
    heatmap: bytes | None = None
    nearest: list[tuple[float, bytes]] = msgspec.field(default_factory=list)


class PictureHistory(History[PictureAlert]):
    """What is remembered of one stream of pictures."""

    stream: PictureStream

    def __init__(self, stream: PictureStream, *, kept: bool) -> None:
        super().__init__(stream, kept=kept)
        self.pictures = 0
        self.recent: deque[tuple[float, bytes]] = deque(maxlen=RECENT)
        self._interval_s: float | None = None
        self._turned = False
        self._begun: dict[AlertKind, str] = {}  # the last alert of each kind
        self._scenes: dict[str, tuple[bytes, bytes | None]] = {}  # of alerts that are not told yet

    @property
    def interval_s(self) -> float:
        """Return the time between decisions, as it was at the first one: budgets were made of it."""
        return self._interval_s or self.stream.interval_s or 1.0

    def pictured(self, frames: list[Frame], found: Looked | None, threshold: float) -> None:
        """Take a picture, after what it led to."""
        at = frames[0].at
        self._turned |= at <= self.last_at
        self.heard(at)
        self.pictures += 1
        if found is not None:
            self._interval_s = self.interval_s
            self.judged(at, found.score, threshold, turned=self._turned)
            self._turned = False
        if self.kept:
            whole = self.stream.sight.whole(frames)
            self.recent.append((at, jpeg(whole, RECENT_SIDE)))
            self._look_for_alerts(whole)

    def _look_for_alerts(self, whole: U8) -> None:
        """Keep the picture for the alerts that it has raised."""
        for kind, machine in self.stream.alerts.items():
            if (
                kind is AlertKind.SILENT
                or machine.state is not AlertState.FIRING
                or self._begun.get(kind) == machine.id
            ):
                continue
            self._begun[kind] = machine.id
            heat = self.stream.heatmap if kind is AlertKind.ANOMALY else None
            self._scenes[machine.id] = jpeg(whole, SIDE), None if heat is None else jpeg(_pixels(heat), SIDE)
            if len(self._scenes) > _WAITING:
                del self._scenes[next(iter(self._scenes))]

    def note(self, message: dict[str, Any]) -> PictureAlert:
        """Return an alert with its pictures."""
        picture, heatmap = self._scenes.pop(message["id"], (None, None))
        wanted = [seconds(one["at"]) for one in message["evidence"]["nearest"]]
        found = [next((one for one in self.recent if abs(one[0] - at) < _SAME_S), None) for at in wanted]
        nearest = [one for one in found if one is not None]
        return PictureAlert(message, seconds(message["at"]), picture=picture, heatmap=heatmap, nearest=nearest)


def jpeg(pixels: U8, side: int) -> bytes:
    """Return uint8 [height, width, 3] as a JPEG of at most `side` pixels each way."""
    from PIL import Image  # noqa: PLC0415  an extra

    picture = Image.fromarray(pixels)
    picture.thumbnail((side, side))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def _pixels(png: bytes) -> U8:
    from PIL import Image  # noqa: PLC0415  as above

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
