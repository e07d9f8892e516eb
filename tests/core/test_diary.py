"""A snapshot and what was added to it are as good as a snapshot."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import diary
from agent.core.alerting import AlertSettings
from agent.core.types import Mode, Sample
from agent.core.views import plain
from tests.core.streams import Lone, changed, feed, normal

SAMPLES = 900


def readings(seed=0):
    """Return readings with a gap, a channel that is missing for a while, a disturbance and a change that stays.

    Those of odd seeds are decimal numbers.
    """
    samples = normal(SAMPLES, seed=seed)
    if seed % 2:
        samples = [Sample(one.at, {name: round(value, 3) for name, value in one.values.items()}) for one in samples]
    samples[520:560] = changed(samples[520:560], "a", lambda value: value + 3)
    samples[600:] = changed(samples[600:], "b", lambda value: value + 1.5)
    for place in range(430, 480):
        samples[place] = Sample(samples[place].at, {"a": samples[place].values["a"]})
    return samples[:390] + samples[398:700] + samples[720:]


def rebuilt(saved, additions, **kind):
    stream = Lone(**kind)
    for part in stream.bank.rebuild(stream.detector, saved, additions):
        part.embedding = plain(part.windows)
    return stream


def saved_and_added(stream, samples, cuts):
    """Feed the samples; return a snapshot made at the first cut, and additions made at the others."""
    scores = [one.score for one in feed(stream, samples[: cuts[0]])]
    saved, additions = stream.snapshot(), []
    stream.detector.saved()
    for begin, end in pairwise(cuts):
        scores += [one.score for one in feed(stream, samples[begin:end])]
        additions.append(stream.bank.addition(stream.detector))
        stream.detector.saved()
    return saved, additions, scores


@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"encoded": True},
        {"encoded": True, "stride": 3},
        {"encoded": True, "rate": 60},
        {"mode": Mode.FROZEN},
        {"mode": Mode.HOLD},
        {"season_s": 100.0},
    ],
    ids=["plain", "encoded", "stride", "fast", "frozen", "hold", "season"],
)
@settings(max_examples=2)
@given(
    cuts=st.lists(st.integers(330, 850), min_size=2, max_size=4, unique=True).map(sorted),
    seed=st.integers(0, 3),
)
def test_a_stream_goes_on_as_if_it_had_never_stopped(kind, cuts, seed):
    kind = dict(kind)
    rate = kind.pop("rate", 1)
    samples = [Sample(one.at / rate, one.values) for one in readings(seed)]
    stream = Lone(**kind)
    if kind.get("stride") == 3 or rate > 1:
        cuts = [min(one + 330, 870 + place) for place, one in enumerate(cuts)]
    saved, additions, _ = saved_and_added(stream, samples, cuts)
    again = rebuilt(saved, additions, **kind)
    assert again.stride == stream.stride == (3 if rate > 1 else kind.get("stride", 1))
    expected = stream.snapshot()
    found = again.snapshot()
    for view, reference in enumerate(expected["learnt"]["references"]):
        other = found["learnt"]["references"][view]
        held = np.arange(reference["times"].shape[1]) < reference["count"][:, None]
        assert all(np.array_equal(other[name], reference[name]) for name in ("count", "head"))
        assert all(np.array_equal(other[name][held], reference[name][held]) for name in ("entries", "times", "marks"))
    assert np.array_equal(found["learnt"]["calibration"]["scores"], expected["learnt"]["calibration"]["scores"])
    assert np.array_equal(found["grid"]["rows"], expected["grid"]["rows"], equal_nan=True)
    if (season := expected["learnt"]["season"]) is not None:
        other = found["learnt"]["season"]
        for name in ("ring", "sums", "counts", "slot", "score"):
            assert np.array_equal(other[name], season[name], equal_nan=True)
        assert np.array_equal(other["calibration"]["scores"], season["calibration"]["scores"])
    if stream.joint is not None:
        assert again.joint.held.keys() == stream.joint.held.keys()
        for name in ("entries", "times", "marks", "moments", "recent", "head"):
            assert np.array_equal(getattr(again.joint, name), getattr(stream.joint, name))
    rest = samples[cuts[-1] :]
    assert [one.score for one in feed(again, rest)] == [one.score for one in feed(stream, rest)]


def test_an_addition_of_nothing_changes_nothing():
    stream, samples = Lone(), readings()
    saved, additions, _ = saved_and_added(stream, samples, [500, 500])
    again = rebuilt(saved, additions)
    assert [one.score for one in feed(again, samples[500:])] == [one.score for one in feed(stream, samples[500:])]


def test_what_is_new_is_far_smaller_than_the_whole():
    stream = Lone(encoded=True)
    saved, (addition,), _ = saved_and_added(stream, readings(), [500, 560])
    assert sum(one["entries"].nbytes for one in saved["learnt"]["references"]) > 90_000
    assert addition["decisions"]["flags"].nbytes + addition["grid_rows"]["rest"].nbytes < 2_000


def test_a_stream_that_is_not_saved_yet_or_learns_takes_a_whole_snapshot():
    stream, samples = Lone(), readings()
    feed(stream, samples[:100])
    stream.detector.diary.begin(stream.grid.total_rows)
    assert stream.bank.addition(stream.detector) is None
    feed(stream, samples[100:400])
    stream.detector.diary.end()
    assert stream.bank.addition(stream.detector) is None


def test_too_many_decisions_or_rows_take_a_whole_snapshot(monkeypatch):
    monkeypatch.setattr(diary, "MOST_DECISIONS", 50)
    _, additions, _ = saved_and_added(Lone(), readings(), [500, 540, 600])
    assert additions[0] is not None
    assert additions[1] is None
    monkeypatch.setattr("agent.core.bank.RING_ROWS", 30)
    _, additions, _ = saved_and_added(Lone(), readings(), [500, 540])
    assert additions == [None]


def test_what_an_operator_changed_takes_a_whole_snapshot():
    stream, samples = Lone(alert=AlertSettings()), readings()
    feed(stream, samples[:500])
    stream.detector.diary.begin(stream.grid.total_rows)
    assert stream.bank.addition(stream.detector) is not None
    assert stream.bank.forget_span(stream.detector, samples[420].at, samples[430].at) > 0
    assert stream.bank.addition(stream.detector) is None
