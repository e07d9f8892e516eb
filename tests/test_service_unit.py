"""The unit that ships allows what the agent needs."""

from __future__ import annotations

import configparser
from pathlib import Path

from agent.config import AgentSettings

UNIT = Path(__file__).parents[1] / "deploy" / "redshank.service"
TRIAL_BYTES = 90_000_000  # the most that trying an encoder that ships takes in its process (docs/install.md)


def test_the_units_limit_has_room_for_the_agents_own_and_for_the_trial_of_an_encoder():
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNIT)
    limit = unit["Service"]["MemoryMax"]
    assert limit.endswith("M")
    agent = AgentSettings().memory_limit_bytes
    assert agent + TRIAL_BYTES < int(limit[:-1]) << 20 < 2 * agent
