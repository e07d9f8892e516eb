"""From one encoder to another: nothing is forgotten that the readings at hand can tell."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.bank import MIN_REFERENCES, DetectorBank
from agent.core.lanes import LARGE_BYTES, trimmed
from agent.core.quarantine import Held
from agent.core.reference import ReferenceSettings
from agent.core.succession import Succession
from agent.core.types import Mode
from agent.core.views import plain, views_for
from agent.core.workspace import Workspace
from tests.core.streams import Lone, changed, decide, feed, normal

LENGTH = 64


def bank_like(stream, *, scale=1.0, length=LENGTH):
    """Return a bank for another encoder: of the same, `scale` times as large, or of other windows."""
    views = views_for(length, 2 * length, scale * 8 / 127, 0)
    return DetectorBank(stream.bank.settings, views, Workspace())


def carried(stream, bank, scale=1.0, between=None):
    """Return the heir, all of whose windows were embedded; `between` happens behind the first of them."""
    succession = Succession(stream.bank, stream.detector, bank)
    assert succession.is_of(stream.detector)
    for count, part in enumerate(succession.parts()):
        part.embedding = plain(part.windows) * np.float32(scale)
        if count == 0 and between is not None:
            between()
    return succession.heir


def both(stream, bank, heir, samples, scale=1.0):
    """Return the stream's assessments and its heir's, of the same samples."""
    old, new = [], []
    for sample in samples:
        due = stream.push(sample)
        if due is None:
            continue
        echo = heir.echo(due)
        old += decide(stream.bank, [due])
        batch = bank.batch([echo])
        batch.embeddings = [
            plain(one) * np.float32(scale if view.encoded else 1.0)
            for view, one in zip(bank.views, batch.windows, strict=True)
        ]
        new += list(bank.step(batch))
    return old, new


def test_it_ends_though_the_stream_decides_between_any_two_parts():
    stream = Lone(encoded=True)
    feed(stream, normal(900))
    bank = bank_like(stream)
    succession = Succession(stream.bank, stream.detector, bank)
    more, parts = normal(100, start=900), 0
    for part in succession.parts():
        part.embedding = plain(part.windows)
        parts += 1
        if not succession.at_once:
            feed(stream, [more.pop(0)])
    assert parts < 50
    found = both(stream, bank, succession.heir, more)[1]
    assert all(np.isfinite(one.view_scores[0, 0]) for one in found)
    assert len(found) == len(more)


def in_order(state, size):
    """Return time, mark, row and embedding of each lane's references, oldest first, int64 [n, 3 + dim]."""
    lanes = []
    for lane, count in enumerate(state["count"]):
        places = (state["head"][lane] - count + np.arange(count)) % size
        provenance = [state[name][lane, places].astype(np.int64) for name in ("times", "marks", "rows")]
        lanes.append(np.column_stack([*provenance, state["entries"][lane, places]]))
    return lanes


@pytest.mark.parametrize("kind", [{}, {"stride": 3}, {"season_s": 100.0}])
def test_the_same_encoder_makes_the_same_references(kind):
    stream = Lone(encoded=True, **kind)
    feed(stream, normal(900))
    bank = bank_like(stream)
    heir = carried(stream, bank)
    before, after = stream.bank.learnt(stream.detector), bank.learnt(heir)
    for view, (old, new) in enumerate(zip(before["references"], after["references"], strict=True)):
        if view == 0:
            assert np.array_equal(old["entries"], new["entries"])
            continue
        size = 200 // bank.views[view].every
        old_lanes, new_lanes = in_order(old, size), in_order(new, size)
        for one, other in zip(old_lanes, new_lanes, strict=True):
            assert one[:, :3].tolist() == other[:, :3].tolist()
            # The scale has moved on a little since the old ones were made.
            apart = np.abs(one[:, 3:] - other[:, 3:])
            assert np.quantile(apart, 0.95) <= 6
    assert np.array_equal(before["low"], after["low"])
    assert bank.remembers(heir, stream.bank, stream.detector)
    assert heir.budget.snapshot() == stream.budget.snapshot()


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_the_heir_scores_as_the_old_one_does_and_takes_its_place(scale):
    stream = Lone(encoded=True)
    samples = normal(1400)
    samples[1200:1210] = changed(samples[1200:1210], "a", lambda value: value + 9)
    feed(stream, samples[:900])
    bank = bank_like(stream, scale=scale)
    heir = carried(stream, bank, scale)
    old, new = both(stream, bank, heir, samples[900:1250], scale)
    assert [one.at for one in old] == [one.at for one in new]
    assert np.corrcoef([one.score for one in old], [one.score for one in new])[0, 1] > 0.95
    assert {one.at for one in old if one.score > 3} == {one.at for one in new if one.score > 3} != set()
    heir.budget.learn(1250.0, 1.0)
    heir.succeed(stream.detector)
    stream.bank.release(stream.detector)
    assert heir.budget.decisions == stream.budget.decisions
    assert heir.budget.snapshot()["learnt"] == stream.budget.snapshot()["learnt"] + 1
    lone = Lone(encoded=True, bank=bank)
    lone.detector = heir
    found = []
    for sample in samples[1250:]:
        due = lone.push(sample)
        found.append(due.row)
    assert found == list(range(1251, 1401))


def test_what_is_learnt_meanwhile_comes_last():
    stream = Lone(encoded=True)
    samples = normal(1000)
    feed(stream, samples[:900])
    heir = carried(stream, bank := bank_like(stream), between=lambda: feed(stream, samples[900:]))
    for view in (1, 2):
        assert np.array_equal(bank.rows(heir, view, 1), np.sort(stream.bank.rows(stream.detector, view, 1)))
    assert [one.row for one in heir.waiting] == [one.row for one in stream.waiting] == list(range(969, 1001))
    assert all(one.admitted.any() for one in heir.waiting)


def test_a_longer_window_reaches_back_less_far():
    stream = Lone(encoded=True)
    feed(stream, normal(600))
    bank = bank_like(stream, length=128)
    heir = carried(stream, bank)
    assert heir.span == 129 * 4
    assert 0 < len(bank.rows(heir, 2, 0)) < len(stream.bank.rows(stream.detector, 2, 0))
    assert not bank.remembers(heir, stream.bank, stream.detector)
    assert not bank.knows_enough(heir, stream.bank, stream.detector)
    old, new = both(stream, bank, heir, normal(500, start=600, seed=5))
    assert len(old) == len(new) == 500
    assert bank.knows_enough(heir, stream.bank, stream.detector)


def test_references_whose_readings_are_gone_are_let_go():
    stream = Lone(encoded=True, mode=Mode.FROZEN)
    feed(stream, normal(400))
    for sample in normal(4200, seed=1, start=400):
        stream.push(sample)  # and decides nothing: that would change nothing here
    bank = bank_like(stream)
    heir = carried(stream, bank)
    assert len(bank.rows(heir, 1, 0)) == 0 < len(stream.bank.rows(stream.detector, 1, 0))
    assert not bank.remembers(heir, stream.bank, stream.detector)
    assert bank.reference_size(heir) == stream.reference_size  # plain values know all that they knew
    found, new = both(stream, bank, heir, normal(5, seed=2, start=4600))
    assert np.isnan(new[0].view_scores[1:]).all()
    assert not np.isnan(found[0].view_scores[:2]).any()


def odd_stream():
    """Return a stream with an alert that was accepted, one that fires and one that is pending."""
    stream = Lone(encoded=True)
    samples = normal(900)
    samples[500:520] = changed(samples[500:520], "a", lambda value: value + 9)
    samples[800:820] = changed(samples[800:820], "b", lambda value: value + 9)
    for place, sample in enumerate(samples):
        due = stream.push(sample)
        if due is None:
            continue
        decide(stream.bank, [due])
        if 500 <= place < 520:
            stream.bank.quarantine(due, "accepted", firing=True)
        if 800 <= place < 810:
            stream.bank.quarantine(due, "fires", firing=True)
        if 810 <= place < 820:
            stream.bank.quarantine(due, "pending", firing=False)
    assert stream.bank.accept(stream.detector, "accepted") > 0
    return stream


def test_what_is_held_for_alerts_and_what_was_accepted_go_along():
    stream = odd_stream()
    bank = bank_like(stream)
    heir = carried(stream, bank)
    old, new = stream.quarantine, heir.quarantine
    assert [one.at for one in new.held("fires")] == [one.at for one in old.held("fires")] != []
    assert [one.refused.tolist() for one in new.held("fires")] == [one.refused.tolist() for one in old.held("fires")]
    assert new.snapshot()["pending"][0] == "pending"
    change, before = new.accepted("accepted"), old.accepted("accepted")
    assert 0 < len(change.rows) < len(before.rows)
    assert {int(row) % 3 for row in change.rows} == {0}
    entered = bank.forget_alert(heir, "accepted")
    assert entered == stream.bank.forget_alert(stream.detector, "accepted") > 0
    assert bank.accept(heir, "fires") == stream.bank.accept(stream.detector, "fires") > 0


def test_what_is_held_of_readings_that_are_gone_counts_for_plain_values_alone():
    stream = Lone(encoded=True)
    feed(stream, normal(500))
    due = stream.push(normal(1, start=500)[0])
    decide(stream.bank, [due])
    query = np.ones((1, stream.bank.columns(2).stop), np.int8)
    gone = Held(1.0, np.array([0]), query, np.ones((1, 3), np.bool_), np.zeros((1, 2)))
    stream.quarantine.keep("old", gone, firing=True)
    bank = bank_like(stream)
    heir = carried(stream, bank)
    (held,) = heir.quarantine.held("old")
    assert held.refused.tolist() == [[True, False, False]]
    assert held.query[0, :64].tolist() == [1] * 64
    assert not held.query[0, 64:].any()


def test_too_few_references_give_no_past():
    stream = Lone(encoded=True)
    bank = bank_like(stream)
    few = np.zeros((MIN_REFERENCES - 1, 128), np.int8)
    assert bank.compared(1, few, np.arange(len(few))) is None


def test_windows_that_overlap_are_not_compared():
    bank = bank_like(Lone(encoded=True))
    rng = np.random.default_rng(0)
    entries = np.repeat(rng.integers(-100, 100, (40, 128)), 8, axis=0).astype(np.int8)  # eight of a kind, side by side
    together, _ = bank.compared(1, entries, 8 * np.arange(320))
    apart, _ = bank.compared(1, entries, 1000 * np.arange(320))
    assert together.min() > 0.0 > apart.max()  # log distances: none is like another but its neighbours


def test_lanes_at_the_end_give_their_memory_back():
    settings = {"reference": ReferenceSettings(size=1000, warm_up=150)}
    first = Lone(("a",), encoded=True, **settings)
    feed(first, normal(300, ("a",)))
    streams = [Lone(("a",), encoded=True, bank=first.bank) for _ in range(40)]
    saved = first.snapshot()
    for stream in streams:
        stream.restore(saved)
    reference = first.bank._references[1]
    full = reference._entries.nbytes
    expected = feed(first, normal(5, ("a",), start=300))
    first.bank.release(streams[0].detector)  # in the middle: nothing can be given back
    assert reference._entries.nbytes == full
    for stream in streams[1:]:
        first.bank.release(stream.detector)
    assert first.bank._lanes == 1
    assert reference._entries.nbytes < full / 20
    assert [one.score for one in feed(first, normal(5, ("a",), start=305))] != [one.score for one in expected]
    again = Lone(("a",), encoded=True, bank=first.bank)
    feed(again, normal(300, ("a",)))
    assert again.lanes == (1, 2)
    first.bank.release(Lone(("a",), bank=first.bank).detector)  # one that has learnt nothing has none


def test_small_arrays_stay():
    small = np.zeros((4, 4))
    trimmed(small, 1)
    assert len(small) == 4
    flat = np.zeros(LARGE_BYTES)
    trimmed(flat, 1)
    assert len(flat) == LARGE_BYTES
    large = np.zeros((1000, LARGE_BYTES // 100))
    large[:100] = np.arange(100)[:, None]
    trimmed(large, 80)
    assert len(large) == 90
    assert large[79, 0] == 79
