"""docs/own-encoder.md does what it says: its files and commands, from the user's own network to the alert."""

from __future__ import annotations

import csv
import math

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from tests.pages import OWN, commands_of, files_of, run

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
START, ROWS = 1_700_000_000, 1400
FASTER = range(1200, 1300)  # where the pump runs at twice its pace
DIGITS, NORMAL = 1000, 3
ODD = (230, 245)  # where the line brings another digit


@pytest.fixture
def folder(tmp_path):
    """Return a folder with the page's files."""
    for name, content in files_of(OWN).items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_a_module_in_a_dozen_lines_leads_to_an_alert(folder):
    code = [line for line in files_of(OWN)["mine.py"].splitlines() if line.strip()]
    assert len(code) <= 12
    rng, phase = np.random.default_rng(1), 0.0
    with (folder / "pump.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "pressure"])
        for row in range(ROWS):
            phase += (2 if row in FASTER else 1) * 2 * math.pi / 40
            writer.writerow([START + row, round(5 + math.sin(phase) + rng.normal(0, 0.1), 3)])
    build, verify, replay = commands_of(OWN)[0]
    assert "int8 is kept for " in run(build, folder)
    assert "0 failed the gates" in run(verify, folder)
    shown = run([*replay, "--alerts", "alerts.jsonl", "--scores", "scores.csv"], folder)
    assert "1 alerts raised" in shown, shown
    with (folder / "scores.csv").open() as file:
        fired = [float(one["at"]) - START for one in csv.DictReader(file) if one["alert_state"] == "firing"]
    assert FASTER.start <= fired[0] <= FASTER.stop


def digit(number, rng):
    """Draw a digit as somebody would write it: elsewhere, larger, turned, with noise; uint8 [28, 28]."""
    picture = Image.new("L", (56, 56))
    font = ImageFont.load_default(float(rng.uniform(38, 46)))
    place = (28 + float(rng.uniform(-3, 3)), 28 + float(rng.uniform(-3, 3)))
    ImageDraw.Draw(picture).text(
        place, str(number), fill=255, font=font, anchor="mm", stroke_width=int(rng.integers(2))
    )
    turned = picture.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR).resize((28, 28))
    return np.clip(np.asarray(turned) + rng.normal(0, 8, (28, 28)), 0, 255).astype(np.uint8)


def test_the_keras_network_leads_to_an_alert_at_each_other_digit(folder):
    rng = np.random.default_rng(2)
    labels = np.arange(DIGITS) % 10
    images = np.stack([digit(one, rng) for one in labels])
    np.savez(folder / "digits.npz", images=images, labels=labels)
    for name, pictures in (
        ("normal", images[:60]),
        ("line", [digit(7 if place in ODD else NORMAL, rng) for place in range(260)]),
    ):
        (folder / name).mkdir()
        for place, one in enumerate(pictures):
            Image.fromarray(one).save(folder / name / f"{place:03}.png")
    train, build, verify, replay = commands_of(OWN)[1]
    run(train, folder)
    assert " is kept for " in run(build, folder)
    assert "0 failed the gates" in run(verify, folder)
    shown = run([*replay, "--scores", "scores.csv"], folder)
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    highest = sorted(rows, key=lambda one: float(one["score"]))[-len(ODD) :]
    begun = float(rows[0]["at"])
    assert f"{len(ODD)} alerts raised" in shown, (shown, [(float(one["at"]) - begun, one["score"]) for one in highest])
