"""Pretraining: examples in, weights out; on a GPU where there is one, resumed from its checkpoint if interrupted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from agent.errors import RedshankError
from converter.archive import write_npz
from converter.pretrain.batch import Batch, batch_of, plain
from converter.pretrain.network import SensorSmall
from converter.pretrain.objective import loss_of, low_rate_loss
from converter.pretrain.trial import SEED, evaluate

EPISODES: Final = 44000  # the reduced form: about 17 minutes of one core
FULL_EPISODES: Final = 1600000  # where there is a GPU
EPISODES_A_STEP: Final = 8
LEARNING_RATE: Final = 1e-3
_ROUNDED: Final = 0.5  # from this share of the training on, embeddings are as coarse as int8
_LEVELS: Final = 255
_CENTRED_ON: Final = 16  # batches
_WORKERS: Final = 16  # processes at most that make examples for a GPU


class Steps(Dataset[Batch]):
    """The batches of a training, each of which follows from the seed and its step."""

    def __init__(self, seed: int, first: int, last: int) -> None:
        self.seed, self.first, self.last = seed, first, last

    def __len__(self) -> int:
        """Return how many steps are left."""
        return self.last - self.first

    def __getitem__(self, place: int) -> Batch:
        """Return the batch of a step."""
        return batch_of(self.seed, self.first + place, EPISODES_A_STEP)


def rounded(values: Tensor) -> Tensor:
    """Return embeddings [episodes, n, dim] around their mean, with the error of int8; gradients pass."""
    values = values - values.detach().mean((0, 1))
    flat = values.detach()
    step = ((flat.max() - flat.min()) / _LEVELS).clamp(min=1e-6)
    return values + ((flat / step).round() * step - flat)


def step_loss(network: SensorSmall, batch: Batch, threshold: Tensor, slope: Tensor, *, coarse: bool) -> Tensor:
    """Return the loss of a step: of the network's scores, and of these beside the scores of plain windows.

    The agent averages what its views say, so the network is to find what plain windows do not.
    """
    embedded = batch.embed(network.along)
    if coarse:
        counts = [one.shape[1] for one in embedded]
        embedded = rounded(torch.cat(embedded, 1)).split(counts, 1)
    normal, events = batch.score(embedded)
    loss = loss_of(normal, events, threshold, slope)
    with torch.no_grad():
        plain_normal, plain_events = batch.score(batch.embed(plain))
    return loss + low_rate_loss(normal + plain_normal, events + plain_events)


def centre(network: SensorSmall, batches: list[Batch]) -> None:
    """Let embeddings lie around 0.

    A constant in them changes no distance, but int8 would have to cover it: it was ten times their deviation.
    """
    with torch.no_grad():
        means = [network.along(batch.known).mean((0, 1)) for batch in batches]
        network.head.bias -= torch.stack(means).mean(0)


def pretrain(
    out: Path,
    *,
    episodes: int | None = None,
    seed: int,
    checkpoint_every: int = 500,
    held_out: int,
    device: str | None = None,
) -> dict[str, Any]:
    """Train and write the weights to `out` (.npz); return the areas under the curve over `held_out` episodes.

    `device` is "cuda" where there is one, else "cpu"; `episodes` then are FULL_EPISODES or EPISODES. Resumes from the
    checkpoint beside `out`. Raises RedshankError if that is of another run.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    episodes = episodes or (EPISODES if device == "cpu" else FULL_EPISODES)
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = SensorSmall().to(device)
    untrained = SensorSmall().to(device)
    untrained.load_state_dict(network.state_dict())
    threshold = nn.Parameter(torch.tensor(2.0, device=device))
    slope = nn.Parameter(torch.tensor(0.0, device=device))
    optimiser = torch.optim.AdamW([*network.parameters(), threshold, slope], lr=LEARNING_RATE, weight_decay=1e-4)
    steps = episodes // EPISODES_A_STEP
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE * 3, total_steps=max(2, steps))
    checkpoint, partial = out.with_suffix(".checkpoint"), out.with_suffix(".partial")
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True, map_location=device)
        if saved["run"] != [episodes, seed]:
            raise RedshankError(
                f"{checkpoint}: expected a checkpoint of {episodes} episodes with seed {seed}, found one of "
                f"{saved['run'][0]} with seed {saved['run'][1]}; delete it to begin anew"
            )
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        threshold.data, slope.data = saved["threshold"], saved["slope"]
        done = saved["step"]
    workers = 0 if device == "cpu" else min(_WORKERS, os.cpu_count() or 1)
    batches = DataLoader(Steps(seed, done, steps), batch_size=None, num_workers=workers)
    bar = tqdm(range(done, steps), initial=done, total=steps, desc="pretraining", unit="step", mininterval=1.0)
    for step, batch in zip(bar, batches, strict=True):
        loss = step_loss(network, batch.to(device), threshold, slope, coarse=step >= _ROUNDED * steps)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
        if (step + 1) % checkpoint_every == 0:
            torch.save(
                {
                    "run": [episodes, seed],
                    "network": network.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "schedule": schedule.state_dict(),
                    "threshold": threshold.data,
                    "slope": slope.data,
                    "step": step + 1,
                },
                partial,
            )
            partial.replace(checkpoint)
    centre(network, [batch_of(seed, steps + more, EPISODES_A_STEP).to(device) for more in range(_CENTRED_ON)])
    write_npz(out, **{name: tensor.cpu().numpy() for name, tensor in network.state_dict().items()})
    checkpoint.unlink(missing_ok=True)
    measured = evaluate(
        {"plain": plain, "untrained": untrained.along, "pretrained": network.along}, SEED, held_out, device
    )
    return {"episodes": episodes, "seed": seed, "device": device, "held_out": measured}
