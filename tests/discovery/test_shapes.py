"""What is proposed for what known products publish."""

from __future__ import annotations

import pytest

from agent.adapters.mqtt import Topics
from agent.config import read_configuration
from agent.discovery.estimate import Costs
from agent.discovery.forms import Form, Kind
from agent.discovery.heard import Heard
from agent.discovery.proposal import propose
from agent.discovery.rendering import render
from agent.pipeline import Pipeline
from agent.replay import SilentObserver
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
        "{device}/sensor/{channel}/state": {"format": "value", "ignore_channels": ("uptime",)},
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
    shapes.plc: {"plant/{device}/press/{channel}": {"format": "value", "counters": ("parts_total",)}},
    shapes.sparkplug: {
        "spBv1.0/late/#": {"format": "sparkplug"},
        "spBv1.0/plant/#": {"format": "sparkplug", "channels": ("Temp", "Motor/Speed")},
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
    shapes.sparkplug: {
        "spBv1.0/STATE/host": "below spBv1.0/, without a number worth watching",
        "spBv1.0/plant/DCMD/node1/pump": "below spBv1.0/, without a number worth watching",
        "spBv1.0/plant/NBIRTH/node1": "below spBv1.0/, without a number worth watching",
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


class Observer(SilentObserver):
    """Remembers which topics were rejected, and why."""

    def __init__(self):
        self.rejections = set()

    def rejected(self, topic, reason):
        self.rejections.add((topic, reason))


@pytest.mark.parametrize("shape", [one for one in shapes.SHAPES if one is not shapes.camera])
def test_the_agent_watches_with_it_what_the_comments_say(shape):
    proposal, _, configuration = proposed(shape)
    observer = Observer()
    pipeline = Pipeline(configuration, {}, Topics("redshank", "pi"), observer)
    pipeline.process(shapes.messages(shape, rounds=ROUNDS))
    found: dict[str, set[str]] = {}
    for stream in pipeline.streams.values():
        found.setdefault(stream.settings.name, set()).update(stream.detector.grid.channels)
    assert found == {one.name: one.watched for one in proposal.entries if one.watched}
    born = [one for one in proposal.entries if one.watched]
    with_values = {one.topic for entry in born for one in entry.topics}
    never = {"malformed", "too_deep", "too_many_channels", "bad_timestamp", "future", "too_many_streams"}
    assert {topic for topic, reason in observer.rejections if reason in never} & with_values == words(proposal)
    heard = [one for one in pipeline.streams.values() if one.heard_elapsed_s is not None]
    assert len(heard) == sum(one.streams for one in born)


def words(proposal):
    """Return the topics on which a word for a missing value came."""
    missing = Form(Kind.NO_VALUE)
    return {heard.topic for entry in proposal.entries for heard in entry.topics if missing in heard.forms}


def test_comments_say_what_the_numbers_are():
    _, text, _ = proposed(shapes.zigbee2mqtt)
    assert "# 5 topics such as zigbee2mqtt/attic: JSON, about every 10 s, 0.425 messages/s together." in text
    assert "#   energy       120.5 to 120.89, in 1 of 5 topics, counts up: watched as a rate" in text
    assert "# Learning: about 1.8 h. Memory: about 4 MB." in text
    assert "Not watched, an identifier: update.installed_version, update.latest_version." in text
    assert "1 entry for 5 streams with 22 channels" in text
    _, text, _ = proposed(shapes.sparkplug)
    assert "In 40 messages metrics were named by aliases that no birth certificate had told." in text
    assert "Not watched, an identifier: Serial." in text
    _, text, _ = proposed(shapes.statestream)
    assert "Also matches 1 topic without numbers, such as ha/sensor/washer_program/state" in text


def test_without_pillow_pictures_are_left_out_with_what_to_install():
    _, _, configuration = proposed(shapes.plc, shapes.camera)
    assert configuration.streams[0].topic == "cameras/gate/jpeg"
    proposal, text, configuration = proposed(shapes.plc, shapes.camera, pictures=False)
    assert all(one.topic.startswith("plant/") for one in configuration.streams)
    assert "pip install 'redshank[images]'" in reasons(proposal)["cameras/gate/jpeg"]
    assert "cameras/gate/jpeg" in text
