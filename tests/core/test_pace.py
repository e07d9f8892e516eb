"""How often is often enough: the rule for the grid steps between decisions."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.pace import ABOUT, BUSY_PER_S, pace
from agent.core.views import SHORTEST_SPAN, views_for


@pytest.mark.parametrize(
    ("rate", "steps"),
    [
        (1e-5, 1),
        (1, 1),
        (10, 1),
        (20, 1),
        (21, 2),
        (50, 3),
        (100, 5),
        (101, 5),
        (400, 20),
        (660, 33),
        (1600, 33),
        (1e9, 33),
    ],
)
def test_twenty_decisions_a_second_are_enough_and_no_reading_is_left_out(rate, steps):
    assert pace(1.0 / rate) == steps


@given(st.integers(1, 50), st.floats(0.5, 0.999))
def test_it_is_the_rule_wherever_a_rate_is_not_nearly_a_round_number(steps, part):
    rate = BUSY_PER_S * (steps - 1 + part)
    assert pace(1.0 / rate) == min(SHORTEST_SPAN, max(1, ceil(rate / BUSY_PER_S))) == min(33, steps)


@given(st.floats(0.0, exclude_min=True, allow_infinity=False, allow_nan=False))
def test_any_period_has_steps_that_windows_span(period_s):
    steps = pace(period_s)
    assert 1 <= steps <= SHORTEST_SPAN
    assert steps == SHORTEST_SPAN or steps * period_s * BUSY_PER_S * ABOUT >= 1.0 - 1e-9


def test_the_shortest_span_is_that_of_every_encoder_and_of_none():
    for views in (views_for(0, 0, 1.0, 0), views_for(64, 128, 1.0, 0), views_for(32, 16, 1.0, 0)):
        assert min(view.span for view in views) == SHORTEST_SPAN
