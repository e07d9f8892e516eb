"""One stream of pictures: what is found, what is learnt, and that a restart changes nothing."""

from __future__ import annotations

from math import log10

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.picture_patches import Position
from agent.core.picture_reference import REFUSE_P
from agent.core.types import Mode, StreamPhase
from tests.core.pictures import PIXELS, feed, frame, learnt, make, outputs


def test_it_learns_so_many_pictures_and_no_more():
    detector, rng = make(), np.random.default_rng(0)
    for left in range(120, 0, -1):
        assert (detector.phase, detector.learning_left) == (StreamPhase.LEARNING, left)
        assert detector.push(frame(120 - left), outputs(rng)) is None
    assert (detector.phase, detector.learning_left) == (StreamPhase.ACTIVE, 0)
    assert detector.reference_size == 120
    assert detector.push(frame(120), outputs(rng)) is not None
    assert detector.bytes > 10_000


@pytest.mark.parametrize("position", list(Position))
def test_usual_pictures_are_usual_and_a_defect_is_odd(position):
    detector, rng = learnt(position=position)
    usual = feed(detector, rng, 200, 120)
    assert np.mean([one.p_value <= 0.01 for one in usual]) < 0.05
    odd = feed(detector, rng, 1, 400, defect=6.0)[0]
    assert odd.p_value < REFUSE_P
    assert odd.score == pytest.approx(-log10(odd.p_value))
    assert not odd.admitted
    assert odd.part_scores.sum() == pytest.approx(1.0, abs=1e-4)
    assert odd.part_scores.argmax() == 4  # the middle of nine


def test_what_is_known_elsewhere_is_odd_where_patches_are_looked_for_at_the_same_place():
    anywhere, _ = learnt()
    same, rng = learnt(position=Position.SAME)
    usual = outputs(rng)
    turned = [usual[0], usual[1][::-1, ::-1].copy()]
    found = [[one.push(frame(500), made).patch_score for made in (usual, turned)] for one in (anywhere, same)]
    assert found[1][1] - found[1][0] > found[0][1] - found[0][0] + 0.3


@given(st.integers(0, 20), st.floats(0, 20))
@settings(max_examples=10, deadline=None)
def test_a_picture_is_scored_before_it_is_learnt(seed, defect):
    one, _ = learnt()
    other, _ = learnt(mode=Mode.FROZEN)
    given_outputs = outputs(np.random.default_rng(1000 + seed), defect=defect)
    first = one.push(frame(500), given_outputs)
    assert first.score == other.push(frame(500), given_outputs).score
    if first.admitted:
        assert one.push(frame(501), given_outputs).patch_score < first.patch_score


def test_frozen_learns_nothing():
    detector, rng = learnt(mode=Mode.FROZEN)
    count = detector.reference_size
    assert not any(one.admitted for one in feed(detector, rng, 20, 120))
    assert detector.reference_size == count


def test_a_changed_scene_is_learnt_after_a_while():
    detector, rng = learnt(adapt_after_s=30.0)
    feed(detector, rng, 60, 120)
    odd = feed(detector, rng, 120, 200, shift=3.0)
    admitted = [one.admitted for one in odd]
    assert admitted.index(True) >= 30
    assert np.median([one.p_value for one in odd[-20:]]) > 0.01


def test_what_was_turned_away_lately_is_learnt_with_a_changed_scene_and_an_old_oddity_is_not():
    detector, rng = learnt(size=300)
    (old,) = feed(detector, rng, 1, 200, defect=9.0)
    feed(detector, rng, 40, 300)
    assert not old.admitted
    held = detector.reference_size
    found = feed(detector, rng, 12, 400, shift=4.0)
    first = next(place for place, one in enumerate(found) if one.admitted)
    assert first >= 9
    assert detector.reference_size == held + 12  # none of them was let go
    assert feed(detector, rng, 1, 500, defect=9.0)[0].p_value < 1e-3


def test_scores_do_not_depend_on_the_order_of_what_is_ignored():
    ignored = np.zeros((24, 24), np.bool_)
    ignored[8:16, 8:16] = True  # where the defect is
    detector, rng = learnt(ignored=ignored)
    assert feed(detector, rng, 1, 200, defect=9.0)[0].part_scores[1, 1] == 0
    one, other = outputs(rng), None
    other = [each.copy() for each in one]
    other[0][2:4, 2:4], other[1][1, 1] = 99.0, -99.0
    found = [
        made.push(frame(300), given_outputs)
        for made, given_outputs in ((learnt(ignored=ignored)[0], one), (learnt(ignored=ignored)[0], other))
    ]
    assert found[0].score == found[1].score
    with pytest.raises(ValueError, match="ignored"):
        make(ignored=np.ones((24, 24), np.bool_))


def test_heat_is_where_the_defect_is():
    detector, rng = learnt()
    feed(detector, rng, 30, 120)
    heat = detector.heat(outputs(rng, defect=8.0))
    assert heat.shape == (6, 6)
    assert heat.dtype == np.float32
    assert 0 <= heat.min() <= heat.max() <= 1
    assert np.unravel_index(heat.argmax(), heat.shape) in {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert heat.max() > detector.heat(outputs(rng)).max()
    few, rng = learnt(warm_up=40)
    assert few.heat(outputs(rng, defect=8.0)).max() > few.heat(outputs(rng)).max()


def test_what_was_learnt_before_places_were_known_goes_on_and_is_hot_where_the_defect_is():
    detector, rng = learnt()
    saved = detector.snapshot()
    del saved["usual"]
    again = make()
    again.restore(saved)
    odd = outputs(rng, defect=8.0)
    assert np.unravel_index(again.heat(odd).argmax(), (6, 6)) in {(2, 2), (2, 3), (3, 2), (3, 3)}
    assert again.push(frame(130), odd).score == detector.push(frame(130), odd).score


def test_light_is_prepared_as_it_was_learnt():
    detector, rng = make(), np.random.default_rng(0)
    assert np.allclose(detector.prepare(frame(0)), PIXELS, atol=0.01)
    feed(detector, rng, 120)
    darker = (PIXELS * 0.5).astype(np.uint8)
    assert np.abs(detector.prepare(frame(0, darker)).astype(float) - PIXELS).max() < 3


def alert(detector, rng, first=600):
    """Raise an alert over three odd pictures."""
    found = []
    for i in range(3):
        found.append(detector.push(frame(first + i), outputs(rng, defect=6.0)))
        detector.keep("a", firing=i > 0)
    return found


def test_what_an_operator_accepts_is_usual_and_what_is_forgotten_is_odd_again():
    detector, rng = learnt(mode=Mode.FROZEN)
    odd = alert(detector, rng)
    count = detector.reference_size
    assert detector.forget_alert("a") == 0
    assert detector.accept("a") == 3
    assert detector.reference_size == min(count + 3, 150)
    another = outputs(rng, defect=6.0)
    again = detector.push(frame(700), another)
    assert again.score < min(one.score for one in odd)
    assert again.patch_score < min(one.patch_score for one in odd)
    assert [detector.forget_alert("a", really=False) for _ in range(2)] == [3, 3]
    assert detector.forget_alert("a") == 3
    forgotten = detector.push(frame(701), another)
    assert forgotten.patch_score > again.patch_score
    assert forgotten.score > again.score
    assert detector.quarantine.knows("a")


def test_what_is_admitted_is_not_kept_for_an_alert():
    detector, rng = learnt()
    detector.push(frame(500), outputs(rng))
    detector.keep("a", firing=True)
    assert detector.quarantine.held("a") == []


@pytest.mark.parametrize("at", [0, 50, 90, 114, 120, 121, 160, 181, 187, 260, 330])
def test_a_restart_changes_no_score(at):
    """At each stage: before the whitening, while examples are gathered, while fits are made, while alerts run."""

    def life(detector, rng, first, last):
        scores = []
        for i in range(first, last):
            found = detector.push(frame(i), outputs(rng, defect=7.0 * (i % 23 == 0)))
            scores.append(None if found is None else (found.score, found.patch_score, found.pool_score, found.admitted))
            if i == 322:
                detector.keep("b", firing=True)
                detector.accept("b")
        return scores

    whole, rng = make(), np.random.default_rng(1)
    life(whole, rng, 0, at)
    raw = msgspec.msgpack.encode(
        whole.snapshot(), enc_hook=lambda one: [str(one.dtype), list(one.shape), one.tobytes()]
    )
    assert len(raw) > 100
    other = make()
    other.restore(whole.snapshot())
    state = rng.bit_generator.state
    expected = life(whole, rng, at, 380)
    rng.bit_generator.state = state
    assert str(life(other, rng, at, 380)) == str(expected)
    assert (other.phase, other.reference_size) == (whole.phase, whole.reference_size)


def test_who_follows_begins_with_the_light_and_knows_what_was_accepted():
    old, rng = learnt()
    feed(old, rng, 1, 200, defect=9.0)
    old.keep("a", firing=True)
    old.accept("a")
    for alike in (True, False):
        heir = make()
        heir.begin_after(old, alike=alike)
        assert (heir.light.usual is not None) is alike
        assert heir.quarantine.accepted("a") == old.quarantine.accepted("a")
        assert heir.quarantine.held("a") == []
        assert not heir.equals(old)
        feed(heir, rng, 120, 300)
        assert heir.equals(old)
        if alike:
            np.testing.assert_array_equal(heir.light.usual, old.light.usual)


def test_who_judges_no_whole_pictures_yet_does_not_follow_one_that_does():
    old, rng = learnt()
    heir = make(warm_up=60)
    heir.begin_after(old, alike=True)
    feed(heir, rng, 60, 200)
    assert heir.phase is StreamPhase.ACTIVE
    assert not heir.equals(old)
    assert make(warm_up=60).equals(heir) is False
    assert heir.equals(heir)
    feed(heir, rng, 80, 300)
    assert heir.equals(old)


def test_who_follows_one_that_learns_learns_the_light_itself():
    old, rng = make(), np.random.default_rng(0)
    old.push(frame(0), outputs(rng))
    heir = make()
    heir.begin_after(old, alike=True)
    assert heir.light.usual is None


def test_what_is_known_to_be_normal_is_learnt_whatever_it_looks_like():
    detector, rng = learnt()
    odd = outputs(rng, defect=9.0)
    held = detector.reference_size
    picture = detector.examine(frame(200), odd)
    assert (picture.at, detector.reference_size) == (200.0, held)
    detector.learn(frame(201), odd, mark=7)
    assert detector.memory.held()[-1] == (201.0, 7)
    assert np.count_nonzero(detector.memory.bank.marks == 7) > 0
    feed(detector, rng, 60, 300)
    assert detector.push(frame(400), odd).patch_score < picture.patch_score
    held = dict(detector.memory.held())
    assert held[201.0] == 7
    assert list(held) == sorted(held)
    assert set(held) <= detector.times()


def test_a_warm_up_takes_what_is_normal_and_nothing_that_has_a_mark():
    detector, rng = make(), np.random.default_rng(0)
    detector.learn(frame(0), outputs(rng))
    detector.learn(frame(1), outputs(rng), mark=3)
    assert detector.learning_left == 119


def test_what_is_kept_for_alerts_is_taken_where_it_is_known():
    old, rng = learnt()
    for at, alert in ((200, "a"), (201, "b"), (202, "c")):
        feed(old, rng, 1, at, defect=9.0)
        old.keep(alert, firing=alert != "c")
    assert old.quarantine.pictures().keys() == {200.0, 201.0, 202.0} <= old.times()
    heir, _ = learnt(seed=1)
    known = {at: heir.examine(frame(at), outputs(rng)) for at in (200.0, 202.0)}
    heir.quarantine.begin_after(old.quarantine, known)
    assert heir.quarantine.pictures() == known
    assert (heir.quarantine.knows("a"), heir.quarantine.knows("b")) == (True, False)
    heir.keep("c", firing=True)  # it was pending
    assert heir.quarantine.held("c") == [known[202.0]]
