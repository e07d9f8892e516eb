"""The first pictures."""

from __future__ import annotations

import numpy as np
import pytest

from agent.core.picture_patches import PatchBank, strangeness
from agent.core.picture_warmup import PICTURES_A_STEP, WHITENED_AT, PictureWarmUp

CELLS = np.arange(6)


def make(wanted, size=4000):
    bank = PatchBank(size, 5, 0.5)
    return PictureWarmUp(wanted, 5, CELLS, bank)


def pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (6, 5)).astype(np.float32) for _ in range(count)]


@pytest.mark.parametrize("wanted", [4, 10, 60])
def test_it_is_done_with_the_last_picture(wanted):
    warm_up = make(wanted)
    found = [warm_up.push(float(i), one) for i, one in enumerate(pictures(wanted))]
    assert all(one is None for one in found[:-1])
    assert found[-1].shape == (wanted,)
    assert np.isfinite(found[-1]).all()
    assert warm_up.count == wanted
    assert set(warm_up.bank.born[warm_up.bank.seen >= 0]) <= set(range(wanted))


def test_no_picture_brings_much_more_work_than_the_others(monkeypatch):
    warm_up, work = make(100), []
    monkeypatch.setattr(
        PatchBank, "nearest", lambda self, *a, _old=PatchBank.nearest, **k: work.append(1) or _old(self, *a, **k)
    )
    most = 0
    for i, one in enumerate(pictures(100)):
        work.clear()
        warm_up.push(float(i), one)
        most = max(most, len(work))
    assert most <= PICTURES_A_STEP


def test_each_picture_is_scored_without_its_own_examples():
    warm_up, given = make(50), pictures(50)
    for i, one in enumerate(given):
        scores = warm_up.push(float(i), one)
    whites = [warm_up.whitening.apply(one.astype(np.float16).astype(np.float32)) for one in given]
    included = np.array([strangeness(warm_up.bank.nearest(white, CELLS)[0]) for white in whites])
    assert (scores >= included - 1e-6).all()
    assert scores.mean() > included.mean() + 0.1
    white = whites[-1]
    assert scores[-1] == pytest.approx(strangeness(warm_up.bank.nearest(white, CELLS, without=49)[0]))


def test_the_whitening_is_known_after_a_part_of_it():
    warm_up = make(50)
    for i, one in enumerate(pictures(50)):
        warm_up.push(float(i), one)
        assert (warm_up.whitening is None) == (i + 1 < WHITENED_AT * 50)
    assert warm_up.bytes > 0


@pytest.mark.parametrize("at", [0, 10, 40])
def test_it_goes_on_after_a_restart(at):
    given = pictures(50)
    whole, first, second = make(50), make(50), make(50)
    expected = [whole.push(float(i), one) for i, one in enumerate(given)][-1]
    for i, one in enumerate(given[:at]):
        first.push(float(i), one)
    second.bank.restore(first.bank.snapshot())
    second.restore(first.snapshot())
    found = [second.push(float(at + i), one) for i, one in enumerate(given[at:])][-1]
    assert np.array_equal(found, expected)
