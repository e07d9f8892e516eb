from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.adapters.payload import (
    ByteOrder,
    Format,
    NumberType,
    PayloadRejected,
    PayloadSettings,
    RawSettings,
    RejectReason,
    make_decoder,
)
from agent.core.windowing import Grid, GridSettings, Spacing

NOW = 1_700_000_000.0


def decoder(channels=(), **raw):
    return make_decoder(PayloadSettings(format=Format.RAW, channels=channels, raw=RawSettings(**raw)), 1_000_000)


@pytest.mark.parametrize("dtype", NumberType)
@pytest.mark.parametrize("order", ByteOrder)
def test_interleaved_channels(dtype, order):
    mark = {"little": "<", "big": ">"}[order]
    block = np.array([[1, 2, 3], [4, 5, 100]]).astype(dtype.value).astype(np.dtype(dtype.value).newbyteorder(mark))
    decode = decoder(("x", "y", "z"), dtype=dtype, byte_order=order, sample_rate=100.0, skip_bytes=2)
    first, second = decode(b"hd" + block.tobytes(), NOW)
    assert (first.values, second.values) == ({"x": 1, "y": 2, "z": 3}, {"x": 4, "y": 5, "z": 100})
    assert (first.at, second.at) == (pytest.approx(NOW - 0.01, abs=1e-6), NOW)


def test_what_is_no_number_is_missing():
    decode = decoder(("x", "y"), dtype=NumberType.FLOAT32, sample_rate=10.0)
    block = np.array([[np.nan, 1], [np.nan, np.inf], [2, -np.inf]], np.float32)
    assert [one.values for one in decode(block.tobytes(), NOW)] == [{"y": 1.0}, {"x": 2.0}]
    with pytest.raises(PayloadRejected, match="no_values"):
        decode(block[1:2].tobytes(), NOW)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", RejectReason.MALFORMED),
        (b"hd", RejectReason.MALFORMED),
        (b"hd123", RejectReason.MALFORMED),
        (b"hd" + bytes(2 * 16_384 + 2), RejectReason.TOO_MANY_SAMPLES),
    ],
)
def test_bad_blocks(payload, reason):
    with pytest.raises(PayloadRejected, match=reason.value):
        decoder(skip_bytes=2)(payload, NOW)


@pytest.mark.parametrize("rate", [40.0, None])
@settings(max_examples=25)
@given(jitter=st.lists(st.floats(-0.05, 0.05), min_size=10, max_size=30))
def test_blocks_that_arrive_unevenly_make_one_even_stream(rate, jitter):
    decode = decoder(sample_rate=rate)
    arrivals = [NOW + index / 2 + late for index, late in enumerate([0.0, 0.0, *jitter])]
    blocks = [decode(bytes(40), at) for at in arrivals]
    times = [one.at for block in blocks[1:] for one in block]
    assert len(blocks[0]) == (1 if rate is None else 20)
    assert np.diff(times) == pytest.approx(0.025, abs=5e-4)
    assert max(abs(block[-1].at - (NOW + index / 2)) for index, block in enumerate(blocks)) < 0.1


@pytest.mark.parametrize("rate", [100.0, None])
def test_a_lost_block_is_a_gap_and_what_comes_behind_it_has_its_own_time(rate):
    decode = decoder(sample_rate=rate)
    for second in range(3):
        decode(bytes(200), NOW + second)
    behind = decode(bytes(200), NOW + 5)
    assert behind[0].at == pytest.approx(NOW + 4.01)
    assert behind[-1].at == pytest.approx(NOW + 5)


def test_a_sender_s_clock_that_is_a_little_fast_is_followed():
    decode = decoder(sample_rate=4.0)
    for second in range(2000):
        last = decode(bytes(8), NOW + second * 0.999)[-1].at
    assert last == pytest.approx(NOW + 1999 * 0.999, abs=0.1)


def test_two_blocks_at_once_tell_no_rate_yet():
    decode = decoder()
    assert [one.at for one in decode(bytes(8), NOW)] == [NOW]
    assert [one.at for one in decode(bytes(8), NOW)] == [NOW]
    assert [one.at for one in decode(bytes(8), NOW + 4)] == [NOW + 1, NOW + 2, NOW + 3, NOW + 4]


def test_a_grid_takes_every_sample():
    decode = decoder(sample_rate=1600.0)
    grid = Grid(GridSettings(), ("value",))
    rng = np.random.default_rng(0)
    for index in range(20):
        for one in decode(bytes(160), NOW + index / 20 + rng.uniform(0, 0.1)):
            grid.push(one, learning=True)
    assert (grid.total_rows, grid.spacing, grid.unbroken) == (1600, Spacing.EVEN, True)
