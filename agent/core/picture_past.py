"""A detector's snapshot and what was added to it, put together: so it goes on from them as from one snapshot.

Where every new picture was told of, that is the snapshot it had then, but for what is usual at each place. Where they
came too fast for that, it is one of fewer pictures, which fits and scores are made of again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from agent.core.picture_heat import UsualCells
from agent.core.picture_memory import REFIT_AT_MOST, log_scores
from agent.core.picture_patches import EXAMPLES_EACH, extend, lengthened
from agent.core.picture_pool import MIN_PICTURES, GaussianBuild, fields
from agent.core.picture_reference import ESCAPE_FRAMES, Picture, PictureRing
from agent.core.picture_settings import PictureReferenceSettings
from agent.core.types import F32, I64

_NO_PATCHES: Final[F32] = np.zeros((0, 0), np.float32)  # they are among the examples, as far as they are new


class PicturePast:
    """Begins with a snapshot, which stays as it is."""

    def __init__(self, state: dict[str, Any], reference: PictureReferenceSettings) -> None:
        self._state, self._reference = dict(state), reference
        memory = self._state["memory"] = dict(state["memory"])
        memory["bank"] = dict(memory["bank"])
        ring = PictureRing(reference.size, memory["ring"]["pooled"].shape[1])
        ring.restore(memory["ring"])
        self._known: dict[int, Picture] = {}  # by number, in the order in which they came
        places = ring.order()
        names = ("times", "numbers", "pooled", "patch_scores", "pool_scores", "marks")
        self._learn({name: getattr(ring, name)[places] for name in names})
        self._known.update({one.number: one for one in map(Picture.unpacked, memory["waiting"])})
        self._fitted: I64 | None = None  # None: the snapshot's fit is still the one
        self._last: dict[str, Any] | None = None

    def _learn(self, new: dict[str, Any]) -> None:
        pooled = new["pooled"] if isinstance(new["pooled"], np.ndarray) else lengthened(new["pooled"])
        columns = zip(
            new["times"].tolist(),
            new["numbers"].tolist(),
            pooled,
            new["patch_scores"].tolist(),
            new["pool_scores"].tolist(),
            new["marks"].tolist(),
            strict=True,
        )
        for at, number, pooled, patch, pool, mark in columns:
            self._known[number] = Picture(at, number, pooled, _NO_PATCHES, patch, pool, mark)
        size = self._reference.size
        needed = size + REFIT_AT_MOST + GaussianBuild.steps_for(size) + ESCAPE_FRAMES  # with those of the last fit
        for number in list(self._known)[:-needed]:
            del self._known[number]

    def add(self, added: dict[str, Any]) -> None:
        """Take an addition of the detector, the next one."""
        state = self._state
        held, _ = numbered(state)
        held.update((one[1], one) for one in added["pictures"])
        state.update(_each(added["apart"], held.__getitem__))
        state.update(number=added["number"], light=added["light"], gate=added["gate"])
        if added["usual"] is not None:
            state["usual"] = UsualCells.extended(added["usual"])
        if "first" in added:
            state["first"] = [*state.get("first", ()), added["first"]]
            return
        self._last = memory = added["memory"]
        if memory["bank"]["filled"] > EXAMPLES_EACH * self._reference.size:
            raise ValueError(f"{memory['bank']['filled']} examples")
        extend(state["memory"]["bank"], memory["bank"])
        self._learn(memory)
        if memory["fitted"] is not None:
            self._fitted = memory["fitted"]

    def state(self) -> dict[str, Any]:
        """Return the snapshot to go on from."""
        if self._last is not None:
            memory, last = self._state["memory"], self._last
            wanted = [*last["ring"]["numbers"].tolist(), *last["waiting"].tolist()]
            made_of = [] if self._fitted is None else self._fitted.tolist()
            whole = all(one in self._known for one in (*wanted, *made_of))
            memory.update(self._whole(last) if whole else self._thinned(last))
        return self._state

    def _whole(self, last: dict[str, Any]) -> dict[str, Any]:
        """Return what is known of pictures where every one of them was told of."""
        known, line = self._known, last["ring"]
        held = [known[one] for one in line["numbers"].tolist()]
        made = {
            "ring": {
                "pooled": np.stack([one.pooled for one in held]),
                "patch_scores": np.array([one.patch_score for one in held], np.float32),
                "times": np.array([one.at for one in held]),
                "marks": np.array([one.mark for one in held], np.uint8),
                **line,
            },
            "waiting": [known[one].packed() for one in last["waiting"].tolist()],
            "build": last["build"],
            "since_fit": last["since_fit"],
        }
        if self._fitted is not None:
            fit, _ = GaussianBuild(np.stack([known[one].pooled for one in self._fitted.tolist()])).finish()
            made["fit"] = fields(fit)
        return made

    def _thinned(self, last: dict[str, Any]) -> dict[str, Any]:
        """Return what is known of pictures where some were left out: those of the reference, and some before them."""
        known, ring = self._known, last["ring"]
        order = np.roll(ring["numbers"], -ring["head"] if len(ring["numbers"]) == self._reference.size else 0)
        held = [one for one in (*order.tolist(), *last["waiting"].tolist()) if one in known]
        least = min(self._reference.size, max(MIN_PICTURES, self._reference.warm_up))
        lately = set(held)
        before = [one for one in known if one not in lately]
        held = [*before[len(before) - max(0, least - len(held)) :], *held]
        made = PictureRing(self._reference.size, known[held[0]].pooled.shape[0])
        for one in held:
            made.add(known[one])
        fit = None
        if made.count >= MIN_PICTURES:
            fit, left_out = GaussianBuild(made.rows).finish()
            made.pool_scores[: made.count] = log_scores(left_out)
        return {"ring": made.snapshot(), "waiting": [], "build": None, "since_fit": [0, 0], "fit": fields(fit)}


def numbered(state: dict[str, Any]) -> tuple[dict[int, list[Any]], dict[str, Any]]:
    """Return the packed pictures that are kept apart, by number, and the same with their numbers in their places."""
    held: dict[int, list[Any]] = {}

    def number(one: list[Any]) -> int:
        held[one[1]] = one
        return int(one[1])

    return held, _each(state, number)


def _each(state: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """Return what is kept apart of a snapshot, with each picture changed."""
    quarantine, pending = state["quarantine"], state["quarantine"]["pending"]
    return {
        "refused": None if state["refused"] is None else change(state["refused"]),
        "turned_away": [change(one) for one in state["turned_away"]],
        "quarantine": {
            **quarantine,
            "alerts": [[alert, [change(one) for one in kept]] for alert, kept in quarantine["alerts"]],
            "pending": None if pending is None else [pending[0], [change(one) for one in pending[1]]],
        },
    }
