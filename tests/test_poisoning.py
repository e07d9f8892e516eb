"""What made-up values can teach: how fast a level may be moved without being told. docs/security.md has the figures."""

from __future__ import annotations

import pytest

from agent.core.types import Mode
from tests.benchmarks.poisoning import Attack, attack

STEP = 0.1  # standard deviations with each reading: 8,640 a day
MOST_MOVED = 9.0


@pytest.mark.parametrize("mode", [Mode.ADAPT, Mode.HOLD])
def test_a_ramp_of_made_up_values_is_told_before_it_has_moved_far(mode):
    ramp = Attack(STEP, seed=1)
    attack(mode, [ramp], round(MOST_MOVED / STEP), encoder="none")
    assert ramp.before == 0
    assert ramp.moved, f"nothing was told of a level that moved by {MOST_MOVED} standard deviations"
