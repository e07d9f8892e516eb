"""The YAML file as frozen types; nothing else reads it. Every problem is found in one pass, each with its line."""

from __future__ import annotations

import socket
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from agent.adapters.homeassistant import HomeAssistantSettings
from agent.adapters.http import MetricsSettings, metrics_problems
from agent.adapters.mqtt.broker import BrokerSettings, endpoint
from agent.adapters.payload import Format, PayloadSettings, RawSettings, TimeSettings, payload_problems
from agent.adapters.payload.sparkplug import NAMESPACE, may_be_watched
from agent.adapters.pictures import PictureSettings, picture_problems
from agent.core.alerting import MAX_SNOOZE_S, AlertSettings, Direction, SilenceSettings
from agent.core.detector import DetectorSettings
from agent.core.pace import Steps
from agent.core.picture_patches import Position
from agent.core.picture_settings import PictureDetectorSettings, PictureReferenceSettings
from agent.core.reference import ReferenceSettings
from agent.core.scoring import MAX_NEIGHBOURS, ScoreSettings
from agent.core.types import Budget, Duration, Mode, Settings, Size
from agent.core.windowing import GridSettings, Spacing
from agent.errors import ConfigurationError, Problem
from agent.settings_builder import Builder, key_of
from agent.signing import EncodersSettings, is_key
from agent.topic_pattern import CHANNEL, TopicPattern, pattern_problem, valid_filter

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FILE_BYTES: Final = 1 << 20
NO_ENCODER: Final = "none"
_NEVER_JOINED: Final = (Format.CSV, Format.RAW, Format.SPARKPLUG)


class AgentSettings(Settings, frozen=True):
    """The agent itself."""

    id: str = ""
    state_dir: str = "/var/lib/redshank"
    snapshot_interval_s: Duration = 600.0
    memory_limit_bytes: Size = 256_000_000
    max_streams: int = 1000
    topic_prefix: str = "redshank"
    queue_size: int = 20000
    max_payload_bytes: Size = 1_000_000
    false_alarms: Budget | None = None


class ScoreTopic(StrEnum):
    """Whether each decision is published."""

    NEVER = "never"
    ALWAYS = "always"


class SensorSettings(PayloadSettings, frozen=True, kw_only=True, tag_field="kind", tag="sensor"):
    """Readings: what to watch and how; one stream for each concrete topic that matches."""

    name: str
    topic: str
    qos: int = 1
    period_s: Duration | None = None
    carry_limit: int = 5
    spacing: Spacing = Spacing.AUTO
    counters: tuple[str, ...] = ()
    encoder: str = "sensor-small"
    stride: int | Steps = Steps.AUTO
    mode: Mode = Mode.ADAPT
    season_s: Duration | None = None
    score: ScoreSettings = ScoreSettings()
    reference: ReferenceSettings = ReferenceSettings()
    alert: AlertSettings = AlertSettings()
    silence: SilenceSettings = SilenceSettings()
    score_topic: ScoreTopic = ScoreTopic.NEVER

    @property
    def encoder_name(self) -> str:
        """Return the encoder that is used: none for `hold`, which compares all channels as one plain vector."""
        return NO_ENCODER if self.mode is Mode.HOLD else self.encoder

    def detector(self) -> DetectorSettings:
        """Return the part that the core needs."""
        return DetectorSettings(
            stride=self.stride,
            mode=self.mode,
            season_s=self.season_s,
            grid=GridSettings(
                period_s=self.period_s,
                carry_limit=self.carry_limit,
                spacing=self.spacing,
                counters=self.counters,
                max_channels=self.max_channels,
            ),
            reference=self.reference,
            score=self.score,
            alert=self.alert,
        )


class PictureAlertSettings(AlertSettings, frozen=True):
    """When an odd picture becomes an alert: at once, for a defect is in one picture only."""

    after: int = 1


class KeepSettings(Settings, frozen=True):
    """How many of a stream's last pictures are kept, packed, in memory and in the state directory: 0 for none.

    `limit_bytes` is for all of them; the oldest ones give way.
    """

    pictures: int = 0
    limit_bytes: Size = 24_000_000


class ImageSettings(PictureSettings, frozen=True, kw_only=True, tag_field="kind", tag="image"):
    """Pictures: what to watch and how; one stream for each concrete topic that matches."""

    name: str
    topic: str
    qos: int = 1
    every_s: Duration | None = None
    encoder: str = "efficientnet-lite0"
    mode: Mode = Mode.ADAPT
    position: Position = Position.ANYWHERE
    adapt_after_s: Duration = 0.0
    reference: PictureReferenceSettings = PictureReferenceSettings()
    keep: KeepSettings = KeepSettings()
    alert: PictureAlertSettings = PictureAlertSettings()
    silence: SilenceSettings = SilenceSettings()
    score_topic: ScoreTopic = ScoreTopic.NEVER

    @property
    def encoder_name(self) -> str:
        """Return the encoder that is used."""
        return self.encoder

    def detector(self) -> PictureDetectorSettings:
        """Return the part that the core needs."""
        return PictureDetectorSettings(
            mode=self.mode, position=self.position, adapt_after_s=self.adapt_after_s, reference=self.reference
        )


StreamSettings: TypeAlias = SensorSettings | ImageSettings


class CommandSettings(Settings, frozen=True):
    """Whether operators may command over MQTT, how often, and where an answer may go if they ask for it."""

    enabled: bool = False
    limit: Budget = Budget(count=30.0, per_s=60.0, text="30 per minute")
    reply_topic_prefix: str | None = None


class Configuration(Settings, frozen=True, kw_only=True):
    """The whole file."""

    agent: AgentSettings = AgentSettings()
    broker: BrokerSettings = BrokerSettings()
    streams: list[StreamSettings]
    encoders: EncodersSettings = EncodersSettings()
    commands: CommandSettings = CommandSettings()
    homeassistant: HomeAssistantSettings = HomeAssistantSettings()
    metrics: MetricsSettings = MetricsSettings()


# What numbers must at least be.
LEAST: Final[dict[type, dict[str, int]]] = {
    AgentSettings: {"max_streams": 1, "queue_size": 1, "memory_limit_bytes": 80_000_000},
    SensorSettings: {"stride": 1, "carry_limit": 0, "max_channels": 1, "max_depth": 1, "max_samples": 1},
    ReferenceSettings: {"size": 100, "warm_up": 100},
    PictureReferenceSettings: {"size": 100, "warm_up": 40},
    KeepSettings: {"pictures": 0},
    ScoreSettings: {"neighbours": 1},
    AlertSettings: {"after": 1, "clear_after": 1},
    PictureAlertSettings: {"after": 1, "clear_after": 1},
    BrokerSettings: {"receive_maximum": 1},
}
MOST: Final[dict[type, dict[str, int]]] = {
    SensorSettings: {"carry_limit": 1000, "max_channels": 1024, "max_depth": 100, "max_samples": 100_000},
    ScoreSettings: {"neighbours": MAX_NEIGHBOURS},
    PictureReferenceSettings: {"size": 5000},
    KeepSettings: {"pictures": 6000},
}
POSITIVE: Final[dict[type, tuple[str, ...]]] = {
    AgentSettings: ("snapshot_interval_s", "max_payload_bytes"),
    SensorSettings: ("period_s", "season_s"),
    ImageSettings: ("every_s",),
    KeepSettings: ("limit_bytes",),
    SilenceSettings: ("after_s",),
    RawSettings: ("sample_rate",),
    BrokerSettings: ("return_after_s", "keepalive_s", "max_message_size"),
}


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
    return read_configuration(str(path), content)


def read_configuration(name: str, content: bytes) -> Configuration:
    """Return the configuration that a file called `name` holds. Raises ConfigurationError with every problem in it."""
    if len(content) > MAX_FILE_BYTES:
        raise ConfigurationError([Problem(name, f"at most {MAX_FILE_BYTES} bytes", f"{len(content)}")])
    builder = Builder(name, content)
    made: Any = builder.build(Configuration)
    _cross_check(builder)
    if builder.problems:
        raise ConfigurationError(builder.problems)
    return msgspec.convert(made, Configuration)


def whereabouts(path: Path) -> tuple[str, MetricsSettings]:
    """Return the state directory and how the agent listens, of a file that may be wrong elsewhere. Raises OSError."""
    builder = Builder(str(path), path.read_bytes()[:MAX_FILE_BYTES])
    builder.build(Configuration)
    agent: Any = builder.made.get("agent", AgentSettings())
    metrics: Any = builder.made.get("metrics", MetricsSettings())
    return agent.state_dir, metrics


def _cross_check(builder: Builder) -> None:
    """Look at what types cannot say, in every part that could be built."""
    names: set[str] = set()
    for path, made in list(builder.made.items()):
        if isinstance(made, SensorSettings | ImageSettings):
            if made.name in names:
                builder.complain(
                    f"{path}.name", "a name that no other stream has", repr(made.name), "rename one of them"
                )
            names.add(made.name)
            _check_stream(made, path, builder)
            if isinstance(made, SensorSettings):
                _check_sensor(made, path, builder)
            else:
                _check_images(made, path, builder)
        elif isinstance(made, BrokerSettings):
            _check_broker(made, path, builder)
        elif isinstance(made, MetricsSettings):
            for problem in metrics_problems(made):
                builder.complain(f"{path}.{problem.where}", problem.expected, problem.found, problem.remedy)
        elif isinstance(made, EncodersSettings):
            for index, key in enumerate(made.trusted_keys):
                if not is_key(key):
                    expected = "a public key as `redshank-convert keygen` prints it"
                    builder.complain(f"{path}.trusted_keys[{index}]", expected, "something else")
        elif isinstance(made, AgentSettings):
            if made.false_alarms is not None and made.false_alarms.per_s is None:
                found = repr(made.false_alarms.text)
                builder.complain(f"{path}.false_alarms", "a budget over time such as `1 per day`", found)
        elif isinstance(made, CommandSettings):
            _check_commands(made, path, builder)
        elif isinstance(made, HomeAssistantSettings):
            for key in ("prefix", "status_topic"):
                topic = getattr(made, key)
                if not valid_filter(topic) or topic.strip("/") != topic or any(one in topic for one in "+#"):
                    builder.complain(f"{path}.{key}", "a topic without wildcards", repr(topic))
            if not 1 <= made.snooze_s <= MAX_SNOOZE_S:
                builder.complain(f"{path}.snooze", "1s to 366d", f"{made.snooze_s:g} s")
        elif isinstance(made, TimeSettings | AlertSettings):
            try:
                ZoneInfo(made.zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                builder.complain(f"{path}.zone", "a time zone such as Europe/Berlin", repr(made.zone))
        elif isinstance(made, Configuration) and not made.streams:
            builder.complain("streams", "at least one stream", "none", "add one")
        for field, least in LEAST.get(type(made), {}).items():
            value = getattr(made, field)
            if isinstance(value, int | float) and value < least:
                builder.complain(f"{path}.{key_of(field)}", f"at least {least}", repr(value))
        for field, most in MOST.get(type(made), {}).items():
            value = getattr(made, field)
            if value > most:
                builder.complain(f"{path}.{key_of(field)}", f"at most {most}", repr(value))
        for field in POSITIVE.get(type(made), ()):
            value = getattr(made, field)
            if value is not None and value <= 0:
                builder.complain(f"{path}.{key_of(field)}", "more than 0", repr(value))


def _check_commands(commands: CommandSettings, path: str, builder: Builder) -> None:
    if commands.limit.per_s is None or commands.limit.count < 1.0:
        expected = "at least 1 command in a span of time, such as `30 per minute`"
        builder.complain(f"{path}.limit", expected, repr(commands.limit.text))
    prefix = commands.reply_topic_prefix
    if prefix is not None and (not prefix.strip("/") or prefix[0] == "$" or any(one in prefix for one in "+#\0")):
        builder.complain(f"{path}.reply_topic_prefix", "the first levels of a topic", repr(prefix))


def _check_broker(broker: BrokerSettings, path: str, builder: Builder) -> None:
    for key, url in (("url", broker.url), *((f"fallback[{i}]", url) for i, url in enumerate(broker.fallback))):
        try:
            endpoint(url)
        except ConfigurationError as error:
            for problem in error.problems:
                builder.complain(f"{path}.{key}", problem.expected, problem.found, problem.remedy)
    topic = broker.dropped_topic
    if topic is not None and (not valid_filter(topic) or any(one in topic for one in "+#")):
        builder.complain(f"{path}.dropped_topic", "a topic without wildcards", repr(topic))


def _check_stream(stream: StreamSettings, path: str, builder: Builder) -> None:
    def complain(key: str, expected: str, found: object, remedy: str = "") -> None:
        builder.complain(f"{path}.{key}", expected, repr(found), remedy)

    if not stream.name or any(mark in stream.name for mark in "/+#\0"):
        complain("name", "a name without / + #", stream.name)
    if stream.topic.startswith("$share"):
        _check_shared(stream.topic, complain)
    elif not valid_filter(stream.topic):
        complain("topic", "an MQTT topic filter (+ alone in a level, # alone and last)", stream.topic)
    wrong = pattern_problem(stream.topic, may_join=isinstance(stream, SensorSettings))
    if wrong is not None:
        complain("topic", wrong, stream.topic)
    if stream.qos not in (0, 1):
        complain("qos", "0 or 1", stream.qos)
    if stream.reference.warm_up > stream.reference.size:
        complain("reference.warm_up", f"at most reference.size ({stream.reference.size})", stream.reference.warm_up)


def _check_shared(topic: str, complain: Callable[[str, str, object, str], None]) -> None:
    """Look at a shared subscription (MQTT 5, section 4.8.2). All agents of a group would get each other's messages."""
    share, group, rest = (*topic.split("/", 2), "", "")[:3]
    if share != "$share" or not group or any(mark in group for mark in "+#\0") or not valid_filter(rest):
        expected = "$share/GROUP/FILTER, the group without + # and the filter an MQTT topic filter"
        complain("topic", expected, topic, "write such as $share/agents/plant/+/telemetry")
    elif rest[0] in "+#" and rest[-1] == "#":
        expected = "a shared filter that leaves the agents' own topics out"
        complain("topic", expected, topic, "name its first level: the group would get each other's alerts as readings")


def _check_sensor(stream: SensorSettings, path: str, builder: Builder) -> None:
    def complain(key: str, expected: str, found: object, remedy: str = "") -> None:
        builder.complain(f"{path}.{key}", expected, repr(found), remedy)

    if stream.format is Format.SPARKPLUG and not may_be_watched(stream.topic):
        expected = f"{NAMESPACE}/GROUP/+/NODE/#, or the like with + and #"
        complain("topic", expected, stream.topic, "births, data and deaths of a node have to come together")
    elif stream.format in _NEVER_JOINED and TopicPattern(stream.topic).joins:
        complain("topic", f"no {CHANNEL} with format: {stream.format.value}", stream.topic)
    elif stream.topic.startswith("$share/") and TopicPattern(stream.topic).joins:
        complain(
            "topic", f"no {CHANNEL} in a shared subscription", stream.topic, "a device's values would be torn apart"
        )
    for problem in payload_problems(stream):
        builder.complain(f"{path}.{problem.where}", problem.expected, problem.found, problem.remedy)
    for channel in stream.channels:
        if channel in stream.ignore_channels or channel.startswith(tuple(f"{one}." for one in stream.ignore_channels)):
            complain("ignore_channels", "none of the channels", channel, "remove it here or there")
    if len(stream.channels) > stream.max_channels:
        complain("channels", f"at most max_channels ({stream.max_channels})", len(stream.channels))
    for counter in stream.counters if stream.channels else ():
        if counter not in stream.channels:
            complain("counters", f"some of the channels ({', '.join(stream.channels)})", counter, "add it to channels")


def _check_images(stream: ImageSettings, path: str, builder: Builder) -> None:
    for problem in picture_problems(stream):
        builder.complain(f"{path}.{problem.where}", problem.expected, problem.found, problem.remedy)
    if 0 < stream.keep.pictures < stream.reference.warm_up:
        expected = f"0, or at least reference.warm_up ({stream.reference.warm_up})"
        remedy = "fewer do not make a reference"
        builder.complain(f"{path}.keep.pictures", expected, repr(stream.keep.pictures), remedy)
    if stream.alert.direction is not Direction.BOTH:
        builder.complain(f"{path}.alert.direction", "none: pictures have no direction", stream.alert.direction.value)
    if stream.alert.min_change:
        builder.complain(
            f"{path}.alert.min_change", "none: pictures have no channels", ", ".join(stream.alert.min_change)
        )
