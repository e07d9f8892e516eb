from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.errors import RedshankError
from converter.pretrain.corpus import QUERIES, REFERENCES, episode
from converter.pretrain.network import SensorSmall
from converter.pretrain.train import area_under_curve, evaluate, loss_of, pretrain, scores
from converter.recipes import RECIPES
from tests.converter.conftest import ROOT

pytestmark = pytest.mark.converter
SHORT = {"episodes": 640, "seed": 3, "checkpoint_every": 20, "held_out": 10}


def embedding_of(weights):
    network = SensorSmall().eval()
    with np.load(weights) as stored:
        network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return network


def mean_loss(embed, episodes=20):
    """Return the loss over episodes that no training with a small seed has seen."""
    rng = np.random.default_rng(10**6)
    losses = []
    with torch.no_grad():
        for _ in range(episodes):
            references, queries, odd = episode(rng)
            both = embed(torch.from_numpy(np.concatenate([references, queries])))
            found = scores(both[:REFERENCES], both[REFERENCES:])
            losses.append(loss_of(found, torch.from_numpy(odd), torch.tensor(2.0), torch.tensor(0.0)).item())
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    out = tmp_path_factory.mktemp("short") / "made" / "weights.npz"
    return out, pretrain(out, **SHORT)


def test_a_short_training_lowers_the_loss_on_streams_not_seen(short):
    out, figures = short
    torch.manual_seed(SHORT["seed"])
    assert mean_loss(embedding_of(out)) < 0.95 * mean_loss(SensorSmall().eval())
    assert figures["auc_pretrained"] > figures["auc_untrained"]
    assert not list(out.parent.glob("*.checkpoint"))


def test_the_shipped_weights_are_better_than_a_short_training_and_than_windows_as_they_are(short):
    out, _ = short
    shipped = RECIPES["sensor-small"].weights
    assert mean_loss(embedding_of(shipped)) < mean_loss(embedding_of(out))
    raw = evaluate(lambda windows: windows[:, 32:].flatten(1), 1, 60)
    assert evaluate(embedding_of(shipped), 1, 60) > raw + 0.02


def test_the_same_seed_gives_the_same_bytes_and_figures(short, tmp_path):
    out, figures = short
    assert pretrain(tmp_path / "again.npz", **SHORT) == figures
    assert (tmp_path / "again.npz").read_bytes() == out.read_bytes()


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(short, tmp_path):
    out, figures = short
    killed = tmp_path / "killed.npz"
    train = (
        f"import pathlib; from converter.pretrain.train import pretrain; pretrain(pathlib.Path('{killed}'), **{SHORT})"
    )
    process = subprocess.Popen([sys.executable, "-c", train], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not killed.with_suffix(".checkpoint").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert not killed.exists()
    assert pretrain(killed, **SHORT) == figures
    assert killed.read_bytes() == out.read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    out = tmp_path / "weights.npz"
    torch.save({"run": [400, 7]}, out.with_suffix(".checkpoint"))
    with pytest.raises(RedshankError, match=r"400 with seed 7; delete it to begin anew"):
        pretrain(out, **SHORT)


def test_the_command_trains_and_prints_the_figures(convert, tmp_path):
    done = convert("pretrain", "--out", tmp_path / "w.npz", "--episodes", 8, "--seed", 5)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["episodes"], figures["seed"]) == (8, 5)
    assert 0.5 < figures["auc_raw_windows"] < 1
    assert "pretraining" in done.stderr
    embedding_of(tmp_path / "w.npz")


def test_the_command_says_what_is_wrong_with_a_folder(convert, tmp_path):
    (tmp_path / "file").touch()
    done = convert("pretrain", "--out", tmp_path / "file" / "w.npz")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(tmp_path / "file") in done.stderr


def test_what_lies_farther_away_scores_higher():
    references = torch.randn(REFERENCES, 4, generator=torch.Generator().manual_seed(1))
    near, far, farther = scores(
        references, torch.stack([references[5] + 0.01, torch.full((4,), 9.0), torch.full((4,), 30.0)])
    )
    assert near < 1 < far < farther


def test_references_close_in_time_are_left_out_of_one_another_s_distances():
    # Runs of three that are alike: a reference has near neighbours only where it may not look for them.
    runs = 10.0 * torch.arange(REFERENCES // 3).repeat_interleave(3)[:, None]
    (same,) = scores(runs, runs[:1])
    assert same < 0


def test_the_loss_asks_for_anomalies_above_and_normal_windows_below():
    odd = torch.arange(QUERIES) < QUERIES // 2
    threshold, slope = torch.tensor(2.0), torch.tensor(0.0)
    good, bad = torch.where(odd, 5.0, -1.0), torch.where(odd, -1.0, 5.0)
    assert loss_of(good, odd, threshold, slope) < loss_of(torch.zeros(QUERIES), odd, threshold, slope)
    assert loss_of(torch.zeros(QUERIES), odd, threshold, slope) < loss_of(bad, odd, threshold, slope)


@given(hnp.arrays(np.float32, QUERIES, elements=st.integers(-3, 3)))
def test_the_area_is_the_share_of_pairs_in_order(found):
    odd = np.arange(QUERIES) < QUERIES // 2
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in found[odd] for b in found[~odd]]
    assert area_under_curve(found, odd) == pytest.approx(np.mean(pairs))
