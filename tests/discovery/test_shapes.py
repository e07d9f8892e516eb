"""What is proposed for what known products publish."""

from __future__ import annotations

import pytest

from agent.config import read_configuration
from agent.discovery.estimate import Costs
from agent.discovery.heard import Heard
from agent.discovery.proposal import propose
from agent.discovery.rendering import render
from tests.discovery import shapes

COSTS = Costs(base_bytes=70_000_000, channel_bytes=160_000, picture_bytes=14_000_000, rows=633, pictures=300)
ROUNDS, EVERY_S = 40, 10.0


def proposed(*which, pictures=True):
    """Return proposal, text and configuration for what shapes publish."""
    heard = Heard()
    heard.take(shapes.messages(*which, rounds=ROUNDS, every_s=EVERY_S))
    proposal = propose(heard, ROUNDS * EVERY_S, own_prefix="redshank", pictures=pictures)
    text = render(proposal, heard, broker={"url": "mqtt://host"}, listened_s=ROUNDS * EVERY_S, costs=COSTS)
    return proposal, text, read_configuration("proposal.yaml", text.encode())


def settings(configuration):
    """Return what each entry says beside its name and topic."""
    keys = (
        "format",
        "channels",
        "ignore_channels",
        "counters",
        "time",
        "text_numbers",
        "columns",
        "delimiter",
        "compression",
    )
    found = {}
    for stream in configuration.streams:
        default = type(stream)(name="", topic="")
        said = {key: getattr(stream, key) for key in keys if hasattr(stream, key)}
        found[stream.topic] = {key: one for key, one in said.items() if one != getattr(default, key)}
        if stream.time is not None:
            found[stream.topic]["time"] = (stream.time.path, stream.time.unit.value)
    return found


def reasons(proposal):
    return {topic.topic: one.reason for one in proposal.left_out for topic in one.topics}


EXPECTED = {
    shapes.zigbee2mqtt: {
        "zigbee2mqtt/+": {"ignore_channels": ("last_seen", "update"), "counters": ("energy",)},
    },
    shapes.tasmota: {
        "tele/+/SENSOR": {"counters": ("ENERGY.Total", "ENERGY.Today")},
        "tele/+/STATE": {
            "channels": (
                "Heap", "Sleep", "LoadAvg", "MqttCount", "Wifi.AP", "Wifi.RSSI", "Wifi.Signal", "Wifi.LinkCount",
            ),
        },
    },
    shapes.esphome: {
        "+/sensor/humidity/state": {"format": "value"},
        "+/sensor/room_temperature/state": {"format": "value"},
        "+/sensor/wifi_signal/state": {"format": "value"},
    },
    shapes.shelly_gen1: {
        "shellies/+/overtemperature": {"format": "value"},
        "shellies/+/relay/0/energy": {"format": "value", "counters": ("value",)},
        "shellies/+/relay/0/power": {"format": "value"},
        "shellies/+/temperature": {"format": "value"},
        "shellies/+/temperature_f": {"format": "value"},
    },
    shapes.shelly_gen2: {
        "+/events/rpc": {"channels": ("params.switch:0.apower",), "time": ("params.ts", "s")},
        "+/status/switch:0": {
            "channels": (
                "output", "apower", "voltage", "current", "temperature.tC", "temperature.tF", "aenergy.total",
                "aenergy.by_minute.0", "aenergy.by_minute.1", "aenergy.by_minute.2",
            ),
            "counters": ("aenergy.total",),
        },
        "+/status/sys": {"channels": ("ram_free",)},
    },
    shapes.statestream: {"ha/sensor/+/state": {"format": "value"}, "ha/sun/sun/elevation": {"format": "value"}},
    shapes.plc: {
        "plant/+/press/parts_total": {"format": "value", "counters": ("value",)},
        "plant/+/press/+": {"format": "value"},
    },
    shapes.gateway: {
        "gw/logger/csv": {
            "format": "csv", "delimiter": ";", "columns": ("column1", "column2", "column3"),
            "channels": ("column2", "column3"), "time": ("column1", "s"),
        },
        "gw/pump/telemetry": {"channels": ("vibration.rms", "temp"), "text_numbers": "parse", "time": ("ts", "s")},
        "gw/msgpack": {"format": "msgpack", "channels": ("flow",), "time": ("at", "iso")},
        "gw/cbor": {"format": "cbor", "channels": ("flow",), "time": ("at", "iso")},
        "gw/gzip": {"compression": "gzip", "channels": ("flow",)},
        "gw/zstd": {"compression": "zstd", "format": "value"},
        "gw/table": {"format": "csv", "channels": ("flow", "level")},
    },
    shapes.camera: {"cameras/gate/jpeg": {}},
}  # fmt: skip
COMMANDS = "commands to devices"
CONNECTED = "whether something is connected: `silence` notices what no longer speaks"
DESCRIBED = "descriptions and configuration, not readings"
LEFT = {
    shapes.zigbee2mqtt: {
        "zigbee2mqtt/heater plug/set": COMMANDS,
        "zigbee2mqtt/kitchen/get": COMMANDS,
        "zigbee2mqtt/kitchen/availability": CONNECTED,
        "zigbee2mqtt/bridge/info": "how a bridge itself is configured and does",
        "homeassistant/sensor/0x00158d/temperature/config": DESCRIBED,
    },
    shapes.tasmota: {
        "cmnd/tasmota_9CF9D1/POWER": COMMANDS,
        "stat/tasmota_9CF9D1/STATUS8": "answers to commands",
        "tele/tasmota_9CF9D1/LWT": CONNECTED,
        "tasmota/discovery/tasmota_9CF9D1/config": DESCRIBED,
    },
    shapes.esphome: {
        "garage/switch/relay/command": COMMANDS,
        "garage/binary_sensor/motion/state": "text",
        "garage/sensor/uptime/state": "plain numbers without anything worth watching: counts the time",
        "garage/debug": "log lines",
    },
    shapes.shelly_gen1: {
        "shellies/shelly1pm-BA1936/relay/0/command": COMMANDS,
        "shellies/shelly1pm-BA1936/relay/0": "text",
        "shellies/shelly1pm-BA1936/online": CONNECTED,
        "shellies/announce": DESCRIBED,
    },
    shapes.shelly_gen2: {
        "shellyplus1pm-a8032ab1/rpc": COMMANDS,
        "shellyplus1pm-a8032ab1/online": CONNECTED,
    },
    shapes.statestream: {
        "ha/sensor/washer_program/state": "text",
        "ha/sensor/room_0_temperature/unit_of_measurement": "JSON without anything worth watching",
        "ha/sensor/room_0_temperature/last_updated": "JSON without anything worth watching: a time",
    },
    shapes.plc: {"plant/line1/press/order": "text"},
    shapes.gateway: {
        "gw/comma": "two numbers with a comma between them: a decimal comma, or two columns",
        "gw/blob": "bytes of no known format: bare numbers need `format: raw`",
    },
    shapes.camera: {},
}


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_each_product_gets_entries_that_check_accepts_and_reasons_for_the_rest(shape):
    proposal, _, configuration = proposed(shape)
    assert settings(configuration) == EXPECTED[shape]
    left = reasons(proposal)
    assert {topic: left.get(topic) for topic in LEFT[shape]} == LEFT[shape]


def test_many_products_on_one_broker_do_not_disturb_one_another():
    _, _, configuration = proposed(*shapes.SHAPES)
    together = {topic: said for shape in shapes.SHAPES for topic, said in EXPECTED[shape].items()}
    assert settings(configuration) == together


@pytest.mark.parametrize("shape", shapes.SHAPES)
def test_the_agent_reads_what_was_heard_with_what_is_proposed(shape):
    """Each topic of an entry is taken by that entry, and each payload with a number gives the fields that are shown."""
    from agent.adapters.payload import PayloadRejected, make_decoder  # noqa: PLC0415  only here
    from agent.topic_pattern import wildcard_parts  # noqa: PLC0415  only here

    proposal, _, configuration = proposed(shape)
    owner = {heard.topic: entry for entry in proposal.entries for heard in entry.topics}
    found: dict[str, set[str]] = {}
    for message in shapes.messages(shape, rounds=3):
        taker = next(
            (one for one in configuration.streams if wildcard_parts(one.topic, message.topic) is not None), None
        )
        entry = owner.get(message.topic)
        if entry is None:
            assert taker is None or message.topic in {"/".join(one) for e in proposal.entries for one in e.harmless}
            continue
        assert taker.name == entry.name
        if entry.pictures:
            continue
        try:
            samples = make_decoder(taker, 10**6)(message.payload, message.received_at)
        except PayloadRejected:
            continue
        found.setdefault(entry.name, set()).update(*(sample.values for sample in samples))
    shown = {one.name: {field.name for field in one.fields if field.role.watched} for one in proposal.entries}
    assert found == {name: fields for name, fields in shown.items() if fields}


def test_comments_say_what_the_numbers_are():
    _, text, _ = proposed(shapes.zigbee2mqtt)
    assert "# 5 topics such as zigbee2mqtt/attic: JSON, about every 10 s, 0.425 messages/s together." in text
    assert "#   energy       120.5 to 120.89, in 1 of the topics, counts up: watched as a rate" in text
    assert "# Learning: about 1.8 h. Memory: about 4 MB." in text
    assert "Not watched, an identifier: update.installed_version, update.latest_version." in text
    assert "1 entry for 5 streams with 22 channels" in text
    _, text, _ = proposed(shapes.statestream)
    assert "Also matches 1 topic without numbers, such as ha/sensor/washer_program/state" in text


def test_without_pillow_pictures_are_left_out_with_what_to_install():
    _, _, configuration = proposed(shapes.plc, shapes.camera)
    assert configuration.streams[0].topic == "cameras/gate/jpeg"
    proposal, text, configuration = proposed(shapes.plc, shapes.camera, pictures=False)
    assert all(one.topic.startswith("plant/") for one in configuration.streams)
    assert "pip install 'redshank[images]'" in reasons(proposal)["cameras/gate/jpeg"]
    assert "cameras/gate/jpeg" in text
