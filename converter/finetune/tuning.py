"""Tuning: channels in, weights out, by one of two losses. The choice between them needs no disturbance of the trial."""

from __future__ import annotations

import copy
from collections.abc import Callable
from time import monotonic
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import tqdm

from converter.finetune.recorded import NEW, VALIDATION, Channel
from converter.pretrain.batch import Batch, plain
from converter.pretrain.corpus import F32, LENGTH, Example, example, example_of, features, history_points
from converter.pretrain.network import STRIDE, SensorSmall
from converter.pretrain.objective import areas
from converter.pretrain.train import centre, step_loss
from converter.pretrain.trial import LOW_RATE

LEARNING_RATE: Final = 3e-4
_OWN: Final = 5  # examples of a step that are of the recording
_GENERATED: Final = 3  # and such as the network was pretrained with, so that it does not forget them
_OFFSETS: Final = (2, 4)  # of the eight windows that begin within a stride
_POOLS: Final = (1, 4)  # the agent's time scales; the slower one only where a recording is long enough
_TRIPLETS: Final = 256  # in a step
_NEIGHBOUR: Final = 8  # readings from a patch to its neighbour, at most
_MARGIN: Final = 0.5  # of the mean distance between patches
_CENTRED_ON: Final = 4  # batches
_VALIDATED: Final = 24  # examples of the recording


class Tuned(msgspec.Struct):
    """A network, how it was tuned, and how many steps of that there was time for.

    `share` is the share of the validation's anomalies that it and plain windows find at up to 1 % false alarms.
    """

    network: SensorSmall
    loss: str
    steps: int
    share: float


def own_example(rng: np.random.Generator, channels: list[Channel], *, fit: bool) -> Example:
    """Return an example of a channel that is drawn; with `fit` of what is fitted, else its new part validates."""
    one = channels[int(rng.integers(len(channels)))]
    rows = one.rows[: len(one.rows) - VALIDATION] if fit else one.rows
    pools = [pool for pool in _POOLS if history_points(NEW) * pool <= len(rows)]
    pool = pools[int(rng.integers(len(pools)))] if fit else 1
    length = history_points(NEW) * pool
    first = int(rng.integers(len(rows) - length + 1)) if fit else len(rows) - length
    return example_of(rng, rows[first : first + length], one.step, pool)


def own_batch(seed: int, step: int, channels: list[Channel]) -> Batch:
    """Return the examples of one step of the episodic loss: most of the recording, the others generated."""
    rng = np.random.default_rng([seed, step, 4])
    made = [own_example(rng, channels, fit=True) for _ in range(_OWN)]
    made += [example(rng, new=NEW) for _ in range(_GENERATED)]
    offsets = rng.permutation(STRIDE)[: rng.choice(_OFFSETS)].tolist()
    return Batch(made, offsets, rng.permutation(STRIDE)[:3].tolist())


def _episodes(network: SensorSmall, channels: list[Channel], seed: int) -> tuple[list[Any], Callable[[int], Tensor]]:
    """Return what is trained, and the pretraining's loss of a step."""
    threshold, slope = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.0))
    trained = [{"params": list(network.parameters())}, {"params": [threshold, slope], "lr": 10 * LEARNING_RATE}]
    return trained, lambda step: step_loss(network, own_batch(seed, step, channels), threshold, slope, coarse=True)


def _triplets(network: SensorSmall, channels: list[Channel], seed: int) -> tuple[list[Any], Callable[[int], Tensor]]:
    """Return what is trained, and the triplet loss of a step: a patch, a neighbour in time, one of another time."""
    series = [_scaled(one) for one in channels]

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng([seed, step, 5])
        anchors, near, far = (network(torch.from_numpy(part)) for part in triplets(rng, series, _TRIPLETS))
        closer = (anchors - near).square().sum(1).add(1e-9).sqrt()
        wider = (anchors - far).square().sum(1).add(1e-9).sqrt()
        usual = wider.detach().mean() + 1e-6
        return nnf.relu((closer - wider) / usual + _MARGIN).mean()

    return [{"params": list(network.parameters())}], loss


def _scaled(one: Channel) -> F32:
    rows = one.rows[: len(one.rows) - VALIDATION].astype(np.float32)
    return features(rows, rows[None])[0]


def triplets(rng: np.random.Generator, series: list[F32], count: int) -> tuple[F32, F32, F32]:
    """Return patches float32 [count, 64, 2], a neighbour of each (1 to 8 readings away), and one that overlaps neither.

    `series` are float32 [points >= 191, 2], scaled.
    """
    parts: tuple[list[F32], list[F32], list[F32]] = ([], [], [])
    for _ in range(count):
        one = series[int(rng.integers(len(series)))]
        last = len(one) - LENGTH
        anchor = int(rng.integers(last + 1))
        near = anchor + int(rng.integers(1, _NEIGHBOUR + 1)) * (1 if anchor + _NEIGHBOUR <= last else -1)
        far = int(rng.integers(last + 1))
        while abs(far - anchor) < LENGTH and last >= 2 * LENGTH - 1:
            far = int(rng.integers(last + 1))
        for part, first in zip(parts, (anchor, near, far), strict=True):
            part.append(one[first : first + LENGTH])
    return np.stack(parts[0]), np.stack(parts[1]), np.stack(parts[2])


LOSSES: Final = {"triplets": _triplets, "episodes": _episodes}  # the quick one first: it leaves its time to the other


def tune(
    untuned: SensorSmall, channels: list[Channel], loss: str, *, seed: int, steps: int, until: float, bar: tqdm[Any]
) -> Tuned:
    """Return the network tuned by one loss; it ends early when the monotonic clock is at `until`."""
    torch.manual_seed(seed)
    network = copy.deepcopy(untuned).train()
    trained, loss_at = LOSSES[loss](network, channels, seed)
    optimiser = torch.optim.AdamW(trained, lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    done = 0
    while done < steps and monotonic() < until:
        found = loss_at(done)
        optimiser.zero_grad()
        found.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        done += 1
        bar.update()
        bar.set_postfix(loss=f"{found.item():.3f}", refresh=False)
    bar.update(steps - done)
    network.eval()
    centre(network, [own_batch(seed, steps + more, channels) for more in range(_CENTRED_ON)])
    return Tuned(network, loss, done, validate(network, channels, seed))


def validate(network: SensorSmall, channels: list[Channel], seed: int) -> float:
    """Return the mean share of the anomalies that network and plain windows find at up to 1 % false alarms.

    Of readings that no step has seen; the anomalies are those of the pretraining.
    """
    rng = np.random.default_rng([seed, 0, 6])
    everything = list(range(STRIDE))
    shares = []
    with torch.no_grad():
        for _ in range(_VALIDATED):
            batch = Batch([own_example(rng, channels, fit=False)], everything, everything)
            normal, events = (
                a + b
                for a, b in zip(batch.score(batch.embed(network.along)), batch.score(batch.embed(plain)), strict=True)
            )
            shares.append(areas(normal[0], events[0].amax(1), LOW_RATE)[1])
    return float(np.mean(shares))
