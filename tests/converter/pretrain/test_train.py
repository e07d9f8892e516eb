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

from agent.errors import RedshankError
from converter.cli import main
from converter.pretrain.batch import batch_of, plain
from converter.pretrain.network import SensorSmall
from converter.pretrain.train import Steps, centre, pretrain, rounded, step_loss
from converter.pretrain.trial import evaluate
from converter.recipes import WEIGHTS
from tests.converter.conftest import ROOT

pytestmark = pytest.mark.converter
SHORT = {"episodes": 640, "seed": 3, "checkpoint_every": 10, "held_out": 10}
SHORTER = SHORT | {"episodes": 160, "checkpoint_every": 4}  # where nothing depends on what was learnt


def embedding_of(weights):
    network = SensorSmall().eval()
    with np.load(weights) as stored:
        network.load_state_dict({name: torch.from_numpy(stored[name]) for name in stored.files})
    return network


def mean_loss(network, steps=5):
    """Return the loss over examples that no training with a small seed has seen."""
    with torch.no_grad():
        losses = [
            step_loss(network, batch_of(10**6, step, 4), torch.tensor(2.0), torch.tensor(0.0), coarse=True).item()
            for step in range(steps)
        ]
    return float(np.mean(losses))


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    out = tmp_path_factory.mktemp("short") / "made" / "weights.npz"
    return out, pretrain(out, **SHORT)


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    out = tmp_path_factory.mktemp("shorter") / "weights.npz"
    return out, pretrain(out, **SHORTER)


def test_a_short_training_lowers_the_loss_on_streams_not_seen(short):
    out, figures = short
    torch.manual_seed(SHORT["seed"])
    assert mean_loss(embedding_of(out)) < 0.95 * mean_loss(SensorSmall().eval())
    held_out = figures["held_out"]
    assert held_out["pretrained"]["auc"] > held_out["untrained"]["auc"]
    assert not list(out.parent.glob("*.checkpoint"))


def test_the_shipped_weights_are_better_than_a_short_training_and_than_windows_as_they_are(short):
    out, _ = short
    shipped = embedding_of(WEIGHTS)
    assert mean_loss(shipped) < mean_loss(embedding_of(out))
    found = evaluate({"plain": plain, "shipped": shipped.along}, 1, 40)
    assert found["shipped"]["auc"] > found["plain"]["auc"] + 0.05
    assert found["shipped+plain"]["auc_low"] > found["plain"]["auc_low"] + 0.05


def test_the_same_seed_gives_the_same_bytes_and_figures(shorter, tmp_path):
    out, figures = shorter
    assert pretrain(tmp_path / "again.npz", **SHORTER) == figures
    assert (tmp_path / "again.npz").read_bytes() == out.read_bytes()


def test_a_training_that_was_killed_goes_on_to_the_same_bytes(shorter, tmp_path):
    out, figures = shorter
    killed = tmp_path / "killed.npz"
    train = f"from pathlib import Path; from converter.pretrain.train import *; pretrain(Path('{killed}'), **{SHORTER})"
    process = subprocess.Popen([sys.executable, "-c", train], cwd=ROOT, stderr=subprocess.DEVNULL)
    while not killed.with_suffix(".checkpoint").exists():
        assert process.poll() is None
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert not killed.exists()
    assert pretrain(killed, **SHORTER) == figures
    assert killed.read_bytes() == out.read_bytes()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    out = tmp_path / "weights.npz"
    torch.save({"run": [400, 7]}, out.with_suffix(".checkpoint"))
    with pytest.raises(RedshankError, match=r"400 with seed 7; delete it to begin anew"):
        pretrain(out, **SHORT)


def test_the_command_trains_and_prints_the_figures(capsys, tmp_path):
    given = ["--episodes", "8", "--seed", "5", "--held-out", "20"]
    assert main(["pretrain", "--out", str(tmp_path / "w.npz"), *given]) == 0
    told = capsys.readouterr()
    figures = json.loads(told.out)
    assert (figures["episodes"], figures["seed"]) == (8, 5)
    assert 0.5 < figures["held_out"]["plain"]["auc"] < 1
    assert "pretraining" in told.err
    embedding_of(tmp_path / "w.npz")


def test_the_command_says_what_is_wrong_with_a_folder(capsys, tmp_path):
    (tmp_path / "file").touch()
    assert main(["pretrain", "--out", str(tmp_path / "file" / "w.npz")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_processes_beside_it_make_the_same_batches_in_the_same_order():
    alone, beside = (
        list(torch.utils.data.DataLoader(Steps(5, 3, 6), batch_size=None, num_workers=count)) for count in (0, 2)
    )
    assert len(alone) == len(beside) == 3
    for one, other in zip(alone, beside, strict=True):
        assert torch.equal(one.known, other.known)
        assert torch.equal(one.events, other.events)
        assert one.offsets == other.offsets


def test_rounded_embeddings_lie_around_their_mean_and_have_gradients_as_if_they_were_not():
    made = torch.linspace(0, 10, 101).reshape(1, 101, 1).repeat(1, 1, 2) + torch.tensor([0.0, 100.0])
    made.requires_grad_()
    found = rounded(made)
    assert found.mean((0, 1)).abs().max() < 0.1
    step = 10 / 255
    torch.testing.assert_close(found, (found / step).round() * step)
    assert ((found[0] - found[0, 0]) - (made[0] - made[0, 0])).abs().max() <= step
    found.sum().backward()
    assert (made.grad == 1).all()


def test_centred_embeddings_have_the_same_distances():
    network = SensorSmall()
    batches = [batch_of(1, step, 2) for step in range(2)]
    with torch.no_grad():
        before = network.along(batches[0].known)
        centre(network, batches)
        after = [network.along(batch.known) for batch in batches]
    assert torch.cat(after).mean((0, 1)).abs().max() < 1e-5
    distances = [torch.cdist(one, one, compute_mode="donot_use_mm_for_euclid_dist") for one in (before, after[0])]
    torch.testing.assert_close(*distances, rtol=1e-4, atol=1e-4)
