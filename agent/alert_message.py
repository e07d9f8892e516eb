"""The alert message, version 1, and its evidence. docs/schemas/alert-v1.json is its schema."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.core.alerting import AlertEvent, AlertKind, AlertTransition, Ending

if TYPE_CHECKING:
    from agent.core.detector import Due
    from agent.core.types import Assessment
    from agent.picture_sight import Looked

VERSION: Final = 1
MAX_PARTS: Final = 5
MAX_SENTENCE: Final = 160  # what a telephone shows of a notification
_DIGITS: Final = 4  # of a share
_AS_ODD: Final = 0.25  # of the leading channel's share, or more: half of its score. Such others are counted
_CLEARLY: Final = 0.25  # beyond the expected range by so much of its width; where shape spoke, less is no rise
_SHORT_NAME: Final = 12
_PLAIN: Final = (1e-4, 1e7)  # numbers between are written out
_RESOLVED: Final = 1e-5  # of the largest: digits beyond are not told
_DAY_S: Final = 86400.0
_LASTED: Final = ((2 * _DAY_S, _DAY_S, "days"), (2 * 3600.0, 3600.0, "h"), (120.0, 60.0, "min"), (0.0, 1.0, "s"))
_RECOVERED: Final = {
    AlertKind.SILENT: "is heard again",
    AlertKind.FROZEN: "changes again",
    AlertKind.BLACK: "can see again",
    AlertKind.WHITE: "can see again",
    AlertKind.COVERED: "can see again",
    AlertKind.BLURRED: "is sharp again",
}
_FAULTS: Final = {
    AlertKind.BLACK: "sends black pictures",
    AlertKind.WHITE: "sends white pictures",
    AlertKind.COVERED: "seems to be covered: its pictures show next to nothing",
    AlertKind.BLURRED: "sends pictures that are out of focus",
    AlertKind.FROZEN: "sends the same picture again and again",
}
_THIRDS: Final = (
    ("top left", "top", "top right"),
    ("left", "middle", "right"),
    ("bottom left", "bottom", "bottom right"),
)
_ENDINGS: Final = {
    Ending.NORMAL: "looks normal again",
    Ending.ACCEPTED: "was accepted as normal",
    Ending.RELEARNT: "is learnt anew",
    Ending.REMOVED: "is no longer watched",
}


def timestamp(at: float) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def moment(at: float, now: float) -> str:
    """Return a time in UTC as a person says it on the day of `now`: `20:03 UTC`, `3 March` or `3 March 2024`."""
    then, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    if then.date() == today.date():
        return f"{then:%H:%M} UTC"
    return f"{then.day} {then:%B}" if then.year == today.year else f"{then.day} {then:%B} {then.year}"


def evidence(
    due: Due, assessment: Assessment, nearest: list[tuple[float, float]], unlike_since: float
) -> dict[str, Any]:
    """Return what made a decision odd: parts by share, the view that spoke, the nearest references.

    A share is the square of a channel's score over the sum of all squares. Those of the parts told and of the others
    sum to 1.
    """
    detector = due.detector
    scores = np.maximum(assessment.part_scores.astype(np.float64), 0.0)
    weights = np.square(scores)
    total = weights.sum()
    shares = weights / total if total > 0 else np.full(len(weights), 1.0 / max(1, len(weights)))
    values, low, high = detector.expected(due)
    order = np.argsort(-shares, kind="stable")
    leading = int(order[0]) if len(order) else 0
    spoke = [(float(np.nan_to_num(assessment.view_scores[i, leading])), v.says) for i, v in enumerate(detector.views)]
    spoke.append((1.25 * float(assessment.range_scores[leading]), "range"))
    season = float(assessment.season_scores[leading])
    if detector.joint is not None:
        spoke = [(assessment.score, "joint")]
    elif season == season:  # noqa: PLR0124  NaN where there is none
        spoke = [(season, "season"), spoke[-1]]
    told = order[:MAX_PARTS]
    given = [round(float(shares[part]), _DIGITS) for part in told]
    rest = round(1.0 - sum(given), _DIGITS)
    if len(told) == len(order) or rest < 0:  # only a rounding: the largest takes it
        given[0], rest = round(given[0] + rest, _DIGITS), 0.0
    parts = []
    for part, share in zip(told, given, strict=True):
        value, *expected = rounded(values[part], low[part], high[part])
        parts.append({"name": detector.grid.channels[part], "share": share, "value": value, "expected": expected})
    return {
        "parts": parts,
        "others": {"count": len(order) - len(told), "share": rest},
        "view": max(spoke)[1],
        "nearest": [{"at": timestamp(at), "distance": round(distance, 4)} for at, distance in nearest],
        "unlike_since": timestamp(unlike_since),
        "span": {
            "from": timestamp(assessment.at - detector.views[0].span * (detector.grid.period_s or 0.0)),
            "to": timestamp(assessment.at),
        },
    }


def frozen(due: Due, assessment: Assessment, since: float) -> dict[str, Any]:
    """Return the evidence of values that no longer change: which, and since when the leading one has not."""
    told = msgspec.structs.replace(assessment, part_scores=assessment.frozen_scores)
    found = evidence(due, told, [], since)
    return {**found, "view": "frozen", "span": {"from": timestamp(since), "to": timestamp(assessment.at)}}


def picture_evidence(
    found: Looked, tiles: tuple[str, ...], nearest: list[tuple[float, float]], unlike_since: float, begun_at: float
) -> dict[str, Any]:
    """Return what made a picture odd: the cells of the encoder's grid by share, the nearest references.

    A cell is named by its row and column from 1, behind its tile's name where there are several. Shares sum to 1.
    """
    shares = found.part_scores.astype(np.float64)
    order = np.argsort(-shares.reshape(-1), kind="stable")
    told = [int(place) for place in order[:MAX_PARTS] if shares.reshape(-1)[place] > 0]
    given = [round(float(shares.reshape(-1)[place]), _DIGITS) for place in told]
    parts = []
    for place, share in zip(told, given, strict=True):
        tile, row, column = (int(one) for one in np.unravel_index(place, shares.shape))
        cell = f"row {row + 1}, column {column + 1}"
        name = f"{tiles[tile]}: {cell}" if len(tiles) > 1 else cell
        where = _THIRDS[3 * row // shares.shape[1]][3 * column // shares.shape[2]]
        parts.append({"name": name, "share": share, "value": None, "expected": [None, None], "where": where})
    return {
        "parts": parts,
        "others": {"count": shares.size - len(told), "share": max(0.0, round(1.0 - sum(given), _DIGITS))},
        "view": "picture",
        "nearest": [{"at": timestamp(at), "distance": round(distance, 4)} for at, distance in nearest],
        "unlike_since": timestamp(unlike_since),
        "span": {"from": timestamp(min(begun_at, found.at)), "to": timestamp(found.at)},
    }


def picture_fault(begun_at: float, at: float) -> dict[str, Any]:
    """Return the evidence of pictures that show nothing: since when."""
    return {**silence(begun_at, at), "view": "picture"}


def silence(heard_at: float, at: float) -> dict[str, Any]:
    """Return the evidence of silence: the time in which nothing was heard."""
    return {
        "parts": [],
        "others": {"count": 0, "share": 0.0},
        "view": "silence",
        "nearest": [],
        "unlike_since": None,
        "span": {"from": timestamp(heard_at), "to": timestamp(at)},
    }


def rounded(*numbers: float) -> list[float | None]:
    """Return the numbers to the sixth digit of the largest, so that a trace beside it is 0; None for NaN."""
    largest = max((abs(one) for one in numbers if np.isfinite(one)), default=0.0)
    digits = 5 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [round(float(one), digits) + 0.0 if np.isfinite(one) else None for one in numbers]


def sentence(stream: str, transition: AlertTransition, found: dict[str, Any] | None) -> str:
    """Return one sentence for a person, of at most MAX_SENTENCE characters; long names are shortened."""
    if transition.event is AlertEvent.CLEARED:
        lasted = transition.at - transition.started_at
        what = _ENDINGS[transition.ending]
        if transition.ending is Ending.NORMAL:
            what = _RECOVERED.get(transition.kind, what)
        return _fitted(stream, f" {what} after {duration(lasted)}")
    if transition.kind is AlertKind.SILENT:
        return _fitted(stream, " has fallen silent")
    assert found is not None  # only what an operator ended has none
    if found["view"] == "picture":
        return _fitted(stream, f" {_FAULTS.get(transition.kind) or _looks(transition, found)}")
    first = found["parts"][0]
    if transition.kind is AlertKind.FROZEN:
        told, _, _ = written(first["value"], first["value"], first["value"], 0.0)
        since_s = transition.at - datetime.fromisoformat(found["unlike_since"]).timestamp()
        return _fitted(stream, ": ", first["name"], f" has not changed for {duration(since_s)}, and is stuck at {told}")
    now = " now" if transition.event is AlertEvent.UPDATED else ""
    since = moment(datetime.fromisoformat(found["unlike_since"]).timestamp(), transition.at)
    return _fitted(stream, f":{now} ", first["name"], f" {_did(first, found['view'], since, _others(found))}")


def _looks(transition: AlertTransition, found: dict[str, Any]) -> str:
    """Return how a picture is odd, and where."""
    since = moment(datetime.fromisoformat(found["unlike_since"]).timestamp(), transition.at)
    now = " now" if transition.event is AlertEvent.UPDATED else ""
    first = found["parts"][0]
    tile = f" of {first['name'].split(':')[0]}" if ":" in first["name"] else ""
    return f"looks{now} unlike any picture since {since}, most of all at the {first['where']}{tile}"


def duration(lasted_s: float) -> str:
    """Return how long something lasted, as a person says it: `13 s`, `5 min`, `3 h`, `2 days`."""
    unit_s, unit = next((unit_s, unit) for least_s, unit_s, unit in _LASTED if lasted_s >= least_s or not least_s)
    return f"{lasted_s / unit_s:.0f} {unit}"


def _did(part: dict[str, Any], view: str, since: str, others: str) -> str:
    """Return what a channel did: it rose or fell, or its value is as usual but its course is not."""
    value, (low, high) = part["value"], part["expected"]
    unlike = f"nothing like it since {since}"
    if value is None or low is None or high is None:
        return f"behaves unusually{others}; {unlike}"
    beyond = max(value - high, low - value, 0.0)
    changed = beyond > (_CLEARLY * (high - low) if view == "shape" else 0.0)
    told, least, most = written(value, low, high, beyond if changed else 0.0)
    if changed:
        usual = least if least == most else f"{least} to {most}"
        return f"{'rose' if value > high else 'fell'} to {told}, normally {usual}{others}; {unlike}"
    return f"behaves unusually{others}: values as usual ({told}), but their course is not like anything since {since}"


def _others(found: dict[str, Any]) -> str:
    """Return how many channels are about as odd as the leading one, in words."""
    parts, others = found["parts"], found["others"]
    enough = _AS_ODD * parts[0]["share"]
    count = sum(part["share"] >= enough for part in parts[1:])
    if others["count"] and others["share"] >= enough * others["count"]:
        count += others["count"]
    return f", with {count} other{'s' if count > 1 else ''}" if count else ""


def written(value: float, low: float, high: float, beyond: float) -> tuple[str, str, str]:
    """Return the numbers with digits enough to tell them apart, and no more; `beyond` 0 where the value is as usual."""
    width = high - low
    largest = max(abs(value), abs(low), abs(high))
    least = max(min((one for one in (beyond, width) if one > 0), default=0.0), _RESOLVED * largest)
    if not _PLAIN[0] <= least <= largest < _PLAIN[1]:
        return f"{value:.3g}", f"{low:.3g}", f"{high:.3g}"
    digits = 1 - math.floor(math.log10(least))
    coarse = min(digits, 2 - math.floor(math.log10(beyond))) if beyond > 0 else digits
    return _plain(value, coarse), _plain(low, digits), _plain(high, digits)


def _plain(number: float, decimals: int) -> str:
    text = f"{round(number, decimals) + 0.0:.{max(0, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _fitted(stream: str, between: str, channel: str = "", end: str = "") -> str:
    """Return the texts as one, with the two names cut so that it is short enough."""
    room = max(2 * _SHORT_NAME, MAX_SENTENCE - len(between) - len(end))
    rooms = max(room // 2, room - len(channel)), max(room // 2, room - len(stream))
    return _cut(stream, rooms[0]) + between + _cut(channel, rooms[1]) + end


def _cut(name: str, room: int) -> str:
    """Return a name of at most `room` characters: its end says more than its middle."""
    return name if len(name) <= room else f"{name[: room // 3]}…{name[room // 3 + 1 - room :]}"


def encode(
    transition: AlertTransition,
    *,
    agent: str,
    stream: str,
    topic: str,
    severity: str,
    budget: str,
    late: bool,
    threshold: float,
    score: float | None,
    found: dict[str, Any] | None,
    encoder: dict[str, str] | None,
) -> bytes:
    """Return the message as JSON. `threshold` is that of the score; the sender makes a backlog `late` too."""
    return msgspec.json.encode(
        {
            "version": VERSION,
            "id": transition.id,
            "agent": agent,
            "stream": stream,
            "topic": topic,
            "kind": transition.kind,
            "event": transition.event,
            "severity": severity,
            "started_at": timestamp(transition.started_at),
            "at": timestamp(transition.at),
            "ended_at": None if transition.ended_at is None else timestamp(transition.ended_at),
            "score": None if score is None else round(score, 3),
            "p_value": None if score is None else float(f"{10.0**-score:.3g}"),
            "p_value_threshold": None if score is None else float(f"{10.0**-threshold:.3g}"),
            "budget": budget,
            "late": late,
            "message": sentence(stream, transition, found),
            "evidence": found,
            "encoder": encoder,
        }
    )


def mark_clock(payload: bytes) -> bytes:
    """Return the message with a word that the agent's clock was not right."""
    return msgspec.json.encode({**msgspec.json.decode(payload), "clock": "wrong"})


def mark_late(payload: bytes) -> bytes:
    """Return the message with `late` true."""
    message = msgspec.json.decode(payload)
    message["late"] = True
    return msgspec.json.encode(message)
