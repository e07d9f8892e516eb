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

VERSION: Final = 1
MAX_PARTS: Final = 5
LEAST_SHARE: Final = 0.01  # smaller ones are not told in the sentence
_ENDINGS: Final = {
    Ending.NORMAL: "looks normal again",
    Ending.ACCEPTED: "was accepted as normal",
    Ending.RELEARNT: "is learnt anew",
}


def timestamp(at: float) -> str:
    """Return RFC 3339 in UTC with milliseconds."""
    moment = datetime.fromtimestamp(at, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def evidence(
    due: Due, assessment: Assessment, nearest: list[tuple[float, float]], unlike_since: float
) -> dict[str, Any]:
    """Return what made a decision odd: parts by share (they sum to 1), the view that spoke, the nearest references."""
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
    parts = []
    for part in order[:MAX_PARTS]:
        value, *expected = rounded(values[part], low[part], high[part])
        share = round(float(shares[part]), 4)
        parts.append({"name": detector.grid.channels[part], "share": share, "value": value, "expected": expected})
    return {
        "parts": parts,
        "view": max(spoke)[1],
        "nearest": [{"at": timestamp(at), "distance": round(distance, 4)} for at, distance in nearest],
        "unlike_since": timestamp(unlike_since),
        "span": {
            "from": timestamp(assessment.at - detector.views[0].span * (detector.grid.period_s or 0.0)),
            "to": timestamp(assessment.at),
        },
    }


def rounded(*numbers: float) -> list[float | None]:
    """Return the numbers to the sixth digit of the largest, so that a trace beside it is 0; None for NaN."""
    largest = max((abs(one) for one in numbers if np.isfinite(one)), default=0.0)
    digits = 5 - math.floor(math.log10(largest)) if largest > 0 else 0
    return [round(float(one), digits) + 0.0 if np.isfinite(one) else None for one in numbers]


def sentence(stream: str, transition: AlertTransition, found: dict[str, Any] | None) -> str:
    """Return one sentence for a person."""
    if transition.event is AlertEvent.CLEARED:
        lasted = transition.at - transition.started_at
        what = "is heard again" if transition.kind is AlertKind.SILENT else _ENDINGS[transition.ending]
        return f"{stream} {what} after {lasted:.0f} s"
    if transition.kind is AlertKind.SILENT:
        return f"{stream} has fallen silent"
    looks = "still looks" if transition.event is AlertEvent.UPDATED else "looks"
    if not found or not found["parts"]:
        return f"{stream} {looks} unlike anything seen before"
    shares = ", ".join(
        f"{part['name']} {100 * part['share']:.0f} %" for part in found["parts"][:3] if part["share"] >= LEAST_SHARE
    )
    first = found["parts"][0]
    low, high = first["expected"]
    return f"{stream} {looks} unusual: {shares}; {first['name']} is {first['value']}, normally {low} to {high}"


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
    assessment: Assessment | None,
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
            "score": None if assessment is None else round(assessment.score, 3),
            "p_value": None if assessment is None or assessment.p_value is None else float(f"{assessment.p_value:.3g}"),
            "p_value_threshold": None if assessment is None else float(f"{10.0**-threshold:.3g}"),
            "budget": budget,
            "late": late,
            "message": sentence(stream, transition, found),
            "evidence": found,
            "encoder": encoder,
        }
    )


def mark_late(payload: bytes) -> bytes:
    """Return the message with `late` true."""
    message = msgspec.json.decode(payload)
    message["late"] = True
    return msgspec.json.encode(message)
