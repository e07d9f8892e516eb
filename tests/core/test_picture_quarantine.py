"""What was refused waits for an operator."""

from __future__ import annotations

import numpy as np

from agent.core.picture_quarantine import KEPT_FIRST, MAX_PICTURES, PictureQuarantine
from agent.core.picture_reference import Picture
from agent.core.quarantine import MARKS, MAX_ACCEPTED, MAX_ALERTS


def picture(number):
    return Picture(float(number), number, np.ones(2, np.float32), np.ones((3, 2), np.float32), 0.0, 0.0)


def test_an_alert_keeps_how_it_began_and_the_newest():
    made = PictureQuarantine()
    made.keep("a", picture(0), firing=False)
    for number in range(1, 40):
        made.keep("a", picture(number), firing=True)
    made.keep("a", None, firing=True)
    numbers = [one.number for one in made.held("a")]
    assert len(numbers) == MAX_PICTURES
    assert numbers[:KEPT_FIRST] == list(range(KEPT_FIRST))
    assert numbers[-1] == 39
    assert made.bytes == MAX_PICTURES * picture(0).bytes


def test_what_comes_to_nothing_is_let_go():
    made = PictureQuarantine()
    made.keep("a", picture(0), firing=False)
    assert made.bytes > 0
    made.release()
    assert made.bytes == 0
    assert not made.knows("a")
    assert made.held("a") == []


def test_only_the_last_alerts_are_kept():
    made = PictureQuarantine()
    for number in range(MAX_ALERTS + 2):
        made.keep(f"{number}", picture(number), firing=True)
    assert not made.knows("1")
    assert made.knows("2")


def test_marks_are_given_in_turn_and_never_twice():
    made = PictureQuarantine()
    marks = [made.accept(f"{number}") for number in range(MARKS + 10)]
    assert marks[:3] == [1, 2, 3]
    assert marks[MARKS] == 1
    assert made.accepted("0") is None
    assert made.accepted(f"{MARKS + 9}") == marks[-1]
    assert len({made.accepted(f"{MARKS + 10 - i}") for i in range(1, MAX_ACCEPTED + 1)}) == MAX_ACCEPTED
    made.forget(f"{MARKS + 9}")
    assert made.accepted(f"{MARKS + 9}") is None


def test_it_goes_on_after_a_restart():
    one, other = PictureQuarantine(), PictureQuarantine()
    one.keep("a", picture(0), firing=True)
    one.accept("a")
    one.keep("b", picture(1), firing=False)
    other.restore(one.snapshot())
    other.keep("b", picture(2), firing=True)
    assert [held.number for held in other.held("b")] == [1, 2]
    assert other.knows("a")
    assert other.accept("b") == 2
    empty = PictureQuarantine()
    empty.restore(PictureQuarantine().snapshot())
    assert empty.bytes == 0
