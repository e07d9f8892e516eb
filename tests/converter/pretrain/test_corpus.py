from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core import preprocess
from converter.pretrain import corpus
from converter.pretrain.corpus import (
    EVENT_POINTS,
    EVENTS,
    KNOWN,
    LENGTH,
    NEW,
    ODD,
    QUERIES,
    REFERENCES,
    episode,
    example,
    features,
)
from converter.pretrain.streams import stream

seeds = st.integers(0, 2**63 - 1)


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_examples_are_what_the_encoder_takes_and_follow_from_the_seed(seed):
    made, again = (example(np.random.default_rng(seed)) for _ in range(2))
    assert made.known.shape == (KNOWN, 2)
    assert made.new.shape == (NEW, 2)
    assert made.events.shape == (EVENTS, EVENT_POINTS, 2)
    for one, other in zip((made.known, made.new, made.events), (again.known, again.new, again.events), strict=True):
        assert one.dtype == np.float32
        assert np.abs(one).max() <= preprocess.CLIP
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(30))
def test_every_window_of_an_event_holds_a_changed_point_and_nothing_else_is_changed(seed, monkeypatch):
    cuts = []

    def remembered(_rng, x, start, end, _step):
        cuts.append((x, start, end))
        changed = x[:end].copy()
        changed[start:] += 1e9
        return changed

    monkeypatch.setattr(corpus, "inject", remembered)
    made = example(np.random.default_rng(seed))
    assert len(cuts) == EVENTS
    for event in made.events:
        changed = event[:, 0] == preprocess.CLIP
        for end in range(LENGTH, EVENT_POINTS + 1, 8):
            assert changed[end - LENGTH : end].any()
        first = int(changed.argmax())
        assert LENGTH - 8 <= first < LENGTH
        assert not changed[:first].any()


def test_without_its_anomaly_an_event_is_a_part_of_the_stream(monkeypatch):
    monkeypatch.setattr(corpus, "inject", lambda _rng, x, _start, end, _step: x[:end])
    for seed in range(10):
        made = example(np.random.default_rng(seed))
        parts = np.lib.stride_tricks.sliding_window_view(made.new[:, 0], EVENT_POINTS)
        for event in made.events:
            assert np.abs(parts - event[:, 0]).max(axis=1).min() < 1e-5


@given(seeds)
@settings(deadline=None, max_examples=30)
def test_episodes_are_windows_of_an_example(seed):
    references, queries, odd = episode(np.random.default_rng(seed))
    assert references.shape == (REFERENCES, LENGTH, 2)
    assert queries.shape == (QUERIES, LENGTH, 2)
    assert odd.sum() == ODD
    made = example(np.random.default_rng(seed), ODD)
    known, new = (
        {part[end - LENGTH : end].tobytes() for end in range(LENGTH, len(part) + 1)} for part in (made.known, made.new)
    )
    assert all(one.tobytes() in known for one in references)
    assert all(one.tobytes() in new for one in queries[~odd])


def test_another_seed_gives_another_episode():
    first, second = (episode(np.random.default_rng(seed))[0] for seed in (1, 2))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("change", ["none", "constant", "two values", "rounded", "large"])
def test_windows_are_scaled_as_the_agent_scales_them(change):
    history = stream(np.random.default_rng(5), 1600)[0].astype(np.float32)
    history = {
        "none": history,
        "constant": np.full_like(history, 7.25),
        "two values": np.sign(history),
        "rounded": np.round(history, 1),
        "large": history * 1e6,
    }[change]
    known, cut = history[:800], history[-LENGTH - 1 :]
    scale = preprocess.RobustScale(1)
    scale.refresh(known[:, None], np.zeros(1))
    expected = preprocess.features(cut[None], 0, LENGTH, scale.table)
    np.testing.assert_allclose(features(known, cut[None]), expected, rtol=1e-4, atol=1e-5)
