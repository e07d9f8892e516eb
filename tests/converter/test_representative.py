from __future__ import annotations

import csv
import math
import random

import numpy as np
import pytest
from PIL import Image

from converter import representative
from converter.representative import (
    HELD_OUT,
    HELD_OUT_PICTURES,
    RepresentativeError,
    generated_windows,
    open_picture,
    packaged_pictures,
    pictures_of,
    recorded_windows,
)

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
CONFIGURATION = """
broker: {url: "mqtt://localhost:1883"}
streams:
  - {name: pump, topic: plant/pump, period: 1s, reference: {size: 300, warm_up: 200}}
"""


def alike(a, b):
    return all(np.array_equal(a.stored[name], b.stored[name]) for name in a.stored) and np.array_equal(
        a.representative, b.representative
    )


def test_generated_windows_are_the_same_every_time_and_none_is_in_both_parts():
    first = generated_windows(64)
    assert alike(first, generated_windows(64))
    ranges = {one.astype(np.float16).tobytes() for one in first.representative}
    assert not ranges & {one.astype(np.float16).tobytes() for one in first.inputs}
    assert len(first.representative) >= 256


def test_windows_of_another_length_cannot_be_generated():
    with pytest.raises(RepresentativeError, match="expected windows of 64 readings for generated data, found 32"):
        generated_windows(32)


def test_packaged_pictures_are_real_and_diverse():
    samples = packaged_pictures(64)
    assert samples.representative.shape == (36, 64, 64, 3)
    assert samples.inputs.shape == (HELD_OUT_PICTURES, 64, 64, 3)
    assert len(np.unique(samples.representative.reshape(36, -1).mean(axis=1).round(1))) > 25
    of = samples.population
    assert len(np.unique(of.stream)) == 4
    assert of.odd.sum() == HELD_OUT_PICTURES // 4
    assert alike(samples, packaged_pictures(64))


@pytest.fixture
def folder(tmp_path):
    """Return a folder of 30 pictures of several kinds, some in a folder below."""
    rng = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    for index in range(30):
        picture = Image.fromarray(rng.integers(0, 256, (90, 120, 3), dtype=np.uint8))
        suffix = ("png", "jpg", "webp")[index % 3]
        picture.save(tmp_path / ("below" if index % 2 else ".") / f"{index:02}.{suffix}")
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_divided_into_pictures_for_ranges_and_others_held_out(folder):
    samples = pictures_of(folder, 64)
    assert samples.representative.shape == (20, 64, 64, 3)
    assert samples.stored["pictures"].shape == (8, 3, 96, 96)
    assert set(samples.population.stream) == {0}
    assert samples.about == f"20 pictures of {folder.name}; 8 others held out"


def test_a_folder_with_too_few_pictures_is_an_error(folder):
    for path in list(folder.glob("*.*"))[:12]:
        path.unlink()
    with pytest.raises(RepresentativeError, match=r"expected at least 24 pictures \(.*\), found \d+; add some"):
        pictures_of(folder, 64)


def test_a_picture_that_is_none_is_named(folder):
    (folder / "00.png").write_bytes(b"no picture")
    with pytest.raises(RepresentativeError, match=r"00\.png: expected a picture, found something else"):
        pictures_of(folder, 64)


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(folder, monkeypatch):
    monkeypatch.setattr(representative, "MAX_PIXELS", 5000)
    with pytest.raises(RepresentativeError, match="expected at most 5000 pixels, found 120 x 90"):
        open_picture(folder / "00.png")


def test_a_picture_is_turned_as_its_orientation_says(tmp_path):
    picture = Image.fromarray(np.concatenate([np.zeros((20, 40, 3)), np.full((20, 40, 3), 255)]).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "turned.png", exif=exif)
    assert np.asarray(open_picture(tmp_path / "turned.png"))[0].min() == 255


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P", "I;16"])
def test_pictures_of_every_mode_become_rgb(tmp_path, mode):
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode if mode != "I;16" else "I;16", (30, 30)).save(tmp_path / f"x.{suffix}")
    assert open_picture(tmp_path / f"x.{suffix}").mode == "RGB"


@pytest.fixture
def recording(tmp_path):
    """Return a CSV recording of two channels and the configuration that it belongs to."""
    rng = random.Random(1)
    with (tmp_path / "pump.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "temp", "flow"])
        for i in range(1400):
            writer.writerow([1_700_000_000 + i, 20 + math.sin(i / 15) + rng.gauss(0, 0.1), 5 + rng.gauss(0, 0.2)])
    (tmp_path / "redshank.yaml").write_text(CONFIGURATION)
    return tmp_path / "pump.csv", tmp_path / "redshank.yaml"


def test_windows_of_a_recording_are_what_the_agent_would_embed(recording):
    samples = recorded_windows(*recording, (64, 2), None)
    assert samples.inputs.shape == (HELD_OUT, 64, 2)
    assert samples.representative.shape[1:] == (64, 2)
    assert np.abs(samples.representative).max() <= 8
    assert 0.5 < samples.representative[:, :, 0].std() < 2  # scaled by the stream's own spread
    assert samples.about.startswith("pump.csv, ")


def test_a_recording_too_short_is_an_error_that_says_what_to_do(recording):
    path, configuration = recording
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:150]))
    with pytest.raises(RepresentativeError, match="expected at least 720 windows of 64 readings, found 0; record for"):
        recorded_windows(path, configuration, (64, 2), None)


def test_an_encoder_is_built_from_a_recording(convert, recording, tmp_path):
    path, configuration = recording
    done = convert(
        "encoder", "sensor-small", "--representative", path, "--config", configuration, "--out", tmp_path / "b"
    )
    assert done.returncode == 0, done.stderr
    assert "pump.csv" in (tmp_path / "b" / "PROVENANCE.md").read_text()
    missing = convert("encoder", "sensor-small", "--representative", path, "--out", tmp_path / "c")
    assert missing.returncode == 78
    assert "expected --config FILE" in missing.stderr
