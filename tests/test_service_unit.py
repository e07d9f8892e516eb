"""The unit that ships allows what the agent needs."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

from agent.config import AgentSettings

UNIT = Path(__file__).parents[1] / "deploy" / "redshank.service"
TRIALS = """
from resource import RUSAGE_CHILDREN, getrusage
from agent.bundle import installed_bundles
from agent.encoder_trial import combinations, in_process
for bundle in installed_bundles():
    for runtime, variant, _ in combinations(bundle, [1]):
        in_process(bundle, variant, runtime)
print(getrusage(RUSAGE_CHILDREN).ru_maxrss)
"""


def test_the_units_limit_has_room_for_the_agents_own_and_for_the_trial_of_an_encoder():
    unit = configparser.RawConfigParser(strict=False)
    unit.read(UNIT)
    limit = unit["Service"]["MemoryMax"]
    assert limit.endswith("M")
    tried = subprocess.run([sys.executable, "-c", TRIALS], capture_output=True, text=True, check=True)
    largest = int(tried.stdout) * 1024
    assert 30_000_000 < largest < 120_000_000
    assert AgentSettings().memory_limit_bytes + largest < int(limit[:-1]) << 20
