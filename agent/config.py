"""The YAML file as frozen types; nothing else reads it. Every problem is found in one pass, each with its line."""

from __future__ import annotations

import socket
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from agent.adapters.mqtt.broker import BrokerSettings
from agent.adapters.payload import PayloadSettings
from agent.core.alerting import AlertSettings, SilenceSettings
from agent.core.detector import DetectorSettings
from agent.core.reference import ReferenceSettings
from agent.core.scoring import ScoreSettings
from agent.core.types import Duration, Mode, Settings, Size
from agent.core.windowing import GridSettings
from agent.errors import ConfigurationError, Problem
from agent.settings_builder import Builder

MAX_FILE_BYTES: Final = 1 << 20


class AgentSettings(Settings, frozen=True):
    """The agent itself."""

    id: str = ""
    state_dir: str = "/var/lib/redshank"
    snapshot_interval_s: Duration = 600.0
    max_streams: int = 1000
    topic_prefix: str = "redshank"
    queue_size: int = 20000
    max_payload_bytes: Size = 1_000_000


class ScoreTopic(StrEnum):
    """Whether each decision is published."""

    NEVER = "never"
    ALWAYS = "always"


class StreamSettings(PayloadSettings, frozen=True, kw_only=True):
    """What to watch and how; one stream for each concrete topic that matches."""

    name: str
    topic: str
    qos: int = 1
    kind: str = "sensor"
    period_s: Duration | None = None
    carry_limit: int = 5
    encoder: str = "sensor-small"
    stride: int = 1
    mode: Mode = Mode.ADAPT
    score: ScoreSettings = ScoreSettings()
    reference: ReferenceSettings = ReferenceSettings()
    alert: AlertSettings = AlertSettings()
    silence: SilenceSettings = SilenceSettings()
    score_topic: ScoreTopic = ScoreTopic.NEVER

    def detector(self) -> DetectorSettings:
        """Return the part that the core needs."""
        return DetectorSettings(
            stride=self.stride,
            mode=self.mode,
            grid=GridSettings(period_s=self.period_s, carry_limit=self.carry_limit),
            reference=self.reference,
            score=self.score,
            alert=self.alert,
        )


class MetricsSettings(Settings, frozen=True):
    """Where Prometheus finds us."""

    listen: str = "127.0.0.1:9791"


class Configuration(Settings, frozen=True, kw_only=True):
    """The whole file."""

    agent: AgentSettings = AgentSettings()
    broker: BrokerSettings = BrokerSettings()
    streams: list[StreamSettings]
    metrics: MetricsSettings = MetricsSettings()


def default_agent_id() -> str:
    """Return the host name and four characters of the machine id."""
    try:
        machine = Path("/etc/machine-id").read_text().strip()[:4]
    except OSError:
        machine = ""
    host = socket.gethostname().split(".")[0] or "redshank"
    return f"{host}-{machine}" if machine else host


def load_configuration(path: Path) -> Configuration:
    """Return the configuration. Raises ConfigurationError with every problem in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            [Problem(str(path), "a configuration file", f"none ({error.strerror})", "name it with --config")]
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError([Problem(str(path), f"at most {MAX_FILE_BYTES} bytes", f"{len(content)}")])
    builder = Builder(str(path), content)
    made: Any = builder.build(Configuration)
    problems = builder.problems
    if made is not None:
        problems = problems + _cross_check(made, builder)
    if problems:
        raise ConfigurationError(problems)
    return msgspec.convert(made, Configuration)


def _cross_check(configuration: Configuration, builder: Builder) -> list[Problem]:
    problems: list[Problem] = []
    seen: set[str] = set()
    for index, stream in enumerate(configuration.streams):
        at = f"streams[{index}]"

        def complain(key: str, expected: str, found: object, remedy: str = "", at: str = at) -> None:
            problems.append(Problem(builder.where(f"{at}.{key}"), expected, repr(found), remedy))

        if stream.name in seen:
            complain("name", "a name that no other stream has", stream.name, "rename one of them")
        seen.add(stream.name)
        if not stream.name or any(mark in stream.name for mark in "/+#\0"):
            complain("name", "a name without / + #", stream.name)
        if not valid_filter(stream.topic):
            complain("topic", "an MQTT topic filter (+ alone in a level, # alone and last)", stream.topic)
        if "{" in stream.topic:
            complain("topic", "no placeholders", stream.topic, "joined devices are not in this version; use +")
        if stream.kind != "sensor":
            complain("kind", "sensor", stream.kind, "other kinds are not in this version")
        if stream.qos not in (0, 1):
            complain("qos", "0 or 1", stream.qos)
        for key, value, least in (
            ("stride", stream.stride, 1),
            ("carry_limit", stream.carry_limit, 0),
            ("reference.warm_up", stream.reference.warm_up, 100),
            ("reference.size", stream.reference.size, 100),
            ("score.neighbours", stream.score.neighbours, 1),
            ("alert.after", stream.alert.after, 1),
            ("alert.clear_after", stream.alert.clear_after, 1),
        ):
            if value < least:
                complain(key, f"at least {least}", value)
        if stream.reference.warm_up > stream.reference.size:
            complain(
                "reference.warm_up",
                f"at most reference.size ({stream.reference.size})",
                stream.reference.warm_up,
            )
    if not configuration.streams:
        problems.append(Problem(builder.where("streams"), "at least one stream", "none", "add one"))
    return problems


def valid_filter(topic: str) -> bool:
    """Tell whether this is an MQTT topic filter (MQTT 5, section 4.7.1)."""
    levels = topic.split("/")
    return (
        bool(topic)
        and "\0" not in topic
        and len(topic.encode()) < 1 << 16
        and all(
            ("+" not in level or level == "+") and ("#" not in level or (level == "#" and index == len(levels) - 1))
            for index, level in enumerate(levels)
        )
    )
