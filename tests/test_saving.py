"""What streams have learnt is written a little at a time, and comes to the same as in one go."""

from __future__ import annotations

import json
from contextlib import closing

import numpy as np
import pytest

from agent import saving
from agent.adapters.mqtt import Topics
from agent.adapters.payload import RejectReason
from agent.adapters.store import Store
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.app import make_restore, with_defaults
from agent.config import load_configuration
from agent.core.alerting import AlertKind
from agent.disk import Disk
from agent.pipeline import Pipeline
from agent.ports import InboundMessage
from agent.saving import Saver, save, save_all
from agent.stream import SensorStream

BEGUN = 1_700_000_000.0
STREAMS = 5


class Time:
    """A monotonic clock that goes on by so much each time it is asked."""

    def __init__(self):
        self.now, self.step = 1000.0, 0.0

    def __call__(self):
        self.now += self.step
        return self.now


class Desk:
    """A pipeline with streams that learn, its store, and what saves it."""

    def __init__(self, folder, store, *, restore=False):
        path = folder / "redshank.yaml"
        path.write_text(
            "agent: {id: pi}\nstreams:\n  - {name: pump, topic: plant/+, encoder: none, period: 1s, channels: [a], "
            "time: {path: ts, max_ahead: 10d}, reference: {size: 100, warm_up: 100}}\n"
        )
        configuration = with_defaults(load_configuration(path))
        how = make_restore(store) if restore else None
        self.pipeline = Pipeline(configuration, {}, Topics("redshank", "pi"), SilentObserver(), restore=how)
        self.store = store
        self.telemetry = Telemetry(1000, 1 << 28, [one.value for one in RejectReason])
        self.disk = Disk(store, self.telemetry)
        self.saver = Saver(store, self.disk, self.pipeline, self.telemetry)

    def feed(self, span, streams=range(STREAMS)):
        rng = np.random.default_rng(span[0])
        for i in span:
            values = [json.dumps({"ts": BEGUN + i, "a": rng.normal()}).encode() for _ in streams]
            self.pipeline.process(
                [InboundMessage(f"plant/{n}", v, BEGUN + i, float(i)) for n, v in zip(streams, values, strict=True)]
            )

    def finish(self):
        """Go on until the round is over; return how many turns that took."""
        turns = 1
        while self.saver.advance():
            turns += 1
        return turns


@pytest.fixture
def clock(monkeypatch):
    made = Time()
    monkeypatch.setattr(saving, "monotonic", made)
    return made


def test_slices_write_what_one_go_would(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(saving, "AT_ONCE", 2)
    turns = []
    for name in ("slices", "go"):
        with closing(Store(tmp_path / name)) as store:
            desk = Desk(tmp_path, store)
            for first, last in ((0, 250), (250, 300), (300, 340)):
                desk.feed(range(first, last))
                if name == "go":
                    save_all(store, desk.pipeline, whole=False)
                    continue
                desk.saver.begin()
                turns.append(desk.finish())
    assert turns == [STREAMS + 3] * 3  # alert states of two at once
    states = []
    for name in ("slices", "go"):
        with closing(Store(tmp_path / name)) as store:
            again = Desk(tmp_path, store, restore=True).pipeline
            again.resume(store.topics(), BEGUN, 0.0)
            assert len(list(store.additions("pump/0"))) == 2
            states.append([(one.stream, one.kind, one.state) for one in store.alerts()])
            states.append([repr(stream.snapshot()) for stream in again.streams.values()])
    assert states[0] == states[2]
    assert states[1] == states[3]


def test_what_is_due_is_written_between_other_work_and_what_went_is_left_out(tmp_path, clock):
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(3))
        assert not desk.saver.advance()  # nothing is due
        clock.step = 1.0  # longer than a slice
        desk.saver.begin()
        assert desk.saver.advance()
        machine = desk.pipeline.streams["pump/4"].alerts[AlertKind.ANOMALY]
        assert {row.stream for row in store.alerts()} == set(desk.pipeline.streams)
        machine.snoozed_until = 7.0  # what is not in these is in the next round
        del desk.pipeline.streams["pump/3"]
        desk.feed(range(3, 5), (0, 1, 2, 4, 5))
        assert desk.finish() == STREAMS
        assert store.topics() == [f"plant/{n}" for n in range(STREAMS)]
        assert [n for n in range(STREAMS + 1) if store.load(f"pump/{n}") is None] == [3, 5]
        desk.saver.begin()
        desk.finish()
        assert store.load("pump/5") is not None
        (kept,) = [one.state for one in store.alerts() if (one.stream, one.kind) == ("pump/4", "anomaly")]
        assert kept["snoozed_until"] == 7.0


def test_of_alerts_only_what_a_restart_would_miss_is_written(tmp_path, monkeypatch):
    with closing(Store(tmp_path / "state")) as store:
        desk, written = Desk(tmp_path, store), []

        def round_of(first, last):
            desk.feed(range(first, last))
            written.clear()
            desk.saver.begin()
            desk.finish()
            return {(row.stream, row.kind) for row in written}

        commit = store.commit
        monkeypatch.setattr(store, "commit", lambda rows, outbox: (written.extend(rows), commit(rows, outbox)))
        assert {stream for stream, _ in round_of(0, 200)} == set(desk.pipeline.streams)
        assert round_of(200, 230) == set()
        desk.pipeline.streams["pump/4"].alerts[AlertKind.FROZEN].rewind(BEGUN)
        assert round_of(230, 231) == {("pump/4", "frozen")}


def test_the_next_round_begins_as_much_sooner_as_the_last_one_took(tmp_path, clock):
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(3))
        clock.now += 599.0
        desk.saver.look(600.0)
        assert not desk.saver.advance()
        clock.now += 1.0
        desk.saver.look(600.0)
        begun = clock.now
        clock.step = 2.0
        desk.finish()
        took, clock.step = desk.saver.saved_at - begun, 0.0
        assert 10.0 < took < 100.0
        clock.now = begun + 600.0 - took - 1.0
        desk.saver.look(600.0)
        assert not desk.saver.advance()
        clock.now += 1.0
        desk.saver.look(600.0)
        clock.step = 2.0
        assert desk.saver.advance()
        desk.saver.look(1.0)  # one at a time
        desk.finish()


def test_a_disk_that_refuses_ends_the_round(tmp_path):
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(3))
        folder = tmp_path / "state" / "streams"
        before = desk.saver.saved_at
        folder.rename(tmp_path / "elsewhere")
        desk.saver.begin()
        desk.finish()
        assert (desk.disk.troubled, desk.saver.saved_at) == (True, before)
        (tmp_path / "elsewhere").rename(folder)
        desk.saver.begin()
        desk.finish()
        assert desk.saver.saved_at > before
        assert store.load("pump/0") is not None


def test_a_large_snapshot_is_written_in_pieces_unless_a_newer_one_was_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(SensorStream, "in_pieces", True)
    monkeypatch.setattr("agent.adapters.store._PIECE_BYTES", 2000)
    with closing(Store(tmp_path / "state")) as store, closing(Store(tmp_path / "once")) as once:
        desk = Desk(tmp_path, store)
        desk.feed(range(250), range(1))
        (stream,) = desk.pipeline.streams.values()
        desk.saver.begin()
        turns = desk.finish()
        assert turns > 10
        save_all(once, desk.pipeline)
        assert repr(store.load("pump/0")) == repr(once.load("pump/0"))
        assert not stream.whole_due(0.0)
        stream.unsaved()
        desk.saver.begin()
        for _ in range(turns // 2):
            assert desk.saver.advance()
        desk.feed(range(250, 260), range(1))
        save(store, stream)
        newer = repr(store.load("pump/0"))
        desk.finish()
        assert repr(store.load("pump/0")) == newer
        assert newer != repr(once.load("pump/0"))


def added(desk):
    return list(desk.store.additions("pump/0"))


def test_a_large_addition_is_written_in_pieces_and_what_is_learnt_meanwhile_is_in_the_next_one(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(SensorStream, "in_pieces", True)
    monkeypatch.setattr("agent.adapters.store._PIECE_BYTES", 500)
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(250), range(1))
        desk.saver.begin()
        desk.finish()
        for first in (250, 270):
            desk.feed(range(first, first + 10), range(1))
            desk.saver.begin()
            for _ in range(4):
                assert desk.saver.advance()
            desk.feed(range(first + 10, first + 20), range(1))
            assert desk.finish() > 4
        assert [len(one["decisions"]["row_steps"]) for one in added(desk)] == [10, 20]
        desk.saver.begin()
        desk.finish()
        again = Desk(tmp_path, store, restore=True).pipeline
        again.resume(store.topics(), BEGUN, 0.0)
        assert again.streams["pump/0"].budget.decisions == desk.pipeline.streams["pump/0"].budget.decisions > 0


def test_a_large_addition_gives_way_to_a_newer_snapshot_and_one_that_fails_is_made_up_for_by_a_whole_one(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(SensorStream, "in_pieces", True)
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(250), range(1))
        save_all(store, desk.pipeline)
        (stream,) = desk.pipeline.streams.values()

        def begin(first):
            desk.feed(range(first, first + 10), range(1))
            desk.saver.begin()
            for _ in range(3):
                assert desk.saver.advance()

        begin(250)
        save(store, stream)
        desk.finish()
        assert added(desk) == []
        begin(260)
        assert store.append("pump/0", {"newer": True})
        desk.finish()
        assert added(desk) == [{"newer": True}]
        begin(270)
        folder = tmp_path / "state" / "streams"
        folder.rename(tmp_path / "elsewhere")
        desk.finish()
        (tmp_path / "elsewhere").rename(folder)
        before = store.load("pump/0")["detector"]["budget"]["decisions"]
        begin(280)
        desk.finish()
        assert store.load("pump/0")["detector"]["budget"]["decisions"] == before + 30
        assert added(desk) == []


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Return a desk whose only stream has learnt, and is written in pieces; its snapshot is being written."""
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(SensorStream, "in_pieces", True)
    monkeypatch.setattr("agent.adapters.store._PIECE_BYTES", 2000)
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(250), range(1))
        desk.saver.begin()
        for _ in range(2):  # its alert states; what is to be written, of which nothing was by now
            assert desk.saver.advance()
        yield desk


def test_a_large_snapshot_gives_way_to_a_newer_one_from_the_moment_that_it_is_of(large):
    (stream,) = large.pipeline.streams.values()
    large.feed(range(250, 260), range(1))
    save(large.store, stream)
    newer = repr(large.store.load("pump/0"))
    large.finish()
    assert repr(large.store.load("pump/0")) == newer


def test_nothing_more_is_written_of_a_stream_that_is_let_go_or_that_another_takes_the_place_of(large):
    stream = large.pipeline.streams.pop("pump/0")
    large.saver.advance()
    large.finish()
    assert large.store.load("pump/0") is None
    large.pipeline.streams["pump/0"] = stream
    large.saver.begin()
    for _ in range(3):
        large.saver.advance()
    large.pipeline.streams["pump/0"] = large.pipeline.make(stream.name, stream.topic, stream.settings)
    large.finish()
    assert large.store.load("pump/0")["detector"]["budget"]["decisions"] == 0


def test_a_large_snapshot_of_a_former_version_of_the_encoder_is_followed_by_one_of_the_new(large, monkeypatch):
    (stream,) = large.pipeline.streams.values()
    before = stream.signature
    monkeypatch.setattr(stream, "signature_with", lambda _: {**before, "encoder": "another"})
    large.finish()
    assert large.store.load("pump/0")["signature"] == before
    assert stream.whole_due(0.0)


def test_a_large_snapshot_that_does_not_know_that_learning_is_over_is_followed_by_one_that_does(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "SLICE_S", 0.0)
    monkeypatch.setattr(SensorStream, "in_pieces", True)
    monkeypatch.setattr("agent.adapters.store._PIECE_BYTES", 100)
    with closing(Store(tmp_path / "state")) as store:
        desk = Desk(tmp_path, store)
        desk.feed(range(20), range(1))
        (stream,) = desk.pipeline.streams.values()
        sizes = []
        for _ in range(2):
            desk.saver.begin()
            assert [desk.saver.advance() for _ in range(4)] == [True] * 4
            desk.feed(range(20, 250), range(1))
            assert stream.learnt
            desk.finish()
            sizes.append(len(repr(store.load("pump/0"))))
        assert sizes[1] > 1.5 * sizes[0]
        assert not stream.whole_due(0.0)
