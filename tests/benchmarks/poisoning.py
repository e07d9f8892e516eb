"""`python -m tests.benchmarks.poisoning`: how far somebody who publishes made-up values moves what counts as normal.

Every stream is noise of standard deviation 1, one reading a second, a decision for each, default settings. After 900
normal readings its level is moved by the same little step with every reading. Told is when the first alert of it is
raised, and by how much the level had moved by then; without an alert it moves on, and so does the reference.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from tqdm import tqdm

from agent.adapters.mqtt.topics import Topics
from agent.adapters.payload import TimeSettings
from agent.adapters.telemetry import SilentObserver
from agent.app import load_encoders
from agent.config import AgentSettings, Configuration, SensorSettings
from agent.core.types import Mode
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from tests.benchmarks.tables import table

NORMAL, DAY, TOGETHER = 900, 86_400, 60
STEPS = {
    Mode.ADAPT: (1.0, 0.1, 0.02),
    Mode.HOLD: (0.1, 0.03, 0.01),
}
_START = 1e9


@dataclass
class Attack:
    """A stream whose level moves by `step` standard deviations with every reading, and what was told of it."""

    step: float
    seed: int
    before: int = 0  # alerts of the normal part
    moved: list[float] = field(default_factory=list)  # the level at each alert that was raised after it

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    @property
    def topic(self) -> str:
        """Return its topic."""
        return f"plant/{self.step}-{self.seed}"

    def reading(self, row: int) -> float:
        """Return the value of a row."""
        return self._rng.normal() + self.step * max(0, row - NORMAL)


def attack(mode: Mode, attacks: list[Attack], rows: int, *, encoder: str = "sensor-small") -> None:
    """Play the normal part and so many rows of each attack."""
    stream = SensorSettings(
        name="s", topic="plant/+", encoder=encoder, period_s=1.0, mode=mode,
        time=TimeSettings(path="t", max_ahead_s=1e10),
    )  # fmt: skip
    configuration = Configuration(agent=AgentSettings(id="pi", memory_limit_bytes=2_000_000_000), streams=[stream])
    pipeline = Pipeline(configuration, load_encoders(configuration), Topics("r", "pi"), SilentObserver())
    by_topic = {one.topic: one for one in attacks}
    for start in tqdm(range(0, NORMAL + rows, TOGETHER), desc=mode.value, unit="minute", leave=False, disable=None):
        messages = [
            InboundMessage(one.topic, json.dumps({"t": at, "v": one.reading(row)}).encode(), at, float(row))
            for row in range(start, start + TOGETHER)
            for at in [_START + row]
            for one in attacks
        ]
        for told in pipeline.process(messages).outbox:
            alert = json.loads(told.payload)
            row = datetime.fromisoformat(alert["at"]).timestamp() - _START
            if alert["event"] != "raised" or alert["kind"] != "anomaly":
                continue
            if row < NORMAL:
                by_topic[alert["topic"]].before += 1
            else:
                by_topic[alert["topic"]].moved.append(by_topic[alert["topic"]].step * (row - NORMAL))


def lines(mode: Mode, attacks: Iterable[Attack], rows: int) -> list[list[str]]:
    """Return a row of the table for each step."""
    by_step: dict[float, list[Attack]] = {}
    for one in attacks:
        by_step.setdefault(one.step, []).append(one)
    made = []
    for step, group in by_step.items():
        first = sorted(one.moved[0] for one in group if one.moved)
        at = f"{np.median(first):.1f} ({first[-1]:.1f})" if first else "-"
        made.append(
            [mode.value, f"{step:g}", f"{step * DAY:,.0f}", f"{len(first)} of {len(group)}", at, f"{step * rows:,.0f}"]
        )
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=600, help="of each attack")
    parser.add_argument("--seeds", type=int, default=1, help="streams for each step")
    parser.add_argument("--encoder", default="none")
    options = parser.parse_args()
    found = []
    for mode, steps in STEPS.items():
        attacks = [Attack(step, seed) for step in steps for seed in range(1, options.seeds + 1)]
        attack(mode, attacks, options.rows, encoder=options.encoder)
        found += lines(mode, attacks, options.rows)
    header = ["mode", "step for each reading", "a day", "told", "moved by then, median (most)", "moved in all"]
    print(table(header, found))


if __name__ == "__main__":
    main()
