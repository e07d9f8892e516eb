"""Every folder in tests/scenarios: a configuration, a recording, and the alerts that a user would want of it.

expected.json lists the alerts in order: stream, kind, the channel that leads the evidence (null for silence), when it
started and how exactly, and whether it is over in the end. `decisions` and `rejected` are looked at where given.
Where `wrong` is given, the detector does not do what a user would want: it says what is wrong, and the alerts are those
that really come. Whoever mends it takes the word out.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest

from agent.config import load_configuration
from agent.replay import replay
from tests.scenarios.make import INPUTS

FOLDER = Path(__file__).parent / "scenarios"
SCENARIOS = sorted(path.parent.name for path in FOLDER.glob("*/redshank.yaml"))
MAX_BYTES = 300_000


def seconds(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_raises_and_clears_what_a_user_would_want_and_nothing_else(name):
    folder = FOLDER / name
    (recording,) = folder.glob("input.*")
    expected = json.loads((folder / "expected.json").read_text())
    summary = replay(recording, load_configuration(folder / "redshank.yaml"))
    raised = [alert for alert in summary.alerts if alert["event"] == "raised"]
    told = [f"{alert['started_at']} {alert['message']}" for alert in raised]
    assert len(raised) == len(expected["alerts"]), told
    for alert, wanted in zip(raised, expected["alerts"], strict=True):
        parts = alert["evidence"]["parts"] or [{"name": None}]
        found = (alert["stream"], alert["kind"], parts[0]["name"])
        assert found == (wanted["stream"], wanted["kind"], wanted["part"])
        assert abs(seconds(alert["started_at"]) - seconds(wanted["started_at"])) <= wanted["tolerance_s"], told
        cleared = [one for one in summary.alerts if one["id"] == alert["id"] and one["event"] == "cleared"]
        assert len(cleared) == wanted["cleared"], told
    assert summary.decisions == expected.get("decisions", summary.decisions)
    assert summary.rejected == expected.get("rejected", {})


@pytest.mark.parametrize("name", INPUTS)
def test_an_input_is_what_its_generator_makes_and_small(name):
    content = (FOLDER / name).read_bytes()
    assert content == INPUTS[name]()
    assert len(content) <= MAX_BYTES


def test_expectations_hold_nothing_but_what_is_looked_at():
    known = {"alerts", "decisions", "rejected", "wrong"}
    for name in SCENARIOS:
        expected = json.loads((FOLDER / name / "expected.json").read_text())
        assert set(expected) <= known
        assert ("# WRONG" in (FOLDER / name / "redshank.yaml").read_text()) == ("wrong" in expected)


def test_every_input_belongs_to_a_scenario_and_every_scenario_has_one():
    assert sorted(Path(name).parent.name for name in INPUTS) == SCENARIOS
