from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import preprocess
from converter.pretrain.corpus import HISTORY, LENGTH, QUERIES, REFERENCES, episode, features, inject, stream

seeds = st.integers(0, 2**63 - 1)


@given(seeds, st.integers(2, 3000))
@settings(deadline=None)
def test_streams_are_finite_and_follow_from_the_seed(seed, length):
    made = stream(np.random.default_rng(seed), length)
    assert made.shape == (length,)
    assert made.dtype == np.float64
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(made, stream(np.random.default_rng(seed), length))


@given(seeds, st.integers(2, 200), st.data())
@settings(deadline=None)
def test_an_anomaly_changes_nothing_before_it_begins(seed, length, data):
    start = data.draw(st.integers(0, length - 1))
    rng = np.random.default_rng(seed)
    normal = stream(rng, length)
    kept = normal.copy()
    odd = inject(rng, normal, start)
    np.testing.assert_array_equal(normal, kept)
    np.testing.assert_array_equal(odd[:start], normal[:start])
    assert odd.shape == normal.shape
    assert np.isfinite(odd).all()


def test_every_kind_of_anomaly_is_made_and_changes_a_stream():
    class Kind:
        """A generator whose draws from twelve give the kind wanted."""

        def __init__(self, kind):
            self.kind, self.rng = kind, np.random.default_rng(kind)

        def integers(self, *bounds):
            return self.kind if bounds == (12,) else self.rng.integers(*bounds)

        def __getattr__(self, name):
            return getattr(self.rng, name)

    normal = stream(np.random.default_rng(3), LENGTH + 1)
    made = [inject(Kind(kind), normal, 20) for kind in range(12)]
    for odd in made:
        assert not np.array_equal(odd, normal)
    assert len({odd.tobytes() for odd in made}) == 12


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_episodes_are_what_the_encoder_takes_and_follow_from_the_seed(seed):
    references, queries, odd = episode(np.random.default_rng(seed))
    assert references.shape == (REFERENCES, LENGTH, 2)
    assert queries.shape == (QUERIES, LENGTH, 2)
    assert references.dtype == queries.dtype == np.float32
    assert np.abs(references).max() <= preprocess.CLIP
    assert np.isfinite(references).all()
    assert np.isfinite(queries).all()
    assert odd.sum() == QUERIES // 2
    for one, again in zip((references, queries, odd), episode(np.random.default_rng(seed)), strict=True):
        np.testing.assert_array_equal(one, again)


def test_another_seed_gives_another_episode():
    first, second = (episode(np.random.default_rng(seed))[0] for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("change", ["none", "constant", "two values", "rounded", "large"])
def test_windows_are_scaled_as_the_agent_scales_them(change):
    history = stream(np.random.default_rng(5), HISTORY).astype(np.float32)
    history = {
        "none": history,
        "constant": np.full_like(history, 7.25),
        "two values": np.sign(history),
        "rounded": np.round(history, 1),
        "large": history * 1e6,
    }[change]
    known, cut = history[: HISTORY // 2], history[-LENGTH - 1 :]
    scale = preprocess.RobustScale(1)
    scale.refresh(known[:, None], np.zeros(1))
    expected = preprocess.features(cut[None], 0, LENGTH, scale.table)
    np.testing.assert_allclose(features(known, cut[None]), expected, rtol=1e-4, atol=1e-5)
