"""Streams of hundreds of readings a second work with default settings: how often they decide is settled by itself."""

from __future__ import annotations

import json
from contextlib import closing

import msgspec
import numpy as np
import pytest

from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver
from agent.adapters.tflite import load_encoder
from agent.app import load_encoders, make_restore, with_defaults
from agent.bundle import load_bundle
from agent.config import load_configuration
from agent.core.alerting import AlertKind
from agent.core.pace import pace
from agent.core.types import StreamPhase
from agent.core.views import SHORTEST_SPAN
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.reconfiguration import Fate
from agent.saving import save_all
from tests.encoder_versions import GOOD, make_version

BEGUN = 1_700_000_000.0
RATE, BLOCK = 1600, 400


def configuration(tmp_path, stream):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"agent: {{id: pi}}\nstreams: [{{name: s, topic: a, {stream}}}]\n")
    return with_defaults(load_configuration(path))


def make(tmp_path, stream, store=None):
    settings = configuration(tmp_path, stream)
    restore = None if store is None else make_restore(store)
    return Pipeline(settings, load_encoders(settings), Topics("redshank", "pi"), SilentObserver(), restore=restore)


class Machine:
    """A bearing whose vibration comes in blocks of int16 samples."""

    def __init__(self, pipeline):
        self.pipeline, self.blocks, self.decided, self.alerts = pipeline, 0, [], []
        self._rng = np.random.default_rng(0)

    def run(self, seconds, worn=0.0):
        for _ in range(int(seconds * RATE / BLOCK)):
            i = self.blocks * BLOCK + np.arange(BLOCK)
            turning = [1000 * np.sin(2 * np.pi * f * i / RATE) for f in (29.0, 61.0, 90.0)]
            values = np.stack(turning, axis=1) + self._rng.normal(0, 100, (BLOCK, 3))
            values[:, 0] += worn * np.sin(2 * np.pi * 400 * i / RATE)
            self.blocks += 1
            at = BEGUN + self.blocks * BLOCK / RATE
            outcome = self.pipeline.process([InboundMessage("a", values.astype("<i2").tobytes(), at, at - BEGUN)])
            self.decided += [one.assessment.at for one in outcome.decided]
            self.alerts += [json.loads(row.payload) for row in outcome.outbox]
        return self


RAW = "format: raw, channels: [x, y, z]"


@pytest.mark.parametrize("raw", [f"{RAW}, raw: {{sample_rate: {RATE}}}", RAW], ids=["stated", "measured"])
def test_an_accelerometer_is_watched_with_default_settings(tmp_path, raw):
    machine = Machine(make(tmp_path, raw)).run(6)
    (stream,) = machine.pipeline.streams.values()
    assert stream.phase is StreamPhase.ACTIVE
    assert (stream.detector.stride, stream.state()["stride"]) == (33, 33)
    begun = len(machine.decided)
    machine.run(8)
    assert len(machine.decided) - begun == pytest.approx(8 * RATE / 33, abs=1)  # 48 a second
    gaps = np.diff(machine.decided)
    assert gaps.max() <= SHORTEST_SPAN / RATE + 1e-5  # nothing lies between two windows
    assert machine.alerts == []
    machine.run(1, worn=4000.0)
    raised = [alert for alert in machine.alerts if alert["event"] == "raised"]
    assert len(raised) == 1
    assert raised[0]["evidence"]["parts"][0]["name"] == "x"


def reading(i, rate, odd=0.0):
    """Return a message of a stream that tells its own time."""
    rng = np.random.default_rng(i)
    at = BEGUN + i / rate
    values = {
        "ts": at,
        "a": round(float(np.sin(i / 9) + rng.normal(0, 0.1)) + odd, 4),
        "b": round(float(rng.normal()), 4),
    }
    return InboundMessage("a", json.dumps(values).encode(), at, i / rate)


def feed(pipeline, span, rate, odd=0.0):
    """Return what was decided."""
    return pipeline.process([reading(i, rate, odd) for i in span]).decided


def scores(decided):
    return [one.assessment.score for one in decided]


TIMED = "time: {path: ts, max_ahead: 10d}, reference: {size: 200, warm_up: 100}"
PLAIN = f"{TIMED}, encoder: none"
LEARNT = 700  # readings: more than a warm-up of 100 windows takes at 100 Hz


def only(pipeline):
    return next(iter(pipeline.streams.values()))


@pytest.mark.parametrize("rate", [1, 20])
@pytest.mark.parametrize("more", [TIMED, f"{PLAIN}, mode: hold", f"{PLAIN}, season: 50s", f"{PLAIN}, mode: frozen"])
def test_up_to_twenty_readings_a_second_all_is_as_if_each_were_decided(tmp_path, rate, more):
    auto, each = make(tmp_path, more), make(tmp_path, f"{more}, stride: 1")
    for span, odd in ((range(20), 0.0), (range(20, 400), 0.0), (range(400, 420), 9.0), (range(420, 500), 0.0)):
        found, wanted = feed(auto, span, rate, odd), feed(each, span, rate, odd)
        assert msgspec.msgpack.encode(scores(found)) == msgspec.msgpack.encode(scores(wanted))
        one, other = only(auto), only(each)
        assert one.signature == other.signature
        assert one.signature["stride"] == 1
        assert same(other.snapshot(), {**one.snapshot(), "settled": None})


def same(one, other):
    """Compare two snapshots, but for places of rings that hold nothing yet."""
    if isinstance(one, dict):
        count = one.get("count") if "entries" in one or "scores" in one else None
        if count is None:
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        held = np.arange(max(np.shape(array)[1] for array in one.values() if np.ndim(array) > 1)) < count[:, None]
        return one.keys() == other.keys() and all(
            np.array_equal(one[key][held], other[key][held], equal_nan=True)
            if np.ndim(one[key]) > 1
            else np.array_equal(one[key], other[key], equal_nan=True)
            for key in one
        )
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*each) for each in zip(one, other, strict=True))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")
    return one == other or (one != one and other != other)  # noqa: PLR0124  NaN


def test_what_was_settled_goes_on_after_a_restart_and_when_the_sender_becomes_slower(tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        first = make(tmp_path, TIMED, store)
        feed(first, range(LEARNT), 100)
        save_all(store, first)
        feed(first, range(LEARNT, LEARNT + 300), 100)
        save_all(store, first, whole=False)
        assert len(list(store.additions("s"))) == 1
        second = make(tmp_path, TIMED, store)
        second.resume(store.topics(), BEGUN, 0.0)
        assert (only(second).learnt, only(second).detector.stride) == (True, 5)
        span = range(LEARNT + 300, LEARNT + 700)
        expected, found = feed(first, span, 100), feed(second, span, 100)
        assert scores(found) == scores(expected)
        assert len(found) == 400 / 5
        late = [reading(10 * i, 100) for i in range(500, 700)]  # 10 readings a second: the period is measured anew
        assert [len(one.process(late).decided) > 0 for one in (first, second)] == [True, True]
        assert (only(second).detector.grid.period_s, only(second).detector.stride) == (pytest.approx(0.1), 5)
        save_all(store, second)
        third = make(tmp_path, TIMED, store)
        third.resume(store.topics(), BEGUN, 0.0)
        assert (only(third).learnt, only(third).detector.stride) == (True, 5)
        only(third).relearn()
        feed(third, range(20_000, 20_040), 10)
        assert only(third).detector.stride == 1


def test_a_snapshot_of_before_there_was_auto_is_gone_on_with(tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        first = make(tmp_path, f"{PLAIN}, stride: 1", store)
        feed(first, range(LEARNT), 100)
        detector = only(first).snapshot()
        del detector["settled"]  # it told nothing of this
        store.save("s", {"signature": only(first).signature, "detector": detector})
        second = make(tmp_path, PLAIN, store)
        assert len(feed(second, range(LEARNT, LEARNT + 100), 100)) == 100
        assert only(second).signature == only(first).signature


@pytest.mark.parametrize(
    ("before", "after", "stands"),
    [
        ("5", "auto", True),
        ("auto", "5", True),
        ("1", "auto", False),
        ("auto", "1", False),
        ("4", "auto", False),
        ("auto", "10", False),
    ],
)
@pytest.mark.parametrize("learnt", [True, False])
def test_a_stream_learns_anew_only_where_its_steps_change(tmp_path, before, after, stands, learnt):
    """In a reload as after a restart; 100 readings a second come to 5."""
    count = LEARNT if learnt else 60
    old, new = f"{PLAIN}, stride: {before}", f"{PLAIN}, stride: {after}"
    with closing(Store(tmp_path / "state")) as store:
        pipeline, control = make(tmp_path, old, store), make(tmp_path, new)
        feed(pipeline, range(count), 100)
        feed(control, range(count), 100)
        save_all(store, pipeline)
        restarted = make(tmp_path, new, store)
        restarted.resume(["a"], BEGUN, 0.0)
        done = pipeline.reconfigure(configuration(tmp_path, new), {}, BEGUN)
    assert done.fates == {"s": Fate.CHANGED if stands else Fate.ANEW}
    for one in (pipeline, restarted):
        assert only(one).learnt is (stands and learnt)
        assert only(one).detector.grid.total_rows == (count if stands else 0)
        if stands:
            assert only(one).signature == only(control).signature
            more = range(count, count + (100 if learnt else 600))
            assert scores(feed(one, more, 100)) == scores(feed(control, more, 100))
            control = make(tmp_path, new)
            feed(control, range(count), 100)
        else:
            feed(one, range(count, count + 1100), 100)
            assert (only(one).learnt, only(one).detector.stride) == (True, 5 if after == "auto" else int(after))


def test_a_stream_that_is_not_measured_yet_has_no_stride_to_tell(tmp_path):
    pipeline = make(tmp_path, PLAIN)
    feed(pipeline, range(20), 100)
    assert only(pipeline).state()["stride"] is None
    feed(pipeline, range(20, 60), 100)
    assert only(pipeline).state()["stride"] == 5
    given = make(tmp_path, f"{PLAIN}, stride: 7")
    feed(given, range(20), 100)
    assert only(given).state()["stride"] == 7


def test_a_backlog_that_comes_first_settles_nothing_while_the_stream_learns(tmp_path):
    pipeline = make(tmp_path, "encoder: none, reference: {size: 200, warm_up: 100}, format: value")

    def take(times):
        rng = np.random.default_rng(0)
        return pipeline.process(
            [InboundMessage("a", f"{rng.normal():.3f}".encode(), BEGUN + at, at) for at in times]
        ).decided

    take(i * 1e-3 for i in range(60))
    assert only(pipeline).detector.stride == pace(1e-3) == 33
    assert only(pipeline).learning_left_s < 60
    take(10.0 + i for i in range(300))
    assert (only(pipeline).learnt, only(pipeline).detector.stride) == (True, 1)


@pytest.mark.parametrize("more", ["mode: hold", "mode: frozen", "season: 2s"])
def test_other_modes_decide_as_often(tmp_path, more):
    pipeline = make(tmp_path, f"{PLAIN}, {more}")
    feed(pipeline, range(LEARNT), 100)
    assert len(feed(pipeline, range(LEARNT, LEARNT + 500), 100)) == 100
    pipeline.process([reading(i, 100, 20.0) for i in range(LEARNT + 500, LEARNT + 600)])
    assert only(pipeline).alerts[AlertKind.ANOMALY].started_at > 0


def test_streams_of_different_rates_share_a_bank_and_decide_as_each_alone(tmp_path):
    stream = f"{PLAIN}, topic: a/+".replace("topic: a, ", "")
    path = tmp_path / "redshank.yaml"

    def pipeline():
        path.write_text(f"agent: {{id: pi}}\nstreams: [{{name: s, {stream}}}]\n")
        settings = with_defaults(load_configuration(path))
        return Pipeline(settings, {}, Topics("redshank", "pi"), SilentObserver())

    def taken(where, topics):
        messages = []
        for i in range(750):
            for topic in topics:
                rate = 100 if topic == "a/fast" else 1
                messages.append(msgspec.structs.replace(reading(i, rate, 9.0 if 650 < i < 670 else 0.0), topic=topic))
        return [(one.stream, one.assessment.score) for one in where.process(messages).decided]

    both = pipeline()
    together = taken(both, ["a/fast", "a/slow"])
    assert len(both._banks) == 1
    assert [stream.detector.stride for stream in both.streams.values()] == [5, 1]
    for topic in ("a/fast", "a/slow"):
        name = topic.replace("a/", "s/")
        alone = taken(pipeline(), [topic])
        assert [each for each in together if each[0] == name] == alone


@pytest.mark.parametrize("damage", [99, 0, -1, "5"])
def test_a_settled_number_that_cannot_be_is_refused(tmp_path, damage):
    with closing(Store(tmp_path / "state")) as store:
        first = make(tmp_path, PLAIN, store)
        feed(first, range(LEARNT), 100)
        stream = only(first)
        signature = {**stream.signature, "stride": damage}
        store.save("s", {"signature": signature, "detector": {**stream.snapshot(), "settled": damage}})
        second = make(tmp_path, PLAIN, store)
        feed(second, range(LEARNT, 2 * LEARNT), 100)
        assert list((tmp_path / "state" / "streams").glob("*.unusable"))
        assert (only(second).learnt, only(second).detector.stride) == (True, 5)


def test_another_version_of_the_encoder_decides_as_often(tmp_path):
    old, new = (load_encoder(load_bundle(make_version(tmp_path / str(one), one))) for one in (0, GOOD))
    settings = configuration(tmp_path, TIMED)
    pipeline = Pipeline(settings, {"sensor-small": old}, Topics("redshank", "pi"), SilentObserver())
    feed(pipeline, range(LEARNT), 100)
    pipeline.change_encoder("sensor-small", new)
    decided, heirs = 0, set()
    for i in range(LEARNT, LEARNT + 1500):
        decided += len(feed(pipeline, [i], 100))
        if only(pipeline).heir is not None:
            heirs.add(only(pipeline).heir.detector.stride)
        while pipeline.advance()[1]:
            pass
    assert heirs == {5}
    assert (only(pipeline).encoder, only(pipeline).detector.stride) == (new, 5)
    assert decided == 1500 / 5
