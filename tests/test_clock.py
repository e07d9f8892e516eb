from __future__ import annotations

import os

import pytest

from agent.clock import STEP_S, Clock, last_written

NOW = 1_800_000_000.0


class Machine:
    """A wall clock and a steady one, moved by hand."""

    def __init__(self, wall):
        self.wall, self.steady = wall, 100.0

    def clock(self, latest=0.0):
        return Clock(latest, lambda: self.wall, lambda: self.steady)

    def run(self, seconds, *, drift=0.0):
        self.steady += seconds
        self.wall += seconds + drift


@pytest.mark.parametrize(
    ("wall", "latest", "wrong"),
    [
        (12.0, 0.0, True),  # 1970
        (946_684_800.0, 0.0, True),  # 2000, as of a battery that is empty
        (NOW, 0.0, False),
        (NOW, NOW + STEP_S - 1, False),
        (NOW, NOW + 3600, True),  # an hour before what was written last: since then it has been off
    ],
)
def test_a_clock_is_wrong_where_it_shows_what_is_past(wall, latest, wrong):
    assert Machine(wall).clock(latest).wrong is wrong


def test_years_ahead_is_one_step_and_the_clock_is_right_from_then_on():
    machine = Machine(12.0)
    clock = machine.clock(NOW - 86400)
    machine.run(30)
    assert clock.stepped() == 0.0
    machine.wall = NOW
    assert clock.stepped() == NOW - 42.0
    assert not clock.wrong
    machine.run(1)
    assert clock.stepped() == 0.0


def test_what_a_clock_is_corrected_by_and_a_machine_that_slept_are_no_steps():
    machine = Machine(NOW)
    clock = machine.clock()
    machine.run(3600, drift=1.0)
    machine.run(12 * 3600)
    assert clock.stepped() == 0.0


def test_what_was_written_while_the_clock_was_ahead_is_no_longer_believed_once_it_is_set_back():
    machine = Machine(NOW + 1e8)
    clock = machine.clock(NOW + 1e8)
    machine.wall = NOW
    assert clock.wrong
    assert clock.stepped() == -1e8
    assert not clock.wrong


def test_what_was_written_last_tells_what_is_past(tmp_path):
    assert last_written(tmp_path / "none") == last_written(tmp_path) == 0.0
    for name, at in (("a", NOW), ("b", NOW - 1)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (at, at))
    assert last_written(tmp_path) == NOW
