from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.alert_message import MAX_SENTENCE, evidence, moment, rounded, sentence, silence, timestamp
from agent.core.alerting import AlertEvent, AlertKind, AlertTransition
from tests.core.streams import decide, feed, make, normal

PERIOD = 57  # of what tests.core.streams.normal makes
NOW = 1_700_000_000.0  # 14 November 2023, 22:13:20 UTC
LATER = NOW + 600
NOTHING = silence(NOW, LATER)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ((1.989012345, 0.9028847, 1.0999712), [1.98901, 0.90288, 1.09997]),
        ((293.8771234, -4.19617e-08, 9.53674e-09), [293.877, 0.0, 0.0]),
        ((0.0, 0.0, 0.0), [0.0, 0.0, 0.0]),
        ((1234567890.0, 1e-9, 5.5), [1234570000.0, 0.0, 0.0]),
        ((2.5e-9, 1.123456789e-9, 0.0), [2.5e-9, 1.12346e-9, 0.0]),
        ((math.nan, 1.0, math.inf), [None, 1.0, None]),
        ((math.nan,), [None]),
    ],
)
def test_numbers_are_told_to_the_sixth_digit_of_the_largest(numbers, expected):
    assert rounded(*numbers) == expected


@given(st.lists(st.floats(-1e30, 1e30), min_size=1))
def test_rounding_moves_nothing_by_more_than_its_part_of_the_largest(numbers):
    largest = max(map(abs, numbers))
    for one, told in zip(numbers, rounded(*numbers), strict=True):
        assert abs(one - told) <= 5.1e-6 * largest
        assert math.copysign(1, told) > 0 or told < 0


def test_times_are_told_in_utc_to_the_millisecond():
    assert timestamp(1_700_000_000.0625) == "2023-11-14T22:13:20.062Z"


@pytest.mark.parametrize(
    ("ago_s", "said"),
    [
        (600, "22:03 UTC"),
        (86_400, "13 November"),
        (10 * 86_400, "4 November"),
        (365 * 86_400, "14 November 2022"),
    ],
)
def test_a_moment_is_said_as_briefly_as_the_day_allows(ago_s, said):
    assert moment(NOW - ago_s, NOW) == said


def part(value, low, high, name="vibration.rms", share=1.0):
    return {"name": name, "share": share, "value": value, "expected": [low, high]}


def found(*parts, view="level", since=NOW, others=(0, 0.0)):
    return {
        "parts": list(parts),
        "others": {"count": others[0], "share": others[1]},
        "view": view,
        "unlike_since": timestamp(since),
    }


def transition(event=AlertEvent.RAISED, kind=AlertKind.ANOMALY, lasted=20.0):
    return AlertTransition("0" * 16, kind, event, LATER - lasted, LATER, LATER if event == "cleared" else None)


def said(evidence, event=AlertEvent.RAISED, stream="pump"):
    return sentence(stream, transition(event), evidence)


@pytest.mark.parametrize(
    ("evidence", "text"),
    [
        (found(part(4.1, 0.6, 1.3)), "rose to 4.1, normally 0.6 to 1.3; nothing like it since 22:13 UTC"),
        (found(part(0.2, 0.6, 1.3)), "fell to 0.2, normally 0.6 to 1.3; nothing like it since 22:13 UTC"),
        (
            found(part(1.616, 0.80872, 0.994), view="shape", since=NOW - 300 * 86_400),
            "rose to 1.62, normally 0.81 to 0.99; nothing like it since 18 January",
        ),
        (
            found(part(0.7, 0.6, 1.3), view="shape", since=NOW - 11 * 86_400),
            "behaves unusually: values as usual (0.7), but their course is not like anything since 3 November",
        ),
        (  # a hair beyond the usual, and it was the shape that spoke
            found(part(1.31, 0.6, 1.3), view="shape"),
            "behaves unusually: values as usual (1.31), but their course is not like anything since 22:13 UTC",
        ),
        (
            found(part(25.7624, 25.7628, 25.93), view="shape"),
            "behaves unusually: values as usual (25.76), but their course is not like anything since 22:13 UTC",
        ),
        (found(part(1.304, 0.6, 1.3)), "rose to 1.304, normally 0.6 to 1.3; nothing like it since 22:13 UTC"),
        (found(part(251.93217, 0.0, 0.04)), "rose to 252, normally 0 to 0.04; nothing like it since 22:13 UTC"),
        (found(part(70.0, 0.0, 0.0)), "rose to 70, normally 0; nothing like it since 22:13 UTC"),
        (found(part(100200.0, 100000.0, 100100.0)), "rose to 100200, normally 100000 to 100100; "),
        (found(part(-3e9, 1e9, 2e9)), "fell to -3e+09, normally 1e+09 to 2e+09; "),
        (found(part(2.5e-9, 0.0, 1e-9)), "rose to 2.5e-09, normally 0 to 1e-09; "),
        (found(part(0.0, 0.0, 0.0), view="shape"), "behaves unusually: values as usual (0), but "),
        (found(part(None, 0.6, 1.3)), "behaves unusually; nothing like it since 22:13 UTC"),
        (found(part(4.1, None, None)), "behaves unusually; nothing like it since 22:13 UTC"),
    ],
)  # fmt: skip
def test_the_sentence_says_what_the_leading_channel_did(evidence, text):
    assert said(evidence).startswith(f"pump: vibration.rms {text}")


@pytest.mark.parametrize(
    ("shares", "others", "says"),
    [
        ([0.99, 0.01], (0, 0.0), "normally 0.6 to 1.3; "),
        ([0.8, 0.2], (0, 0.0), "normally 0.6 to 1.3, with 1 other; "),
        ([0.4, 0.3, 0.2, 0.05], (0, 0.0), "normally 0.6 to 1.3, with 2 others; "),
        ([0.1] * 5, (5, 0.5), "normally 0.6 to 1.3, with 9 others; "),
        ([0.19] * 5, (5, 0.05), "normally 0.6 to 1.3, with 4 others; "),
    ],
)
def test_it_counts_the_channels_that_are_about_as_odd(shares, others, says):
    parts = [part(4.1, 0.6, 1.3, f"c{i}", share) for i, share in enumerate(shares)]
    assert says in said(found(*parts, others=others))


def test_of_an_update_it_says_now_and_of_an_end_how_long_it_was():
    assert said(found(part(4.1, 0.6, 1.3)), AlertEvent.UPDATED).startswith("pump: now vibration.rms rose to 4.1")
    for lasted, text in ((13, "13 s"), (119, "119 s"), (600, "10 min"), (10_000, "3 h"), (3 * 86_400, "3 days")):
        cleared = transition(AlertEvent.CLEARED, lasted=float(lasted))
        assert sentence("pump", cleared, NOTHING) == f"pump looks normal again after {text}"
    assert sentence("pump", transition(kind=AlertKind.SILENT), NOTHING) == "pump has fallen silent"
    assert (
        sentence("pump", transition(AlertEvent.CLEARED, AlertKind.SILENT), NOTHING) == "pump is heard again after 20 s"
    )


@given(
    stream=st.text(min_size=1, max_size=300),
    channel=st.text(min_size=1, max_size=300),
    numbers=st.tuples(*[st.floats(-1e30, 1e30)] * 3),
    view=st.sampled_from(["level", "shape", "range"]),
    others=st.integers(0, 250),
)
def test_it_is_short_whatever_the_names_and_numbers(stream, channel, numbers, view, others):
    value, low, high = rounded(numbers[0], *sorted(numbers[1:]))
    parts = [part(value, low, high, channel, 0.001)] * 5
    made = said(found(*parts, view=view, since=NOW - 400 * 86_400, others=(others, 1.0)), stream=stream)
    assert len(made) <= MAX_SENTENCE + 20  # where everything is long at once
    assert len(said(found(part(4.1, 0.6, 1.3, channel)), stream=stream)) <= MAX_SENTENCE
    assert (stream in made and channel in made) or "…" in made


def test_a_long_name_keeps_its_ends():
    assert said(found(part(4.1, 0.6, 1.3, "a" * 90 + "rms")), stream="b" * 90 + "9").startswith("bbb")
    made = said(found(part(4.1, 0.6, 1.3, "a" * 90 + "rms")), stream="b" * 90 + "9")
    assert "b9: aa" in made
    assert "aarms rose to 4.1" in made
    assert len(made) == MAX_SENTENCE


def assessed(channels, change, **settings):
    """Return a decision of a stream disturbed for six readings, what was found, the stream, and its state before."""
    stream = make(channels, **settings)
    samples = normal(306, channels)
    feed(stream, samples[:300])
    for sample in samples[300:]:
        sample.values.update(change(sample.values))
    feed(stream, samples[300:-1])
    before = stream.snapshot()
    due = stream.push(samples[-1])
    return due, decide(stream.bank, [due])[0], stream, before


@pytest.mark.parametrize(
    ("channels", "listed", "others"), [(("a",), 1, 0), (("a", "b", "c"), 3, 0), (tuple("abcdefgh"), 5, 3)]
)
@pytest.mark.parametrize("size", [0.0, 0.5, 40.0])
def test_shares_of_the_parts_and_the_others_sum_to_1(channels, listed, others, size):
    due, assessment, *_ = assessed(channels, lambda values: {"a": values["a"] + size})
    made = evidence(due, assessment, [], NOW)
    shares = [one["share"] for one in made["parts"]]
    assert len(shares) == listed
    assert made["others"]["count"] == others
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) + made["others"]["share"] == pytest.approx(1.0, abs=1e-9)
    assert min(*shares, made["others"]["share"]) >= 0


def test_where_nothing_is_odd_shares_are_equal():
    due, assessment, *_ = assessed(("a", "b", "c"), lambda _: {})
    assessment.part_scores[:] = 0.0
    assert [one["share"] for one in evidence(due, assessment, [], NOW)["parts"]] == [0.3334, 0.3333, 0.3333]


@pytest.mark.parametrize("encoded", [False, True])
@pytest.mark.parametrize(
    "sizes", [{"a": 3.0}, {"c": -6.0}, {"a": 0.8, "b": 5.0}, {"a": 2.0, "b": 4.0, "c": 9.0}], ids=str
)
def test_putting_usual_values_into_the_leading_channel_lowers_the_score_most(sizes, encoded):
    """The shares are true: a channel's oddity is taken away, and the same decision made again."""
    channels = ("a", "b", "c", "d")
    due, assessment, stream, before = assessed(
        channels, lambda values: {name: values[name] + size for name, size in sizes.items()}, encoded=encoded
    )
    shares = {one["name"]: one["share"] for one in evidence(due, assessment, [], NOW)["parts"]}
    past = stream.grid.rows(PERIOD + 6)[:6].copy()  # of its references: one period earlier
    lowered = {}
    for place, name in enumerate(channels):
        tail = due.tail.copy()
        tail[place, -6:] = past[:, place]
        stream.restore(before)
        (found_then,) = decide(stream.bank, [msgspec.structs.replace(due, tail=tail)])
        lowered[name] = assessment.score - found_then.score
    leading = max(shares, key=shares.get)
    assert leading in sizes
    assert max(lowered, key=lowered.get) == leading
    assert lowered[leading] > 0.2
    assert all(lowered[name] < lowered[leading] / 4 for name in channels if name not in sizes)


@pytest.mark.parametrize(
    ("change", "view"),
    [
        (lambda values: {"a": values["a"] + 300.0}, {"level", "range"}),
        (lambda values: {"a": values["a"] + 1.5}, {"level", "shape", "range"}),
    ],
)
def test_the_view_is_what_spoke_loudest(change, view):
    due, assessment, *_ = assessed(("a", "b"), change, encoded=True)
    assert evidence(due, assessment, [], NOW)["view"] in view


def test_silence_tells_since_when_nothing_was_heard():
    made = silence(NOW, LATER)
    assert made["view"] == "silence"
    assert made["parts"] == made["nearest"] == []
    assert made["span"] == {"from": timestamp(NOW), "to": timestamp(LATER)}
