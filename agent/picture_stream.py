"""A stream of pictures: its clock, its budget, and what is wrong with pictures as such; the rest is its sight's."""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from agent.adapters.payload import PayloadRejected, RejectReason
from agent.core.alerting import AlertKind, AlertState, FrozenPolicy
from agent.core.budget import HASTE, BudgetControl
from agent.core.picture_health import PictureFault
from agent.core.types import Mode
from agent.kept_pictures import KeptPictures
from agent.picture_heir import PictureHeir, Shown
from agent.picture_sight import Looked, PictureSight, SightPast
from agent.stream import Stream, smoothed, tag_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agent.config import ImageSettings
    from agent.core.types import F32, Frame
    from agent.core.workspace import Workspace
    from agent.ports import InboundMessage, PictureEncoder

logger = logging.getLogger(__name__)

PICTURE_SCHEMA: Final = 2
FAULTS: Final = {
    PictureFault.BLACK: AlertKind.BLACK,
    PictureFault.WHITE: AlertKind.WHITE,
    PictureFault.COVERED: AlertKind.COVERED,
    PictureFault.BLURRED: AlertKind.BLURRED,
    PictureFault.FROZEN: AlertKind.FROZEN,
}
_REMEMBERED: Final = 64  # highest scores of the past, to say since when nothing was as odd
_GAPS: Final = 64  # between pictures, of which the usual one is the mean, about
_NEARLY: Final = 1.1  # times: by so much that may change, before the budget is told
_STRAGGLERS: Final = 3  # pictures in a row that are older than the newest: its clock was set back


class PictureStream(Stream):
    """One concrete topic that carries pictures."""

    in_pieces = True
    settings: ImageSettings
    assessment: Looked | None
    encoder: PictureEncoder
    heir: PictureHeir | None

    def __init__(
        self,
        name: str,
        topic: str,
        settings: ImageSettings,
        encoder: PictureEncoder,
        agent: str,
        max_bytes: int,
        workspace: Workspace | None = None,
    ) -> None:
        super().__init__(name, topic, settings, agent, (encoder.name, encoder.digest), tuple(FAULTS.values()))
        self.encoder, self.heir = encoder, None
        self._max_bytes, self._workspace = max_bytes, workspace
        self.sight = PictureSight(settings, encoder, max_bytes, workspace)
        self.kept = KeptPictures(settings.keep, self._needed)
        self.changes = 0  # that an operator made of what was learnt
        self._saved_heir: dict[str, Any] | None = None  # of an earlier run, for when its encoder is here
        self.heatmap: bytes | None = None  # of the last alert, PNG
        self._begin()

    def _begin(self) -> None:
        self._budget = BudgetControl(self.settings.alert, self.settings.mode, HASTE)
        self._first_at = self._last_at = float("-inf")
        self._taken_at = float("-inf")  # when the newest one arrived
        self._pictures = 0  # taken so far
        self._older = 0
        self._odd: deque[tuple[float, float]] = deque(maxlen=_REMEMBERED)  # time and score, score falling
        self._gap_s: float | None = None  # the usual time between two
        self._configured_s: float | None = None  # that the budget reckons with
        self._on_disk: tuple[PictureHeir | None, bytes | None] | None = None  # of which heir and heatmap

    def too_soon(self, now: float) -> bool:
        """Tell whether a picture that arrives now comes before the next one is wanted."""
        every = self.settings.every_s
        return every is not None and 0.0 <= now - self._taken_at < 0.95 * every

    def take(self, payload: bytes, received_at: float) -> tuple[list[Frame], bool]:
        """Return a picture's frames, one for each tile, and whether the clock was set back. Raises PayloadRejected."""
        frames = self.sight.decoder.decode(payload, received_at)
        at, turned = frames[0].at, False
        if at <= self._last_at:
            self._older += 1
            if self.own_time and self._older < _STRAGGLERS:
                raise PayloadRejected(RejectReason.DUPLICATE if at == self._last_at else RejectReason.LATE)
            turned = True
            self._first_at += at - self._last_at
        elif self._pictures:
            self._gap_s = smoothed(self._gap_s, at - self._last_at, min(self._pictures, _GAPS))
        self._older = 0
        self._last_at, self._taken_at = at, received_at
        self._first_at = at if self._pictures == 0 else self._first_at
        self._pictures += 1
        return frames, turned

    def check(self, frames: list[Frame]) -> dict[AlertKind, float]:
        """Return what is wrong with the picture as such: how many times each limit was passed, on every tile."""
        found = [
            {one.fault: one.score for one in health.check(frame)}
            for health, frame in zip(self.sight.health, frames, strict=True)
        ]
        ignored = AlertKind.FROZEN if self.settings.alert.frozen is FrozenPolicy.IGNORE else None
        return {
            kind: min(one[fault] for one in found)
            for fault, kind in FAULTS.items()
            if kind is not ignored and all(fault in one for one in found)
        }

    def look(self, frames: list[Frame], outputs: list[F32]) -> Looked | None:
        """Score a healthy picture, and perhaps learn it; None while the stream is learning.

        `outputs` float32 [tiles, rows, columns, dim], one for each of the encoder's.
        """
        found = self.sight.look(frames, outputs)
        if found is None:
            return None
        interval_s = self.interval_s or 1.0
        if self._configured_s is None or not 1 / _NEARLY < interval_s / self._configured_s < _NEARLY:
            self._configured_s = interval_s
            self._budget.configure(interval_s)
        self.assessment = found
        return found

    def remember(self, found: Looked) -> None:
        """Note how odd a picture was, to say later since when nothing was as odd."""
        while self._odd and self._odd[-1][1] <= found.score:
            self._odd.pop()
        self._odd.append((found.at, found.score))

    def unlike_since(self, found: Looked, started_at: float) -> float:
        """Return since when nothing was as odd, before an alert began: s since the epoch; else when learning began."""
        earlier = [at for at, score in self._odd if score >= found.score and at < started_at]
        return max(earlier, default=self._first_at)

    @property
    def interval_s(self) -> float | None:
        """Return the usual time between two pictures, None before the second. A long pause changes it little."""
        return self._gap_s

    @property
    def budget(self) -> BudgetControl:
        """Return what steers the threshold."""
        return self._budget

    @property
    def learnt(self) -> bool:
        """Tell whether every tile's warm-up is over."""
        return self.sight.learnt

    @property
    def learning_left_s(self) -> float | None:
        """Return how long learning will still take, None before the second picture."""
        interval = self.interval_s
        return None if interval is None else interval * self.sight.learning_left

    @property
    def reference_fill(self) -> int:
        """Return how many pictures the reference holds."""
        return self.sight.reference_fill

    @property
    def bytes(self) -> int:
        """Return the memory that the stream takes, about."""
        return self.sight.bytes + (self.settings.keep.limit_bytes if self.kept.wanted else 0)

    def signature_with(self, encoder: PictureEncoder) -> dict[str, Any]:
        """Return the signature that the stream has with an encoder."""
        settings = self.settings
        return {
            "schema": PICTURE_SCHEMA,
            "kind": "image",
            "runtime": encoder.runtime,
            "encoder": encoder.digest,
            "region": [float(one) for one in settings.region],
            "ignore": [[[float(x) for x in corner] for corner in polygon] for polygon in settings.ignore],
            "tiles": list(settings.tiles),
            "position": settings.position.value,
            "size": settings.reference.size,
            "warm_up": settings.reference.warm_up,
            "mode": settings.mode.value if settings.mode is Mode.HOLD else "",
        }

    def details(self) -> dict[str, Any]:
        """Return the tiles, and the usual time between two pictures."""
        interval = self.interval_s
        return {"tiles": list(self.sight.decoder.tiles), "interval_s": None if interval is None else round(interval, 3)}

    @property
    def blank(self) -> bool:
        """Tell whether nothing was learnt that another version of the encoder would have to learn again."""
        return not self.learnt and (self._pictures == 0 or self.settings.mode is Mode.FROZEN)

    def use(self, encoder: PictureEncoder) -> None:
        """Begin with another version of the encoder: nothing was learnt yet, or it is given up."""
        self.disown()
        self.kept.clear()
        self._see_with(PictureSight(self.settings, encoder, self._max_bytes, self._workspace))

    def _see_with(self, sight: PictureSight) -> None:
        self.sight, self.encoder = sight, sight.encoder
        self.encoder_tag = tag_of((sight.encoder.name, sight.encoder.digest))

    def beget(self, encoder: PictureEncoder) -> PictureHeir:
        """Return who may become the heir, with another version of the encoder; it goes on where one was before."""
        heir = self._new_heir(encoder)
        saved, self._saved_heir = self._saved_heir, None
        try:
            if saved is not None and saved["signature"] == self.signature_with(encoder):
                heir.restore(saved)
        except Exception as error:  # noqa: BLE001  a file may hold anything
            told = f"{type(error).__name__}: {error}"
            logger.warning(
                "stream %s: what another version of its encoder has learnt so far is lost (%s)", self.name, told
            )
            heir = self._new_heir(encoder)
        return heir

    def _new_heir(self, encoder: PictureEncoder) -> PictureHeir:
        sight = PictureSight(self.settings, encoder, self._max_bytes, self._workspace)
        return PictureHeir(sight, self.sight, self._budget, self._configured_s)

    def show(self, message: InboundMessage, frames: list[Frame], found: Looked | None) -> None:
        """Keep a healthy picture that was just decided on, if that is allowed; have the heir look at it later."""
        self.kept.add(frames)
        if self.heir is None:
            return
        machine = self.alerts[AlertKind.ANOMALY]
        calm = machine.state is AlertState.INACTIVE
        normal = None if found is None else [one.admitted for one in found.tiles]
        alert, firing = "" if calm else machine.current_id, machine.state is AlertState.FIRING
        self.heir.waiting.append(Shown(frames, message.payload, message.received_at, normal, alert, firing))

    def heir_is_ready(self) -> bool:
        """Tell whether the heir, which there must be, knows enough, and no camera shows nothing just now."""
        assert self.heir is not None
        faulty = any(self.alerts[kind].state is not AlertState.INACTIVE for kind in FAULTS.values())
        return not faulty and self.heir.equals(self.sight)

    def inherit(self) -> None:
        """Go on as the heir, which there must be; alerts and all that messages told stand as they are."""
        heir, self.heir = self.heir, None
        assert heir is not None
        heir.budget.succeed(self._budget)
        if not heir.alike:
            self.kept.clear()
        self._budget, self._configured_s = heir.budget, None
        self._see_with(heir.sight)
        self.unsaved()  # what is on disk is of the old one

    def disown(self) -> None:
        """Let the heir go, if there is one."""
        self.heir = self._saved_heir = None

    def begin_anew(self) -> None:
        """Give up all that was learnt."""
        self.changes += 1
        self.disown()
        self.kept.clear()
        self.sight.begin_anew()
        self._begin()

    def follow(self, old: Stream, *, kept: bool) -> None:
        """Go on in the place of `old`; `kept`: with all that it had learnt, and the pictures that it kept."""
        super().follow(old, kept=kept)
        if kept and isinstance(old, PictureStream):
            self.kept.restore(old.kept.snapshot())

    def snapshot(self) -> dict[str, Any]:
        """Return all that was learnt."""
        return {
            "tiles": self.sight.snapshot(),
            **self._counted(),
            "heatmap": self.heatmap,
            "heir": self._heir_so_far(),
        }

    def _counted(self) -> dict[str, Any]:
        return {
            "budget": self._budget.snapshot(),
            "configured_s": self._configured_s,
            "clock": [self._first_at, self._last_at, self._pictures, self._gap_s],
            "odd": [list(one) for one in self._odd],
        }

    def _heir_so_far(self) -> dict[str, Any] | None:
        heir = self.heir
        return self._saved_heir if heir is None else {"signature": self.signature_with(heir.encoder), **heir.snapshot()}

    def addition(self) -> dict[str, Any] | None:
        """Return what was learnt since the stream was last saved; None where a whole snapshot is to be written."""
        if self._on_disk is None or self.heir is not self._on_disk[0]:
            return None
        tiles, heir = self.sight.addition(), None if self.heir is None else self.heir.addition()
        if tiles is None or (heir is None) is not (self.heir is None):
            return None
        heatmap = {} if self.heatmap is self._on_disk[1] else {"heatmap": self.heatmap}
        return {**self._counted(), **heatmap, "tiles": tiles, "heir": heir, "heir_waits": self._saved_heir is not None}

    def saved(self) -> None:
        """Know that all that was learnt is on disk, or will be soon."""
        self._on_disk = self.heir, self.heatmap
        self.sight.saved()
        if self.heir is not None:
            self.heir.sight.saved()

    def unsaved(self) -> None:
        """Know that it is not."""
        super().unsaved()
        self._on_disk = None

    def whole_due(self, now: float) -> bool:
        """Tell that it is: `addition` finds that seldom, and never because there was too much to tell."""
        del now
        return True

    def restore(self, saved: dict[str, Any], additions: Iterable[dict[str, Any]]) -> None:
        """Go on from a snapshot and what was added to it."""
        saved = self._put_together(saved, additions)
        self.sight.restore(saved["tiles"])
        self._budget.restore(saved["budget"])
        self._configured_s = saved["configured_s"]
        if self._configured_s is not None:
            self._budget.configure(self._configured_s)
        self._first_at, self._last_at, self._pictures, *gap = saved["clock"]
        (self._gap_s,) = gap or [self._configured_s]  # not in older ones
        self._odd.extend((at, score) for at, score in saved["odd"])
        self.heatmap = saved["heatmap"]
        self._saved_heir = saved.get("heir")

    def _put_together(self, saved: dict[str, Any], additions: Iterable[dict[str, Any]]) -> dict[str, Any]:
        """Return what a snapshot and additions to it come to, as one snapshot; one at a time, for they may be large."""
        whole, sight, heir = dict(saved), SightPast(saved["tiles"], self.settings), None
        for one in additions:
            sight.add(one["tiles"])
            whole.update({name: part for name, part in one.items() if name not in ("tiles", "heir", "heir_waits")})
            if one["heir"] is not None:
                heir = heir or SightPast(saved["heir"]["tiles"], self.settings)
                heir.add(one["heir"]["tiles"])
                whole["heir"] = {**saved["heir"], **one["heir"]}
            elif not one["heir_waits"]:
                heir = whole["heir"] = None
        whole["tiles"] = sight.state()
        if heir is not None:
            whole["heir"]["tiles"] = heir.state()
        return whole

    def holds(self, alert: str) -> bool:
        """Tell whether an alert's pictures are still kept, so that it can be accepted."""
        return self.sight.holds(alert)

    def has_accepted(self, alert: str) -> bool:
        """Tell whether an alert was accepted, and can be forgotten."""
        return self.sight.has_accepted(alert)

    def accept(self, alert: str) -> int:
        """Learn an alert's pictures; return how many."""
        self.changes += 1
        count = self.sight.accept(alert)
        if self.heir is not None:
            self.heir.accept(alert)
            self.heir.begin_calibration(self._budget, self._configured_s)
        return count

    def confirm(self, alert: str) -> bool:
        """Take back what a true alarm counted; tell whether that was to be done. The budget must know the alert."""
        done = super().confirm(alert)
        if self.heir is not None:
            self.heir.begin_calibration(self._budget, self._configured_s)
        return done

    def forget_alert(self, alert: str) -> int:
        """Take out what accepting an alert let in; return how many pictures. Raises TooFewLeftError."""
        count = self.sight.forget_alert(alert)
        self._forgotten()
        if self.heir is not None and not self.heir.forget(lambda sight: sight.forget_alert(alert)):
            self.disown()
        return count

    def forget_span(self, begin: float, end: float) -> int:
        """Take out the pictures of a time span; return how many. Raises TooFewLeftError."""
        count = self.sight.forget_span(begin, end)
        self._forgotten()
        if self.heir is not None and not self.heir.forget(lambda sight: sight.forget_span(begin, end)):
            self.disown()
        return count

    def _needed(self) -> set[float]:
        return self.sight.times()

    def _forgotten(self) -> None:
        self.changes += 1
        self.kept.forget()

    def release(self) -> None:
        """Let go what was kept for an alert that is no longer pending or firing."""
        self.sight.release()
