"""What Home Assistant makes of MQTT device discovery: a validator and a stand-in, built from its own sources.

The facts are those of homeassistant/components/mqtt (schemas.py, discovery.py, one file for each platform) of release
2025.12.5, with what 2026.11.0 has made stricter. docs/decisions/0015-home-assistant-by-device-discovery.md says why the
package itself is not installed here, and how it was tried by hand.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable

DISCOVERY_TOPIC = re.compile(r"device/(?:[a-zA-Z0-9_-]+/)?([a-zA-Z0-9_-]+)/config")
ABBREVIATED = {"dev": "device", "o": "origin", "cmps": "components", "p": "platform"}
ABBREVIATED_DEVICE = {"ids": "identifiers", "mf": "manufacturer", "mdl": "model", "sw": "sw_version"}
SHARED = {"availability_topic", "state_topic", "command_topic"}  # those of them that a component takes over from above
DEVICE_KEYS = {
    "identifiers", "connections", "manufacturer", "model", "model_id", "name", "hw_version", "serial_number",
    "sw_version", "via_device", "suggested_area", "configuration_url",
}  # fmt: skip
ORIGIN_KEYS = {"name", "sw_version", "support_url"}
ENTITY_KEYS = {
    "availability", "availability_mode", "availability_template", "availability_topic", "default_entity_id",
    "device_class", "enabled_by_default", "encoding", "entity_category", "entity_picture", "icon",
    "json_attributes_template", "json_attributes_topic", "name", "payload_available", "payload_not_available", "qos",
    "unique_id",
}  # fmt: skip
PLATFORM_KEYS = {
    "binary_sensor": {
        "state_topic", "value_template", "expire_after", "force_update", "off_delay", "payload_off", "payload_on",
    },
    "sensor": {
        "state_topic", "value_template", "expire_after", "force_update", "last_reset_value_template", "options",
        "suggested_display_precision", "state_class", "unit_of_measurement",
    },
    "image": {"content_type", "url_topic", "image_topic", "image_encoding", "url_template"},
    "button": {"command_template", "command_topic", "payload_press", "retain"},
    "switch": {
        "command_topic", "command_template", "optimistic", "retain", "state_topic", "value_template", "payload_off",
        "payload_on", "state_off", "state_on",
    },
}  # fmt: skip
REQUIRED = {
    "binary_sensor": {"state_topic"}, "sensor": {"state_topic"}, "image": {"image_topic"},
    "button": {"command_topic"}, "switch": {"command_topic"},
}  # fmt: skip
# Of the values that there are, those that could be meant here.
DEVICE_CLASSES = {"binary_sensor": {"problem", "connectivity"}, "sensor": {"enum", "duration"}}
DURATION_UNITS = {"d", "h", "min", "s", "ms"}
STATE_CLASSES = {"measurement", "total", "total_increasing"}
MAX_STATE = 255

ENVIRONMENT = ImmutableSandboxedEnvironment()


def expanded(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload with its abbreviations written out."""
    whole = {ABBREVIATED.get(key, key): value for key, value in payload.items()}
    for part in ("device", "origin"):
        whole[part] = {ABBREVIATED_DEVICE.get(key, key): value for key, value in whole.get(part, {}).items()}
    whole["components"] = {
        name: {ABBREVIATED.get(key, key): value for key, value in component.items()}
        for name, component in whole.get("components", {}).items()
    }
    return whole


def topic_problems(topic: object) -> Iterable[str]:
    if not isinstance(topic, str) or not 0 < len(topic.encode()) < 1 << 16:
        yield "a topic is empty, or too long"
    elif re.search(r"[\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff+#]", topic):
        yield f"{topic!r} has what no topic may have"


def problems(topic: str, payload: bytes, prefix: str = "homeassistant") -> list[str]:
    """Return why Home Assistant would not take a device, or would ignore a part of it; nothing if all is well."""
    found = []
    if not topic.startswith(f"{prefix}/") or not DISCOVERY_TOPIC.fullmatch(topic.removeprefix(f"{prefix}/")):
        found.append(f"{topic} is no discovery topic")
    whole = expanded(json.loads(payload))
    device, origin = whole["device"], whole["origin"]
    if not device.get("identifiers"):
        found.append("the device has no identifiers")
    if "name" not in origin:
        found.append("the origin has no name")
    unknown = whole.keys() - {"device", "origin", "components", "qos", "encoding"} - SHARED
    unknown |= (device.keys() - DEVICE_KEYS) | (origin.keys() - ORIGIN_KEYS)
    found += [f"{key} is unknown" for key in sorted(unknown)]
    for key in SHARED & whole.keys():
        found += topic_problems(whole[key])
    ids = []
    for name, component in whole["components"].items():
        platform = component.get("platform")
        if platform not in PLATFORM_KEYS:
            found.append(f"{name}: {platform} is no platform")
        elif len(component) > 1:
            found += [f"{name}: {one}" for one in component_problems(platform, shared(component, whole))]
            ids.append(component.get("unique_id"))
    if len(set(ids)) < len(ids):
        found.append("two components have one unique_id")
    return found


def shared(component: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    """Return a component with what it takes over from above; what it has no use for is left out, as there."""
    known = ENTITY_KEYS | PLATFORM_KEYS[component["platform"]]
    return {key: whole[key] for key in SHARED & whole.keys() & known} | component


def component_problems(platform: str, component: dict[str, Any]) -> Iterable[str]:
    for key in sorted(component.keys() - ENTITY_KEYS - PLATFORM_KEYS[platform] - {"platform"}):
        yield f"{key} is unknown"
    for key in sorted(REQUIRED[platform] | {"unique_id", "name"}):
        if not component.get(key):
            yield f"{key} is missing"
    for key, value in component.items():
        if key.endswith("_topic"):
            yield from topic_problems(value)
        elif key.endswith("_template"):
            ENVIRONMENT.parse(value)
    if component.get("qos", 0) not in (0, 1, 2):
        yield "qos is none"
    category, kind = component.get("entity_category"), component.get("device_class")
    if category not in ((None, "diagnostic") if "sensor" in platform else (None, "diagnostic", "config")):
        yield f"{category} is no category of a {platform}"
    if kind is not None and kind not in DEVICE_CLASSES.get(platform, ()):
        yield f"{kind} is no device class of a {platform}"
    options, unit, state_class = (component.get(one) for one in ("options", "unit_of_measurement", "state_class"))
    if options is not None and (not options or kind != "enum" or unit or state_class):
        yield "options are for an enum without unit and state class"
    if state_class not in {None, *STATE_CLASSES}:
        yield f"{state_class} is no state class"
    if kind == "duration" and unit not in DURATION_UNITS:
        yield f"{unit} is no unit of a duration"


class Entity:
    """One entity: its `platform`, its configuration with what it takes over from its device, and its state."""

    def __init__(self, device: str, component: dict[str, Any], received: list[tuple[str, bytes, bool]]) -> None:
        self.platform, self.config = component["platform"], component
        name = re.sub(r"[^a-z0-9]+", "_", f"{device} {component['name']}".lower()).strip("_")
        self.entity_id = f"{self.platform}.{name}"
        self._received = received

    def _last(self, key: str) -> bytes | None:
        found = [payload for topic, payload, _ in self._received if topic == self.config.get(key)]
        return found[-1] if found else None

    def _rendered(self, payload: bytes, key: str) -> str:
        text = payload.decode()
        template = self.config.get(key)
        return text if template is None else ENVIRONMENT.from_string(template).render(value_json=json.loads(text))

    @property
    def state(self) -> str:
        """Return the state, as it would be shown."""
        if "availability_topic" in self.config and self._last("availability_topic") != b"online":
            return "unavailable"
        payload = self._last("image_topic" if self.platform == "image" else "state_topic")
        if not payload:  # empty: what was kept is being cleared
            return "unknown"
        if self.platform == "image":
            return "picture" if payload.startswith(b"\x89PNG") else "broken"
        text = self._rendered(payload, "value_template")
        if text == "None":
            return "unknown"
        assert len(text) <= MAX_STATE
        if self.platform in ("binary_sensor", "switch"):
            on, off = (("payload_on", "payload_off"), ("state_on", "state_off"))[self.platform == "switch"]
            return {self.config.get(on, "ON"): "on", self.config.get(off, "OFF"): "off"}[text]
        if self.config.get("device_class") == "enum":
            assert text in self.config["options"]
        elif "state_class" in self.config or "unit_of_measurement" in self.config:
            float(text)
        return text

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what is shown beside the state."""
        payload = self._last("json_attributes_topic")
        made = {} if not payload else json.loads(self._rendered(payload, "json_attributes_template"))
        assert isinstance(made, dict)
        return made


def entities(received: list[tuple[str, bytes, bool]], prefix: str = "homeassistant") -> dict[str, Entity]:
    """Return by entity id what there is after these messages: topic, payload, retained. Fails on what is not valid."""
    configs = {topic: payload for topic, payload, _ in received if topic.startswith(f"{prefix}/device/")}
    found = {}
    for topic, payload in configs.items():
        if not payload:
            continue
        assert problems(topic, payload, prefix) == []
        whole = expanded(json.loads(payload))
        for component in whole["components"].values():
            if len(component) > 1:
                entity = Entity(whole["device"]["name"], shared(component, whole), received)
                found[entity.entity_id] = entity
    return found
