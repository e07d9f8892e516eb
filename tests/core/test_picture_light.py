"""Light is taken out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.picture_light import Light

PICTURE = np.random.default_rng(0).integers(60, 120, (16, 16, 3)).astype(np.uint8)


def settled(*pictures, ignored=None):
    light = Light(ignored)
    for one in pictures:
        light.learn(one)
    light.settle()
    return light


def test_the_first_picture_is_left_as_it_is():
    assert np.allclose(Light().prepare(PICTURE), PICTURE, atol=0.01)


@given(st.floats(0.5, 1.8), st.lists(st.floats(0.8, 1.1), min_size=3, max_size=3))
def test_gain_and_colour_are_taken_back(gain, balance):
    changed = np.clip(np.rint(PICTURE * gain * np.array(balance)), 0, 255).astype(np.uint8)
    assert np.abs(settled(PICTURE).prepare(changed).astype(float) - PICTURE).max() < 3.0


def test_the_warm_ups_pictures_are_moved_to_the_mean_of_those_so_far():
    light = Light()
    light.learn(PICTURE)
    wanted = light.measure(PICTURE) + np.array([[20.0], [0.0]])
    brighter = (PICTURE + 40).astype(np.uint8)
    assert light.measure(light.prepare(brighter)) == pytest.approx(wanted, abs=0.3)  # whole gray levels


def test_what_is_ignored_does_not_count():
    ignored = np.zeros((16, 16), np.bool_)
    ignored[:, :6] = True
    lamp = PICTURE.copy()
    lamp[:, :6] = 255
    light = settled(PICTURE, ignored=ignored)
    assert np.allclose(light.prepare(lamp)[:, 6:], PICTURE[:, 6:], atol=0.01)
    assert not np.allclose(settled(PICTURE).prepare(lamp)[:, 6:], PICTURE[:, 6:], atol=5)


def test_a_flat_picture_is_not_blown_up():
    flat = np.full((16, 16, 3), 100, np.uint8)
    assert np.ptp(settled(PICTURE).prepare(flat)[..., 0]) < 0.01


def test_a_light_goes_on_after_a_restart():
    one, other = Light(), Light()
    one.learn(PICTURE)
    other.restore(one.snapshot())
    for light in (one, other):
        light.learn(PICTURE[::-1] // 2)
        light.settle()
    third = Light()
    third.restore(other.snapshot())
    assert np.array_equal(one.prepare(PICTURE), third.prepare(PICTURE))
