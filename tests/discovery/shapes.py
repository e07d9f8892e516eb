"""What known products publish, made up after their public documentation, with values that move.

Each function yields (topic, payload, retained) of one round; `at` is the time of the round, s since the epoch.

zigbee2mqtt: www.zigbee2mqtt.io/guide/usage/mqtt_topics_and_messages.html. Tasmota: tasmota.github.io/docs/MQTT/ and
JSON-Status-Responses/. ESPHome: esphome.io/components/mqtt. Shelly: shelly-api-docs.shelly.cloud, gen1 and gen2.
Home Assistant: home-assistant.io/integrations/mqtt_statestream/.
"""

from __future__ import annotations

import functools
import gzip
import importlib
import io
import json
import math
import random
from datetime import UTC, datetime

import cbor2
import msgspec

from agent.adapters.payload.compression import ZSTD_MODULE
from agent.ports import InboundMessage
from tests.sparkplug import INT32, INT64, EdgeNode, metric

zstd = importlib.import_module(ZSTD_MODULE)

BEGUN = 1_790_000_000.0


def wave(i, period, low, high, seed=0):
    rng = random.Random(1000 * i + seed)
    middle, width = (low + high) / 2, (high - low) / 2
    return round(middle + width * (0.7 * math.sin(2 * math.pi * (i + 7 * seed) / period) + 0.3 * rng.uniform(-1, 1)), 3)


def zigbee2mqtt(i, at):
    climate = ("kitchen", "bath", "attic")
    for number, name in enumerate(climate):
        yield f"zigbee2mqtt/{name}", {
            "battery": 87 - number, "humidity": wave(i, 40, 40, 60, number), "last_seen": round(at * 1000),
            "linkquality": 60 + (i * 7 + number) % 90, "temperature": wave(i, 50, 19, 23, number), "voltage": 2995,
        }  # fmt: skip
    yield "zigbee2mqtt/heater plug", {
        "current": wave(i, 30, 0, 4, 5), "energy": round(120.5 + 0.01 * i, 2), "last_seen": round(at * 1000),
        "linkquality": 100 + i % 20, "power": wave(i, 30, 0, 900, 5), "state": "ON",
        "update": {"installed_version": 268513381, "latest_version": 268513381, "state": "idle"},
        "voltage": 230 + i % 3,
    }  # fmt: skip
    if i % 4 == 0:
        yield "zigbee2mqtt/button", {"action": "single", "linkquality": 80 + i % 9, "battery": 100}
        yield "zigbee2mqtt/heater plug/set", {"state": "ON"}
        yield "zigbee2mqtt/kitchen/get", {"temperature": ""}
    yield "zigbee2mqtt/kitchen/availability", {"state": "online"}
    yield "zigbee2mqtt/bridge/logging", {"level": "info", "message": "MQTT publish"}
    if i == 0:
        yield "zigbee2mqtt/bridge/state", {"state": "online"}, True
        yield "zigbee2mqtt/bridge/info", {"version": "2.1.0", "config": {"mqtt": {"version": 4}}}, True
        yield "homeassistant/sensor/0x00158d/temperature/config", {"name": "t", "unique_id": "0x1", "qos": 0}, True


def tasmota(i, at):
    local = datetime.fromtimestamp(at + 7200, UTC).strftime("%Y-%m-%dT%H:%M:%S")  # the device's own zone, unnamed
    for number, name in enumerate(("tasmota_9CF9D1", "tasmota_C59B5E")):
        sensors = (
            {"AM2301": {"Temperature": wave(i, 40, 18, 22), "Humidity": wave(i, 60, 40, 50)}, "TempUnit": "C"}
            if number == 0
            else {"ENERGY": {
                "TotalStartTime": "2023-01-01T00:00:00", "Total": round(311.2 + i / 100, 3), "Yesterday": 1.412,
                "Today": round(0.3 + i / 100, 3), "Power": wave(i, 30, 20, 300), "Voltage": 230 + i % 4,
                "Current": wave(i, 30, 0.1, 1.5),
            }}
        )  # fmt: skip
        yield f"tele/{name}/SENSOR", {"Time": local, **sensors}
        yield f"tele/{name}/STATE", {
            "Time": local, "Uptime": f"0T00:{i % 60:02}:11", "UptimeSec": 611 + 10 * i, "Heap": 24 + i % 3,
            "SleepMode": "Dynamic", "Sleep": 50, "LoadAvg": 19 + i % 4, "MqttCount": 1, "POWER": "OFF",
            "Wifi": {"AP": 1, "SSId": "net", "BSSId": "E6:8D:8C:4B:BE:F7", "Channel": 3, "RSSI": 44 + i % 6,
                     "Signal": -78 + i % 6, "LinkCount": 1, "Downtime": "0T00:00:05"},
        }  # fmt: skip
        yield f"cmnd/{name}/POWER", "TOGGLE"
        yield f"stat/{name}/RESULT", {"POWER": "ON"}
        yield f"stat/{name}/STATUS8", {"StatusSNS": {"Time": local, "ANALOG": {"A0": 3}}}
        if i == 0:
            yield f"tele/{name}/LWT", "Online", True
            yield f"tasmota/discovery/{name}/config", {"ip": "10.0.0.2", "sn": [1, 2], "ver": 1}, True


def esphome(i, at):
    del at
    for number, node in enumerate(("livingroom", "garage")):
        yield f"{node}/sensor/room_temperature/state", str(wave(i, 40, 19, 22, number)), True
        yield f"{node}/sensor/humidity/state", str(wave(i, 70, 40, 55, number)), True
        yield f"{node}/sensor/wifi_signal/state", str(-60 - i % 5), True
        yield f"{node}/sensor/uptime/state", str(3000 + 10 * i), True
        yield f"{node}/binary_sensor/motion/state", "ON" if i % 2 else "OFF", True
        yield f"{node}/debug", "\033[0;36m[D][sensor:094]: 'Humidity': Sending state\033[0m"
        if i == 0:
            yield f"{node}/status", "online", True
    yield "garage/switch/relay/command", "ON"


def shelly_gen1(i, at):
    del at
    for number, name in enumerate(("shelly1pm-BA1936", "shelly1pm-AE0001")):
        yield f"shellies/{name}/relay/0", "on"
        yield f"shellies/{name}/relay/0/power", f"{wave(i, 30, 10, 90, number):.2f}"
        yield f"shellies/{name}/relay/0/energy", str(100_000 + 17 * i)
        yield f"shellies/{name}/temperature", f"{wave(i, 50, 40, 50, number):.2f}"
        yield f"shellies/{name}/temperature_f", f"{wave(i, 50, 104, 122, number):.2f}"
        yield f"shellies/{name}/overtemperature", "0"
        yield f"shellies/{name}/info", {"wifi_sta": {"rssi": -60 - i % 5}, "uptime": 1000 + 30 * i}
        if i == 0:
            yield f"shellies/{name}/online", "true", True
            yield "shellies/announce", {"id": name, "mac": "BA1936", "fw_ver": "20200309"}
        yield f"shellies/{name}/relay/0/command", "on"


def shelly_gen2(i, at):
    for number, name in enumerate(("shellyplus1pm-a8032ab1", "shellyplus1pm-a8032ab2")):
        switch = {
            "id": 0, "source": "init", "output": True, "apower": wave(i, 30, 20, 60, number), "voltage": 230.1 + i % 3,
            "current": wave(i, 30, 0.1, 0.3, number),
            "temperature": {"tC": wave(i, 50, 40, 50), "tF": wave(i, 50, 104, 122)},
            "aenergy": {"total": 1000.0 + 1.5 * i, "by_minute": [wave(i, 9, 1, 5), wave(i, 9, 1, 5, 1), 2.0],
                        "minute_ts": int(at) // 60 * 60},
        }  # fmt: skip
        yield f"{name}/status/switch:0", switch
        yield f"{name}/status/sys", {"mac": "A8032AB1", "uptime": 500 + 10 * i, "ram_free": 160_000 + 8 * (7 * i % 90)}
        change = {"ts": round(at, 2), "switch:0": {"id": 0, "apower": switch["apower"]}}
        yield f"{name}/events/rpc", {"src": name, "dst": f"{name}/events", "method": "NotifyStatus", "params": change}
        yield f"{name}/rpc", {"id": 1, "src": "user", "method": "Switch.Set", "params": {"id": 0, "on": True}}
        if i == 0:
            yield f"{name}/online", "true", True


def statestream(i, at):
    stamp = datetime.fromtimestamp(at, UTC).isoformat()
    for number in range(9):
        yield f"ha/sensor/room_{number}_temperature/state", str(wave(i, 40, 18, 22, number)), i == 0
    yield "ha/sensor/room_3_temperature/state", "unavailable", False
    yield "ha/sensor/washer_program/state", "cotton", i == 0
    yield "ha/light/hall/state", "off", i == 0
    yield "ha/sensor/room_0_temperature/unit_of_measurement", '"°C"', i == 0
    yield "ha/sensor/room_0_temperature/last_updated", json.dumps(stamp), i == 0
    yield "ha/sun/sun/elevation", str(wave(i, 900, -10, 50)), i == 0


def plc(i, at):
    del at
    for line in ("line1", "line2", "line3"):
        for number, tag in enumerate(("temperature", "pressure", "speed", "current")):
            yield f"plant/{line}/press/{tag}", str(wave(i, 30 + number, 10, 20 + 10 * number, number))
        yield f"plant/{line}/press/parts_total", str(5000 + i // 2)
        yield f"plant/{line}/press/order", f"A-{i // 10}"


def gateway(i, at):
    """Yield JSON with a time, and CSV with and without a header."""
    yield (
        "gw/pump/telemetry",
        {"ts": round(at, 3), "seq": i, "vibration": {"rms": wave(i, 20, 0.9, 1.2)}, "temp": "21.5"},
    )
    yield "gw/logger/csv", f"{round(at)};{wave(i, 20, 1, 2)};{wave(i, 30, 5, 6)}"
    yield "gw/table", f"flow,level\n{wave(i, 20, 1, 2)},{wave(i, 30, 5, 6)}\n"
    packed = {"flow": wave(i, 20, 1, 2), "at": datetime.fromtimestamp(at, UTC), "id": 7}
    yield "gw/msgpack", msgspec.msgpack.encode(packed)
    yield "gw/cbor", cbor2.dumps(packed)
    yield "gw/gzip", gzip.compress(json.dumps({"flow": packed["flow"]}).encode())
    yield "gw/zstd", zstd.compress(b"%.3f" % packed["flow"])
    yield "gw/comma", f"21,{i % 10}"
    yield "gw/blob", bytes([0xFF, 0xFE, i % 256, 0x80])


@functools.cache
def jpeg():
    from PIL import Image  # noqa: PLC0415  the extra

    file = io.BytesIO()
    Image.effect_noise((160, 120), 40).convert("RGB").save(file, "JPEG")
    return file.getvalue()


def camera(i, at):
    del i, at
    yield "cameras/gate/jpeg", jpeg()


_NODES = [EdgeNode("plant", name) for name in ("node1", "node2")]


def sparkplug(i, at):
    for number, node in enumerate(_NODES):
        values = {"Temp": wave(i, 30, 20, 30, number), "Motor/Speed": wave(i, 20, 900, 1100, number)}
        if i == 0:
            yield node.birth(at, [metric("Uptime", 5, INT64, alias=1)])
            made = [metric(name, value, alias=10 + n) for n, (name, value) in enumerate(values.items())]
            yield node.message("DBIRTH", at, [*made, metric("Serial", 4711, INT32, alias=12)], "pump")
        else:
            made = [metric(None, value, alias=10 + n, sends_type=False) for n, value in enumerate(values.values())]
            yield node.message("DDATA", at, made, "pump")
        yield f"spBv1.0/plant/DCMD/{node.name}/pump", b"\x08\x01"
    yield EdgeNode("late", "node9").message("DDATA", at, [metric(None, 1.5, alias=3, sends_type=False)], "pump")
    yield "spBv1.0/STATE/host", '{"online": true}'


SHAPES = (zigbee2mqtt, tasmota, esphome, shelly_gen1, shelly_gen2, statestream, plc, gateway, sparkplug, camera)


def encoded(payload):
    if isinstance(payload, bytes):
        return payload
    return (payload if isinstance(payload, str) else json.dumps(payload)).encode()


def messages(*shapes, rounds=40, every_s=10.0):
    """Yield what the shapes publish, as it arrives."""
    for i in range(rounds):
        at = BEGUN + every_s * i
        for shape in shapes:
            for topic, payload, *retained in shape(i, at):
                kept = bool(retained and retained[0] and i == 0)  # what is retained comes so only on subscribing
                yield InboundMessage(topic, encoded(payload), at + 0.05, every_s * i, retained=kept)
