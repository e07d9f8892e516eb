from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.recording import line_of, open_to_append, read_csv, read_messages
from agent.core.types import Sample
from agent.errors import RecordingError
from agent.ports import InboundMessage


@pytest.fixture
def write(tmp_path):
    def make(content, name="recording.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def message(payload, topic="plant/a", at=1_700_000_000.25, *, retained=False):
    return InboundMessage(topic, payload, at, 5.0, qos=1, retained=retained, message_id=7, connection=2)


def replayed(one):
    """Return a message as a recording keeps it: nothing of the connection it came by."""
    return InboundMessage(one.topic, one.payload, one.received_at, one.received_at, retained=one.retained)


def samples(path, time_column="time"):
    return list(read_csv(path, time_column))


# JSON Lines


@given(
    st.lists(
        st.builds(
            lambda topic, payload, at, retained: message(payload, topic, at, retained=retained),
            st.text(min_size=1),
            st.binary() | st.text().map(str.encode),
            st.floats(0, 4e9),
            st.booleans(),
        )
    )
)
def test_what_is_recorded_is_what_is_replayed_whatever_the_payload(tmp_path_factory, messages):
    path = tmp_path_factory.mktemp("recording") / "recording.jsonl"
    path.write_bytes(b"".join(line_of(one) for one in messages))
    assert list(read_messages(path)) == [replayed(one) for one in messages]


def test_a_recording_is_text_that_a_person_can_read():
    assert json.loads(line_of(message('{"temp": 21.5, "ort": "Köln"}'.encode()))) == {
        "topic": "plant/a",
        "received_at": 1_700_000_000.25,
        "text": '{"temp": 21.5, "ort": "Köln"}',
    }
    assert json.loads(line_of(message(b"\xff\x00", retained=True))) == {
        "topic": "plant/a",
        "received_at": 1_700_000_000.25,
        "base64": "/wA=",
        "retained": True,
    }


def test_an_empty_recording_has_no_messages(write):
    assert list(read_messages(write(b"", "recording.jsonl"))) == []


@pytest.mark.parametrize("cut", range(1, len(line_of(message(b"1")))))
def test_a_last_line_that_was_cut_off_is_left_out_unless_it_is_whole(write, cut):
    line = line_of(message(b"1"))
    path = write(line + line[:-cut], "recording.jsonl")
    assert list(read_messages(path)) == [replayed(message(b"1"))] * (2 if cut == 1 else 1)


@pytest.mark.parametrize(
    "bad",
    [
        b"rubbish",
        b"",
        b"{}",
        b'{"topic": "a"}',
        b'{"topic": "a", "received_at": "now"}',
        b'{"topic": "a", "received_at": 1, "base64": "%%%"}',
        b'{"topic": "a", "received_at": 1, "text": "\xff"}',
    ],
)
def test_a_line_that_is_no_message_is_an_error_with_its_number(write, bad):
    line = line_of(message(b"1"))
    path = write(line + line + bad + b"\n" + line, "recording.jsonl")
    reader = read_messages(path)
    assert [next(reader), next(reader)] == [replayed(message(b"1"))] * 2
    with pytest.raises(RecordingError, match=r"recording\.jsonl:3: expected a recorded message, found something else"):
        next(reader)


def test_a_recording_is_gone_on_with(tmp_path):
    path = tmp_path / "recording.jsonl"
    for payload in (b"1", b"2", b"3"):
        with open_to_append(path) as file:
            file.write(line_of(message(payload)))
    assert [one.payload for one in read_messages(path)] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("left", [b"{", b"x" * 100, b"x" * 65535, b"x" * 65536, b"x" * 200_000])
@pytest.mark.parametrize("before", [[], [b"1"], [b"1", b"2" * 70_000]])
def test_going_on_with_a_recording_cuts_off_the_line_that_a_kill_left_unfinished(write, before, left):
    path = write(b"".join(line_of(message(one)) for one in before) + left, "recording.jsonl")
    with open_to_append(path) as file:
        file.write(line_of(message(b"new")))
    assert [one.payload for one in read_messages(path)] == [*before, b"new"]


# CSV


def test_each_row_is_a_sample_and_what_is_not_a_number_is_missing(write):
    path = write("time,a,b\n1,2.5,3\n2,,x\n3,nan,-inf\n4,1e3,-0\n5,7\n6,1,2,99\n\n7, 8 ,9\n")
    assert samples(path) == [
        Sample(1.0, {"a": 2.5, "b": 3.0}),
        Sample(2.0, {}),
        Sample(3.0, {}),
        Sample(4.0, {"a": 1000.0, "b": 0.0}),
        Sample(5.0, {"a": 7.0}),
        Sample(6.0, {"a": 1.0, "b": 2.0}),
        Sample(7.0, {"a": 8.0, "b": 9.0}),
    ]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1700000000", 1_700_000_000.0),
        ("1700000000.5", 1_700_000_000.5),
        ("0", 0.0),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20.250+00:00", 1_700_000_000.25),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000.0),
        ("2023-11-14T16:43:20-05:30", 1_700_000_000.0),
        ("2023-11-14 22:13:20", 1_700_000_000.0),
        ("2023-11-14T22:13", 1_699_999_980.0),
        ("20231114T221320Z", 1_700_000_000.0),
    ],
)
def test_times_are_seconds_since_1970_or_iso_8601_and_utc_without_a_zone(write, text, at):
    assert samples(write(f"time,a\n{text},1\n")) == [Sample(at, {"a": 1.0})]


@pytest.mark.parametrize(
    "text", ["", "yesterday", "nan", "inf", "-1", "1700000000000", "1e300", "12:30", "2023-02-30", "2023-11-14T25:00"]
)
def test_what_is_no_time_is_an_error_with_its_line(write, text):
    with pytest.raises(RecordingError, match=rf"recording\.csv:4: expected a time .*, found '{text}'"):
        samples(write(f"time,a\n1,1\n2,1\n{text},1\n5,1\n"))


def test_the_line_of_an_error_counts_empty_and_broken_lines_too(write):
    with pytest.raises(RecordingError, match=r"recording\.csv:7: "):
        samples(write('time,a\n1,1\n\n\n2,"x\ny"\nx,1\n'))


def test_a_row_that_ends_before_its_time_is_an_error(write):
    with pytest.raises(RecordingError, match=r"recording\.csv:3: expected a time .*, found None"):
        samples(write("a,time\n1,1\n2\n"))


@pytest.mark.parametrize("content", ["when;a,b\n5;1\n", "\ufeffwhen;a\r\n5;1\r\n", 'when;"a"\n"5";"1"'])
def test_semicolons_byte_order_marks_and_windows_line_ends_are_understood(write, content):
    ((sample),) = samples(write(content), "when")
    assert sample.at == 5.0
    assert list(sample.values.values()) == [1.0]


def test_a_file_without_the_time_column_is_an_error_that_lists_what_there_is(write):
    with pytest.raises(RecordingError, match=r"expected a column 'time', found ts, a; name it with --time-column"):
        samples(write("ts,a\n1,2\n"))


def test_an_empty_file_is_an_error(write):
    with pytest.raises(RecordingError, match="expected a column 'time', found nothing"):
        samples(write(""))


@pytest.mark.parametrize("rows", [0, 2000])
def test_text_that_is_not_utf8_is_an_error(write, rows):
    content = b"time,a\n" + b"1,1\n" * rows + "2,größer\n".encode("latin-1")
    with pytest.raises(RecordingError, match=r"recording\.csv: expected text in UTF-8"):
        samples(write(content))


def test_what_no_csv_file_holds_is_an_error_with_its_line(write):
    with pytest.raises(RecordingError, match=r"recording\.csv:3: expected CSV, found something else \(field larger"):
        samples(write("time,a\n1,1\n2," + "9" * 200_000 + "\n"))
