from __future__ import annotations

import logging

import msgspec
import pytest

from agent.adapters.telemetry import Telemetry
from agent.config import load_configuration
from agent.inbox import Backlog, Inbox
from agent.ports import InboundMessage


@pytest.fixture
def make(tmp_path):
    def make(agent="", broker=""):
        path = tmp_path / "redshank.yaml"
        path.write_text(
            f"""
agent: {{id: pi{agent}}}
broker: {{url: "mqtt://localhost"{broker}}}
streams:
  - {{name: gate, topic: "cameras/+", kind: image}}
  - {{name: pump, topic: "plant/+", encoder: none}}
"""
        )
        telemetry = Telemetry(1, 256_000_000)
        inbox = Inbox(load_configuration(path), telemetry)
        return inbox, telemetry

    return make


def message(number, qos, size=100, topic="plant/a"):
    return InboundMessage(topic, bytes(size), 0.0, 0.0, qos, message_id=number, connection=1)


class Open:
    """Lets every message pass."""

    def line_of(self, topic):
        return topic

    def must_wait(self, message):
        del message
        return False


def take(inbox, most=10_000):
    return list(inbox.take(most, Open()))


def numbers(inbox):
    return [one.message_id for one in take(inbox)]


def test_large_messages_of_qos_0_are_dropped_the_oldest_first_before_they_are_many(make):
    inbox, telemetry = make(", max_payload: 100kB")  # 256 MB: what waits may take 8 MB
    inbox.put([message(number, 0, 99_750) for number in range(100)])
    assert numbers(inbox) == list(range(20, 100))
    assert telemetry.queue_dropped._value.get() == 20.0
    assert not inbox.full


def test_large_messages_of_qos_1_stop_the_reading_and_none_is_dropped(make):
    inbox, telemetry = make(", max_payload: 100kB")
    inbox.put([message(number, 1, 99_750) for number in range(81)])
    assert inbox.full
    inbox.put([message(81, 0, 10)])
    take(inbox, 2)
    assert not inbox.full
    assert numbers(inbox) == list(range(2, 82))
    assert telemetry.queue_dropped._value.get() == 0.0


def test_two_of_the_largest_payloads_always_have_room(make):
    inbox, _ = make(", max_payload: 100MB, memory_limit: 80MB")
    inbox.put([message(number, 1, 90_000_000) for number in range(2)])
    assert not inbox.full


def test_pictures_that_gave_way_take_no_room_and_what_is_sent_again_only_until_it_was_taken(make):
    inbox, _ = make(", max_payload: 1MB")
    for number in range(30):
        inbox.put([message(number, 1, 900_000, "cameras/a"), message(100 + number, 0, topic="plant/b")])
    assert not inbox.full
    inbox.connected(session_present=True)
    resent = msgspec.structs.replace(message(29, 1, 900_000, "cameras/a"), connection=2, again=True)
    inbox.put([resent])
    pictures = [one for number in range(29) for one in (number, 100 + number)]
    assert numbers(inbox) == [*pictures, 129, 29]
    assert inbox._bytes == inbox._acknowledgeable == 0


def again(number, connection, payload=b"N"):
    return InboundMessage("plant/a", payload, 0.0, 0.0, 1, message_id=number, connection=connection, again=True)


def test_what_waits_while_two_connections_come_is_taken_once(make):
    inbox, _ = make()
    inbox.put([msgspec.structs.replace(again(1, 1), again=False)])
    for connection in (2, 3):
        inbox.connected(session_present=True)
        inbox.put([again(1, connection)])
    assert [(one.connection, one.superseded) for one in take(inbox)] == [(3, False)]


def test_what_is_taken_before_it_comes_again_counts_once(make):
    inbox, _ = make()
    inbox.put([msgspec.structs.replace(again(1, 1), again=False)])
    inbox.connected(session_present=True)
    assert not take(inbox)[0].superseded
    inbox.put([again(1, 2)])
    assert [one.superseded for one in take(inbox)] == [True]
    inbox.connected(session_present=False)
    inbox.put([again(1, 3)])
    assert [one.superseded for one in take(inbox)] == [False]


def test_what_was_done_and_blocked_counts_once_though_a_connection_brings_only_a_part_of_it(make):
    inbox, _ = make()
    first = [msgspec.structs.replace(again(number, 1, bytes(1000 + number)), again=False) for number in range(3)]
    inbox.put(first)
    taken = take(inbox)
    assert inbox.done(taken[1:]) == []
    assert all(owed.done is None or not owed.done.payload for owed in inbox._owed.values())  # nobody needs it
    for connection, count in ((2, 1), (3, 3)):
        inbox.connected(session_present=True)
        inbox.put([again(number, connection, bytes(1000 + number)) for number in range(count)])
        assert [one.superseded for one in take(inbox)] == [True] * count


class Shut(Open):
    """Lets nothing of some topics pass."""

    def __init__(self, *topics):
        self.topics = topics

    def must_wait(self, message):
        return message.topic in self.topics


def test_of_what_is_held_back_all_of_qos_0_gives_way(make):
    inbox, telemetry = make(", max_payload: 1MB, memory_limit: 80MB")
    gate = Shut("plant/a", "plant/b")
    inbox.put([message(1, 1), message(2, 1), message(3, 0, 900_000, "plant/b")])
    assert list(inbox.take(10, gate)) == []
    inbox.put([message(10 + number, 1, 900_000) for number in range(30)])
    assert telemetry.registry.get_sample_value("redshank_queue_dropped_total") == 1
    assert [one.message_id for one in inbox.take_held(10, Open())] == [1, 2]


def test_a_picture_that_is_held_back_gives_way_to_none(make):
    inbox, _ = make()
    inbox.put([message(1, 1, topic="cameras/a")])
    assert list(inbox.take(10, Shut("cameras/a"))) == []  # it is of a sensor by now
    inbox.put([message(2, 1, topic="cameras/a")])
    assert [(one.message_id, one.superseded) for one in take(inbox)] == [(1, False), (2, False)]
    assert inbox._bytes == inbox._acknowledgeable == 0


def test_that_the_broker_has_to_keep_messages_back_is_counted_and_said_once_a_minute(make, caplog):
    inbox, telemetry = make(broker=", receive_maximum: 10")
    backlog = Backlog(inbox, telemetry)
    inbox.put([message(number, 1) for number in range(9)])
    for second in range(3):
        backlog.look(float(second))
    assert (telemetry.broker_held_back._value.get(), caplog.messages) == (0.0, [])
    inbox.put([message(9, 1)])
    for second in range(3, 60):
        backlog.look(float(second))
    assert telemetry.broker_held_back._value.get() == 57.0
    (said,) = caplog.messages
    assert said.startswith("messages come faster than they are processed: 10 wait here")
    taken = take(inbox, 1)
    backlog.look(60.0)
    assert telemetry.broker_held_back._value.get() == 58.0  # it was not acknowledged yet
    inbox.done(taken)
    backlog.look(61.0)
    assert telemetry.broker_held_back._value.get() == 58.0


def test_what_the_broker_has_dropped_since_we_connected_is_counted_and_said(make, caplog):
    caplog.set_level(logging.WARNING)
    inbox, telemetry = make()
    backlog = Backlog(inbox, telemetry)
    for payload in (b"5", b"5", b"12", b"rubbish", b"14"):
        backlog.told(payload)
    assert telemetry.broker_dropped._value.get() == 9.0
    assert caplog.messages == [f"the broker has dropped {n} messages, for this or another client" for n in (7, 2)]
    backlog.connected()
    backlog.told(b"3")
    assert telemetry.broker_dropped._value.get() == 9.0
