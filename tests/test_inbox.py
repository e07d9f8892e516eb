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
