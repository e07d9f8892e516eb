"""What is lent is of the shape that was asked for, and streams that share it do not feel each other."""

from __future__ import annotations

import numpy as np

from agent.core.picture_health import PictureHealth
from agent.core.picture_light import Light
from agent.core.picture_patches import PatchBank
from agent.core.types import Frame
from agent.core.workspace import Workspace


def test_the_same_use_has_the_same_memory_which_grows():
    work = Workspace()
    small = work.lend("a", (2, 3))
    small[:] = 7.0
    assert np.shares_memory(small, work.lend("a", (3, 2)))
    assert not np.shares_memory(small, work.lend("b", (2, 3)))
    large = work.lend("a", (4, 5))
    assert large.shape == (4, 5)
    assert not np.shares_memory(small, large)
    assert np.shares_memory(large, work.lend("a", (1,)))
    assert work.lend("levels", (2,), np.int16).dtype == np.int16


def test_what_is_lent_as_floats_has_the_values():
    values = np.arange(-3, 3, dtype=np.int8).reshape(2, 3)
    assert np.array_equal(Workspace().floats(values), values)


def test_streams_of_different_sizes_that_share_it_find_what_they_would_alone():
    rng = np.random.default_rng(0)
    shared = Workspace()
    for size in (16, 24, 12):
        pixels = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
        ignored = np.zeros((size, size), np.bool_)
        ignored[:4] = True
        for mask in (None, ignored):
            alone, together = PictureHealth(40, mask), PictureHealth(40, mask, shared)
            assert alone.check(Frame(0.0, pixels)) == together.check(Frame(0.0, pixels))
            assert alone.measure(pixels) == together.measure(pixels)
            assert np.array_equal(Light(mask).prepare(pixels), Light(mask, shared).prepare(pixels))
        patches = rng.normal(0, 1, (size, 5)).astype(np.float32)
        banks = PatchBank(40, 5, 0.5), PatchBank(40, 5, 0.5, None, shared)
        for bank in banks:
            bank.learn(patches, np.arange(size), 0, 0.0)
        moved = patches + np.float32(0.1)
        for one, other in zip(*(bank.nearest(moved, np.arange(size)) for bank in banks), strict=True):
            assert np.array_equal(one, other)
