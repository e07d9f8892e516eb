"""Several brokers: the order in which they are tried, and real ones that go and come back."""

from __future__ import annotations

import pytest

from agent.adapters.mqtt.broker import Endpoint
from agent.adapters.mqtt.fallback import MAX_RETURN_S, Brokers
from tests.brokers import wait_until

FIRST, SECOND, THIRD = (Endpoint(name, 1883, tls=False) for name in ("first", "second", "third"))
STATUS = "redshank/pi/status"


class Asked:
    """Answers whether an address is reachable, and counts how often it is asked."""

    def __init__(self):
        self.answer, self.times = False, 0

    def __call__(self, address):
        assert address == FIRST
        self.times += 1
        return self.answer


@pytest.fixture
def asked():
    return Asked()


@pytest.fixture
def brokers(asked):
    return Brokers([FIRST, SECOND, THIRD], asked, 60.0)


def look(brokers, now):
    """Look, and wait for the thread that asks."""
    brokers.look(now)
    if brokers._asking is not None:
        brokers._asking.join()
    return brokers.look(now)


def fail(brokers, times=1):
    for _ in range(times):
        brokers.ended(lasted=False, stay=False)


def test_after_a_failure_the_next_is_tried_and_after_the_last_the_first(brokers):
    tried = []
    for _ in range(4):
        tried.append(brokers.current)
        fail(brokers)
    assert tried == [FIRST, SECOND, THIRD, FIRST]


def test_a_connection_that_lasted_and_was_lost_begins_with_the_first_again(brokers):
    fail(brokers, 2)
    brokers.ended(lasted=True, stay=False)
    assert brokers.current == FIRST


def test_a_rival_for_our_id_sends_us_to_no_other_broker(brokers):
    fail(brokers)
    brokers.ended(lasted=False, stay=True)
    assert brokers.current == SECOND


def test_one_broker_alone_is_tried_again(asked):
    alone = Brokers([FIRST], asked, 60.0)
    fail(alone)
    assert alone.current == FIRST
    assert not look(alone, 1e9)
    assert asked.times == 0


def test_while_another_serves_us_the_first_is_asked_for_now_and_then(brokers, asked):
    fail(brokers)
    assert not look(brokers, 1000.0)
    assert not look(brokers, 1059.0)
    assert asked.times == 0
    assert not look(brokers, 1060.0)
    assert not look(brokers, 1061.0)
    assert asked.times == 1
    asked.answer = True
    assert look(brokers, 1120.0)
    assert brokers.returning
    brokers.ended(lasted=True, stay=False)
    assert (brokers.current, brokers.returning) == (FIRST, False)


def test_returns_that_fail_are_tried_at_growing_pauses_until_one_holds(brokers, asked):
    asked.answer = True
    now, pauses = 0.0, []
    fail(brokers)
    for _ in range(8):
        brokers.look(now)
        pause = next(seconds for seconds in range(1, 4000) if look(brokers, now + seconds))
        now += pause
        pauses.append(pause)
        brokers.ended(lasted=True, stay=False)  # left, for the first
        fail(brokers)  # which took the connection, and nothing more
        assert brokers.current == SECOND
    assert pauses == [60, 120, 240, 480, 960, 1920, MAX_RETURN_S, MAX_RETURN_S]
    look(brokers, now)
    assert look(brokers, now + MAX_RETURN_S)
    brokers.ended(lasted=True, stay=False)
    brokers.ended(lasted=True, stay=False)  # the first served us for a while
    fail(brokers)
    look(brokers, now)
    assert look(brokers, now + 60.0)


def test_the_second_serves_while_the_first_is_away_and_is_left_in_order(make_mosquitto, make_client, make_peer):
    first, second = make_mosquitto(), make_mosquitto()
    client, listener = make_client(first.url, "a/#", fallback=(second.url,), return_after_s=0.3)
    assert not client.fallen_back
    first.kill()
    wait_until(lambda: client.fallen_back, 20)
    assert str(client.address) == second.url
    peer = make_peer(second, STATUS, "out")
    wait_until(lambda: set(listener.subscriptions[-1]) == {"a/#"})
    peer.publish("a/b", b"at the second")
    wait_until(lambda: listener.payloads == [b"at the second"])
    assert client.publish("out", b"x", token=7)
    wait_until(lambda: listener.published == [7] and peer.payloads("out") == [b"x"])
    first.start()
    wait_until(lambda: client.connected and not client.fallen_back, 20)
    wait_until(lambda: peer.payloads(STATUS) == [b"online", b"offline"])
    again = make_peer(first, STATUS)
    wait_until(lambda: again.payloads(STATUS) == [b"online"])
    wait_until(lambda: set(listener.subscriptions[-1]) == {"a/#"})
    again.publish("a/b", b"at the first")
    wait_until(lambda: listener.payloads[-1] == b"at the first")


def test_bad_credentials_are_final_only_if_every_broker_refuses(make_mosquitto, make_client, tmp_path):
    (tmp_path / "word").write_text("wrong\n")
    (tmp_path / "word").chmod(0o600)
    refusing = [make_mosquitto(users={"pi": "secret"}) for _ in range(2)]
    options = {"ready": False, "username": "pi", "password_file": str(tmp_path / "word")}
    client, listener = make_client(refusing[0].url, fallback=(make_mosquitto().url,), **options)
    wait_until(lambda: client.fallen_back)
    assert listener.refusals == []
    _, listener = make_client(refusing[0].url, fallback=(refusing[1].url,), **options)
    wait_until(lambda: len(listener.refusals) == 1)
