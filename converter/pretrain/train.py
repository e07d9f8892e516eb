"""Pretraining on the very statistic that the detector uses: log mean distance to the nearest references.

Each episode standardises its queries' scores by the references' own leave-neighbours-out scores, then asks for
cross-entropy (normal queries weigh three) and for every anomaly to rank above every normal query.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import tqdm

from agent.errors import RedshankError
from converter.archive import write_npz
from converter.pretrain.corpus import REFERENCES, episode
from converter.pretrain.network import SensorSmall

NEIGHBOURS = 3
NEIGHBOURHOOD = 2  # references this close in order are left out of one another's distances
EPISODES_A_STEP = 8
LEARNING_RATE = 1e-3


def scores(references: Tensor, queries: Tensor) -> Tensor:
    """Return standardised log distances of the queries, float32 [queries]; both are embeddings [n, dim]."""
    within = torch.cdist(references, references)
    order = torch.arange(len(references))
    within = within.masked_fill((order[:, None] - order[None, :]).abs() <= NEIGHBOURHOOD, torch.inf)
    own = (within.topk(NEIGHBOURS, largest=False).values.mean(1) + 1e-2).log()
    other = (torch.cdist(queries, references).topk(NEIGHBOURS, largest=False).values.mean(1) + 1e-2).log()
    return (other - own.mean()) / (own.std() + 0.1)


def loss_of(standardised: Tensor, odd: Tensor, threshold: Tensor, slope: Tensor) -> Tensor:
    """Return cross-entropy and pairwise ranking loss of one episode."""
    logits = slope.exp() * (standardised - threshold)
    weight = torch.where(odd, 1.0, 3.0)
    entropy = nnf.binary_cross_entropy_with_logits(logits, odd.float(), weight)
    ranking = nnf.softplus(standardised[~odd][:, None] - standardised[odd][None, :]).mean()
    return entropy + ranking


def area_under_curve(standardised: np.ndarray[Any, Any], odd: np.ndarray[Any, Any]) -> float:
    """Return the probability that an anomaly scores above a normal query (ties count half)."""
    a, b = standardised[odd][:, None], standardised[~odd][None, :]
    return float((a > b).mean() + 0.5 * (a == b).mean())


def evaluate(embed: Any, seed: int, episodes: int) -> float:
    """Return the mean AUC over held-out episodes; `embed` maps float32 [n, 64, 2] to a Tensor [n, dim]."""
    rng = np.random.default_rng([seed, 999])
    areas = []
    with torch.no_grad():
        for _ in range(episodes):
            references, queries, odd = episode(rng)
            both = embed(torch.from_numpy(np.concatenate([references, queries])))
            result = scores(both[:REFERENCES], both[REFERENCES:])
            areas.append(area_under_curve(result.numpy(), odd))
    return float(np.mean(areas))


def pretrain(
    out: Path, *, episodes: int, seed: int, checkpoint_every: int = 2000, held_out: int = 300
) -> dict[str, float]:
    """Train and write the weights to `out` (.npz); return the areas under the curve over `held_out` episodes.

    Resumes from the checkpoint beside `out`. Raises RedshankError if that is of another run.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    network = SensorSmall()
    untrained = evaluate(network.eval(), seed, held_out)
    threshold, slope = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.0))
    optimiser = torch.optim.AdamW([*network.parameters(), threshold, slope], lr=LEARNING_RATE, weight_decay=1e-4)
    steps = episodes // EPISODES_A_STEP
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE * 3, total_steps=max(2, steps))
    checkpoint, partial = out.with_suffix(".checkpoint"), out.with_suffix(".partial")
    done = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
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
    network.train()
    bar = tqdm(range(done, steps), initial=done, total=steps, desc="pretraining", unit="step")
    for step in bar:
        rng = np.random.default_rng([seed, step])
        made = [episode(rng) for _ in range(EPISODES_A_STEP)]
        windows = torch.from_numpy(np.concatenate([np.concatenate([r, q]) for r, q, _ in made]))
        embedded = network(windows).reshape(EPISODES_A_STEP, -1, 32)
        loss = torch.stack(
            [
                loss_of(scores(e[:REFERENCES], e[REFERENCES:]), torch.from_numpy(odd), threshold, slope)
                for e, (_, _, odd) in zip(embedded, made, strict=True)
            ]
        ).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
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
    network.eval()
    write_npz(out, **{name: tensor.numpy() for name, tensor in network.state_dict().items()})
    checkpoint.unlink(missing_ok=True)
    return {
        "episodes": float(episodes),
        "seed": float(seed),
        "auc_raw_windows": evaluate(lambda w: w[:, 32:].flatten(1), seed, held_out),
        "auc_untrained": untrained,
        "auc_pretrained": evaluate(network, seed, held_out),
    }
