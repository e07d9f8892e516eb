"""What is added to a detector's snapshot, and what comes of both."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import picture_memory
from agent.core.bank import TooFewLeftError
from agent.core.picture_past import PicturePast
from agent.core.picture_patches import PatchBank, evenly, extend, in_units, lengthened, of_units, shortened
from agent.core.pictures import PictureDetector
from agent.core.types import Mode, StreamPhase
from tests.core.pictures import feed, frame, learnt, make, outputs


class Disk:
    """What is on disk of a detector: its last whole snapshot, and what was added to it."""

    def __init__(self, detector: PictureDetector) -> None:
        self.detector = detector
        self.wholes, self.additions = 0, []
        self.save()

    def save(self) -> None:
        added = self.detector.addition()
        if added is None:
            self.whole, self.additions = deepcopy(self.detector.snapshot()), []
            self.wholes += 1
        else:
            self.additions.append(deepcopy(added))
        self.detector.saved()

    def resumed(self, **how) -> PictureDetector:
        """Return what goes on from there."""
        made = make(**how)
        past = PicturePast(self.whole, made.settings.reference)
        for one in self.additions:
            past.add(one)
        made.restore(past.state())
        return made


def life(detector, rng, first, last, disk=None, every=12):
    """Push pictures, some of them odd, and an alert that is accepted; save now and then. Return the scores."""
    scores = []
    for i in range(first, last):
        found = detector.push(frame(i), outputs(rng, defect=7.0 * (i % 23 == 0)))
        scores.append(None if found is None else (found.score, found.patch_score, found.pool_score, found.admitted))
        if i % 23 == 0 and found is not None:
            detector.keep(f"{i}", firing=i % 2 == 0)
        if i == 322:
            detector.accept("322")
        if disk is not None and (i - first) % every == every - 1:
            disk.save()
    return scores


@pytest.mark.parametrize("begun", [0, 40, 75, 110, 130, 155, 180, 300])
def test_a_slow_stream_goes_on_to_the_bit(begun):
    """From each stage on: before the whitening, while examples are gathered, while fits are made, while alerts run."""
    whole, rng = make(), np.random.default_rng(1)
    life(whole, rng, 0, begun)
    disk = Disk(whole)
    life(whole, rng, begun, begun + 60, disk)
    assert disk.additions
    assert disk.wholes == 1 + (begun < 120 <= begun + 60) + (begun <= 322 < begun + 60)
    again = disk.resumed()
    assert (again.phase, again.reference_size, again.learning_left) == (
        whole.phase, whole.reference_size, whole.learning_left
    )  # fmt: skip
    assert again.quarantine.pictures().keys() == whole.quarantine.pictures().keys()
    assert again.times() == whole.times()
    state = rng.bit_generator.state
    expected = life(whole, rng, begun + 60, begun + 200)
    rng.bit_generator.state = state
    assert str(life(again, rng, begun + 60, begun + 200)) == str(expected)


def test_where_each_cell_is_usually_is_known_nearly():
    detector, rng = learnt()
    disk = Disk(detector)
    feed(detector, rng, 15, 200)
    disk.save()
    again = disk.resumed()
    for one, other in zip(detector._usual.means, again._usual.means, strict=True):
        assert np.abs(one - other).max() < 0.03 * np.abs(one - one.mean(axis=0)).max()
    odd = outputs(rng, defect=8.0)
    assert np.abs(detector.heat(odd) - again.heat(odd)).max() < 0.05
    assert detector.addition()["usual"] is None  # there was no picture
    feed(detector, rng, 15, 300)
    disk.additions.append(deepcopy(detector.addition(usual=False)))
    later = disk.resumed()
    assert all(map(np.array_equal, again._usual.means, later._usual.means))


def drifting(rng, i, **how):
    """Return a picture's maps of a scene that changes slowly."""
    return [one + np.float32(0.4 * np.sin(i / 300)) for one in outputs(rng, **how)]


@pytest.mark.parametrize("told", [10, 40])
def test_a_fast_stream_goes_on_from_some_of_its_pictures_and_scores_as_before(monkeypatch, told):
    monkeypatch.setattr(picture_memory, "MOST_TOLD", told)
    monkeypatch.setattr(picture_memory, "EXAMPLES_TOLD", 20 * told)
    detector, rng = make(size=400), np.random.default_rng(1)
    for i in range(500):
        detector.push(frame(i), drifting(rng, i))
    disk = Disk(detector)
    for i in range(500, 1100):
        detector.push(frame(i), drifting(rng, i))
        if i % 100 == 99:
            disk.save()
    again = disk.resumed(size=400)
    times = sorted(again.memory.ring.times[: again.reference_size].tolist())
    live = set(detector.memory.ring.times.tolist())
    assert times[-1] == max(live)  # the newest is always among them
    assert max(120, 3 * told) <= len(times) < 400
    assert len(live & set(times)) >= 3 * told
    assert disk.resumed(size=400).memory.snapshot()["ring"]["pool_scores"].tobytes() == (
        again.memory.snapshot()["ring"]["pool_scores"].tobytes()
    )
    state = rng.bit_generator.state
    scores = []
    for one in (detector, again):
        rng.bit_generator.state = state
        scores.append([one.push(frame(i), drifting(rng, i)).score for i in range(1100, 1300)])
    assert np.mean(scores[1]) == pytest.approx(np.mean(scores[0]), abs=0.15)
    assert max(scores[1]) < max(4.0, max(scores[0]) + 1.0)
    odd = drifting(rng, 1300, defect=6.0)
    assert again.push(frame(1300), odd).score > max(scores[1])


def test_a_change_that_was_learnt_is_known(monkeypatch):
    monkeypatch.setattr(picture_memory, "MOST_TOLD", 20)
    monkeypatch.setattr(picture_memory, "EXAMPLES_TOLD", 400)
    detector, rng = learnt(size=400)
    feed(detector, rng, 300, 200)
    disk = Disk(detector)
    feed(detector, rng, 100, 500, shift=3.0)
    for i in range(600, 1000, 100):
        disk.save()
        feed(detector, rng, 100, i, shift=3.0)
    disk.save()
    again = disk.resumed(size=400)
    assert max(one.score for one in feed(again, rng, 50, 1000, shift=3.0)) < 3.0
    assert disk.wholes == 1


def test_a_stream_that_was_fast_and_is_slow_is_exact_again(monkeypatch):
    detector, rng = learnt(size=120)
    disk = Disk(detector)
    monkeypatch.setattr(picture_memory, "MOST_TOLD", 10)
    feed(detector, rng, 60, 200)
    disk.save()
    assert detector.memory.count > disk.resumed(size=120).reference_size
    for i in range(300, 500, 10):
        feed(detector, rng, 10, i)
        disk.save()
    again, state = disk.resumed(size=120), rng.bit_generator.state
    assert again.reference_size == 120
    pool = [one.pool_score for one in feed(detector, rng, 20, 500)]
    rng.bit_generator.state = state
    assert [one.pool_score for one in feed(again, rng, 20, 500)] == pool  # examples may be of before


def test_only_pictures_that_may_still_matter_are_remembered_meanwhile():
    detector, rng = learnt(size=120)
    whole = deepcopy(detector.snapshot())
    detector.saved()
    past = PicturePast(whole, detector.settings.reference)
    for first in range(200, 1400, 60):
        feed(detector, rng, 60, first)
        past.add(deepcopy(detector.addition()))
        detector.saved()
    assert len(past._known) < 600
    again = make(size=120)
    again.restore(past.state())
    assert again.memory.held() == detector.memory.held()


def test_more_examples_than_there_can_be_are_refused():
    detector, _ = learnt()
    disk = Disk(detector)
    disk.save()
    disk.additions[0]["memory"]["bank"]["filled"] = 10**12
    with pytest.raises(ValueError, match="1000000000000 examples"):
        disk.resumed()


def test_tiles_share_what_is_told():
    detector, rng = learnt(size=400)
    Disk(detector)
    feed(detector, rng, 150, 200)
    told = [len(detector.addition(tiles)["memory"]["numbers"]) for tiles in (1, 4, 1000)]
    assert told == [100, 25, 1]


def test_few_pictures_make_no_fit(monkeypatch):
    monkeypatch.setattr(picture_memory, "MOST_TOLD", 5)
    detector, rng = learnt(warm_up=60)
    disk = Disk(detector)
    feed(detector, rng, 12, 200)
    disk.save()
    again = disk.resumed(warm_up=60)
    assert again.memory.fit is None
    assert again.reference_size < detector.reference_size
    assert np.isfinite(feed(again, rng, 1, 300)[0].score)


def test_pictures_of_an_alert_are_told_once():
    detector, rng = learnt(mode=Mode.FROZEN)
    disk = Disk(detector)
    for i in range(4):
        feed(detector, rng, 1, 200 + i, defect=6.0)
        detector.keep("a", firing=i > 0)
        disk.save()
    assert [len(one["pictures"]) for one in disk.additions] == [1] * 4
    again = disk.resumed(mode=Mode.FROZEN)
    assert [one.at for one in again.quarantine.held("a")] == [200.0, 201.0, 202.0, 203.0]
    assert again.accept("a") == 4
    assert again.forget_alert("a") == 4


def test_what_is_changed_by_hand_is_told_by_a_whole_snapshot():
    detector, rng = learnt()
    assert detector.addition() is None
    feed(detector, rng, 1, 200, defect=6.0)
    detector.keep("a", firing=True)
    for change in (
        lambda: detector.accept("a"),
        lambda: detector.forget_alert("a"),
        lambda: detector.forget_span(0.0, 10.0),
    ):
        detector.saved()
        assert detector.addition() is not None
        change()
        assert detector.addition() is None
    detector.saved()
    detector.forget_span(0.0, 20.0, really=False)
    with pytest.raises(TooFewLeftError):
        detector.forget_span(0.0, 900.0)
    assert detector.addition() is not None
    assert detector.phase is StreamPhase.ACTIVE


def test_a_place_whose_first_example_was_left_out_stays_empty_when_that_is_seen_again():
    bank = PatchBank(4000, 64, 0.5)

    def learn(numbers, first):
        for number in numbers:
            patches = np.random.default_rng(number).normal(size=(50, 64)).astype(np.float16).astype(np.float32)
            bank.learn(patches, np.arange(50), first + number, float(number))
            bank.log_radius = 0.0

    learn(range(1), 0)
    bank.saved()
    state = bank.snapshot()
    learn(range(1, 30), 0)
    extend(state, bank.addition(600, exact=False))
    bank.saved()
    empty = int((state["seen"] < 0).sum())
    assert empty == 29 * 50 - 600
    learn(range(30), 100)
    extend(state, bank.addition(600, exact=False))
    assert int((state["seen"] < 0).sum()) == empty
    assert (state["born"][state["seen"] >= 0] >= 0).all()
    assert (state["seen"][state["seen"] >= 0] >= 100).all()
    restored = PatchBank(4000, 64, 0.5)
    restored.restore(state)
    assert restored.count == 50 + 600


@given(st.integers(0, 300), st.integers(1, 300))
def test_places_are_even_and_end_with_the_last(count, most):
    found = evenly(count, most)
    assert len(found) == min(count, most)
    assert found[-1:].tolist() == [count - 1][: len(found)]
    steps = np.diff(found)
    assert len(steps) == 0 or (steps.min() > 0 and steps.max() - steps.min() <= 1)


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e4), st.floats(1e-9, 10.0))
@settings(max_examples=50)
def test_numbers_in_units_are_half_a_unit_off_at_most(seed, size, least):
    rows = (np.random.default_rng(seed).normal(size=(5, 8)) * size).astype(np.float32)
    multiples, units = in_units(rows, 127, least)
    assert (units >= np.float32(least)).all()
    assert (np.abs(of_units(multiples, units) - rows) <= 0.502 * units).all()
    again = lengthened(shortened(rows))
    assert (np.abs(again - rows) <= 0.02 * np.ptp(rows, axis=0) + 1e-6 * size).all()
    assert in_units(rows[:0], 127, least)[0].shape == (0, 8)
