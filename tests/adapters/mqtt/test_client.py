"""The MQTT client against a real Mosquitto: birth and will, sessions, acknowledgements, publishing, commands."""

import signal
import subprocess
import sys

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.adapters.mqtt import BrokerSettings, MqttClient
from tests.adapters.mqtt.listener import Listener
from tests.brokers import wait_until

STATUS = "redshank/pi/status"
BOTH = pytest.mark.parametrize("protocol", ["5", "3.1.1"])


@BOTH
def test_birth_is_retained_and_a_clean_stop_says_offline(mosquitto, make_client, make_peer, protocol):
    client, listener = make_client(mosquitto.url, protocol=protocol)
    peer = make_peer(mosquitto, STATUS)
    wait_until(lambda: peer.received == [(STATUS, b"online", True)])
    client.stop()
    client.stop()
    assert not client.connected
    assert listener.ends == ["stopped"]
    wait_until(lambda: peer.payloads(STATUS)[1:] == [b"offline"])


def test_offline_comes_after_everything_that_was_handed_over_before_the_stop(mosquitto, make_client, make_peer):
    peer = make_peer(mosquitto, "redshank/pi/#")
    client, listener = make_client(mosquitto.url)
    wait_until(lambda: peer.payloads(STATUS) == [b"online"])
    for number in range(200):
        assert client.publish("redshank/pi/pump/alert", b"%d" % number, token=number)
    client.stop()
    assert listener.published == list(range(200))
    wait_until(lambda: peer.received[-1][1] == b"offline")
    assert [payload for _, payload, _ in peer.received][1:-1] == [b"%d" % number for number in range(200)]
    assert peer.received[-1][:2] == (STATUS, b"offline")


@BOTH
def test_a_silent_client_listens_and_leaves_no_trace(mosquitto, make_client, make_peer, protocol):
    peer = make_peer(mosquitto, "redshank/#")
    peer.publish("plant/kept", b"k", retain=True)
    client, listener = make_client(mosquitto.url, "#", qos=0, protocol=protocol, silent=True)
    peer.publish("plant/a", b"x")
    wait_until(lambda: len(listener.messages) == 2)
    assert {(one.topic, one.retained) for one in listener.messages} == {("plant/kept", True), ("plant/a", False)}
    assert not client.publish("redshank/pi/pump/alert", b"x")
    client.stop()
    assert listener.ends == ["stopped"]
    _, again = make_client(mosquitto.url, protocol=protocol, silent=True)
    assert again.sessions == [False]
    assert "Will message specified" not in mosquitto.log
    peer.publish("redshank/last", b"")
    wait_until(lambda: peer.received)
    assert [topic for topic, *_ in peer.received] == ["redshank/last"]


def test_a_killed_agent_is_declared_offline_by_its_will(mosquitto, make_peer):
    program = (
        "import sys, threading\n"
        "from agent.adapters.mqtt import *\n"
        "client = MqttClient(BrokerSettings(url=sys.argv[1]), agent_id='pi', subscriptions=[], events=MqttEvents())\n"
        "client.start()\n"
        "threading.Event().wait()\n"
    )
    peer = make_peer(mosquitto, STATUS)
    with subprocess.Popen([sys.executable, "-c", program, mosquitto.url]) as process:
        wait_until(lambda: peer.payloads(STATUS) == [b"online"])
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: peer.payloads(STATUS) == [b"online", b"offline"])


@BOTH
def test_messages_published_while_we_are_away_are_delivered(mosquitto, make_client, make_peer, protocol):
    client, listener = make_client(mosquitto.url, "plant/#", protocol=protocol)
    client.stop()
    peer = make_peer(mosquitto)
    for number in range(50):
        peer.publish("plant/a", b"%d" % number)
    client, again = make_client(mosquitto.url, "plant/#", protocol=protocol, known=listener.subscriptions[-1])
    for count in range(1, 51):  # Mosquitto sends MQTT 3.1.1 clients 20 before it waits
        wait_until(lambda count=count: len(again.messages) >= count)
        client.acknowledge(again.messages[count - 1])
    assert again.sessions == [True]
    assert again.payloads == [b"%d" % number for number in range(50)]


@BOTH
def test_a_kept_session_is_given_what_is_new_and_relieved_of_what_is_not_wanted(
    mosquitto, make_client, make_peer, protocol
):
    client, listener = make_client(mosquitto.url, "old/#", "kept/#", protocol=protocol)
    client.stop()
    known = listener.subscriptions[-1]
    client, again = make_client(mosquitto.url, "kept/#", "new/#", protocol=protocol, known=known)
    wait_until(lambda: again.subscriptions[-1] == {"kept/#": 1, "new/#": 1})
    peer = make_peer(mosquitto)
    for topic in ("old/a", "kept/a", "new/a"):
        peer.publish(topic, topic.encode())
    wait_until(lambda: again.payloads == [b"kept/a", b"new/a"])
    assert again.sessions == [True]


def test_more_than_twenty_messages_come_before_one_is_acknowledged(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#", receive_maximum=300)
    peer = make_peer(mosquitto)
    for number in range(301):
        peer.publish("plant/a", b"%d" % number)
    wait_until(lambda: len(listener.messages) == 300)
    client.acknowledge_many(listener.messages)
    wait_until(lambda: len(listener.messages) == 301)
    assert listener.payloads == [b"%d" % number for number in range(301)]


def test_nothing_is_read_while_the_listener_is_full_and_all_of_it_later(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#", receive_maximum=10)
    peer = make_peer(mosquitto, "redshank/test")
    peer.publish("plant/a", b"0")
    wait_until(lambda: listener.payloads == [b"0"])
    listener.full = True
    client.acknowledge(listener.messages[0])
    client.publish("redshank/test", b"still here", qos=0)  # what leaves is not held back
    wait_until(lambda: peer.payloads("redshank/test") == [b"still here"])
    for number in range(1, 6):
        peer.publish("plant/a", b"%d" % number)
    client.publish("redshank/test", b"and still", qos=0)
    wait_until(lambda: peer.payloads("redshank/test")[1:] == [b"and still"])
    assert listener.payloads == [b"0"]
    listener.full = False
    wait_until(lambda: listener.payloads == [b"%d" % number for number in range(6)])


def test_unacknowledged_messages_come_again_and_acknowledged_ones_do_not(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#")
    peer = make_peer(mosquitto)
    for payload in (b"a", b"b", b"c"):
        peer.publish("plant/a", payload)
    wait_until(lambda: len(listener.messages) == 3)
    client.acknowledge(listener.messages[0])
    client.stop()
    client, again = make_client(mosquitto.url, "plant/#", known={"plant/#": 1})
    wait_until(lambda: again.payloads == [b"b", b"c"])


def test_an_acknowledgement_from_before_a_reconnect_acknowledges_nothing(make_mosquitto, make_client, make_peer):
    broker = make_mosquitto()
    client, listener = make_client(broker.url, "plant/#")
    make_peer(broker).publish("plant/a", b"old")
    wait_until(lambda: listener.payloads == [b"old"])
    broker.kill()
    broker.start()
    wait_until(lambda: listener.sessions == [False, False])
    wait_until(lambda: listener.subscriptions[-1] == {"plant/#": 1})
    make_peer(broker).publish("plant/a", b"new")
    wait_until(lambda: listener.payloads == [b"old", b"new"])
    old, new = listener.messages
    assert old.message_id == new.message_id
    client.acknowledge(old)
    client.stop()
    client, again = make_client(broker.url, "plant/#", known={"plant/#": 1})
    wait_until(lambda: again.payloads == [b"new"])  # still owed: nobody has processed it
    client.acknowledge_many(again.messages)
    client.stop()
    _, last = make_client(broker.url, "plant/#", known={"plant/#": 1})
    assert last.sessions == [True]
    make_peer(broker).publish("plant/a", b"next")
    wait_until(lambda: last.payloads == [b"next"])


def test_an_acknowledgement_of_what_another_client_received_acknowledges_nothing(
    make_mosquitto, make_client, make_peer
):
    brokers = [make_mosquitto(), make_mosquitto()]
    received = []
    for broker in brokers:
        client, listener = make_client(broker.url, "plant/#")
        make_peer(broker).publish("plant/a", b"x")
        wait_until(lambda listener=listener: listener.payloads == [b"x"])
        received += listener.messages
    assert received[0].message_id == received[1].message_id
    client.acknowledge(received[0])
    client.stop()
    _, again = make_client(brokers[1].url, "plant/#", known={"plant/#": 1})
    wait_until(lambda: again.payloads == [b"x"])  # still owed


def test_a_patient_client_is_not_refused_for_good(make_mosquitto, tmp_path):
    broker, listener, secret = make_mosquitto(users={"pi": "right"}), Listener(), tmp_path / "password"
    secret.write_text("wrong")
    secret.chmod(0o600)
    settings = BrokerSettings(url=broker.url, username="pi", password_file=str(secret))
    client = MqttClient(settings, agent_id="pi", subscriptions=[], events=listener, patient=True)
    client.start()
    wait_until(lambda: "not authorised" in broker.log)
    secret.write_text("right")
    wait_until(lambda: client.connected, 20)
    client.stop()


def test_arrival_is_told_by_both_clocks(mosquitto, make_client, make_peer):
    _, listener = make_client(mosquitto.url, "plant/#", qos=0)
    peer = make_peer(mosquitto)
    peer.publish("plant/a", b"1", qos=0)
    peer.publish("plant/a", b"2", qos=0)
    wait_until(lambda: len(listener.messages) == 2)
    first, second = listener.messages
    assert first.elapsed_s < second.elapsed_s
    assert second.received_at - first.received_at == pytest.approx(second.elapsed_s - first.elapsed_s, abs=0.05)
    assert (first.qos, first.retained, first.message_id) == (0, False, 0)


@BOTH
def test_a_wildcard_for_everything_leaves_our_own_topics_out(mosquitto, make_client, make_peer, protocol):
    client, listener = make_client(mosquitto.url, "#", protocol=protocol)
    peer = make_peer(mosquitto, STATUS)
    assert client.publish("redshank/pi/pump/state", b"{}", retain=True, token="state")
    wait_until(lambda: listener.published == ["state"])
    for topic in ("redshank/pi/pump/alert", "redshank/pi/command", "redshank/pi2/status", "redshank/pi", "plant"):
        peer.publish(topic, b"x")
    wait_until(lambda: len(listener.messages) == 3)
    assert [message.topic for message in listener.messages] == ["redshank/pi2/status", "redshank/pi", "plant"]
    assert listener.commands == []
    client.acknowledge_many(listener.messages)
    client.stop()
    make_client(mosquitto.url, "#", protocol=protocol, known={"#": 1}, listener=listener)
    peer.publish("last", b"x")
    wait_until(lambda: listener.messages[-1].topic == "last")
    assert len(listener.messages) == 4  # the ignored ones were acknowledged


@BOTH
def test_commands_have_their_own_way_in(mosquitto, make_client, make_peer, protocol):
    client, listener = make_client(mosquitto.url, "plant/#", protocol=protocol, commands=True)
    peer = make_peer(mosquitto)
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = b"\x00\xff"
    peer.publish_with("redshank/pi/command", b"{}", properties)
    peer.publish("redshank/pi/command", b"plain")
    wait_until(lambda: len(listener.commands) == 2)
    first, second = listener.commands
    expected = ("answers/here", b"\x00\xff") if protocol == "5" else (None, None)
    assert (first.response_topic, first.correlation_data) == expected
    assert (second.message.payload, second.response_topic) == (b"plain", None)
    client.acknowledge_many([command.message for command in listener.commands])
    assert listener.messages == []


def test_commands_come_in_their_place_among_the_messages(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#", commands=True)
    order = []
    listener.on_messages = lambda messages: order.extend(one.payload for one in messages)
    listener.on_command = lambda command: order.append(command.message.payload)
    peer = make_peer(mosquitto)
    sent = [b"%d" % i for i in range(300)]
    for i, payload in enumerate(sent):
        topic = "redshank/pi/command" if i % 7 in (3, 4) else "plant/a"
        peer._client.publish(topic, payload, 1)
    wait_until(lambda: len(order) == len(sent))
    assert order == sent
    assert client.connected


def test_a_command_meant_to_be_retained_is_marked_so_when_it_comes_at_once(mosquitto, make_client, make_peer):
    _, listener = make_client(mosquitto.url, "plant/#", commands=True)
    peer = make_peer(mosquitto)
    peer.publish("redshank/pi/command", b"{}", retain=True)
    peer.publish("plant/a", b"1", retain=True)
    wait_until(lambda: listener.commands and listener.messages)
    assert listener.commands[0].message.retained
    assert not listener.messages[0].retained


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_notices_come_beside_the_data_and_what_we_announced_not_at_all(mosquitto, make_client, make_peer, protocol):
    peer = make_peer(mosquitto)
    peer.publish("home/status", b"online", retain=True)
    _, listener = make_client(
        mosquitto.url, "#", noticed=("home/status",), own_prefixes=("home/device/redshank_pi",), protocol=protocol,
        receive_maximum=5,
    )  # fmt: skip
    wait_until(lambda: listener.notices)
    assert {one.retained for one in listener.notices} == {True}
    for _ in range(20):  # more than the broker sends before one is acknowledged
        peer.publish("home/status", b"online")
    peer.publish("home/device/redshank_pi_1/config", b"{}")
    peer.publish("home/device/other/config", b"{}")
    wait_until(lambda: sum(not one.retained for one in listener.notices) >= 20)
    wait_until(lambda: listener.messages)
    assert [message.topic for message in listener.messages] == ["home/device/other/config"]


def test_publishing_while_disconnected_is_left_to_the_caller(make_mosquitto, make_client):
    broker = make_mosquitto()
    client, listener = make_client(broker.url)
    broker.kill()
    wait_until(lambda: listener.ends)
    assert client.publish("a", b"x", token=1) is False
    broker.start()
    wait_until(lambda: client.connected)
    assert client.publish("a", b"x", token=2) is True
    wait_until(lambda: listener.published == [2])


def test_what_was_taken_over_survives_a_reconnect_once_and_in_order(make_mosquitto, make_client, make_peer):
    broker = make_mosquitto(persistence=True)
    client, listener = make_client(broker.url)
    taken = []
    for number in range(2000):
        if number == 300:
            broker.kill()
        if client.publish("alerts", b"%d" % number, token=number):
            taken.append(number)
    wait_until(lambda: listener.ends)
    broker.start()
    peer = make_peer(broker, "alerts")
    wait_until(lambda: len(listener.published) == len(taken))
    assert listener.published == taken
    assert 20 < len(taken) < 2000
    wait_until(lambda: peer.received and peer.received[-1][1] == b"%d" % taken[-1])
    arrived = [int(payload) for payload in peer.payloads("alerts")]
    assert arrived == sorted(set(arrived))  # at least once; here the broker had lost what it had acknowledged


@BOTH
@pytest.mark.parametrize("size", [0, 100, 5_000, 300_000])  # the length takes one byte, two, three
def test_what_needs_no_acknowledgement_arrives_as_it_is(mosquitto, make_client, make_peer, protocol, size):
    peer = make_peer(mosquitto, "hall/ä")
    client, _ = make_client(mosquitto.url, protocol=protocol)
    assert client.publish("hall/ä", bytes(size), qos=0, retain=size == 100)
    wait_until(lambda: peer.received)
    assert peer.received == [("hall/ä", bytes(size), size == 100)]


def test_a_publication_that_the_broker_refuses_is_reported_in_words(make_mosquitto, make_client, tmp_path):
    (tmp_path / "word").write_text("secret\n")
    (tmp_path / "word").chmod(0o600)
    broker = make_mosquitto(users={"pi": "secret"}, acl="user pi\ntopic readwrite redshank/#\n")
    client, listener = make_client(broker.url, username="pi", password_file=str(tmp_path / "word"))
    client.publish("elsewhere", b"x", token=7)
    client.publish("redshank/pi/pump/alert", b"x", token=8)
    wait_until(lambda: listener.published == [8])
    assert listener.unpublished == [(7, "Not authorized")]


def test_a_publication_without_a_token_is_nobodys_business(mosquitto, make_client, make_peer):
    peer = make_peer(mosquitto, "a", "b")
    client, listener = make_client(mosquitto.url)
    client.publish("a", b"x")
    client.publish("b", b"x", qos=0)
    wait_until(lambda: len(peer.received) == 2)
    assert listener.published == []


@pytest.mark.parametrize(("topic", "qos"), [("", 1), ("a/+", 1), ("#", 0), ("a", 2)])
def test_impossible_publications_are_errors(mosquitto, make_client, topic, qos):
    client, _ = make_client(mosquitto.url)
    with pytest.raises(ValueError, match="cannot publish"):
        client.publish(topic, b"", qos=qos)


def test_qos_2_subscriptions_are_errors():
    with pytest.raises(ValueError, match="QoS 2"):
        MqttClient(BrokerSettings(), agent_id="pi", subscriptions=[("a", 2)], events=Listener())


def test_a_message_above_the_size_limit_is_dropped_for_good(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#", max_message_size=100_000)
    peer = make_peer(mosquitto)
    peer.publish("plant/big", b"x" * 300_000)
    peer.publish("plant/large", b"y" * 90_000)
    wait_until(lambda: len(listener.messages) == 1)
    assert listener.payloads == [b"y" * 90_000]
    assert listener.oversized == [("plant/big", 300_000 + 2 + len("plant/big") + 2 + 1)]
    client.acknowledge_many(listener.messages)
    client.stop()
    _, again = make_client(mosquitto.url, "plant/#", known={"plant/#": 1})
    peer.publish("plant/a", b"next")
    wait_until(lambda: again.payloads == [b"next"])


def test_a_client_that_was_never_started_can_be_stopped():
    client = MqttClient(BrokerSettings(), agent_id="pi", subscriptions=[], events=Listener())
    client.stop()
    client.stop()


def test_a_stop_while_nothing_listens_is_quick(make_client):
    client, listener = make_client("mqtt://127.0.0.1:9", ready=False)
    client.stop(2)
    assert listener.ends == []


def test_a_listener_that_fails_costs_a_connection_not_the_client(mosquitto, make_client, make_peer, caplog):
    class Faulty(Listener):
        def on_messages(self, messages):
            super().on_messages(messages)
            if len(self.messages) == 1:
                raise KeyError("a bug")

    client, listener = make_client(mosquitto.url, "plant/#", listener=Faulty())
    make_peer(mosquitto).publish("plant/a", b"x")
    wait_until(lambda: listener.payloads == [b"x", b"x"])
    assert "a bug in this program" in caplog.text
    assert client.connected


@BOTH
def test_two_clients_of_one_id_yield_and_the_one_that_stays_is_calm_again(
    mosquitto, make_client, caplog, monkeypatch, protocol
):
    """The two are one program here; each would tell its operator."""
    first, _ = make_client(mosquitto.url, "a", protocol=protocol)
    assert not first.contested
    second, _ = make_client(mosquitto.url, "a", ready=False, protocol=protocol)
    wait_until(lambda: first.contested or second.contested, 60)
    wait_until(lambda: "another client seems to use the client id 'redshank-pi'" in caplog.text)
    second.stop()
    monkeypatch.setattr("agent.adapters.mqtt.rivalry.CALM_S", 0.7)
    wait_until(lambda: first.connected and not first.contested, 30)


@BOTH
def test_a_shared_subscription_gives_each_message_to_one_of_the_group(mosquitto, make_client, make_peer, protocol):
    topic = "$share/agents/plant/+"
    clients = [make_client(mosquitto.url, topic, client_id=name, protocol=protocol) for name in ("one", "other")]
    peer = make_peer(mosquitto)
    for number in range(20):
        peer.publish(f"plant/{number % 2}", b"%d" % number)
    listeners = [listener for _, listener in clients]
    wait_until(lambda: sum(len(listener.messages) for listener in listeners) == 20)
    assert sorted(int(payload) for listener in listeners for payload in listener.payloads) == list(range(20))
    assert {message.topic for listener in listeners for message in listener.messages} == {"plant/0", "plant/1"}
