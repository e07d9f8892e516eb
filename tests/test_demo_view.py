from __future__ import annotations

import io

import pytest
from rich.console import Console

from agent.demo_view import CHANNELS, HISTORY, Screen, bars

RAISED = {
    "id": "9f4db089792e75e9",
    "message": "machine: cpu.user rose to 70, normally 0 to 5, with 1 other; nothing like it since 20:03 UTC",
    "p_value": 2.2e-10,
    "p_value_threshold": 2.8e-5,
    "budget": "1 per hour",
    "evidence": {
        "parts": [
            {"name": "cpu.user", "share": 0.75, "value": 70.0, "expected": [0.0, 5.0]},
            {"name": "disk.write", "share": 0.246, "value": 251.9, "expected": [-1e-9, 0.04]},
            {"name": "net.in", "share": 0.004, "value": 0.0, "expected": [0.0, 0.0]},
        ]
    },
}
CLEARED = {"message": "machine looks normal again after 7 s"}


def reading(value):
    made = {}
    for name in CHANNELS:
        group, _, leaf = name.partition(".")
        made.setdefault(group, {})[leaf] = value
    return made


def shown(screen, width=80):
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(screen.render())
    return console.file.getvalue().splitlines()


@pytest.fixture
def screen():
    made = Screen("Mosquitto")
    for i in range(HISTORY + 5):
        made.add(reading(float(i)))
    made.scores = [0.5, 17.25]
    return made


def test_it_can_be_shown_before_anything_was_read():
    lines = shown(Screen("Mosquitto"))
    assert lines[0].startswith("╭─ redshank demo, broker: Mosquitto ─")
    assert all(any(name in line for line in lines) for name in CHANNELS)


def test_each_channel_has_a_row_with_its_newest_value_and_unit(screen):
    lines = shown(screen)
    for name, (unit, _) in CHANNELS.items():
        (row,) = [line for line in lines if line.startswith(f"│ {name} ")]
        assert row.split()[-3:] == [f"{HISTORY + 4:.1f}", unit, "│"]
    assert lines[-2].split() == ["│", "score", "▁█", "17.2", "│"]


def test_while_learning_it_says_how_long(screen):
    screen.learning_left_s = 12.4
    assert shown(screen)[-2].split() == ["│", "score", "learning", "...", "12", "s", "left", "│"]


def test_an_alert_is_shown_with_the_evidence_that_matters(screen):
    screen.raised = RAISED
    text = "\n".join(shown(screen)[-8:])
    assert "ALERT raised, over MQTT" in text
    assert "machine: cpu.user rose to 70, normally 0 to 5, with 1 other; nothing like it" in text
    assert "75 %      70.0 %  normally 0.0 to 5.0" in text
    assert "25 %  251.9 MB/s  normally 0.0 to 0.0" in text
    assert "p 2.2e-10, threshold 2.8e-05, budget 1 per hour; id 9f4db089792e75e9" in text
    assert "net.in" not in text


def test_an_alert_that_has_cleared_says_so(screen):
    screen.raised, screen.cleared = RAISED, CLEARED
    text = "\n".join(shown(screen)[-8:])
    assert "alert cleared, over MQTT" in text
    assert CLEARED["message"] in text
    assert "ALERT" not in text


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_any_terminal(screen, width):
    screen.raised = RAISED
    assert max(map(len, shown(screen, width))) == min(width, 80)


def test_bars_reach_from_low_to_high_and_stay_inside():
    assert bars([0, 3.5, 7], 0, 7) == "▁▅█"
    assert bars([-100, 100], 0, 7) == "▁█"
