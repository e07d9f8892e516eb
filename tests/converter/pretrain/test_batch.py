from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from agent.core.views import plain as agent_s
from converter.pretrain.batch import Batch, batch_of, plain
from converter.pretrain.corpus import EVENT_WINDOWS, EVENTS, GUARD, KNOWN, LENGTH, NEW, episode, example
from converter.pretrain.network import SensorSmall
from converter.pretrain.trial import evaluate
from tests.converter.conftest import ROOT

pytestmark = pytest.mark.converter
EVERYTHING = list(range(8))


@pytest.fixture(scope="module")
def batch():
    made = [example(np.random.default_rng(seed)) for seed in range(3)]
    return Batch(made, EVERYTHING, EVERYTHING)


def ends_of(series):
    """Return where each window ends, as an embedding: the newest value's place."""
    return series.unfold(1, LENGTH, 8)[:, :, 0, -1:]


def test_windows_are_taken_in_order_of_time_and_none_twice(batch):
    marked = Batch.__new__(Batch)
    marked.known = torch.arange(KNOWN).float().repeat(3, 1)[:, :, None].expand(-1, -1, 2)
    marked.new = torch.arange(NEW).float().repeat(3, 1)[:, :, None].expand(-1, -1, 2)
    marked.events = batch.events
    for offsets in (EVERYTHING, [3], [6, 1, 4]):
        marked.offsets = marked.normal_offsets = offsets
        references, normal, _ = marked.embed(ends_of)
        found = references[0, :, 0].tolist()
        assert found == sorted(set(found))
        assert len(found) == 125 * len(offsets)
        assert {int(end) - LENGTH + 1 - one for end, one in zip(found, sorted(offsets) * 125, strict=False)} <= set(
            range(0, KNOWN, 8)
        )
        assert normal.min() >= GUARD + LENGTH - 1
    assert normal.max() < NEW


def test_plain_windows_are_the_agent_s_first_view(batch):
    _, _, events = batch.embed(plain)
    windows = batch.events.unfold(2, LENGTH, 8)[:, :, :, :, -32:].permute(0, 1, 2, 4, 3)
    assert events.shape == (3, EVENTS * EVENT_WINDOWS, 64)
    made = agent_s(windows[0].flatten(0, 1).numpy())
    np.testing.assert_array_equal(np.sort(events[0], axis=1), np.sort(made, axis=1))


def test_inputs_are_as_coarse_as_the_model_s(batch):
    steps = batch.known * 127 / 8
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    assert not torch.equal(batch.known, torch.from_numpy(example(np.random.default_rng(0)).known))


def test_scores_come_by_event_and_rise_with_the_anomaly(batch):
    network = SensorSmall()
    with torch.no_grad():
        normal, events = batch.score(batch.embed(network.along))
    assert events.shape == (3, EVENTS, EVENT_WINDOWS)
    assert normal.shape[0] == 3
    assert events.mean() > normal.mean()


def test_batches_follow_from_seed_and_step():
    first, again, other = (batch_of(4, step, 2) for step in (1, 1, 2))
    assert torch.equal(first.known, again.known)
    assert torch.equal(first.events, again.events)
    assert first.offsets == again.offsets
    assert not torch.equal(first.known, other.known)


def test_a_trial_names_what_it_tried_and_the_sum_with_plain_windows():
    found = evaluate({"plain": plain, "untrained": SensorSmall().along}, 1, 4)
    assert set(found) == {"plain", "untrained", "untrained+plain"}
    assert all(0 <= value <= 1 for areas in found.values() for value in areas.values())
    assert found["plain"]["auc"] > 0.5


def test_an_old_processor_makes_the_same_episodes():
    make = (
        "import hashlib, numpy as np; from converter.pretrain.corpus import episode; rng = np.random.default_rng(20);"
        "print(hashlib.sha256(b''.join(a.tobytes() for _ in range(40) for a in episode(rng))).hexdigest())"
    )
    old = " ".join(one for one in __cpu_dispatch__ if __cpu_features__[one])
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": old}
    done = subprocess.run([sys.executable, "-c", make], cwd=ROOT, env=environment, capture_output=True, check=True)
    rng = np.random.default_rng(20)
    here = hashlib.sha256(b"".join(one.tobytes() for _ in range(40) for one in episode(rng)))
    assert done.stdout.decode().strip() == here.hexdigest()
