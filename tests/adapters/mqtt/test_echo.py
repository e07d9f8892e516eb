"""Deaf but up: a broker that keeps the connection, answers pings and delivers nothing; and what looks like it."""

import pytest

from agent.adapters.mqtt import Hearing
from tests.brokers import wait_until
from tests.faults.proxy import Proxy

BOTH = pytest.mark.parametrize("protocol", ["5", "3.1.1"])
ECHO = "redshank/pi/echo"


@pytest.fixture
def make_proxy():
    proxies = []

    def make(broker):
        proxies.append(Proxy(broker.port))
        return proxies[-1]

    yield make
    for proxy in proxies:
        proxy.close()


def hears(client, hearing=Hearing.PROVEN):
    wait_until(lambda: client.ears.hearing is hearing, what=f"to be {hearing}")


@BOTH
def test_a_broker_that_delivers_proves_it_even_under_a_wildcard_for_everything(mosquitto, make_client, protocol):
    client, listener = make_client(mosquitto.url, "#", protocol=protocol, echo_s=0.2)
    hears(client)
    seen = mosquitto.log.count(ECHO)
    wait_until(lambda: mosquitto.log.count(ECHO) >= seen + 10)
    assert (client.ears.hearing, listener.deaf, listener.messages) == (Hearing.PROVEN, 0, [])
    assert 0.0 < client.ears.round_trip_s < 10.0


def test_a_broker_that_keeps_the_connection_and_delivers_nothing_is_given_up_until_it_does(
    mosquitto, make_client, make_peer, make_proxy, caplog
):
    proxy = make_proxy(mosquitto)
    client, listener = make_client(proxy.url, "plant/#", echo_s=0.3)
    hears(client)
    proxy.deaf = True
    hears(client, Hearing.LOST)
    wait_until(lambda: client.ears.hopeless)  # it was not by connecting anew that it went away
    assert listener.deaf >= 3
    assert any("delivers nothing" in end for end in listener.ends)
    make_peer(mosquitto).publish("plant/a", b"1")
    proxy.deaf = False
    hears(client)
    wait_until(lambda: listener.payloads)
    assert not client.ears.hopeless
    assert "brings back what is sent again" in caplog.text


def test_messages_that_we_are_slow_to_acknowledge_are_no_deafness_of_the_brokers(mosquitto, make_client, make_peer):
    client, listener = make_client(mosquitto.url, "plant/#", echo_s=0.2, receive_maximum=5)
    hears(client)
    peer = make_peer(mosquitto)
    for number in range(20):
        peer.publish("plant/a", b"%d" % number)
    wait_until(lambda: len(listener.messages) == 5)
    sent = mosquitto.log.count("Received PUBLISH from redshank-pi (d0, q1, r0, m")
    wait_until(lambda: mosquitto.log.count("Received PUBLISH from redshank-pi (d0, q1, r0, m") >= sent + 5)
    assert (client.ears.hearing, listener.deaf) == (Hearing.PROVEN, 0)
    acknowledged = 0
    while acknowledged < 20:
        wait_until(lambda: len(listener.messages) > acknowledged)  # noqa: B023  called at once
        client.acknowledge(listener.messages[acknowledged])
        acknowledged += 1
    hears(client)


@pytest.mark.parametrize(
    ("protocol", "rules", "told"),
    [
        ("5", "topic readwrite plant/#\ntopic write redshank/pi/status", "the broker refused redshank/pi/echo"),
        ("5", "topic readwrite plant/#\ntopic write redshank/#", "no echo ever came back on redshank/pi/echo"),
        ("3.1.1", "topic readwrite plant/#\ntopic write redshank/pi/status", "no echo ever came back"),
    ],
)
def test_access_rules_that_forbid_the_echo_are_said_once_and_cost_few_connections(
    make_mosquitto, make_client, make_peer, caplog, protocol, rules, told
):
    broker = make_mosquitto(acl=rules + "\n")
    client, listener = make_client(broker.url, "plant/#", protocol=protocol, echo_s=0.1)
    wait_until(lambda: told in caplog.text)
    ends = len(listener.ends)
    pings = broker.log.count("PUBLISH from redshank-pi")
    if client.ears.hearing is not Hearing.REFUSED:
        wait_until(lambda: broker.log.count("PUBLISH from redshank-pi") >= pings + 10)
    make_peer(broker).publish("plant/a", b"1")
    wait_until(lambda: listener.payloads)
    assert len(listener.ends) == ends <= 2
    assert caplog.text.count(told) == 1


def test_after_a_reconnect_that_loses_a_subscription_everything_is_subscribed_again(
    make_mosquitto, make_client, make_peer
):
    """A broker that was killed goes back to the session that it had saved: present, but of yesterday."""
    broker = make_mosquitto(persistence=True)
    client, listener = make_client(broker.url, "plant/#")
    client.stop()
    broker.restart()  # saves the session as it is
    client, listener = make_client(broker.url, "plant/#", "home/#", known=listener.subscriptions[-1])
    wait_until(lambda: {"plant/#", "home/#"} <= set(listener.subscriptions[-1]))
    broker.kill()
    broker.start()
    wait_until(lambda: len(listener.sessions) == 2 and client.connected)
    assert listener.sessions[-1] is True
    peer = make_peer(broker)
    wait_until(lambda: (peer.publish("home/a", b"1"), listener.payloads)[1])
