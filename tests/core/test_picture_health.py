"""Pictures that show nothing."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.picture_health import FROZEN_FRAMES, MIN_PICTURES, MOST, PictureFault, PictureHealth, extend
from agent.core.types import Frame


def scene(rng, *, gain=1.0, noise=4.0, size=64):
    rows, columns = np.mgrid[:size, :size] / size
    pattern = 90 + 50 * np.sin(20 * rows) * np.cos(17 * columns) + 30 * ((rows * 8).astype(int) % 2)
    made = (pattern[..., None] + rng.normal(0, noise, (size, size, 3))) * gain
    return np.clip(np.rint(made), 0, 255).astype(np.uint8)


def flat(level):
    return np.full((64, 64, 3), level, np.uint8)


def smoothed(pixels):
    made = pixels.astype(np.float64)
    for _ in range(12):
        made = (made + np.roll(made, 1, 0) + np.roll(made, 1, 1) + np.roll(made, (1, 1), (0, 1))) / 4
    return made.astype(np.uint8)


def learnt(rng, count=40, **how):
    health = PictureHealth(count)
    found = [one for i in range(count) for one in health.check(Frame(float(i), scene(rng, **how)))]
    assert not found
    return health


def faults(health, pixels):
    return [one.fault for one in health.check(Frame(0.0, pixels))]


def test_usual_pictures_have_no_fault_in_other_light_either():
    rng = np.random.default_rng(0)
    health = learnt(rng)
    for gain in np.linspace(0.6, 1.3, 60):
        assert faults(health, scene(rng, gain=gain)) == []


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("level", "fault"), [(0, PictureFault.BLACK), (255, PictureFault.WHITE), (90, PictureFault.COVERED)]
)
def test_black_white_and_covered_are_told_from_the_first_picture_on(warm, level, fault):
    rng = np.random.default_rng(0)
    health = learnt(rng) if warm else PictureHealth(40)
    assert faults(health, flat(level))[0] is fault
    assert faults(health, scene(rng)) == []


def test_a_blurred_picture_is_told_once_it_is_known_what_is_sharp():
    rng = np.random.default_rng(0)
    health = learnt(rng)
    assert faults(health, smoothed(scene(rng))) == [PictureFault.BLURRED]
    assert faults(PictureHealth(40), smoothed(scene(rng))) == []


def test_a_stream_that_is_always_dark_or_bright_is_healthy():
    rng = np.random.default_rng(0)
    assert faults(learnt(rng, gain=0.05), scene(rng, gain=0.05)) == []
    assert faults(learnt(rng, gain=2.5), scene(rng, gain=2.5)) == []


def test_scores_say_how_far_the_limit_was_passed_and_are_bounded():
    rng = np.random.default_rng(0)
    health = learnt(rng)
    (worst,) = health.check(Frame(0.0, flat(0)))
    assert worst.score == MOST
    (dim,) = health.check(Frame(0.0, scene(rng, gain=0.1)))
    assert 1.0 <= dim.score < 5.0


def test_what_is_unhealthy_is_not_learnt():
    health = PictureHealth(40)
    for _ in range(MIN_PICTURES + 10):
        health.check(Frame(0.0, flat(0)))
    assert health._seen == []


def test_a_picture_that_stands_still_is_frozen_after_a_while():
    rng = np.random.default_rng(0)
    health = learnt(rng)
    still = scene(rng)
    found = [faults(health, still) for _ in range(FROZEN_FRAMES + 5)]
    assert all(not one for one in found[: FROZEN_FRAMES - 1])
    assert all(one == [PictureFault.FROZEN] for one in found[FROZEN_FRAMES - 1 :])
    assert faults(health, scene(rng)) == []
    assert health.longest < FROZEN_FRAMES  # a frozen camera does not teach that this is usual


def test_a_camera_that_often_stands_still_is_not_called_frozen():
    rng = np.random.default_rng(0)
    health = PictureHealth(40)
    for _ in range(5):
        still = scene(rng, noise=0.0, gain=rng.uniform(0.9, 1.1))
        assert not any(faults(health, still) for _ in range(25))
    assert health.frozen_at == 75


def test_a_clock_in_the_picture_does_not_hide_that_the_rest_stands_still():
    rng = np.random.default_rng(0)
    ignored = np.zeros((64, 64), np.bool_)
    ignored[:8, :24] = True
    seen, blind = PictureHealth(40, ignored), PictureHealth(40)
    still = scene(rng)
    for _ in range(FROZEN_FRAMES):
        still[:8, :24] = rng.integers(0, 256, (8, 24, 1))
        last = faults(seen, still), faults(blind, still)
    assert last == ([PictureFault.FROZEN], [])


def test_it_goes_on_after_a_restart():
    rng = np.random.default_rng(0)
    one = learnt(rng)
    still = scene(rng)
    for _ in range(20):
        one.check(Frame(0.0, still))
    other = PictureHealth(40)
    other.restore(one.snapshot())
    for pixels in (*[still] * 15, scene(rng), flat(3), smoothed(still)):
        assert one.check(Frame(0.0, pixels)) == other.check(Frame(0.0, pixels))
    assert one.run == other.run == 1


@pytest.mark.parametrize("still", [1, 2, 20])
def test_it_goes_on_from_what_was_added_to_a_snapshot(still):
    rng = np.random.default_rng(0)
    one = PictureHealth(40)
    pictures = [scene(rng) for _ in range(50)] + [scene(rng)] * still
    state = one.snapshot()
    for first in range(0, 50 + still, 25):
        for pixels in pictures[first : first + 25]:
            one.check(Frame(0.0, pixels))
        extend(state, one.addition())
        one.saved()
    other = PictureHealth(40)
    other.restore(state)
    assert (len(state["seen"]), state["first"] is None) == (40, still == 1)
    for pixels in (*[pictures[-1]] * 15, scene(rng), flat(3), smoothed(pictures[0])):
        assert one.check(Frame(0.0, pixels)) == other.check(Frame(0.0, pixels))
    assert abs(one.longest - other.longest) <= (still == 1)  # a run of one picture is not told of
