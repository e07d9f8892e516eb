from __future__ import annotations

import csv
import json
import math
import random

import numpy as np
import pytest
from PIL import Image

from agent.bundle import load_bundle
from agent.encoder_proof import unpacked, vary
from converter import representative
from converter.cli import main
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
from converter.vectors import read_vectors

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


def test_an_encoder_is_built_from_a_recording_and_proven_with_labels_of_the_users_own(
    recording, broken, tmp_path, capsys
):
    path, configuration = recording
    given = ["--representative", str(path), "--config", str(configuration), "--anomalous", str(broken)]
    assert main(["encoder", "sensor-small", *given, "--out", str(tmp_path / "b")]) == 0
    labels = "given by the user from broken.csv: 72 windows"
    assert "pump.csv" in (tmp_path / "b" / "PROVENANCE.md").read_text()
    assert labels in (tmp_path / "b" / "PROVENANCE.md").read_text()
    proven_with(tmp_path / "b", labels, HELD_OUT, 72, capsys)


def proven_with(folder, labels, normal, odd, capsys):
    """Look for the labels in the vectors, in the report, and in what `verify` says of the loss of area."""
    of = read_vectors(load_bundle(folder)).population
    assert (len(of.odd) - of.odd.sum(), of.odd.sum()) == (normal, odd)
    assert not (of.odd & of.reference).any()
    assert json.loads((folder / "report.json").read_text())["labels"] == labels
    assert main(["verify", str(folder), "--runtime", "ai-edge-litert", "--report", str(folder / "again.json")]) == 0
    out = capsys.readouterr().out
    assert f"  labels: {labels}\n" in out
    assert " auroc_loss " in out
    assert json.loads((folder / "again.json").read_text())["labels"] == labels


def test_a_recording_without_its_configuration_is_an_error(recording, tmp_path, capsys):
    assert main(["encoder", "sensor-small", "--representative", str(recording[0]), "--out", str(tmp_path / "c")]) == 78
    assert "expected --config FILE" in capsys.readouterr().err


@pytest.fixture
def broken(tmp_path):
    """Return a recording of both channels, made earlier, in which one of them has another level."""
    lines = ["time,temp,flow", *(f"{1_600_000_000 + i},{23 + math.sin(i / 15)},5" for i in range(200))]
    (tmp_path / "broken.csv").write_text("\n".join(lines))
    return tmp_path / "broken.csv"


def test_anomalous_windows_are_scaled_by_what_is_usual_and_hold_no_normal_reading(recording, broken):
    alone, samples = recorded_windows(*recording, (64, 2), None), recorded_windows(*recording, (64, 2), None, broken)
    of = samples.population
    np.testing.assert_array_equal(samples.inputs[:HELD_OUT], alone.inputs)
    np.testing.assert_array_equal(samples.representative, alone.representative)
    assert not of.odd[:HELD_OUT].any()
    assert of.odd[HELD_OUT:].all()
    temp = [one for one in samples.inputs[of.odd, :, 0] if one.mean() > 1]
    assert len(temp) == 36  # every other one; the flow is as ever
    assert min(one.min() for one in temp) > 1


def test_too_few_anomalous_windows_are_an_error_that_says_what_to_do(recording, broken):
    lines = broken.read_text().splitlines(keepends=True)
    broken.write_text("".join(lines[:60]))
    with pytest.raises(
        RepresentativeError,
        match=r"broken\.csv: expected at least 12 windows of 64 anomalous readings, found 0; give a longer recording",
    ):
        recorded_windows(*recording, (64, 2), None, broken)


@pytest.fixture
def defects(tmp_path_factory):
    """Return a folder of three pictures of one colour each."""
    made = tmp_path_factory.mktemp("anomalous") / "defects"
    made.mkdir()
    for index, colour in enumerate(("red", "lime", "blue")):
        Image.new("RGB", (120, 90), colour).save(made / f"{index}.png")
    return made


def test_anomalous_pictures_take_the_place_of_pasted_patches(folder, defects):
    alone, samples = pictures_of(folder, 64), pictures_of(folder, 64, defects)
    of = samples.population
    np.testing.assert_array_equal(of.odd, alone.population.odd)
    np.testing.assert_array_equal(samples.inputs[~of.odd], alone.inputs[~of.odd])
    colours = samples.inputs[of.odd].reshape(of.odd.sum(), -1, 3).mean(axis=1)
    assert (colours.max(axis=1) > 200).all()
    assert (colours.min(axis=1) < 5).all()
    assert samples.stored["pictures"].shape == (11, 3, 96, 96)
    np.testing.assert_array_equal(vary(unpacked(samples.stored["pictures"]), samples.stored["made"]), samples.inputs)


@pytest.mark.usefixtures("beside")
def test_a_bundle_of_pictures_is_proven_with_labels_of_the_users_own(folder, defects, tmp_path, capsys):
    given = ["--representative", str(folder), "--anomalous", str(defects), "--input-shape", "32,32,3"]
    wanted = ["--precision", "float32", "--out", str(tmp_path / "b")]
    assert main(["module", "mine:pictures", *given, *wanted]) == 0
    proven_with(
        tmp_path / "b",
        "given by the user from defects: 3 pictures",
        HELD_OUT_PICTURES * 3 // 4,
        HELD_OUT_PICTURES // 4,
        capsys,
    )


@pytest.mark.parametrize(
    ("name", "anomalous", "message"),
    [
        ("efficientnet-lite0", "empty", "expected at least 1 pictures (.bmp, "),
        (
            "efficientnet-lite0",
            "notes.txt",
            "expected a folder of pictures for an encoder of kind 'image', found a file",
        ),
        ("efficientnet-lite0", "nowhere", "found nothing there; give one with --anomalous"),
        ("efficientnet-lite0", "spoiled", "spoiled/x.png: expected a picture, found something else"),
        (
            "sensor-small",
            "empty",
            "expected a recording (.jsonl, .csv) for an encoder of kind 'sensor', found a folder",
        ),
    ],
)
def test_what_cannot_be_anomalous_is_an_error_before_anything_is_built(folder, capsys, name, anomalous, message):
    (folder / "empty").mkdir()
    (folder / "spoiled").mkdir()
    (folder / "spoiled" / "x.png").write_bytes(b"no picture")
    given = ["--representative", str(folder), "--anomalous", str(folder / anomalous), "--out", str(folder / "out")]
    if name == "sensor-small":
        given[1] = str(folder / "notes.txt")
    assert main(["encoder", name, *given]) == 78
    assert message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_labels_without_what_is_normal_are_an_error(defects, tmp_path, capsys):
    assert main(["encoder", "efficientnet-lite0", "--anomalous", str(defects), "--out", str(tmp_path / "b")]) == 78
    assert "defects: expected --representative PATH beside it" in capsys.readouterr().err
