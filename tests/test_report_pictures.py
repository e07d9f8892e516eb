"""The report of streams of pictures: real replays of pictures made here, with the encoder that ships."""

from __future__ import annotations

import base64
import csv
import io
import json
import re

import numpy as np
import pytest
from PIL import Image, ImageFilter

from agent import report as report_module
from agent import report_page, report_parts
from agent import report_pictures as module
from agent.adapters.recording import line_of
from agent.alert_message import timestamp
from agent.cli import main
from agent.config import load_configuration
from agent.core.alerting import AlertState
from agent.ports import InboundMessage
from agent.replay import replay
from agent.report import Report
from agent.report_page import page
from agent.report_parts import BUDGETS, seconds
from agent.report_pictures import RECENT_SIDE, SIDE, jpeg
from agent.settings_builder import parse_budget
from tests.oracles import alarms
from tests.scenes import encoded, encoder, lorry, scene
from tests.test_report import Reader

WARM_UP = 45
LENGTH = 150
FOLDER_BEGINS = 946684800.0
JSONL_BEGINS = 1_700_000_000.0


def crate(pen):
    pen.rectangle((20, 150, 110, 230), fill=(240, 240, 250))
    for x in range(20, 110, 9):
        pen.line((x, 150, x, 230), fill=(20, 20, 90), width=3)


def payload(number):
    """Return picture `number`: a lorry at 70 to 72, black ones from 90, unsharp ones from 105, a crate from 120."""
    change = lorry if 70 <= number < 73 else crate if 120 <= number < 124 else None
    pixels = scene(number, change)
    if 90 <= number < 94:
        pixels = pixels // 40
    if 105 <= number < 109:
        pixels = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(9)))
    return encoded(pixels)


def as_seen(number, side=224):
    """Return a picture as the encoder sees it, float32."""
    opened = Image.open(io.BytesIO(payload(number)))
    return np.asarray(opened.resize((side, side), Image.Resampling.BILINEAR), np.float32)


def decoded(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), np.float32)


def configure(folder, name="redshank.yaml", budget="1 per 100 decisions", more="", cooldown="0s"):
    path = folder / name
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {folder}/never}}
streams:
  - name: gate
    topic: cameras/+
    kind: image
    reference: {{size: 200, warm_up: {WARM_UP}}}
    alert: {{false_alarms: {budget}, after: 1, clear_after: 2, cooldown: {cooldown}}}
    {more}
"""
    )
    return path


def reported(recording, configuration, **options):
    report = Report()
    return report, replay(recording, load_configuration(configuration), tap=report, **options)


@pytest.fixture(scope="module", autouse=True)
def one_encoder():
    """Let every replay use the same variant on the same runtime: which one is fastest may differ on a busy machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.replay.load_encoders", lambda *_: {"efficientnet-lite0": encoder()})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def recording(folder):
    pictures = folder / "a day <b>"
    pictures.mkdir()
    for number in range(LENGTH):
        (pictures / f"{number:03}.jpg").write_bytes(payload(number))
    return pictures


@pytest.fixture(scope="module")
def replayed(recording, folder):
    return reported(recording, configure(folder), scores=folder / "scores.csv")


@pytest.fixture(scope="module")
def history(replayed):
    (only,) = replayed[0].histories.values()
    return only


@pytest.fixture(scope="module")
def made(replayed, recording):
    return page(*replayed, recording.name)


def number_of(at):
    return round(at - FOLDER_BEGINS)


def raised_at(summary):
    return {number_of(seconds(one["at"])): one for one in summary.alerts if one["event"] == "raised"}


def test_the_page_is_whole_and_needs_nothing_from_elsewhere(made):
    reader = Reader(made)
    assert "http" not in made
    assert 'name="viewport"' in made
    assert not {"script", "link", "iframe", "object"} & set(reader.tags)
    pictures = [link for link in reader.links if not link.startswith("#")]
    assert len(pictures) == reader.tags.count("img") >= 10
    for one in pictures:
        head, _, body = one.partition(",")
        assert head == "data:image/jpeg;base64"
        assert max(Image.open(io.BytesIO(base64.b64decode(body, validate=True))).size) <= SIDE
    assert made.count("url(") == made.count("url(#")
    assert len(made) < 600_000


def test_it_tells_every_alert_with_its_sentence_and_counts_what_is_no_anomaly_apart(made, replayed, history):
    _, summary = replayed
    raised = raised_at(summary)
    assert {70, 120} < set(raised)
    assert {one["kind"] for one in raised.values()} == {"anomaly", "black", "blurred"}
    text = Reader(made).text
    for one in raised.values():
        assert one["message"] in text
        assert one["id"] in text
        for near in one["evidence"]["nearest"]:
            assert near["at"][11:19] in text
    assert made.count("<article>") == len(raised)
    anomalies = sum(one["kind"] == "anomaly" for one in raised.values())
    assert (history.raised, history.others) == (anomalies, 2)
    told = f"{summary.decisions} decisions, {anomalies} alerts raised, 2 times silent or frozen, or with nothing to see"
    assert told in text
    assert "Replay of a day <b>" in text
    assert made.count("<figcaption>Score and threshold") == 1
    assert "one every 1 s" in text
    assert "channel" not in text
    assert "expected" not in text


def test_every_picture_and_decision_is_seen(replayed, history):
    _, summary = replayed
    assert history.pictures == LENGTH
    assert history.decisions == summary.decisions == LENGTH - WARM_UP - 8
    assert number_of(history.begun_at) == 0
    assert number_of(history.decided_at) == WARM_UP
    assert [number_of(one) for one in history.ends] == [0, LENGTH - 1]


def test_score_and_threshold_are_those_that_decided(history, folder, replayed):
    with (folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    starts, _, low, high = history.course.read()
    np.testing.assert_array_equal(low, high)
    assert [float(row["at"]) for row in rows] == starts.tolist()
    np.testing.assert_allclose(low[:, 0], [float(row["score"]) for row in rows], rtol=1e-5)
    firing = [row["alert_state"] == "firing" for row in rows]
    assert (low[:, 2] > 0).tolist() == firing
    begun = [place for place, one in enumerate(firing) if one and not firing[place - 1]]
    assert (low[begun, 0] >= low[begun, 1]).all()
    limits = dict(zip(map(number_of, starts), low[:, 1], strict=True))
    for number, one in raised_at(replayed[1]).items():
        if one["kind"] == "anomaly":
            assert 10 ** -limits[number] == pytest.approx(one["p_value_threshold"], rel=0.01)


def test_an_alert_shows_the_picture_that_raised_it_and_where_that_is_odd(replayed, history):
    told = {number_of(one.at): one for one in history.alerts}
    assert set(told) == set(raised_at(replayed[1]))
    for number, one in told.items():
        shown = decoded(one.picture)
        assert shown.shape == (224, 224, 3)
        own, others = (np.abs(shown - as_seen(n)).mean() for n in (number, number - 3))
        assert own < 4 < others
    for number, (left, top, right, bottom) in {70: (150, 60, 260, 190), 120: (20, 150, 110, 230)}.items():
        heat = decoded(told[number].heatmap)
        warm = heat[:, :, 0] - heat[:, :, 2]
        inside = np.zeros(warm.shape, bool)
        inside[
            round(top / 240 * 224) : round(bottom / 240 * 224), round(left / 320 * 224) : round(right / 320 * 224)
        ] = 1
        assert warm[inside].mean() > 40 + warm[~inside].mean()


def test_of_what_cannot_be_seen_there_is_the_picture_alone(history):
    blind = [one for one in history.alerts if one.message["kind"] != "anomaly"]
    assert [one.message["kind"] for one in blind] == ["black", "blurred"]
    assert all(one.picture is not None and one.heatmap is None and one.nearest == [] for one in blind)
    assert decoded(blind[0].picture).mean() < 10


def test_nearest_references_are_those_that_the_alert_names(history):
    for one in history.alerts:
        named = [seconds(near["at"]) for near in one.message["evidence"]["nearest"]]
        assert [at for at, _ in one.nearest] == named
        for at, small in one.nearest:
            shown = decoded(small)
            assert shown.shape == (RECENT_SIDE, RECENT_SIDE, 3)
            assert np.abs(shown - as_seen(number_of(at), RECENT_SIDE)).mean() < 8
            assert at < one.at


def test_references_that_are_no_longer_at_hand_are_named(recording, folder, monkeypatch):
    monkeypatch.setattr(module, "RECENT", 3)
    report, summary = reported(recording, folder / "redshank.yaml")
    (history,) = report.histories.values()
    assert len(history.recent) == 3
    short = [one for one in history.alerts if len(one.nearest) < len(one.message["evidence"]["nearest"])]
    assert short
    text = Reader(page(report, summary, "r")).text
    for one in short:
        named = ", ".join(near["at"][:19].replace("T", " ") for near in one.message["evidence"]["nearest"])
        assert f"The most similar pictures known are of {named}" in text


def test_of_many_alerts_the_strongest_are_kept_and_of_too_large_a_page_the_pictures_left_out(
    recording, folder, monkeypatch
):
    monkeypatch.setattr(report_parts, "MAX_ALERTS", 2)
    report, summary = reported(recording, folder / "redshank.yaml")
    (history,) = report.histories.values()
    scores = sorted(one["score"] for one in raised_at(summary).values() if one["score"] is not None)
    assert sorted(one.strength for one in history.alerts) == scores[-2:]
    assert history._scenes == {}
    monkeypatch.setattr(report_page, "MAX_PAGE_BYTES", 0)
    made = page(report, summary, "r")
    assert "<img" not in made
    assert made.count("Its pictures are left out: the page would be too large.") == 2


def test_of_streams_beyond_the_first_only_counts_are_kept(recording, folder, monkeypatch):
    monkeypatch.setattr(report_module, "MAX_STREAMS", 0)
    report, summary = reported(recording, folder / "redshank.yaml")
    (history,) = report.histories.values()
    assert len(history.recent) == len(history.course.read()[0]) == 0
    assert all(one.picture is None and one.nearest == [] for one in history.alerts)
    assert history.decisions == summary.decisions
    assert len(history.budgets()) == len(BUDGETS) + 1


def test_each_budget_has_a_row_with_what_it_would_have_given_and_what_it_promises(made, history, folder):
    """An oracle of its own counts the alarms from the scores that the replay wrote."""
    with (folder / "scores.csv").open() as file:
        decisions = [(float(row["at"]), float(row["score"])) for row in csv.DictReader(file)]
    shown = {row[0].removesuffix("*").strip(): row[1:] for row in Reader(made).rows if len(row) == 5}
    rows = {row.text: row for row in history.budgets()}
    assert set(rows) == {*BUDGETS, "1 per 100 decisions"}
    for text, row in rows.items():
        rate = parse_budget(text).rate_per_decision(1.0)
        assert row.alarms == alarms(decisions, rate, after=1, clear_after=2, cooldown_s=0.0)
        assert row.promised == pytest.approx(rate * len(decisions))
        name = text + " (configured)" if row.configured else text
        assert shown[name][0] == str(row.alarms)
    assert rows["1 per 100 decisions"].alarms == history.raised


# recordings of messages


SILENCE = "silence: {after: 30s}"


@pytest.fixture(scope="module")
def messages(folder):
    """Ten pictures a second, so that one batch holds several; then a minute's silence, and the clock is set back."""
    path = folder / "recording.jsonl"
    sent = [InboundMessage("cameras/a", payload(n), JSONL_BEGINS + n / 10, 0.0) for n in range(LENGTH)]
    sent += [InboundMessage("cameras/b", b"no picture", JSONL_BEGINS + LENGTH / 10 + n, 0.0) for n in range(60)]
    back = JSONL_BEGINS - 3600.0
    sent += [InboundMessage("cameras/a", payload(n), back + n / 10, 0.0) for n in range(110, LENGTH)]
    path.write_bytes(b"".join(line_of(one) for one in sent))
    return path


@pytest.fixture(scope="module")
def told(messages, folder):
    return reported(messages, configure(folder, "messages.yaml", more=SILENCE, cooldown="1s"))


def test_alerts_of_one_batch_have_each_their_own_picture(told):
    report, _ = told
    own = {}
    for one in report.histories["gate/a"].alerts:
        if one.message["kind"] != "silent" and one.at > JSONL_BEGINS:
            number = round((one.at - JSONL_BEGINS) * 10)
            own[number] = np.abs(decoded(one.picture) - as_seen(number)).mean()
    assert {70, 120} <= set(own)
    assert max(own.values()) < 4


def test_of_silence_there_is_no_picture_and_none_is_missed(told):
    report, summary = told
    silent = [one for one in report.histories["gate/a"].alerts if one.message["kind"] == "silent"]
    assert len(silent) == 1
    assert (silent[0].picture, silent[0].heatmap, silent[0].nearest) == (None, None, [])
    assert report.histories["gate/a"]._scenes == {}
    made = page(report, summary, "r")
    assert "has fallen silent" in made
    assert "left out" not in made


@pytest.mark.parametrize("budget", ["1 per hour", "1 per 1000 decisions"])
def test_a_replay_with_another_budget_gives_the_alarms_that_were_foretold_even_if_the_clock_is_set_back(
    told, messages, folder, budget
):
    foretold = {row.text: row.alarms for row in told[0].histories["gate/a"].budgets()}
    other = configure(folder, "other.yaml", budget=budget, more=SILENCE, cooldown="1s")
    report, summary = reported(messages, other)
    kinds = [(one["kind"], one["event"], one["at"] < timestamp(JSONL_BEGINS)) for one in summary.alerts]
    raised = [one for one in kinds if one[:2] == ("anomaly", "raised")]
    assert ("anomaly", "raised", True) in raised  # after the clock was set back
    assert told[0].histories["gate/a"].interval_s == pytest.approx(0.1, rel=1e-4)  # whatever the pauses that came later
    assert len(raised) == foretold[budget] == report.histories["gate/a"].raised


def test_a_stream_that_never_learnt_is_told_so(tmp_path):
    pictures = tmp_path / "few"
    pictures.mkdir()
    for number in range(5):
        (pictures / f"{number}.jpg").write_bytes(payload(number))
    report, summary = reported(pictures, configure(tmp_path))
    text = Reader(page(report, summary, "few")).text
    assert "It never finished learning: no decision was made." in text
    assert "None was raised." in text


def test_alerts_that_are_never_told_do_not_pile_up(history, monkeypatch):
    """Such as one that fired already when the state was saved that a replay starts from."""
    monkeypatch.setattr(module, "_WAITING", 3)
    old = {str(number): (b"", None) for number in range(3)}
    monkeypatch.setattr(history, "_scenes", dict(old))
    monkeypatch.setattr(history, "_begun", {})
    for machine in history.stream.alerts.values():
        monkeypatch.setattr(machine, "state", AlertState.FIRING)
    history._look_for_alerts(np.zeros((8, 8, 3), np.uint8))
    assert len(history._scenes) == 3
    assert not set(old) & set(history._scenes)


def test_a_jpeg_is_no_larger_than_it_may_be_and_keeps_its_shape():
    pixels = np.zeros((448, 224, 3), np.uint8)
    pixels[:224] = 250
    small = decoded(jpeg(pixels, 96))
    assert small.shape == (96, 48, 3)
    assert small[:40].min() > 240
    assert small[56:].max() < 10
    assert decoded(jpeg(pixels, 1000)).shape == pixels.shape


def test_tiles_are_put_together_and_what_is_ignored_stays_dark(recording, tmp_path):
    ignore = "ignore: [[[0.5, 0], [1, 0], [1, 0.5], [0.5, 0.5]]]"
    report, _ = reported(recording, configure(tmp_path, more=f"tiles: [2, 2]\n    {ignore}"))
    (history,) = report.histories.values()
    (lorries,) = [one for one in history.alerts if number_of(one.at) == 70]
    shown = decoded(lorries.picture)
    assert shown.shape == (320, 320, 3)
    right_top = np.zeros(shown.shape[:2], bool)
    right_top[:160, 160:] = True
    expected = as_seen(70, 320)
    assert shown[:150, 170:].max() < 30
    assert np.abs(shown - expected)[~right_top].mean() < 6


# the command


def test_the_command_writes_the_page_of_a_folder(recording, replayed, folder, tmp_path, capsys):
    target = tmp_path / "report.html"
    arguments = ["replay", str(recording), "--config", str(folder / "redshank.yaml"), "--report", str(target)]
    assert main(arguments) == 0
    assert target.read_text() == page(*replayed, recording.name)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"1 streams, {replayed[1].decisions} decisions, ")
    assert len(re.findall(r" raised ", "\n".join(lines[:-1]))) == len(raised_at(replayed[1]))
    assert json.loads(json.dumps(replayed[1].alerts)) == replayed[1].alerts
