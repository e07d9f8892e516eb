from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import report as module
from agent import report_page, report_parts
from agent.adapters.recording import line_of
from agent.alert_message import silence, timestamp
from agent.cli import main
from agent.config import load_configuration
from agent.ports import InboundMessage
from agent.replay import Summary, replay
from agent.report import Recent, Report
from agent.report_page import page
from agent.report_parts import BUDGETS, BudgetRow, Envelope, ToldAlert, suggestions
from agent.settings_builder import parse_budget
from tests.oracles import alarms

START = 1_700_000_000
LENGTH = 900
FAULTS = ((300, 310), (360, 365), (450, 470), (560, 563), (620, 640), (780, 800))
HOSTILE = "</figcaption><script>alert('x')</script><img src=http://evil.example/a onerror=alert(1)> $\\frac{1}$"
VOID = {"meta", "br", "img", "hr", "link", "input"}


def reading(i, device):
    rng = random.Random(f"{device}{i}")
    faults = [place for place, (first, last) in enumerate(FAULTS, 1) if device == "a" and first <= i < last]
    odd = sum(6 * place * (-1) ** place for place in faults)  # each worse than those before
    return {"temp": 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + odd, "flow": 5 + rng.gauss(0, 0.2)}


def message(at, device, values):
    body = json.dumps({"ts": START + at, **values}).encode()
    return InboundMessage(f"plant/{device}", body, START + at + 0.1, 0.0)


def write(path, messages):
    path.write_bytes(b"".join(line_of(one) for one in messages))
    return path


def configure(folder, extra="", budget="1 per 500 decisions", name="redshank.yaml"):
    path = folder / name
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {folder}/never}}
streams:
  - name: pump
    topic: plant/+
    encoder: none
    time: {{path: ts}}
    reference: {{size: 150, warm_up: 100}}
    alert: {{false_alarms: {budget}, cooldown: 5s}}
    {extra}
"""
    )
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="module")
def recording(folder):
    """One device with faults, one without."""
    path = folder / "recording.jsonl"
    return write(path, [message(i, device, reading(i, device)) for i in range(LENGTH) for device in "ab"])


def reported(recording, configuration, **options):
    report = Report()
    return report, replay(recording, load_configuration(configuration), tap=report, **options)


@pytest.fixture(scope="module")
def replayed(recording, folder):
    return reported(recording, configure(folder), scores=folder / "scores.csv")


@pytest.fixture(scope="module")
def made(replayed):
    return page(*replayed, "recording.jsonl")


class Reader(HTMLParser):
    """Reads a page, and complains of tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.rows, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"href", "src", "xlink:href", "action", "data"}]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def test_a_page_is_whole_and_needs_nothing_from_elsewhere(made):
    reader = Reader(made)
    assert made.startswith("<!doctype html>")
    assert 'name="viewport"' in made
    assert "prefers-color-scheme: dark" in made
    assert "http" not in made
    assert "@import" not in made
    assert not {"script", "img", "link", "iframe", "object"} & set(reader.tags)
    assert reader.links
    assert all(link.startswith("#") for link in reader.links)
    assert made.count("url(") == made.count("url(#")
    assert len(made) < 600_000


def test_it_shows_every_channel_the_score_and_every_alert_with_its_evidence(made, replayed):
    report, summary = replayed
    text = Reader(made).text
    raised = [one for one in summary.alerts if one["event"] == "raised"]
    assert len(raised) >= 3
    assert sum(one.raised for one in report.histories.values()) == len(raised)
    for one in raised:
        assert one["message"] in text
        assert one["id"] in text
        for near in one["evidence"]["nearest"]:
            assert near["at"][:19].replace("T", " ") in text
    assert made.count("<article>") == len(raised)
    assert made.count("<figcaption>Score and threshold") == 2
    assert made.count("<figcaption>temp") >= 2 + len(raised)
    assert f"2 streams, {summary.decisions} decisions, {len(raised)} alerts raised; rejected: none" in text


def read_decisions(path, stream):
    rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
    return [(float(at), float(score)) for at, name, score, *_ in rows if name == stream]


def test_each_budget_has_a_row_with_what_it_would_have_given_and_what_it_promises(made, replayed, folder):
    """An oracle of its own counts the alarms from the scores that the replay wrote."""
    report, _ = replayed
    shown = {row[0].removesuffix("*").strip(): row[1:] for row in Reader(made).rows if len(row) == 5}
    history = report.histories["pump/a"]
    assert history.interval_s == 1.0
    decisions = read_decisions(folder / "scores.csv", "pump/a")
    rows = {row.text: row for row in history.budgets()}
    assert set(rows) == {*BUDGETS, "1 per 500 decisions"}
    counts = set()
    for text, row in rows.items():
        rate = parse_budget(text).rate_per_decision(1.0)
        expected = alarms(decisions, rate, after=2, clear_after=3, cooldown_s=5.0)
        assert row.alarms == expected
        assert row.promised == pytest.approx(rate * len(decisions))
        assert row.alarms_per_week == pytest.approx(expected * 604800 / len(decisions))
        assert row.promised_per_week == pytest.approx(rate * 604800)
        assert row.configured is (text == "1 per 500 decisions")
        assert row.supported is (text != "1 per month")
        assert (text + " (configured)" if row.configured else text) in shown
        counts.add(expected)
    assert len(counts) > 2  # they do differ
    assert [row.promised for row in rows.values()] == sorted((row.promised for row in rows.values()), reverse=True)
    assert shown["budget"] == ["alarms here", "promised here", "alarms per week", "promised per week"]


@pytest.mark.parametrize("budget", ["1 per hour", "1 per 1000 decisions"])
def test_a_replay_with_another_budget_gives_the_alarms_that_were_foretold(recording, replayed, folder, budget):
    foretold = {row.text: row.alarms for row in replayed[0].histories["pump/a"].budgets()}
    report, summary = reported(recording, configure(folder, budget=budget, name="other.yaml"))
    raised = sum(one["event"] == "raised" and one["stream"] == "pump/a" for one in summary.alerts)
    assert raised == foretold[budget]
    assert {row.text: row.alarms for row in report.histories["pump/a"].budgets()}[budget] == raised


def test_alarms_in_quiet_hours_are_not_foretold(folder, recording, replayed):
    quiet = "1 per 500 decisions, quiet_hours: [22:00-22:22]"  # until START + 520 s
    report, summary = reported(recording, configure(folder, budget=quiet, name="quiet.yaml"))
    raised = sum(one["event"] == "raised" and one["stream"] == "pump/a" for one in summary.alerts)
    rows = {row.text: row.alarms for row in report.histories["pump/a"].budgets()}
    assert rows["1 per 500 decisions"] == raised < replayed[0].histories["pump/a"].raised
    before = {row.text: row.alarms for row in replayed[0].histories["pump/a"].budgets()}
    assert sum(rows.values()) < sum(before.values())


def row(text, alarms):
    return BudgetRow(
        text, configured=False, alarms=alarms, promised=1.0, alarms_per_week=1.0, promised_per_week=1.0, supported=True
    )


@pytest.mark.parametrize(
    ("alarms", "expected"),
    [
        ([], []),
        ([0, 0], [(1, "0")]),
        ([40, 9, 2, 0], [(1, "3"), (3, "2"), (10, "1"), (30, "1")]),
        ([5, 2], [(1, None), (3, "1"), (10, "0")]),
        ([2, 3], [(1, None), (3, "0")]),
    ],
)
def test_the_most_generous_budget_that_gave_no_more_is_suggested(alarms, expected):
    found = suggestions([row(str(place), count) for place, count in enumerate(alarms)])
    assert [(most, one and one.text) for most, one in found] == expected


def test_names_are_no_markup(tmp_path):
    values = [reading(i, "a") for i in range(320)]
    recording = write(
        tmp_path / "<b>&.jsonl",
        [message(i, "<script>alert(1)<script>", {HOSTILE: one["temp"], "flow": 1.0}) for i, one in enumerate(values)],
    )
    report, summary = reported(recording, configure(tmp_path))
    made = page(report, summary, recording.name)
    reader = Reader(made)
    assert [one["event"] for one in summary.alerts][:1] == ["raised"]
    assert "<script" not in made
    assert "<img" not in made
    assert HOSTILE[:79] in reader.text
    assert "<b>&.jsonl" in reader.text
    assert "pump/<script>alert(1)<script>" in reader.text
    assert all(link.startswith("#") for link in reader.links)


def test_what_is_too_much_is_left_out_with_a_word(replayed, monkeypatch):
    report, summary = replayed
    whole = page(report, summary, "r")
    for name, value in (("MAX_DRAWN", 1), ("MAX_CHANNELS", 1), ("MAX_PAGE_BYTES", 0), ("MAX_LISTED", 1)):
        monkeypatch.setattr(report_page, name, value)
    made = page(report, summary, "r")
    text = Reader(made).text
    assert "1 of 2 streams are drawn, those with the most alerts" in text
    assert "1 further streams are not listed" in text
    assert "1 of 2 channels are drawn" in text
    assert text.count("Its picture is left out: the page would be too large.") == made.count("<article>")
    assert made.count("<svg") == 2
    assert len(made) < len(whole) / 3


def test_of_many_alerts_and_streams_the_strongest_and_the_first_are_kept(recording, folder, monkeypatch):
    monkeypatch.setattr(report_parts, "MAX_ALERTS", 2)
    monkeypatch.setattr(module, "MAX_STREAMS", 1)
    report, summary = reported(recording, folder / "redshank.yaml")
    scores = [one["score"] for one in summary.alerts if one["event"] == "raised" and one["stream"] == "pump/a"]
    assert [one.strength for one in report.histories["pump/a"].alerts] == [
        score for score in scores if score in sorted(scores)[-2:]
    ]
    text = Reader(page(report, summary, "r")).text
    assert f"2 of {len(scores)} are told, those with the highest scores; --alerts FILE.jsonl has all of them." in text
    assert "1 of 2 streams are drawn" in text
    assert len(report.histories["pump/b"].values.read()[0]) == 0
    assert len(report.histories["pump/b"].budgets()) == len(BUDGETS) + 1


def test_silence_gaps_a_clock_set_back_and_what_never_ends_can_be_shown(tmp_path):
    def told(at, clock, device="a", change=0.0):
        values = reading(at % 290, device)
        body = json.dumps({"ts": START + at, **values, "temp": values["temp"] + change}).encode()
        return InboundMessage(f"plant/{device}", body, START + clock, 0.0)

    messages = [told(i, i) for i in range(200)]
    messages += [told(i, i) for i in range(400, 600)]  # behind a gap
    messages += [told(i, i + 200) for i in range(400, 560)]  # the clock was set back
    messages += [told(560 + i, 760 + i, change=30.0 + i) for i in range(8)]  # and it ends amid an alert
    messages += [told(i, 740 + i / 10, "young") for i in range(20)]
    path = write(tmp_path / "recording.jsonl", sorted(messages, key=lambda one: one.received_at))
    report, summary = reported(path, configure(tmp_path, "silence: {after: 60s}"))
    kinds = [(one["kind"], one["event"]) for one in summary.alerts]
    assert ("silent", "raised") in kinds
    assert kinds[-1] == ("anomaly", "raised")
    text = Reader(page(report, summary, "r")).text
    assert "pump/a has fallen silent" in text
    assert "still on at the end" in text
    assert "time silent" in text or "times silent" in text
    assert "It never finished learning: no decision was made." in text
    assert {row.text: row.alarms for row in report.histories["pump/a"].budgets()}["1 per 500 decisions"] > 0


def test_the_picture_of_an_alert_shows_what_was_before_it_and_its_nearest_windows_in_its_place(replayed):
    for told in replayed[0].histories["pump/a"].alerts:
        first, *others = told.pictures
        begin, end = first.window
        assert end - begin == pytest.approx(33.0)
        assert first.times[0] < begin
        assert first.times[-1] > end
        assert first.channel == told.message["evidence"]["parts"][0]["name"]
        assert len(first.nearest) == 3
        own = first.values[(first.times > begin) & (first.times <= end)]
        for times, values in first.nearest:
            assert times[0] > begin
            assert times[-1] <= end
            assert len(values) == len(own)
            assert np.abs(values - own).max() > 0
        assert all(not one.nearest for one in others)


def test_references_that_are_no_longer_kept_are_left_out():
    times, series = np.arange(100.0), np.arange(100.0) % 7
    assert module._moved(times, series, (80.0, 99.0), -50.0) is None
    assert module._moved(times, series, (80.0, 99.0), 5.0) is None  # its beginning is gone
    assert module._moved(times, series, (200.0, 300.0), 50.0) is None
    shown, values = module._moved(times, series, (80.0, 99.0), 29.0)
    assert shown.tolist() == times[81:].tolist()
    assert values.tolist() == series[11:30].tolist()


def test_of_windows_that_end_in_the_same_second_the_most_similar_one_is_shown():
    times = np.arange(0.0, 40.0, 0.1)
    series = np.sin(times * 3)
    _, values = module._moved(times, series, (35.0, 39.0), 10.0)
    own = series[(times > 35.0) & (times <= 39.0)]
    ends = [i for i, at in enumerate(times) if 10.0 <= at < 11.0]
    best = min(np.square(series[i - len(own) + 1 : i + 1] - own).sum() for i in ends)
    assert np.square(values - own).sum() == pytest.approx(best)


@given(
    rows=st.lists(st.integers(0, 3), max_size=700),
    most=st.sampled_from([2, 4, 10]),
    seed=st.integers(0, 9),
)
def test_an_envelope_is_small_and_holds_the_least_and_the_largest_of_every_stretch(rows, most, seed):
    rng = np.random.default_rng(seed)
    width = 0
    envelope, given_rows = Envelope(most), []
    for i, more in enumerate(rows):
        width = max(width, more)
        row = [float(one) if rng.random() > 0.2 else math.nan for one in rng.normal(size=width)]
        given_rows.append(row + [math.nan] * (3 - width))
        envelope.add(float(i), row)
    starts, ends, low, high = envelope.read()
    assert len(starts) <= most
    assert [*starts[1:]] == [end + 1 for end in ends[:-1]]
    if rows:
        assert (starts[0], ends[-1]) == (0.0, len(rows) - 1.0)
    for start, end, least, largest in zip(starts, ends, low, high, strict=True):
        part = np.array(given_rows[int(start) : int(end) + 1]).reshape(-1, 3)[:, :width]
        np.testing.assert_array_equal(least, np.fmin.reduce(part))
        np.testing.assert_array_equal(largest, np.fmax.reduce(part))


@pytest.mark.parametrize("count", [0, 10, 255, 256, 257, 10_000])
def test_the_last_readings_are_kept_in_order_whatever_channels_join(count):
    recent = Recent()
    for i in range(count):
        recent.add(float(i), [float(i)] if i < 100 else [float(i), 2.0 * i])
    times, rows = recent.read()
    assert times.tolist() == [float(i) for i in range(max(0, count - 4096), count)]
    assert rows[:, :1].ravel().tolist() == times.tolist()
    if count > 100:
        np.testing.assert_array_equal(rows[:, 1], np.where(times < 100, np.nan, 2 * times))


def test_counters_are_drawn_as_rates(tmp_path):
    sent = [message(i, "a", {"flow": reading(i, "b")["flow"], "packets": 30 * i}) for i in range(300)]
    report, _ = reported(write(tmp_path / "r.jsonl", sent), configure(tmp_path, "counters: [packets]"))
    _, rows = report.histories["pump/a"].recent.read()
    assert np.nanmax(np.abs(rows[40:, 0] - 5)) < 2
    assert (rows[40:, 1] == 30).all()


def test_many_channels_are_kept_for_a_shorter_time():
    recent = Recent()
    for i in range(3000):
        recent.add(float(i), [0.0] * 256)
    assert len(recent.read()[0]) == (1 << 18) // 256


def test_nothing_at_all_makes_a_page_too():
    assert "0 streams, 0 decisions" in Reader(page(Report(), Summary([], 0, 0, {"late": 2}), "empty")).text


@pytest.mark.parametrize(
    ("value", "text"), [(None, "unknown"), (0.123456, "0.123"), (12345.6, "12,346"), (2.5e9, "2.5e+09")]
)
def test_numbers_are_told_briefly(value, text):
    assert report_page._number(value) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0.0, "0"), (0.034, "0.03"), (1.26, "1.3"), (168.2, "168"), (1835.1, "1,835")]
)
def test_alarms_are_told_with_a_digit_or_two(count, text):
    assert report_page._alarms(count) == text


@pytest.mark.parametrize(
    ("span", "text"), [(1.0, "1 s"), (180.0, "3 minutes"), (7300.0, "2.03 hours"), (2e5, "2.31 days")]
)
def test_spans_are_told_in_a_fitting_unit(span, text):
    assert report_page._lasted(span) == text


def test_times_beyond_the_calendar_are_told_in_seconds():
    assert report_page._time(1e15) == "1000000000000000 s"


def test_alerts_without_a_score_are_the_weakest():
    told = {"score": None, "kind": "silent", "evidence": silence(0.0, 60.0), "at": timestamp(60.0)}
    assert ToldAlert(told, 60.0).strength < ToldAlert(told | {"score": 0.1}, 60.0).strength
    assert module._shown(ToldAlert(told, 60.0), 1.0) == (-96.0, 124.0)


# the command


def command(recording, folder, *more):
    return ["replay", str(recording), "--config", str(folder / "redshank.yaml"), *map(str, more)]


def test_the_command_writes_the_page_beside_scores_and_state(recording, replayed, folder, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("report.html", "scores.csv", "state")}
    options = ["--report", files["report.html"], "--scores", files["scores.csv"], "--state", files["state"]]
    assert main(command(recording, folder, *options)) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("2 streams, ")
    assert files["report.html"].read_text() == page(*replayed, "recording.jsonl")
    assert files["scores.csv"].read_bytes() == (folder / "scores.csv").read_bytes()
    assert (files["state"] / "state.sqlite").is_file()
    # It goes on from there: nothing is learnt again, and the page says since when there were decisions.
    later = write(tmp_path / "later.jsonl", [message(LENGTH + i, "a", reading(i, "b")) for i in range(50)])
    assert main(command(later, folder, *options[:2], *options[4:])) == 0
    assert "50 decisions from 2023-11-14 22:28:20 on" in Reader(files["report.html"].read_text()).text


@pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
def test_without_the_extra_it_says_what_to_install_and_replays_nothing(recording, folder, tmp_path, capsys, missing):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, missing, None)
        patch.delitem(sys.modules, "agent.report_page")
        options = ["--report", tmp_path / "report.html", "--scores", tmp_path / "scores.csv"]
        assert main(command(recording, folder, *options)) == 78
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"{missing} is not installed; pip install 'redshank[report]'\n"
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_told_before_anything_is_replayed(recording, folder, tmp_path, capsys):
    options = ["--report", tmp_path / "nowhere" / "report.html", "--scores", tmp_path / "scores.csv"]
    assert main(command(recording, folder, *options)) == 1
    assert "nowhere/report.html" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_drawing_is_loaded_only_for_a_report(recording, folder):
    program = (
        "import sys; from agent.cli import main; code = main(sys.argv[1:]); "
        "assert not {'matplotlib', 'jinja2', 'agent.report_page'} & set(sys.modules); sys.exit(code)"
    )
    arguments = command(recording, folder)
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
