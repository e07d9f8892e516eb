from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alert_message import rounded, timestamp


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1.989012345, 0.9028847, 1.0999712), [1.98901, 0.90288, 1.09997]),
        ((293.8771234, -4.19617e-08, 9.53674e-09), [293.877, 0.0, 0.0]),
        ((0.0, 0.0, 0.0), [0.0, 0.0, 0.0]),
        ((1234567890.0, 1e-9, 5.5), [1234570000.0, 0.0, 0.0]),
        ((2.5e-9, 1.123456789e-9, 0.0), [2.5e-9, 1.12346e-9, 0.0]),
        ((math.nan, 1.0, math.inf), [None, 1.0, None]),
        ((math.nan,), [None]),
    ],
)
def test_numbers_are_told_to_the_sixth_digit_of_the_largest(numbers, expected):
    assert rounded(*numbers) == expected


@given(st.lists(st.floats(-1e30, 1e30), min_size=1))
def test_rounding_moves_nothing_by_more_than_its_part_of_the_largest(numbers):
    largest = max(map(abs, numbers))
    for one, told in zip(numbers, rounded(*numbers), strict=True):
        assert abs(one - told) <= 5.1e-6 * largest
        assert math.copysign(1, told) > 0 or told < 0


def test_times_are_told_in_utc_to_the_millisecond():
    assert timestamp(1_700_000_000.0625) == "2023-11-14T22:13:20.062Z"
