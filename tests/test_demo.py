"""The demo as a person runs it: a real broker, the agent as a process, a real disturbance of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.brokers import wait_until

COMMAND = [sys.executable, "-m", "agent.cli", "demo"]
PICTURE = Path(__file__).parents[1] / "docs" / "demo.svg"


def words(picture):
    """Return the text of an SVG, one line for each of the terminal's."""
    lines = {}
    for one in ET.fromstring(picture.read_text()).iter("{http://www.w3.org/2000/svg}text"):
        lines[one.get("y")] = lines.get(one.get("y"), "") + "".join(one.itertext())
    return "\n".join(line.replace("\xa0", " ") for line in lines.values())


def test_it_shows_the_alert_raised_and_cleared_and_draws_what_it_showed(mosquitto, tmp_path):
    picture = tmp_path / "demo.svg"
    done = subprocess.run(
        [*COMMAND, "--broker", mosquitto.url, "--picture", str(picture)],
        env={**os.environ, "COLUMNS": "80"}, capture_output=True, text=True, timeout=150, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (raised,) = re.findall(r"ALERT over MQTT: machine: (\S+) (?:rose|fell|behaves)", done.stdout)
    assert "CLEARED over MQTT: machine looks normal again after" in done.stdout
    shown = words(picture)
    for line in ("ALERT raised, over MQTT", raised, "CLEARED over MQTT: machine looks normal again after"):
        assert line in shown


def test_it_watches_until_it_is_interrupted(mosquitto):
    process = subprocess.Popen(
        [*COMMAND, "--broker", mosquitto.url, "--forever"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(
        lambda: re.search(r"Received PUBLISH .*'demo/machine'", mosquitto.log), 60
    )  # its own readings: it watches
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "watching until interrupted" in output


@pytest.mark.parametrize(
    "line", ["$ redshank demo", "ALERT raised, over MQTT", "CLEARED over MQTT: machine looks normal"]
)
def test_the_picture_in_the_readme_is_of_a_whole_demo(line):
    assert line in words(PICTURE)


def test_the_picture_in_the_readme_needs_nothing_from_elsewhere():
    drawing = PICTURE.read_text()
    assert not re.search(r"url\(['\"]?http|@import|href=", drawing)
    assert "docs/demo.svg" in (PICTURE.parents[1] / "README.md").read_text()
