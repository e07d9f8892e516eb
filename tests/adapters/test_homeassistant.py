from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.homeassistant import (
    MAX_NAME_BYTES,
    AgentDescription,
    Announcements,
    HomeAssistantSettings,
    StreamDescription,
)
from agent.adapters.mqtt.topics import Topics
from agent.commands import AnyOrder, Snooze
from agent.routing import stream_name
from agent.settings_builder import parse_duration
from tests.homes import entities, problems

TOPICS = Topics("redshank", "pi")


def announcements(topics=TOPICS, *, commands=True, **settings):
    agent = AgentDescription(
        id=topics.agent_id,
        version="1.2.3",
        root=topics.root,
        status_topic=topics.status,
        state_topic=topics.agent_state,
        reply_topic=topics.reply,
        command_topic=topics.command if commands else None,
    )
    return Announcements(HomeAssistantSettings(**settings), agent)


def described(name, topics=TOPICS, *, pictures=False):
    heatmap = topics.heatmap(name) if pictures else None
    return StreamDescription(name, "sensor-small", topics.state(name), heatmap)


def components(payload):
    return json.loads(payload)["cmps"]


@pytest.mark.parametrize("commands", [True, False])
@pytest.mark.parametrize("pictures", [True, False])
def test_home_assistant_takes_what_is_announced(commands, pictures):
    made = announcements(commands=commands, prefix="home/assistant")
    for device, payload in (
        (made.agent_device, made.of_agent()),
        (made.device("pump/a"), made.of_stream(described("pump/a", pictures=pictures))),
    ):
        topic = made.topic(device)
        assert topic.startswith(made.own_prefix)
        assert problems(topic, payload, "home/assistant") == []


def test_a_stream_is_a_device_below_the_agent_with_its_entities():
    made = announcements()
    payload = json.loads(made.of_stream(described("gate/yard", pictures=True)))
    assert payload["dev"]["via_device"] == made.agent_device
    assert payload["dev"]["ids"] == [made.device("gate/yard")]
    assert payload["dev"]["name"] == "gate/yard"
    assert payload["o"] == {"name": "redshank", "sw": "1.2.3"}
    assert payload["availability_topic"] == "redshank/pi/status"
    assert payload["cmps"]["heatmap"]["image_topic"] == "redshank/pi/gate/yard/heatmap"
    assert payload["cmps"].keys() == {
        "problem", "message", "score", "phase", "learning_left", "heatmap", "accept", "confirm", "relearn", "snooze"
    }  # fmt: skip


def test_the_buttons_and_the_switch_send_commands_that_are_understood():
    found = components(announcements(snooze_s=7200.0).of_stream(described("pump/line 1")))
    sent = [one[key] for one in found.values() for key in ("payload_press", "payload_on", "payload_off") if key in one]
    orders = [msgspec.json.decode(one, type=AnyOrder) for one in sent]
    assert [type(one).__struct_config__.tag for one in orders] == ["accept", "confirm", "relearn", "snooze", "snooze"]
    assert {one.stream for one in orders} == {"pump/line 1"}
    assert [parse_duration(one.duration) for one in orders if isinstance(one, Snooze)] == [7200.0, 0.0]
    assert {one["command_topic"] for one in found.values() if "command_topic" in one} == {"redshank/pi/command"}


def test_what_does_not_apply_is_announced_by_its_platform_alone_so_that_it_goes():
    made = announcements(commands=False)
    found = components(made.of_stream(described("pump/a")))
    assert {key: one for key, one in found.items() if len(one) == 1} == {
        "heatmap": {"p": "image"},
        "accept": {"p": "button"},
        "confirm": {"p": "button"},
        "relearn": {"p": "button"},
        "snooze": {"p": "switch"},
    }
    assert components(made.of_agent())["answer"] == {"p": "sensor"}


@pytest.mark.parametrize(
    ("told", "troubles"),
    [
        ({}, []),
        ({"troubles": ["client_id", "clock"]}, ["client_id", "clock"]),
        ({"hearing": "lost"}, ["deaf"]),
        ({"hearing": "lost", "stuck": True, "troubles": ["state_directory"]}, ["state_directory", "deaf", "stuck"]),
        ({"hearing": "refused"}, []),
    ],
)
def test_what_is_wrong_around_the_agent_is_a_problem_of_its_device(told, troubles):
    made = announcements()
    state = {"hearing": "proven", "stuck": False, "troubles": [], **told}
    received = [
        (made.topic(made.agent_device), made.of_agent(), True),
        (TOPICS.status, b"online", True),
        (TOPICS.agent_state, json.dumps(state).encode(), True),
    ]
    problem = entities(received)["binary_sensor.redshank_pi_problem"]
    assert problem.state == ("on" if troubles else "off")
    assert problem.attributes == {"troubles": troubles}
    assert (problem.config["device_class"], problem.config["entity_category"]) == ("problem", "diagnostic")


names = st.lists(st.text(st.characters(exclude_categories=("Cs", "Cn")), max_size=300), min_size=1, max_size=4)


@given(names, names)
def test_whatever_streams_are_called_ids_are_allowed_and_their_own(one, other):
    made = announcements()
    first, second = (stream_name(parts[0], parts[1:]) for parts in (one, other))
    if len(first.encode()) <= MAX_NAME_BYTES:
        payload = made.of_stream(described(first, pictures=True))
        assert problems(made.topic(made.device(first)), payload) == []
        assert len(payload) < 40_000
    assert (made.device(first) == made.device(second)) is (first == second)
    assert len(made.device(first)) < 160


@pytest.mark.parametrize(("one", "other"), [("a/b", "a_b"), ("a-b", "a b"), ("ä", "ö"), ("x" * 50, "x" * 51)])
def test_what_looks_alike_in_an_id_is_kept_apart(one, other):
    made = announcements()
    assert made.device(one) != made.device(other)
    agents = [announcements(Topics("redshank", agent)) for agent in (one, other)]
    assert agents[0].agent_device != agents[1].agent_device
    assert announcements(Topics("other", "pi")).agent_device != made.agent_device


def test_ids_stay_the_same_for_ever():  # else every owner's names, rooms and automations are lost
    made = announcements()
    assert made.agent_device == "redshank_pi_bc94176954e4"
    assert made.device("pump/a") == "redshank_pi_bc94176954e4_pump_a_16bd768aa292"


SPOILT = {
    "no identifiers": lambda one: one["dev"].update(ids=[]),
    "a key that is unknown": lambda one: one["dev"].update(colour="red"),
    "no origin": lambda one: one.pop("o"),
    "no platform": lambda one: one["cmps"]["score"].pop("p"),
    "another platform": lambda one: one["cmps"]["score"].update(p="siren-song"),
    "no unique id": lambda one: one["cmps"]["score"].pop("unique_id"),
    "a unique id twice": lambda one: one["cmps"]["score"].update(unique_id=one["cmps"]["phase"]["unique_id"]),
    "no state topic": lambda one: one.pop("state_topic"),
    "a wildcard": lambda one: one["cmps"]["accept"].update(command_topic="redshank/+/command"),
    "an option that is no enum's": lambda one: one["cmps"]["score"].update(options=["a"]),
    "a unit of something else": lambda one: one["cmps"]["learning_left"].update(unit_of_measurement="kg"),
    "a class of something else": lambda one: one["cmps"]["problem"].update(device_class="duration"),
    "a sensor to be configured": lambda one: one["cmps"]["score"].update(entity_category="config"),
    "no picture": lambda one: one["cmps"]["heatmap"].pop("image_topic"),
    "a quality of service": lambda one: one["cmps"]["score"].update(qos=3),
    "a state class": lambda one: one["cmps"]["score"].update(state_class="rising"),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
def test_the_validator_sees_what_home_assistant_would_refuse(spoil):
    made = announcements()
    payload = json.loads(made.of_stream(described("gate/yard", pictures=True)))
    spoil(payload)
    assert problems(made.topic(made.device("gate/yard")), json.dumps(payload).encode()) != []


def test_the_validator_sees_a_topic_that_home_assistant_would_not_look_at():
    made = announcements()
    assert problems("homeassistant/device/pump/a b/config", made.of_agent()) != []
    assert problems("homeassistant/sensor/pump/config", made.of_agent()) != []
