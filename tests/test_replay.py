from __future__ import annotations

import csv
import json
import math
import random
from datetime import datetime

import numpy as np
import pytest

from agent import replay as module
from agent.adapters.recording import line_of
from agent.adapters.store import Store
from agent.config import load_configuration
from agent.errors import RecordingError
from agent.ports import InboundMessage
from agent.replay import replay

START = 1_700_000_000
LENGTH = 800


def reading(i, device="a"):
    """Quiet but for two disturbances: `a` warms up from 450 to 470, `b` flows less from 600 to 620."""
    rng = random.Random(f"{device}{i}")
    temp = 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + (8 if device == "a" and 450 <= i < 470 else 0)
    flow = 5 + rng.gauss(0, 0.2) - (4 if device == "b" and 600 <= i < 620 else 0)
    return {"temp": round(temp, 3), "flow": round(flow, 3)}


def message(i, device="a", payload=None):
    body = json.dumps({"ts": START + i, **reading(i, device)}).encode() if payload is None else payload
    return InboundMessage(f"plant/{device}/telemetry", body, START + i + 0.1, 0.0)


def write_messages(path, messages):
    path.write_bytes(b"".join(line_of(one) for one in messages))
    return path


@pytest.fixture(autouse=True)
def the_first_runtime(monkeypatch):
    """Replays are compared: on a busy machine either runtime may be the faster, and they differ in last bits."""
    monkeypatch.setattr("agent.adapters.tflite.seconds_per_window", lambda _encoder: 0.0)


@pytest.fixture
def configure(tmp_path):
    def make(extra="", streams="", agent="pi"):
        path = tmp_path / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: {agent}, state_dir: {tmp_path}/never}}
streams:
  - name: pump
    topic: plant/+/telemetry
    time: {{path: ts}}
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: 1 per 10000 decisions, cooldown: 5s}}
    {extra}
{streams}
"""
        )
        return load_configuration(path)

    return make


@pytest.fixture
def configuration(configure):
    return configure()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    """Two devices, and what a broker sends besides."""
    messages = []
    for i in range(LENGTH):
        messages += [message(i, "a"), message(i, "b")]
        if i % 100 == 50:
            messages += [message(i, "a"), message(i - 1, "a"), message(i, "b", b"{"), message(i, "c", b"{}")]
            messages.append(InboundMessage("elsewhere", b"1", START + i + 0.2, 0.0))
    return write_messages(tmp_path_factory.mktemp("recording") / "recording.jsonl", messages)


@pytest.fixture
def write_csv(tmp_path):
    def make(rows, header="time,temp,flow", name="recording.csv", delimiter=","):
        path = tmp_path / name
        lines = [header.replace(",", delimiter)] + [delimiter.join(map(str, row)) for row in rows]
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


def rows(span, time=lambda i: START + i):
    return [(time(i), *reading(i).values()) for i in span]


def told(alerts):
    return [(alert["stream"], alert["event"], alert["evidence"]["parts"][0]["name"]) for alert in alerts]


def test_a_recording_gives_decisions_alerts_and_what_was_rejected(recording, configuration):
    summary = replay(recording, configuration)
    # 233 rows are learnt before the first decision: the warm-up and what the first window needs.
    assert summary.decisions == 2 * (LENGTH - 233)
    assert summary.streams == 3
    assert summary.rejected == {"duplicate": 8, "late": 8, "malformed": 8, "bad_timestamp": 8}
    assert told(summary.alerts)[:1] == [("pump/a", "raised", "temp")]
    assert ("pump/b", "raised", "flow") in told(summary.alerts)
    for raised, start in (("pump/a", 450), ("pump/b", 600)):
        first = next(alert for alert in summary.alerts if alert["stream"] == raised)
        assert abs(_seconds(first["started_at"]) - (START + start)) <= 1


def _seconds(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize("batch", [1, 7, 256, 100_000])
def test_the_same_recording_gives_the_same_alerts_and_scores_whatever_the_batches(
    recording, configuration, tmp_path, monkeypatch, batch
):
    expected = replay(recording, configuration, scores=tmp_path / "expected.csv")
    monkeypatch.setattr(module, "BATCH", batch)
    again = replay(recording, configuration, scores=tmp_path / "again.csv")
    assert [alert["id"] for alert in expected.alerts]
    assert again == expected
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "expected.csv").read_bytes()


def test_alerts_of_another_agent_or_stream_have_other_ids(recording, configure):
    ids = {alert["id"] for alert in replay(recording, configure()).alerts}
    assert ids
    assert ids.isdisjoint(alert["id"] for alert in replay(recording, configure(agent="other")).alerts)


@pytest.mark.parametrize("cut", [100, 940, 1500])
def test_replaying_both_halves_with_a_state_equals_replaying_the_whole(recording, configuration, tmp_path, cut):
    """The cuts are while learning, amid an alert, and while all is quiet."""
    lines = recording.read_bytes().splitlines(keepends=True)
    halves = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    halves[0].write_bytes(b"".join(lines[:cut]))
    halves[1].write_bytes(b"".join(lines[cut:]))
    whole = replay(recording, configuration, scores=tmp_path / "whole.csv")
    found, scores = [], []
    for half in halves:
        found += replay(half, configuration, state=tmp_path / "state", scores=tmp_path / "half.csv").alerts
        scores += read_scores(tmp_path / "half.csv")
    assert found == whole.alerts
    assert scores == read_scores(tmp_path / "whole.csv")


def read_scores(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_state_made_with_other_settings_is_set_aside_and_learning_begins_anew(recording, configure, tmp_path, caplog):
    whole = replay(recording, configure(), state=tmp_path / "state").decisions
    assert replay(recording, configure("stride: 2"), state=tmp_path / "state").decisions < whole
    assert "of another encoder, runtime or setting" in caplog.text


class Sums:
    """An encoder whose embeddings are not whole steps of the grid they are kept on, as those of a float model."""

    name, length, dim = "sums", 64, 4

    def __init__(self, digest="one", runtime="numpy 1", step=0.1, offset=3):
        self.digest, self.runtime, self.output_step, self.output_offset = digest, runtime, step, offset
        self.encoded = 0

    def encode(self, windows):
        self.encoded += len(windows)
        return windows.reshape(len(windows), self.dim, 32).mean(axis=2, dtype=np.float32)


@pytest.fixture
def encoded(configure):
    """Return the configuration of a stream with an encoder that no bundle has."""
    return configure("encoder: /nowhere")


def test_encoders_that_are_given_are_taken_instead_of_those_of_the_configuration(recording, encoded, configuration):
    encoder = Sums()
    summary = replay(recording, encoded, encoders={"/nowhere": encoder})
    assert encoder.encoded > summary.decisions > 0
    assert ("pump/a", "raised", "temp") in told(summary.alerts)
    assert summary.alerts != replay(recording, configuration).alerts


@pytest.mark.parametrize("cut", [940, 1500])
def test_both_halves_equal_the_whole_with_an_encoder_too(recording, encoded, tmp_path, cut):
    lines = recording.read_bytes().splitlines(keepends=True)
    whole = replay(recording, encoded, encoders={"/nowhere": Sums()}, scores=tmp_path / "whole.csv")
    found, scores = [], []
    for part in (lines[:cut], lines[cut:]):
        (tmp_path / "half.jsonl").write_bytes(b"".join(part))
        half = replay(
            tmp_path / "half.jsonl", encoded,
            encoders={"/nowhere": Sums()}, state=tmp_path / "state", scores=tmp_path / "half.csv",
        )  # fmt: skip
        found += half.alerts
        scores += read_scores(tmp_path / "half.csv")
    assert found == whole.alerts
    assert scores == read_scores(tmp_path / "whole.csv")


@pytest.mark.parametrize(
    ("change", "kept"),
    [
        ({}, True),
        ({"digest": "two"}, False),
        ({"runtime": "numpy 2"}, False),
        ({"step": 0.2}, False),
        ({"offset": 4}, False),
    ],
    ids=str,
)
def test_a_state_made_with_another_variant_runtime_or_grid_is_set_aside(
    recording, encoded, tmp_path, caplog, change, kept
):
    whole = replay(recording, encoded, encoders={"/nowhere": Sums()}, state=tmp_path / "state").decisions
    again = replay(recording, encoded, encoders={"/nowhere": Sums(**change)}, state=tmp_path / "state").decisions
    assert (again > whole) if kept else (again == whole)  # one that goes on has nothing to learn
    assert ("of another encoder, runtime or setting" in caplog.text) is not kept
    assert len([*(tmp_path / "state" / "streams").glob("*.unusable")]) == (0 if kept else 3)


def test_a_state_holds_no_unsent_messages_afterwards(recording, configuration, tmp_path):
    assert replay(recording, configuration, state=tmp_path / "state").alerts
    store = Store(tmp_path / "state")
    assert store.outbox_length() == 0
    assert {(row.stream, row.kind) for row in store.alerts()} >= {("pump/a", "anomaly"), ("pump/b", "anomaly")}
    store.close()


def test_without_a_state_nothing_is_left_behind(recording, configuration, tmp_path):
    before = sorted(tmp_path.iterdir())
    replay(recording, configuration)
    assert sorted(tmp_path.iterdir()) == before


def test_scores_are_a_table_with_one_row_for_each_decision(recording, configuration, tmp_path):
    path = tmp_path / "scores.csv"
    summary = replay(recording, configuration, scores=path)
    assert path.read_text().splitlines()[0] == "at,stream,score,p_value,alert_state"
    found = read_scores(path)
    assert len(found) == summary.decisions
    assert {row["stream"] for row in found} == {"pump/a", "pump/b"}
    assert {row["alert_state"] for row in found} >= {"inactive", "firing"}
    for row in found:
        assert float(row["p_value"]) == pytest.approx(10 ** -float(row["score"]), rel=1e-3, abs=1e-300)
    at = [float(row["at"]) for row in found if row["stream"] == "pump/a"]
    assert at == [START + i for i in range(233, LENGTH)]
    firing = [float(row["at"]) - START for row in found if row["alert_state"] == "firing" and row["stream"] == "pump/a"]
    assert 450 <= firing[0] <= 452


def test_alerts_are_lines_of_json_that_follow_the_schema(recording, configuration, tmp_path, schema):
    path = tmp_path / "alerts.jsonl"
    summary = replay(recording, configuration, alerts=path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == summary.alerts
    assert {alert["event"] for alert in found} == {"raised", "cleared"}
    for alert in found:
        schema.validate(alert)


def test_silence_is_found_in_virtual_time(configure, tmp_path):
    messages = [message(i, "a") for i in [*range(50), *range(200, 220)]] + [message(i, "b") for i in range(220)]
    recording = write_messages(tmp_path / "recording.jsonl", sorted(messages, key=lambda one: one.received_at))
    summary = replay(recording, configure("silence: {after: 30s}"))
    assert [(a["stream"], a["kind"], a["event"]) for a in summary.alerts] == [
        ("pump/a", "silent", "raised"),
        ("pump/a", "silent", "cleared"),
    ]
    assert _seconds(summary.alerts[0]["at"]) == pytest.approx(START + 49 + 0.1 + 30, abs=1e-3)
    assert _seconds(summary.alerts[1]["at"]) == pytest.approx(START + 200.1, abs=1e-3)


@pytest.mark.parametrize(
    ("time", "delimiter"),
    [
        (lambda i: START + i, ","),
        (lambda i: f"{START + i}.000", ";"),
        (lambda i: f"2023-11-14T{22 + (13 * 60 + 20 + i) // 3600:02}:{_clock(i)}Z", ","),
        (lambda i: f"2023-11-15 {(13 * 60 + 20 + i) // 3600:02}:{_clock(i)}+02:00", ";"),
    ],
)
def test_a_csv_file_gives_the_same_alerts_however_its_times_are_written(write_csv, configuration, time, delimiter):
    expected = replay(write_csv(rows(range(500))), configuration)
    assert told(expected.alerts)[0] == ("pump/replay", "raised", "temp")
    path = write_csv(rows(range(500), time), name="other.csv", delimiter=delimiter)
    assert replay(path, configuration) == expected


def _clock(i):
    seconds = 13 * 60 + 20 + i
    return f"{seconds // 60 % 60:02}:{seconds % 60:02}"


def test_the_time_column_may_have_any_name(write_csv, configuration):
    path = write_csv(rows(range(300)), header="when,temp,flow")
    assert replay(path, configuration, time_column="when").decisions == 300 - 233
    with pytest.raises(RecordingError, match="expected a column 'time', found when, temp, flow; name it with"):
        replay(path, configuration)


def test_a_csv_file_in_capitals_is_one_too(write_csv, configuration):
    assert replay(write_csv(rows(range(300)), name="DATA.CSV"), configuration).decisions == 300 - 233


def test_rows_of_a_csv_file_that_are_late_or_doubled_are_counted(write_csv, configuration):
    path = write_csv(rows([*range(10), 9, 5, 10]))
    assert replay(path, configuration).rejected == {"duplicate": 1, "late": 1}


OTHER = """
  - {name: fan, topic: plant/b/telemetry, channels: [flow], reference: {size: 300, warm_up: 100}}
"""


def test_of_several_streams_the_csv_files_own_must_be_named(write_csv, configure, tmp_path):
    path = write_csv(rows(range(300)))
    configuration = configure(streams=OTHER)
    for name, found in ((None, "none"), ("fun", "fun")):
        with pytest.raises(RecordingError, match=f"expected one of the streams pump, fan, found {found}; .*--stream"):
            replay(path, configuration, stream=name)
    # The first entry's filter would take its topic: the name decides all the same.
    replay(path, configuration, stream="fan", scores=tmp_path / "scores.csv")
    assert {row["stream"] for row in read_scores(tmp_path / "scores.csv")} == {"fan"}


def test_a_folder_is_for_a_stream_of_pictures(configuration, tmp_path):
    with pytest.raises(RecordingError, match=r"a folder of pictures: expected a stream of pictures .* found none$"):
        replay(tmp_path, configuration)


@pytest.mark.parametrize("name", ["recording.jsonl", "recording.csv", "folder"])
def test_a_recording_that_is_not_there_is_an_error_that_names_it(configuration, tmp_path, name):
    with pytest.raises(RecordingError, match=rf"{tmp_path / name}: expected a recording .*, found no such file"):
        replay(tmp_path / name, configuration)


def test_a_line_that_cannot_be_read_is_an_error_with_its_number(configuration, tmp_path, write_csv):
    path = write_messages(tmp_path / "recording.jsonl", [message(i) for i in range(3)])
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    with pytest.raises(RecordingError, match=r"recording\.jsonl:4: expected a recorded message"):
        replay(path, configuration)
    with pytest.raises(RecordingError, match=r"recording\.csv:3: expected a time .*, found 'yesterday'"):
        replay(write_csv([(START, 1, 2), ("yesterday", 1, 2)]), configuration)


def test_a_replay_that_fails_leaves_the_state_as_it_was(configuration, tmp_path, recording, write_csv):
    state = tmp_path / "state"
    replay(recording, configuration, state=state)
    (snapshot, *_) = sorted((state / "streams").glob("*.snapshot"))
    before = snapshot.read_bytes()
    with pytest.raises(RecordingError):
        replay(write_csv([(START, 1, 2), ("yesterday", 1, 2)]), configuration, state=state)
    assert snapshot.read_bytes() == before


def test_progress_is_shown_where_it_is_asked_for(configuration, tmp_path, capsys):
    path = write_messages(tmp_path / "recording.jsonl", [message(i) for i in range(3)])
    replay(path, configuration, progress=False)
    assert capsys.readouterr().err == ""
    replay(path, configuration, progress=True)
    assert "3 messages" in capsys.readouterr().err
