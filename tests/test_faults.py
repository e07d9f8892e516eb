"""The fault suite in short form, and what it judges by; `make faults` is the long one, whose figures are documented."""

from __future__ import annotations

import random
import threading

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from tests.brokers import Peer, wait_until
from tests.faults.faults import FAULTS
from tests.faults.observer import Told, out_of_order
from tests.faults.plant import ODD_READINGS, Disturbance, persistent
from tests.faults.proxy import PUBACK, Packets, Proxy
from tests.faults.report import markdown
from tests.faults.trial import SETTINGS, Episode, Limits, Trial

SHORT = (
    "broker killed while readings wait",
    "agent killed before it acknowledges",
    "network half open",
    "broker killed, its database lost",
    "database locked",
)


@pytest.mark.usefixtures("mosquitto")  # which skips the test where there is none
def test_faults_lose_no_reading_and_no_alert_and_raise_none(tmp_path):
    trial = Trial(tmp_path / "trial", 7, limits=Limits(ready_s=60.0, snapshot_s=30.0))
    chosen = [one for one in FAULTS if one.name in SHORT]
    assert len(chosen) == len(SHORT)
    random.Random(7).shuffle(chosen)
    try:
        trial.begin()
        episodes = [trial.episode(fault) for fault in chosen]
    finally:
        trial.close()
    wrong = [f"{one.fault}: {line}" for one in episodes for line in one.wrong]
    assert not wrong, "\n".join(wrong)
    assert sum(one.alerts_expected for one in episodes) > 0
    assert all(one.published > 0 for one in episodes)


class Absent:
    """A client whose session the broker keeps while it is away."""

    def __init__(self, port):
        self.received = []
        self.client = persistent("absent", port)
        self.client.on_connect = lambda client, *_: client.subscribe("plant/#", 1)
        self.client.on_message = lambda _client, _data, message: self.received.append(message.payload)
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.loop_start()
        assert subscribed.wait(10)

    def leave(self):
        self.client.disconnect()
        self.client.loop_stop()


def test_what_waits_for_an_absent_client_outlasts_a_restart_of_the_broker_with_our_settings(make_mosquitto):
    broker = make_mosquitto(persistence=True, extra=SETTINGS.read_text().replace("persistence true\n", ""))
    Absent(broker.port).leave()
    peer = Peer(broker)
    sent = [b"%d" % number for number in range(1500)]  # Mosquitto's default is 1,000
    for payload in sent:
        peer._client.publish("plant/a", payload, 1)
    peer.publish("plant/a", b"last")
    peer.close()
    broker.restart()
    back = Absent(broker.port)
    wait_until(lambda: back.received[-1:] == [b"last"], 30)
    back.leave()
    assert back.received == [*sent, b"last"]


def told(event, name="x"):
    return Told(name, "pump/a", "anomaly", event, 0.0, "")


def test_the_order_of_first_tellings_counts_whatever_is_told_twice():
    good = [told("raised"), told("cleared"), told("raised"), told("cleared"), told("raised", "y")]
    assert out_of_order(good) == []
    assert len(out_of_order([told("cleared"), told("raised")])) == 2
    assert len(out_of_order([told("raised"), told("cleared"), told("updated")])) == 1


def test_a_disturbance_explains_alerts_of_its_stream_that_begin_in_it():
    one = Disturbance("a")
    one.times = [100.0 + i for i in range(ODD_READINGS)]
    assert one.over
    assert one.explains("pump/a", 100.0)
    assert not one.explains("pump/b", 100.0)
    assert not one.explains("pump/a", 99.0)
    assert not one.explains("pump/a", 120.0)
    assert one.explains("pump/a", 120.0, 33.0)


def test_packets_are_cut_wherever_the_pieces_end():
    long = b"\x30\x80\x01" + bytes(128)
    stream = b"\xc0\x00" + long + b"\xd0\x00"
    packets = Packets()
    assert [one for at in range(len(stream)) for one in packets.feed(stream[at : at + 1])] == [
        b"\xc0\x00",
        long,
        b"\xd0\x00",
    ]


def test_the_proxy_knows_what_was_acknowledged_and_what_was_only_delivered(mosquitto):
    proxy, received = Proxy(mosquitto.port), []
    client = Client(CallbackAPIVersion.VERSION2, "slow", manual_ack=True)
    client.on_message = lambda _client, _data, message: received.append(message)
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect("localhost", proxy.port)
    client.subscribe([("plant/a", 1), ("plant/b", 0)])
    client.loop_start()
    assert subscribed.wait(10)
    peer = Peer(mosquitto)
    try:
        for topic, payload in (
            ("plant/a", b"first"),
            ("plant/b", b"of QoS 0"),
            ("plant/a", bytes(200)),
            ("plant/a", b"last"),
        ):
            peer.publish(topic, payload)
        wait_until(lambda: len(received) == 4, 10)
        first, _, kept_back, _ = received
        client.ack(first.mid, 1)
        wait_until(lambda: len(proxy.acknowledged) == 1, 10)
        proxy.keep_back = lambda packet: packet[0] >> 4 == PUBACK
        client.ack(kept_back.mid, 1)
        wait_until(lambda: proxy.sent[PUBACK] == 2, 10)
    finally:
        client.loop_stop()
        peer.close()
        proxy.close()
    assert [packet.endswith(b"first") for packet in proxy.acknowledged] == [True]
    assert len(proxy.delivered) == 4


def test_the_table_sums_each_fault_and_all():
    table = markdown([Episode("b", published=2, lost=1, ready_s=3.0), Episode("a", published=1000, ready_s=1.0)])
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[0][:4] == ["fault", "times", "published", "lost"]
    assert rows[2][:4] == ["a", "1", "1,000", "0"]
    assert rows[3][:4] == ["b", "1", "2", "1"]
    assert rows[4][:4] == ["**all**", "2", "1,002", "1"]
    assert rows[4][-1] == "3.0, 3.0"
