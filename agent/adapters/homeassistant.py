"""Home Assistant's MQTT device discovery: what each stream and the agent are to it. Pure: descriptions in, JSON out.

docs/home-assistant.md shows what comes of it. A component that does not apply is sent with its platform alone, which
makes Home Assistant remove what an earlier configuration had announced, and keeps each payload a function of now.
"""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import Any, Final

import msgspec

from agent.core.types import Duration, Settings, StreamPhase

MAX_NAME_BYTES: Final = 1024  # of a stream's name, which its payload repeats some ten times
_MAX_DEVICE_NAME: Final = 100
_SLUG_LENGTH: Final = 40
_NOT_ALLOWED: Final = re.compile(r"[^a-zA-Z0-9_-]+")
_HASH_DIGITS: Final = 12

# Home Assistant takes 255 characters as a state. What is null becomes `unknown`.
_STREAM_ENTITIES: Final[dict[str, dict[str, Any]]] = {
    "problem": {
        "p": "binary_sensor",
        "name": "Problem",
        "device_class": "problem",
        "value_template": "{{ 'ON' if value_json.firing else 'OFF' }}",
        "json_attributes_template": "{{ (value_json.last_alert or {}) | tojson }}",
    },
    "message": {
        "p": "sensor",
        "name": "Last alert",
        "value_template": "{{ value_json.last_alert.message[:255] if value_json.last_alert else None }}",
    },
    "score": {
        "p": "sensor",
        "name": "Score",
        "state_class": "measurement",
        "suggested_display_precision": 1,
        "value_template": "{{ value_json.score }}",
    },
    "phase": {
        "p": "sensor",
        "name": "Phase",
        "device_class": "enum",
        "options": [phase.value for phase in StreamPhase],
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.phase }}",
    },
    "learning_left": {
        "p": "sensor",
        "name": "Learning left",
        "device_class": "duration",
        "unit_of_measurement": "s",
        "suggested_display_precision": 0,
        "entity_category": "diagnostic",
        "value_template": "{{ value_json.learning_left_s }}",
    },
}
# Troubles, and what the agent's state tells by keys of its own; told together, so that a new one needs no new entity.
_TROUBLES: Final = (
    "value_json.troubles + (['deaf'] if value_json.hearing == 'lost' else []) + (['stuck'] if value_json.stuck else [])"
)
_COUNTS: Final = {"state_class": "measurement", "entity_category": "diagnostic"}
_TOTALS: Final = {"state_class": "total_increasing", "entity_category": "diagnostic"}
_AGENT_ENTITIES: Final[dict[str, dict[str, Any]]] = {
    "firing": {"p": "sensor", "name": "Streams with a problem", "state_class": "measurement"},
    "streams": {"p": "sensor", "name": "Streams", **_COUNTS},
    "learning": {"p": "sensor", "name": "Streams learning", **_COUNTS},
    "queue_length": {"p": "sensor", "name": "Messages waiting", **_COUNTS},
    "outbox_length": {"p": "sensor", "name": "Alerts unsent", **_COUNTS},
    "messages_received": {"p": "sensor", "name": "Messages received", **_TOTALS},
    "messages_rejected": {"p": "sensor", "name": "Messages rejected", **_TOTALS},
    "reconnects": {"p": "sensor", "name": "Reconnects", **_TOTALS},
}


class Discovery(StrEnum):
    """Whether Home Assistant is told of the streams."""

    NEVER = "never"
    ALWAYS = "always"


class HomeAssistantSettings(Settings, frozen=True):
    """How Home Assistant finds the streams; `snooze_s` is for how long its switch snoozes one."""

    discovery: Discovery = Discovery.NEVER
    prefix: str = "homeassistant"
    status_topic: str = "homeassistant/status"
    snooze_s: Duration = 28800.0


class AgentDescription(msgspec.Struct, frozen=True):
    """The agent, its version and topics. `root` is where they begin; no `command_topic`: commands are off."""

    id: str
    version: str
    root: str
    status_topic: str
    state_topic: str
    reply_topic: str
    command_topic: str | None


class StreamDescription(msgspec.Struct, frozen=True):
    """A stream and its topics; only one of pictures has a `heatmap_topic`."""

    name: str
    encoder: str | None
    state_topic: str
    heatmap_topic: str | None = None


class Announcements(msgspec.Struct, frozen=True):
    """What is published for one agent, and where."""

    settings: HomeAssistantSettings
    agent: AgentDescription

    @property
    def agent_device(self) -> str:
        """Return the agent's id among devices. Those of its streams begin with it."""
        return f"redshank_{_slug(self.agent.id)}_{_digits(self.agent.root)}"

    def device(self, stream: str) -> str:
        """Return a stream's id among devices. Its hash keeps apart what the letters that are allowed do not."""
        return f"{self.agent_device}_{_slug(stream)}_{_digits(self.agent.root + stream)}"

    @property
    def own_prefix(self) -> str:
        """Return what all topics of this agent begin with."""
        return f"{self.settings.prefix}/device/{self.agent_device}"

    def topic(self, device: str) -> str:
        """Return where a device is announced, retained."""
        return f"{self.settings.prefix}/device/{device}/config"

    def of_agent(self) -> bytes:
        """Return the agent's payload."""
        agent = self.agent
        components = {
            key: {
                **entity,
                "state_topic": agent.state_topic,
                "availability_topic": agent.status_topic,
                "value_template": f"{{{{ value_json.{key} }}}}",
            }
            for key, entity in _AGENT_ENTITIES.items()
        }
        components["problem"] = {
            "p": "binary_sensor",
            "name": "Problem",
            "device_class": "problem",
            "entity_category": "diagnostic",
            "state_topic": agent.state_topic,
            "availability_topic": agent.status_topic,
            "value_template": f"{{{{ 'ON' if {_TROUBLES} else 'OFF' }}}}",
            "json_attributes_topic": agent.state_topic,
            "json_attributes_template": f"{{{{ {{'troubles': {_TROUBLES}}} | tojson }}}}",
        }
        components["connected"] = {
            "p": "binary_sensor",
            "name": "Connected",
            "device_class": "connectivity",
            "entity_category": "diagnostic",
            "state_topic": agent.status_topic,
            "payload_on": "online",
            "payload_off": "offline",
        }
        components["answer"] = self._if_commanded(
            {
                "p": "sensor",
                "name": "Last answer",
                "entity_category": "diagnostic",
                "state_topic": agent.reply_topic,
                "availability_topic": agent.status_topic,
                "value_template": "{{ ('done: ' ~ value_json.command if value_json.ok else value_json.error)[:255] }}",
            }
        )
        device = {"name": f"Redshank {agent.id}"[:_MAX_DEVICE_NAME], "mdl": "Agent"}
        return self._payload(self.agent_device, device, components)

    def of_stream(self, stream: StreamDescription) -> bytes:
        """Return a stream's payload."""
        components = dict(_STREAM_ENTITIES)
        components["problem"] = {**components["problem"], "json_attributes_topic": stream.state_topic}
        components["heatmap"] = {"p": "image"}
        if stream.heatmap_topic is not None:
            components["heatmap"] |= {
                "name": "Last odd picture",
                "image_topic": stream.heatmap_topic,
                "content_type": "image/png",
            }
        components |= self._orders(stream.name)
        device = {
            "name": stream.name[:_MAX_DEVICE_NAME],
            "mdl": f"Stream, {stream.encoder or 'no encoder'}",
            "via_device": self.agent_device,
        }
        shared = {"state_topic": stream.state_topic, "availability_topic": self.agent.status_topic}
        return self._payload(self.device(stream.name), device, components, **shared)

    def _orders(self, stream: str) -> dict[str, dict[str, Any]]:
        """Return the components that give commands."""

        def order(command: str, **more: str) -> str:
            return msgspec.json.encode({"command": command, "stream": stream, **more}).decode()

        def button(name: str, command: str, **more: str) -> dict[str, Any]:
            return {"p": "button", "name": name, "payload_press": order(command), **more}

        made = {
            "accept": button("That was normal", "accept"),
            "confirm": button("That was a fault", "confirm"),
            "relearn": button("Learn anew", "relearn", entity_category="config"),
            "snooze": {
                "p": "switch",
                "name": "Snooze",
                "payload_on": order("snooze", **{"for": f"{self.settings.snooze_s:.0f}s"}),
                "payload_off": order("snooze", **{"for": "0s"}),
                "state_on": "ON",
                "state_off": "OFF",
                "value_template": "{{ 'ON' if value_json.snoozed else 'OFF' }}",
            },
        }
        return {
            key: self._if_commanded({**one, "command_topic": self.agent.command_topic}) for key, one in made.items()
        }

    def _if_commanded(self, component: dict[str, Any]) -> dict[str, Any]:
        return component if self.agent.command_topic is not None else {"p": component["p"]}

    def _payload(self, device: str, about: dict[str, Any], components: dict[str, Any], **shared: str) -> bytes:
        version = self.agent.version
        for key, one in components.items():
            if len(one) > 1:
                components[key] = {**one, "unique_id": f"{device}_{key}", "qos": 1}
        return msgspec.json.encode(
            {
                "dev": {"ids": [device], "mf": "Redshank", "sw": version, **about},
                "o": {"name": "redshank", "sw": version},
                **shared,
                "cmps": components,
            }
        )


def _slug(text: str) -> str:
    """Return what of a name Home Assistant allows in an id, shortened: for people who look at topics."""
    return _NOT_ALLOWED.sub("_", text)[:_SLUG_LENGTH]


def _digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
