"""Streams whose samples are in several messages, through a whole pipeline."""

from __future__ import annotations

import json
from contextlib import closing

import pytest

from agent.adapters.mqtt.topics import Topics
from agent.adapters.store import Store
from agent.app import load_encoders, make_restore, with_defaults
from agent.config import load_configuration
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.reconfiguration import Fate
from agent.saving import save, save_all
from tests.sparkplug import FLOAT, EdgeNode, metric
from tests.test_pipeline import BEGUN, Counted, quiet

JOINED = """
  - name: rooms
    topic: home/{device}/{channel}
"""
SPARKPLUG = """
  - name: line
    topic: spBv1.0/plant/#
    format: sparkplug
"""
SHORT = """
    encoder: none
    period: 1s
    reference: {size: 300, warm_up: 150}
    alert: {false_alarms: 1 per 20000 decisions, cooldown: 1s}
"""


@pytest.fixture
def read(tmp_path):
    def read(streams, more=""):
        path = tmp_path / "redshank.yaml"
        path.write_text(f"agent: {{id: pi}}\nstreams:{streams}{SHORT}{more}")
        return with_defaults(load_configuration(path))

    return read


@pytest.fixture
def make(read):
    def make(streams, more="", store=None):
        settings = read(streams, more)
        made = Pipeline(
            settings,
            load_encoders(settings),
            Topics("redshank", "pi"),
            observer := Counted(),
            restore=None if store is None else make_restore(store),
            nodes=() if store is None else store.nodes(),
        )
        made.observer = observer
        return made

    return make


def room(i, change=None, device="hall"):
    """Return what a room's sensors publish in a second, each on a topic of its own."""
    values = quiet(i, ("temp", "humidity")) | (change or {})
    at = BEGUN + i
    return [
        InboundMessage(f"home/{device}/{name}", json.dumps({"ts": at, "value": value}).encode(), at, float(i))
        for name, value in values.items()
    ]


TIMED = "    time: {path: ts, max_ahead: 10d}\n"


def of(pipeline, name):
    return pipeline.streams[name].detector.grid


def test_the_channels_of_a_device_are_one_stream(make):
    pipeline = make(JOINED, TIMED)
    told = []
    for i in range(360):
        odd = {"humidity": 40.0} if i >= 350 else None
        told += pipeline.process(room(i, odd) + (room(i, device="attic") if i < 10 else [])).outbox
    assert set(pipeline.streams) == {"rooms/hall", "rooms/attic"}
    assert of(pipeline, "rooms/hall").channels == ["temp", "humidity"]
    assert of(pipeline, "rooms/hall").total_rows == 360
    raised = json.loads(told[0].payload)
    assert (raised["stream"], raised["topic"], raised["event"]) == ("rooms/hall", "home/hall/{channel}", "raised")
    assert raised["evidence"]["parts"][0]["name"] == "humidity"
    assert pipeline.observer.reasons == []


def test_a_message_of_several_values_and_one_of_a_bare_number(make):
    pipeline = make(JOINED, "    ignore_channels: [meter.since]\n")
    for i in range(3):
        pipeline.process(
            [
                InboundMessage("home/hall/temp", b"21.5", BEGUN + i, float(i)),
                InboundMessage("home/hall/meter", b'{"value": 1, "power": 2, "since": 3}', BEGUN + i, float(i)),
            ]
        )
    assert of(pipeline, "rooms/hall").newest == {"temp": 21.5, "meter": 1.0, "meter.power": 2.0}


def test_only_configured_channels_are_joined(make):
    pipeline = make(JOINED, "    channels: [temp]\n")
    for i in range(3):
        pipeline.process(room(i))
    assert of(pipeline, "rooms/hall").channels == ["temp"]
    assert pipeline.observer.reasons == ["no_channel"] * 3


@pytest.mark.parametrize("whole", [True, False])
def test_a_round_that_a_restart_cuts_is_completed(make, tmp_path, whole):
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(JOINED, TIMED, store)
        for i in range(200):
            pipeline.process(room(i))
        save_all(store, pipeline)
        for i in range(200, 250):
            pipeline.process(room(i))
        pipeline.process(room(250)[:1])
        save_all(store, pipeline, whole=whole)
        again = make(JOINED, TIMED, store)
        again.resume(store.topics(), BEGUN, 0.0)
        assert list(again.streams) == ["rooms/hall"]
        assert again.process(room(250)[1:]).decided != []
        assert of(again, "rooms/hall").total_rows == 251
        pipeline.process(room(250)[1:])
        assert of(again, "rooms/hall").newest == of(pipeline, "rooms/hall").newest


def test_a_reload_keeps_what_is_half_told(make, read):
    pipeline = make(JOINED, TIMED)
    for i in range(200):
        pipeline.process(room(i))
    pipeline.process(room(200)[:1])
    done = pipeline.reconfigure(read(JOINED, TIMED + "    silence: {after: 60s}\n"), {}, BEGUN)
    assert done.fates == {"rooms/hall": Fate.CHANGED}
    pipeline.process(room(200)[1:])
    assert of(pipeline, "rooms/hall").total_rows == 201
    done = pipeline.reconfigure(read(JOINED.replace("{device}", "other/{device}"), TIMED), {}, BEGUN)
    assert [one.name for one in done.removed] == ["rooms/hall"]


@pytest.fixture
def node():
    return EdgeNode()


def send(pipeline, node, kind, i, metrics, device="pump", *, retained=False):
    topic, payload = node.message(kind, BEGUN + i, metrics, device)
    return pipeline.process([InboundMessage(topic, payload, BEGUN + i, float(i), retained=retained)])


def born(pipeline, node, i=0):
    topic, payload = node.birth(BEGUN + i)
    nodes = pipeline.process([InboundMessage(topic, payload, BEGUN + i, float(i))]).nodes
    metrics = [metric("temp", 0.0, FLOAT, alias=1), metric("flow", 0.5, FLOAT, alias=2)]
    return nodes | send(pipeline, node, "DBIRTH", i, metrics).nodes


def run(pipeline, node, span, change=None):
    """Send what has changed each second: the temperature; the flow every tenth."""
    told = []
    for i in span:
        values = quiet(i, ("temp", "flow")) | (change or {})
        metrics = [metric(alias=1, value=values["temp"], datatype=FLOAT, sends_type=False)]
        if i % 10 == 0:
            metrics.append(metric(alias=2, value=values["flow"], datatype=FLOAT, sends_type=False))
        told += [json.loads(row.payload) for row in send(pipeline, node, "DDATA", i, metrics).outbox]
    return told


def test_a_device_is_a_stream_of_all_its_metrics(make, node, schema):
    pipeline = make(SPARKPLUG)
    born(pipeline, node)
    assert run(pipeline, node, range(1, 300)) == []
    assert list(pipeline.streams) == ["line/line1/pump"]  # the node has only controls
    assert of(pipeline, "line/line1/pump").channels == ["temp", "flow"]
    (raised, *_) = run(pipeline, node, range(300, 310), {"temp": 30.0})
    schema.validate(raised)
    assert (raised["topic"], raised["evidence"]["parts"][0]["name"]) == ("spBv1.0/plant/+/line1/pump", "temp")
    assert pipeline.observer.reasons == ["no_values"]


def test_reasons(make, node):
    pipeline = make(SPARKPLUG)
    born(pipeline, node)
    node.seq += 1
    run(pipeline, node, [1])
    send(pipeline, node, "DDEATH", 2, [])
    run(pipeline, node, [3])
    send(pipeline, node, "DBIRTH", 4, [metric("temp", 1.0)], retained=True)
    send(pipeline, node, "DBIRTH", 5, [metric(f"m{index}", 1.0) for index in range(257)])
    send(pipeline, node, "DDATA", 6, [metric("m1", 2.0)])
    send(pipeline, node, "DDATA", 7, [metric("temp", None)], "fan")
    assert pipeline.observer.reasons == [
        *("no_values", "sequence_gap", "death", "no_birth", "retained"),
        *("sequence_gap", "too_many_channels", "too_many_channels", "no_values"),
    ]


def test_max_channels_is_what_was_configured(make, node):
    joined = make(JOINED, TIMED + "    max_channels: 2\n")
    for i in range(3):
        joined.process(room(i, dict.fromkeys(("temp", "humidity", "light"), 1.0)))
    assert of(joined, "rooms/hall").channels == ["temp", "humidity"]
    wide = make(SPARKPLUG, "    max_channels: 300\n")
    send(wide, node, "DBIRTH", 0, [metric(f"m{index}", 1.0) for index in range(300)])
    assert len(of(wide, "line/line1/pump").channels) == 300


def test_of_a_large_device_only_configured_metrics_are_watched(make, node):
    pipeline = make(SPARKPLUG, "    channels: [m7, m300, temp]\n")
    send(pipeline, node, "DBIRTH", 0, [metric(f"m{index}", float(index)) for index in range(400)])
    assert of(pipeline, "line/line1/pump").newest == {
        "m7": 7.0,
        "m300": 300.0,
        "temp": pytest.approx(float("nan"), nan_ok=True),
    }


@pytest.mark.parametrize(
    "saved_at", [(50, 120), (150, 260), (50, 150, 250, 260)], ids=["learning", "learnt between", "often"]
)
def test_what_was_learnt_by_the_last_save_outlasts_a_kill(make, tmp_path, saved_at, caplog):
    """A save knows nothing of whether learning ends before the next one, and readings are as few as they can be."""
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(JOINED, TIMED, store)
        for i in range(saved_at[-1]):
            pipeline.process(room(i))
            if i + 1 in saved_at:
                save_all(store, pipeline, whole=False, now=float(i))
        again = make(JOINED, TIMED, store)
        again.resume(store.topics(), BEGUN, 0.0)
        assert of(again, "rooms/hall").total_rows == saved_at[-1]
        assert again.streams["rooms/hall"].learnt == (saved_at[-1] > 200)
        assert again.streams["rooms/hall"].reference_fill == pipeline.streams["rooms/hall"].reference_fill
        assert not caplog.records


@pytest.mark.parametrize("whole", [True, False])
def test_a_restart_needs_neither_births_nor_what_did_not_change(make, node, tmp_path, whole):
    with closing(Store(tmp_path / "state")) as store:
        pipeline = make(SPARKPLUG, store=store)
        store.commit([], [], born(pipeline, node))
        run(pipeline, node, range(1, 195))
        save_all(store, pipeline)
        run(pipeline, node, range(195, 206))
        save_all(store, pipeline, whole=whole)
        again = make(SPARKPLUG, store=store)
        run(again, node, [206])
        assert of(again, "line/line1/pump").total_rows == 207
        assert of(again, "line/line1/pump").newest["flow"] == pytest.approx(
            quiet(200, ("temp", "flow"))["flow"], abs=1e-4
        )
        topic, payload = node.death()
        dead = again.process([InboundMessage(topic, payload, BEGUN + 207, 207.0)]).nodes
        assert dead == {"plant/line1": None}
        store.commit([], [], dead)
        assert store.nodes() == []


def test_a_reload_keeps_births_and_what_stands_although_the_stream_learns_anew(make, node, read):
    pipeline = make(SPARKPLUG)
    born(pipeline, node)
    run(pipeline, node, range(1, 25))
    slower = read(SPARKPLUG.replace("plant/#", "plant/+/line1/#"), "    stride: 2\n")
    assert pipeline.reconfigure(slower, {}, BEGUN).removed != []  # under another name
    pipeline = make(SPARKPLUG)
    born(pipeline, node, 30)
    run(pipeline, node, range(31, 45))
    done = pipeline.reconfigure(read(SPARKPLUG, "    stride: 2\n"), {}, BEGUN)
    assert done.fates == {"line/line1/pump": Fate.ANEW}
    run(pipeline, node, [45])
    assert of(pipeline, "line/line1/pump").total_rows == 1
    assert set(of(pipeline, "line/line1/pump").newest) == {"temp", "flow"}


def test_snapshots_of_streams_that_were_not_joined_yet_count(make, tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        plain = make(JOINED.replace("{device}/{channel}", "{device}"), TIMED, store)
        for i in range(200):
            at = BEGUN + i
            payload = json.dumps({"ts": at, **quiet(i, ("temp", "humidity"))}).encode()
            plain.process([InboundMessage("home/hall", payload, at, float(i))])
        save(store, plain.streams["rooms/hall"])
        joined = make(JOINED, TIMED, store)
        for i in range(200, 203):
            joined.process(room(i))
        assert of(joined, "rooms/hall").total_rows == 203
