from __future__ import annotations

import csv
import shutil

import msgspec
import numpy as np
import pytest
from tqdm import tqdm

from agent.bundle import find_bundle, load_bundle
from agent.config import SensorSettings, load_configuration
from agent.core.types import Sample
from agent.errors import RecordingError
from converter.cli import main, parser
from converter.finetune import command
from converter.finetune.disturbances import KINDS, LENGTHS, LONGEST, STRENGTHS, disturb, length_of, unit_of
from converter.finetune.recorded import (
    MOST_READINGS,
    VALIDATION,
    FinetuneError,
    Recorded,
    channels_of,
    read,
    step_of,
)
from converter.finetune.trial import AFTER, LEAST_PLACES, MOST_PLACES, Found, Verdict, decide, places_of
from converter.finetune.tuning import LOSSES, own_example, triplets, tune
from converter.pretrain.corpus import LENGTH, history_points
from converter.recipes import WEIGHTS
from converter.sources import sensor_small
from tests.benchmarks.plants import START, plant, write

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
HEADER = "agent: {id: test}\nbroker: {url: mqtt://localhost}\nstreams:\n"


@pytest.fixture(scope="module")
def rotating(tmp_path_factory):
    """Return the paths of a recording of 3,200 readings of two channels, and of its configuration."""
    return write(tmp_path_factory.mktemp("recording"), "rotating", plant("rotating", 3, rows=3200, channels=2))


@pytest.fixture(scope="module")
def streams(rotating):
    return read(*rotating, None, "time")


@pytest.fixture(scope="module")
def channels(streams):
    return channels_of(streams)


# --- disturbances


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", range(len(STRENGTHS)))
def test_a_disturbance_changes_its_part_and_nothing_else(kind, strength):
    values = np.sin(np.arange(160) / 5) + 0.1 * np.random.default_rng(1).standard_normal(160)
    kept = values.copy()
    odd = disturb(np.random.default_rng(2), values, 64, kind, strength, 1.0)
    np.testing.assert_array_equal(values, kept)
    changed = np.flatnonzero(odd != values)
    assert len(changed) > 0
    assert changed.min() >= 64
    assert changed.max() < 64 + length_of(kind, strength) <= 64 + LONGEST


@pytest.mark.parametrize("kind", ["spike", "level shift", "drift", "noise"])
def test_a_disturbance_is_as_large_as_its_strength_says(kind):
    flat = np.zeros(160)
    sizes = [
        np.abs(disturb(np.random.default_rng(7), flat, 64, kind, strength, 2.0)).max()
        for strength in range(len(STRENGTHS))
    ]
    np.testing.assert_allclose(np.array(sizes) / sizes[0], np.array(STRENGTHS) / STRENGTHS[0])
    if kind == "level shift":
        assert sizes[0] == 2.0 * STRENGTHS[0]


@pytest.mark.parametrize("kind", ["frozen value", "changed frequency"])
def test_what_has_no_size_is_stronger_the_longer_it_lasts(kind):
    assert [length_of(kind, strength) for strength in range(len(STRENGTHS))] == list(LENGTHS)
    assert list(LENGTHS) == sorted(set(LENGTHS))


def test_the_unit_is_robust_and_0_for_a_constant():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    values[:3] = 1e3, np.nan, -1e3
    assert 1.9 < unit_of(values) < 3.0
    assert unit_of(np.full(10, 3.0)) == 0.0
    assert unit_of(np.full(3, np.nan)) == 0.0


# --- reading and the split


def test_readings_are_those_of_the_recording_in_order(rotating, streams):
    (one,) = streams
    with rotating[0].open() as file:
        rows = [{name: float(text) for name, text in row.items()} for row in csv.DictReader(file)]
    assert one.samples == [Sample(row.pop("time"), row) for row in rows]
    assert one.settings == load_configuration(rotating[1]).streams[0]


def test_messages_are_read_as_the_agent_reads_them(tmp_path, streams):
    (one,) = streams
    recording, configuration = tmp_path / "messages.jsonl", tmp_path / "redshank.yaml"
    configuration.write_text(HEADER + "  - {name: line, topic: line/+, time: {path: ts}}\n")
    with recording.open("wb") as file:
        for sample in one.samples:
            payload = msgspec.json.encode({"ts": sample.at, **sample.values}).decode()
            for topic in ("line/a", "line/b", "elsewhere"):
                file.write(msgspec.json.encode({"topic": topic, "received_at": sample.at, "text": payload}) + b"\n")
    found = read(recording, configuration, None, "time")
    assert [each.name for each in found] == ["line/a", "line/b"]
    assert all(each.samples == one.samples for each in found)


def test_channels_end_where_the_held_back_part_begins(streams, channels):
    (one,) = streams
    assert [len(channel.rows) for channel in channels] == [one.split] * 2
    for channel, name in zip(channels, ("c0", "c1"), strict=True):
        given = np.array([sample.values[name] for sample in one.samples[: one.split]])
        np.testing.assert_allclose(np.diff(channel.rows), np.diff(given), atol=1e-5)
        assert channel.step == pytest.approx(1e-3, rel=1e-3)


def test_places_lie_in_the_held_back_part_and_apart(streams):
    (one,) = streams
    places = places_of(streams, 1)
    firsts = [place.first for place in places]
    assert LEAST_PLACES <= len(places) <= MOST_PLACES
    assert min(firsts) >= one.split + 64
    assert max(firsts) + LONGEST + AFTER <= len(one.samples)
    assert np.diff(firsts).min() >= 96
    assert {place.channel for place in places} == {"c0", "c1"}
    assert places == places_of(streams, 1) != places_of(streams, 2)


def test_a_gap_has_no_place_and_no_part_in_a_channel(streams):
    (one,) = streams
    gappy = [
        Sample(sample.at, {"c1": sample.values["c1"]} if 20 <= row < 60 or row >= 2000 else sample.values)
        for row, sample in enumerate(one.samples)
    ]
    found = msgspec.structs.replace(one, samples=gappy)
    assert {place.channel for place in places_of([found], 1) if place.first > 2000} == {"c1"}
    first, second = channels_of([found])
    assert len(first.rows) < len(second.rows) == found.split


def test_counters_are_not_disturbed(streams):
    (one,) = streams
    settings = msgspec.structs.replace(one.settings, counters=("c0",))
    assert {place.channel for place in places_of([msgspec.structs.replace(one, settings=settings)], 1)} == {"c1"}


def test_steps_are_seen_and_only_where_they_are():
    rng = np.random.default_rng(3)
    assert step_of(rng.poisson(4, 300).astype(np.float32)) == 1.0
    assert step_of(rng.normal(size=300).astype(np.float32)) == 0.0
    assert step_of(np.zeros(300, np.float32)) == 0.0


@pytest.mark.parametrize(
    ("rows", "extra", "expected"),
    [
        (3100, "", "expected a stream of at least 3136 readings (an hour of one a second has 3600), found 3100"),
        (3200, ", stride: 4, reference: {warm_up: 1000}", "expected a stream of at least 6881 readings"),
        (3200, ", mode: hold", "`mode: hold` uses no encoder"),
    ],
)
def test_what_cannot_be_tuned_with_is_refused_in_words(tmp_path, rows, extra, expected, capsys):
    recording, configuration = write(tmp_path, "short", plant("steady", 1, rows=rows, channels=1))
    configuration.write_text(HEADER + f"  - {{name: short, topic: a/b{extra}}}\n")
    out = tmp_path / "out"
    arguments = ["finetune", "--recording", recording, "--config", configuration, "--out", out]
    assert main(list(map(str, arguments))) == 78
    assert expected in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(
    ("rate", "extra", "strides"),
    [(1, {}, 1), (100, {}, 5), (1600, {}, 33), (1600, {"stride": 7}, 7), (1600, {"period_s": 0.01}, 5)],
)
def test_a_stream_decides_as_often_as_in_the_agent(rate, extra, strides):
    settings = SensorSettings(name="s", topic="s", **extra)
    samples = [Sample(1.7e9 + i / rate, {"a": 0.0}) for i in range(40)]
    assert Recorded("s", settings, samples).stride == strides
    assert Recorded("s", settings, samples[:1]).stride == (strides if extra else 1)


def test_a_recording_that_never_changes_is_refused(tmp_path):
    found = read(*write(tmp_path, "flat", {"c0": np.full(3200, 4.0)}), None, "time")
    with pytest.raises(FinetuneError, match="expected a channel with 1817 readings that change"):
        channels_of(found)
    with pytest.raises(FinetuneError, match=r"expected at least 8 places for disturbances .* found 0"):
        places_of(found, 1)


def test_no_recording_at_all_is_told(tmp_path, rotating):
    with pytest.raises(RecordingError, match="expected a recording"):
        read(tmp_path / "none.csv", rotating[1], None, "time")


def test_of_long_recordings_the_newest_readings_are_taken(tmp_path):
    found = read(*write(tmp_path, "long", {"c0": np.arange(MOST_READINGS + 50.0) % 17}), None, "time")
    assert len(found[0].samples) == MOST_READINGS
    assert found[0].samples[0].at == START + 50


# --- tuning


def test_what_is_fitted_does_not_reach_into_the_validation(channels):
    length = len(channels[0].rows)
    rows = np.where(np.arange(length) < length - VALIDATION, 0.0, 9.0)
    marked = [msgspec.structs.replace(channels[0], rows=rows)]
    calm = own_example(np.random.default_rng(1), marked, fit=True)
    assert not calm.new[:, 0].any()
    assert not calm.known.any()
    assert own_example(np.random.default_rng(1), marked, fit=False).new[:, 0].any()


def test_only_a_longer_recording_is_fitted_at_the_slow_scale_too(channels, monkeypatch):
    pools = []
    monkeypatch.setattr(
        "converter.finetune.tuning.example_of", lambda _rng, history, _step, pool: pools.append((pool, len(history)))
    )
    rng = np.random.default_rng(1)
    long = msgspec.structs.replace(channels[0], rows=rng.normal(size=4 * history_points(256) + VALIDATION))
    for _ in range(20):
        own_example(rng, [long], fit=True)
    assert set(pools) == {(1, history_points(256)), (4, 4 * history_points(256))}
    pools.clear()
    for _ in range(20):
        own_example(rng, channels, fit=True)
    assert set(pools) == {(1, history_points(256))}


def test_of_a_triplet_the_neighbour_is_near_and_the_other_is_not():
    series = [np.repeat(np.arange(float(points), dtype=np.float32)[:, None], 2, axis=1) for points in (191, 400)]
    anchors, near, far = (part[:, 0, 0] for part in triplets(np.random.default_rng(1), series, 400))
    assert set(np.abs(near - anchors)) == set(range(1, 9))
    assert np.abs(far - anchors).min() >= LENGTH


def test_tuning_changes_the_weights_and_follows_from_the_seed(channels, monkeypatch):
    monkeypatch.setattr("converter.finetune.tuning._VALIDATED", 2)
    untuned = sensor_small(None, WEIGHTS)
    for loss in LOSSES:
        with tqdm(disable=True) as bar:
            first, again, other = (
                tune(untuned, channels, loss, seed=seed, steps=1, until=np.inf, bar=bar) for seed in (1, 1, 2)
            )
            late = tune(untuned, channels, loss, seed=1, steps=1, until=0.0, bar=bar)
        weights = [one.network.head.weight.detach().numpy() for one in (first, again, other, late)]
        np.testing.assert_array_equal(weights[0], weights[1])
        assert not np.array_equal(weights[0], weights[2])
        np.testing.assert_array_equal(weights[3], untuned.head.weight.detach().numpy())
        assert (first.steps, late.steps) == (1, 0)
        assert first.share == again.share


def test_the_loss_is_chosen_by_the_validation(channels, monkeypatch, capsys):
    shares = iter([0.3, 0.4, 0.6])
    monkeypatch.setattr(command, "validate", lambda *_: next(shares))
    monkeypatch.setattr(
        command, "tune", lambda network, _channels, loss, **_: command.Tuned(network, loss, 1, next(shares))
    )
    assert command.chosen(channels, None, seed=1, steps=1, until=np.inf).loss == list(LOSSES)[1]
    assert "untuned 0.300" in capsys.readouterr().out


# --- the decision


def areas(gain, spread=0.02, places=14, seed=0):
    rng = np.random.default_rng(seed)
    untuned = rng.uniform(0.6, 0.9, (places, 6, 5))
    return untuned, untuned + gain + rng.normal(0, spread, (places, 1, 1))


@pytest.mark.parametrize(("gain", "better"), [(0.05, True), (0.0, False), (-0.05, False), (0.002, False)])
def test_better_is_what_chance_does_not_explain(gain, better):
    found = decide(*areas(gain), seed=1)
    assert found.better is better
    assert found.low < found.gain < found.high
    assert abs(found.gain - gain) < 0.02


def test_the_same_encoder_is_not_better_than_itself():
    same, _ = areas(0.0)
    assert decide(same, same, 1) == Verdict(0.0, 0.0, 0.0)
    assert not decide(same, same, 1).better


def test_one_place_alone_proves_nothing():
    untuned, _ = areas(0.0)
    tuned = untuned.copy()
    tuned[3] += 0.9
    assert not decide(untuned, tuned, 1).better


def test_chance_alone_is_seldom_taken_for_better():
    wrong = sum(decide(*areas(0.0, seed=seed), seed=1).better for seed in range(200))
    assert wrong <= 16


# --- the command


def arguments(rotating, out, *more):
    recording, configuration = rotating
    given = ["finetune", "--recording", recording, "--config", configuration, "--out", out, *more]
    return list(map(str, given))


def test_a_real_run_tunes_converts_tries_and_writes(rotating, tmp_path, monkeypatch, capsys):
    """Only the verdict is given, and the trial made smaller: a few steps do not make a better encoder."""
    one_kind = {"level shift": KINDS["level shift"]}
    monkeypatch.setattr("converter.finetune.trial.KINDS", one_kind)
    monkeypatch.setattr(command, "KINDS", one_kind)
    compared = []

    def verdict(untuned, tuned, seed):
        compared.append((untuned, tuned, seed))
        return Verdict(0.02, 0.01, 0.03)

    monkeypatch.setattr(command, "decide", verdict)
    out = tmp_path / "tuned"
    assert main(arguments(rotating, out, "--steps", 3, "--loss", "episodes", "--seed", 4)) == 0
    captured = capsys.readouterr()
    ((untuned, tuned, seed),) = compared
    assert seed == 4
    assert untuned.shape == tuned.shape == (13, 1, 5)
    assert not np.array_equal(untuned, tuned)
    for found in (untuned, tuned):
        assert found.min() >= 0.0
        assert found[:, 0, -1].mean() > 0.9 > found[:, 0, 0].mean()  # a strong shift is found, a weak one is not
    assert "validation: episodes" in captured.out
    assert "| level shift | " in captured.out
    assert "better by 0.0200 of the area under the ROC curve (95 % interval of the gain: 0.0100 to" in captured.out
    assert "tuning: 100%" in captured.err
    assert "trial: 100%" in captured.err
    manifest = load_bundle(out).manifest
    assert (manifest.name, manifest.kind, manifest.variants[0].precision) == ("tuned", "sensor", "int8")
    provenance = (out / "PROVENANCE.md").read_text()
    assert "rotating.csv, by `redshank-convert finetune`: 3 steps of the loss `episodes`, seed 4" in provenance
    assert list(tmp_path.iterdir()) == [out]


def test_what_is_not_better_is_not_written(rotating, tmp_path, monkeypatch, capsys):
    def converted(_name, _tuned, _channels, out, _gates, **_):
        shutil.copytree(find_bundle("sensor-small").path, out)

    monkeypatch.setattr(command, "convert", converted)
    monkeypatch.setattr(command, "chosen", lambda *_, **__: None)
    same = Found(np.full((11, 6, 5), 0.8), np.zeros((11, 6, 5)))
    monkeypatch.setattr(command, "find", lambda *_: same)
    assert main(arguments(rotating, tmp_path / "tuned")) == 1
    captured = capsys.readouterr()
    assert "not better than the untuned one beyond chance, so nothing was written" in captured.err
    assert "better by 0.0000 of the area" in captured.out
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_bundle_is_not_overwritten(rotating, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("kept")
    assert main(arguments(rotating, tmp_path)) == 1
    assert "expected a new folder or that of an earlier bundle" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("option", [["--minutes", "0"], ["--steps", "0"]])
def test_no_time_and_no_steps_are_refused(rotating, tmp_path, option):
    given = parser().parse_args(arguments(rotating, tmp_path / "out", *option))
    with pytest.raises(FinetuneError, match=r"expected --minutes above 0 and --steps of at least 1"):
        command.finetune(given, {})
