from __future__ import annotations

import numpy as np
import pytest

from agent.adapters.picture_files import pack, unpack
from agent.config import KeepSettings
from agent.core.types import Frame
from agent.kept_pictures import KeptPictures
from agent.stream import WHOLE_BYTES_A_DAY
from tests.scenes import scene


def frames(at, tiles=1):
    return [Frame(float(at), scene(10 * at + tile)[:64, :64]) for tile in range(tiles)]


class Kept(KeptPictures):
    """Pictures of which those of the times `still` matter."""

    def __init__(self, pictures=10, limit=1_000_000):
        self.still = {float(at) for at in range(1000)}
        super().__init__(KeepSettings(pictures=pictures, limit_bytes=limit), lambda: self.still)

    @property
    def times(self):
        return [int(at) for at, _ in self.snapshot()]


@pytest.mark.parametrize("pixels", [scene(1)[:224, :224], np.zeros((64, 48, 3), np.uint8)])
def test_a_picture_is_the_same_when_it_is_read_again(pixels):
    again = unpack(pack(pixels))
    assert again.dtype == np.uint8
    np.testing.assert_array_equal(again, pixels)


def test_none_is_kept_unless_that_was_asked_for():
    kept = Kept(pictures=0)
    kept.add(frames(1))
    kept.restore([(1.0, [b"a"])])
    assert (len(kept), kept.wanted, 1.0 in kept) == (0, False, False)


def test_the_last_ones_that_matter_are_kept():
    kept = Kept()
    kept.still -= {3.0, 30.0, 41.0}
    for at in range(42):
        kept.add(frames(at))
        assert len(kept) <= 42
    kept.add(frames(42))
    assert kept.times == [31, *range(32, 41), 42][-10:]
    assert kept.frame(42.0, 0).at == 42.0
    assert kept.frame(1.0, 0) is None


def test_bytes_are_bounded_too():
    each = sum(len(pack(one.pixels)) for one in frames(0, tiles=2))
    kept = Kept(pictures=500, limit=10 * each)
    for at in range(60):
        kept.add(frames(at, tiles=2))
        assert kept.bytes <= 10 * each
    assert 7 <= len(kept) <= 11
    assert kept.bytes == sum(len(file) for _, files in kept.snapshot() for file in files)
    assert kept.times[-1] == 59


def test_a_picture_of_the_same_time_takes_the_place_of_the_one_before():
    kept = Kept()
    kept.add(frames(1))
    kept.add([Frame(1.0, frames(2)[0].pixels)])
    assert (len(kept), kept.bytes) == (1, len(pack(frames(2)[0].pixels)))


def test_they_are_written_seldom_but_at_once_where_some_are_to_be_gone():
    kept = Kept()
    assert kept.due(0.0)
    kept.add(frames(1))
    kept.written(WHOLE_BYTES_A_DAY // 24, 0.0)
    assert (kept.due(3599.0), kept.due(3600.0)) == (False, True)
    kept.forget()  # nothing was
    assert not kept.due(3599.0)
    kept.still = set()
    kept.forget()
    assert (len(kept), kept.due(1.0)) == (0, True)
    kept.written(0, 1.0)
    kept.clear()
    kept.written(1000, 1.0)
    assert not kept.due(1.0)
    kept.still = {1.0}
    kept.add(frames(1))
    kept.clear()
    assert (len(kept), kept.bytes, kept.due(1.0)) == (0, 0, True)


@pytest.mark.parametrize("pictures", [2, 10])
def test_after_a_restart_those_that_still_matter_are_there(pictures):
    kept = Kept()
    for at in range(5):
        kept.add(frames(at))
    after = Kept(pictures)
    after.still = {1.0, 3.0, 4.0}
    after.restore(kept.snapshot())
    assert after.times == [1, 3, 4]
    np.testing.assert_array_equal(after.frame(3.0, 0).pixels, kept.frame(3.0, 0).pixels)
