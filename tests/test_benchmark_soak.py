"""The benchmarks in virtual time really run the agent, and tell a slope from none."""

from __future__ import annotations

import numpy as np
import pytest

from tests.benchmarks.soak import Samples, pictures_soak, row, sensors_soak
from tests.benchmarks.streams import Farm


def grown(rate, seed=0):
    rng = np.random.default_rng(seed)
    found = Samples(at=[number / 10 for number in range(400)])
    found.memory = [100 + rate * at + float(rng.normal(0, 0.5)) for at in found.at]
    found.written = [7.0 * at for at in found.at]
    return found


def test_a_leak_is_told_from_none():
    slope, half = grown(0.2).slope()
    assert abs(slope - 0.2) < half < 0.02
    calm = [grown(0.0, seed).slope() for seed in range(40)]
    assert sum(abs(slope) < half for slope, half in calm) >= 34
    assert grown(0.0).daily() == pytest.approx(7.0)
    found = grown(0.2)
    found.files, found.threads, found.state = [5] * 400, [3] * 400, [2.0] * 400
    assert row("x", found)[-4:] == ["5, 5", "3, 3", "2.0, 2.0", "7.0"]


def test_readings_and_pictures_pass_through_the_agent_and_its_state_is_written(tmp_path):
    for name in ("readings", "pictures"):
        (tmp_path / name).mkdir()
    readings = sensors_soak(tmp_path / "readings", 0.0072)
    pictures = pictures_soak(tmp_path / "pictures", 130)
    for found in (readings, pictures):
        assert found.at == sorted(found.at)
        assert found.state[-1] > found.state[0]
        assert min(found.memory) > 10
    assert len(list((tmp_path / "readings" / "state" / "streams").glob("*.snapshot"))) == 20


def test_a_farm_of_streams_decides_and_weighs(tmp_path):
    farm = Farm(tmp_path, 40, size=100, channels=1, rate=400)
    for _ in range(3):
        assert farm.second(400) > 0.0
    tallies = farm.agent.telemetry._figures.tallies
    assert sum(one.decisions for one in tallies.values()) >= 40
    assert 20_000 < farm.reckoned_bytes < 200_000
    assert farm.scrape() > 0.0
    farm.agent.close()
