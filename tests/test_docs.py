"""What users can touch is documented, and the examples are true."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from argparse import _SubParsersAction
from contextlib import closing
from datetime import datetime
from pathlib import Path
from threading import Thread

import msgspec
import pytest
import yaml

from agent import alert_message
from agent.adapters.homeassistant import StreamDescription
from agent.adapters.mqtt import Topics
from agent.adapters.payload import RejectReason
from agent.adapters.telemetry import SilentObserver, Telemetry
from agent.app import with_defaults
from agent.cli import parser
from agent.commands import _HANDLERS, COMMANDS, AnyOrder
from agent.config import Configuration, load_configuration
from agent.core.alerting import AlertEvent, AlertKind, AlertTransition, Ending
from agent.core.types import Budget, Settings
from agent.pipeline import Pipeline
from agent.publications import LastAlert, announcements_of
from agent.settings_builder import key_of
from agent.topic_pattern import TopicPattern
from converter.cli import parser as converter_parser
from tests.brokers import Peer, wait_until
from tests.homes import ENVIRONMENT, entities

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "deploy" / "redshank.example.yaml"


def text(name):
    return (ROOT / name).read_text()


def kinds_of(info):
    """Yield the settings that a type holds: itself, or those of its items or alternatives."""
    match info:
        case msgspec.inspect.StructType():
            yield info.cls
        case msgspec.inspect.UnionType():
            for one in info.types:
                yield from kinds_of(one)
        case msgspec.inspect.ListType():
            yield from kinds_of(info.item_type)
        case msgspec.inspect.Metadata():
            yield from kinds_of(info.type)


def keys(kind, section="") -> list[tuple[str, str]]:
    """Return (section, key) of every key below a settings type; a section is the last key that leads there."""
    found = []
    for field in msgspec.structs.fields(kind):
        key = key_of(field.name)
        inner = [
            one
            for one in kinds_of(msgspec.inspect.type_info(field.type))
            if issubclass(one, Settings) and one is not Budget
        ]
        if section or not inner:
            found.append((section, key))
        for one in inner:
            found += keys(one, key)
    return found


def sections(markdown):
    """Return what stands under each heading."""
    parts = re.split(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def json_blocks(markdown):
    return [json.loads(block) for block in re.findall(r"```json\n(.+?)```", markdown, flags=re.DOTALL)]


@pytest.mark.parametrize(("section", "key"), keys(Configuration))
def test_every_key_has_its_row(section, key):
    assert f"\n| `{key}` | " in sections(text("docs/configuration.md"))[section]


@pytest.mark.parametrize(("section", "key"), keys(Configuration))
def test_every_key_is_in_the_example(section, key):
    del section
    assert re.search(rf"^[ #-]*{key}:", EXAMPLE.read_text(), flags=re.MULTILINE)


def test_every_row_is_a_key():
    known = set(keys(Configuration))
    for section, body in sections(text("docs/configuration.md")).items():
        for key in re.findall(r"^\| `(\w+)` \|", body, flags=re.MULTILINE):
            assert (section, key) in known


@pytest.mark.parametrize("reason", [reason.value for reason in RejectReason])
def test_every_reason_is_explained(reason):
    assert f"`{reason}`" in sections(text("docs/configuration.md"))["Payloads"]


def families():
    """Return name, type and labels of every metric, as Prometheus sees them."""
    registry = Telemetry(1, 1).registry
    labels = {name: getattr(one, "_labelnames", ()) for name, one in registry._names_to_collectors.items()}
    return [
        (
            one.name + ("_total" if one.type == "counter" else ""),
            one.type,
            getattr(one, "_labelnames", labels.get(one.name)),
        )
        for one in registry.collect()
    ]


def test_every_metric_has_its_row_and_every_row_is_a_metric():
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (.*?) ?\| \S", text("docs/metrics.md"), flags=re.MULTILINE)
    written = {(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert written == set(families())


def test_every_test_that_is_named_exists():
    """Named as tests/file.py::test, as tests/file.py, as a test of whichever file, or as what `python -m` runs."""
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    missing, named = [], 0
    for path in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        page = path.read_text()
        for file, name in re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", page):
            named += 1
            if not (ROOT / file).exists() or (name and not re.search(rf"^ *def {name}\(", text(file), re.MULTILINE)):
                missing.append((path.name, file, name))
        alone = re.findall(r"`(test_\w+)`", page)
        missing += [(path.name, name) for name in alone if not re.search(rf"^ *def {name}\(", tests, re.MULTILINE)]
        for module in re.findall(r"python -m (tests(?:\.\w+)+)", page):
            place = ROOT / module.replace(".", "/")
            if not (place.with_suffix(".py").exists() or (place / "__main__.py").exists()):
                missing.append((path.name, module))
    assert named
    assert missing == []


def test_every_link_between_documents_leads_somewhere():
    """A heading's anchor is made as GitHub makes it: lower case, blanks as dashes, else letters and digits."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    anchors = {
        path: {
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", path.read_text(), flags=re.MULTILINE)
        }
        for path in pages
    }
    for path in pages:
        for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]*))?\)", path.read_text()):
            leads_to = (path.parent / target).resolve() if target else path
            assert leads_to.exists(), (path.name, target)
            assert not anchor or anchor in anchors[leads_to], (path.name, target, anchor)


@pytest.mark.parametrize(("program", "parser"), [("redshank", parser), ("redshank-convert", converter_parser)])
def test_every_command_has_its_line(program, parser):
    commands = next(one for one in parser()._actions if isinstance(one, _SubParsersAction)).choices
    lines = [one for one in text("docs/commands.md").splitlines() if one.startswith(f"    {program} ")]
    for command in commands:
        assert any(re.search(rf"(?:{program}|/|also|,) {command}\b", line) for line in lines), command


def test_the_example_configuration_loads():
    load_configuration(EXAMPLE)


def test_the_example_shows_usable_values_where_they_are_commented_out(tmp_path):
    whole = tmp_path / "whole.yaml"
    lines = EXAMPLE.read_text().splitlines()[2:]  # the first are for editors and for people
    whole.write_text("\n".join(re.sub(r"^(\s*)# ", r"\1", line) for line in lines))
    load_configuration(whole)


@pytest.mark.parametrize("page", ["README.md", "docs/plant.md", "docs/fleet.md"])
def test_the_configurations_shown_load(page, tmp_path):
    (block,) = yaml_blocks(text(page))
    (tmp_path / "shown.yaml").write_text(block)
    load_configuration(tmp_path / "shown.yaml")


def test_the_subscriber_shown_prints_alerts(mosquitto):
    (block,) = re.findall(r"```python\n(.+?)```", text("docs/plant.md"), flags=re.DOTALL)
    (raised, *_) = (one for one in json_blocks(text("docs/mqtt.md")) if one.get("event") == "raised")
    program = block.replace('"localhost", 1883', f'"127.0.0.1", {mosquitto.port}')
    command = [sys.executable, "-u", "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, closing(Peer(mosquitto)) as peer:
        lines = iter(process.stdout.readline, "")
        told = Thread(target=lambda: told.lines.append(next(lines)))
        told.lines = []
        told.start()
        wait_until(lambda: peer.publish("redshank/pi/pump/line1/alert", json.dumps(raised).encode()) or told.lines)
        process.kill()
    assert told.lines == [f"{raised['at']} raised {raised['message']}\n"]


def test_the_alerts_shown_are_valid_and_of_every_kind_and_event(schema):
    alerts = [one for one in json_blocks(text("docs/mqtt.md")) if "version" in one]
    for alert in alerts:
        schema.validate(alert)
    assert {alert["kind"] for alert in alerts} == {"anomaly", "frozen", "silent"}
    assert {alert["event"] for alert in alerts} == {"raised", "cleared"}


def test_the_sentences_shown_are_those_that_are_made():
    (shown,) = re.findall(r'"message": "(pump/a: .+?)"', text("README.md"))
    assert re.fullmatch(r"pump/a: \S+ rose to \S+, normally \S+ to \S+; nothing like it since \d\d:\d\d UTC", shown)
    for one in json_blocks(text("docs/mqtt.md")):
        if "version" in one:
            times = [
                one[key] and datetime.fromisoformat(one[key]).timestamp() for key in ("started_at", "at", "ended_at")
            ]
            transition = AlertTransition(one["id"], AlertKind(one["kind"]), AlertEvent(one["event"]), *times)
            assert one["message"] == alert_message.sentence(one["stream"], transition, one["evidence"])


def test_every_command_and_its_answer_are_shown_and_each_of_its_fields_is_told():
    section = sections(text("docs/mqtt.md"))["Commands"]
    blocks = json_blocks(section)
    shown = [msgspec.convert(one, AnyOrder) for one in blocks if "ok" not in one]
    assert {type(one) for one in shown} == set(_HANDLERS)
    assert {one["command"] for one in blocks if one.get("ok")} == set(COMMANDS)
    for kind in _HANDLERS:
        told = "".join(re.findall(rf"^\| `{kind.__struct_config__.tag}` \| (.*?) \|", section, flags=re.MULTILINE))
        fields = {field.encode_name for field in msgspec.structs.fields(kind)} - {"correlation"}
        assert set(re.findall(r"`(\w+)`", told)) == fields


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("kind", "ending"), [(AlertKind.SILENT, Ending.NORMAL), (AlertKind.ANOMALY, Ending.ACCEPTED)])
def test_the_schema_takes_what_is_made(schema, late, kind, ending):
    transition = AlertTransition("0" * 16, kind, AlertEvent.CLEARED, 100.0, 160.5, 160.5, ending)
    payload = alert_message.encode(
        transition,
        agent="a",
        stream="s",
        topic="t",
        severity="warning",
        budget="1 per week",
        late=False,
        threshold=5.0,
        score=None,
        found=alert_message.silence(40.0, 100.0),
        encoder=None,
    )
    message = json.loads(alert_message.mark_late(payload) if late else payload)
    schema.validate(message)
    assert message["late"] is late


@pytest.mark.parametrize(
    "change", [{"extra": 1}, {"kind": "odd"}, {"at": "today"}, {"ended_at": "2026-01-01T00:00:00.000Z"}]
)
def test_the_schema_refuses_what_is_not_made(schema, change):
    raised = next(one for one in json_blocks(text("docs/mqtt.md")) if one.get("event") == "raised")
    assert not schema.is_valid(raised | change)


def test_the_states_shown_have_the_fields_that_are_made(tmp_path):
    (tmp_path / "redshank.yaml").write_text("streams: [{name: pump, topic: a, encoder: none}]\n")
    configuration = load_configuration(tmp_path / "redshank.yaml")
    stream = Pipeline(configuration, {}, Topics("redshank", "pi"), SilentObserver()).stream_of("a")
    shown = {key: block for block in json_blocks(text("docs/mqtt.md")) for key in block}
    of_stream, of_agent = shown["phase"], shown["outbox_dropped"]
    assert of_stream.keys() == stream.state().keys() | {"snoozed", "last_alert"}
    assert of_stream["last_alert"].keys() == {field.name for field in msgspec.structs.fields(LastAlert)}
    assert of_agent.keys() == Telemetry(1, 256_000_000).totals().keys() | {
        "hearing",
        "stuck",
        "streams",
        "learning",
        "firing",
        "troubles",
    }


def yaml_blocks(markdown):
    return re.findall(r"```yaml\n(.+?)```", markdown, flags=re.DOTALL)


@pytest.fixture
def home(tmp_path):
    """Return what docs/home-assistant.md configures, and the entities that come of it, by id."""
    (tmp_path / "home.yaml").write_text(yaml_blocks(text("docs/home-assistant.md"))[0])
    configuration = with_defaults(load_configuration(tmp_path / "home.yaml"))
    topics = Topics(configuration.agent.topic_prefix, configuration.agent.id)
    announcements = announcements_of(configuration, topics)
    climate = StreamDescription("climate/bathroom", None, topics.state("climate/bathroom"))
    door = StreamDescription("door", None, topics.state("door"), topics.heatmap("door"))
    made = [(announcements.agent_device, announcements.of_agent())]
    made += [(announcements.device(one.name), announcements.of_stream(one)) for one in (climate, door)]
    return configuration, entities([(announcements.topic(device), payload, True) for device, payload in made])


def test_the_entities_that_home_assistant_owners_read_of_are_those_that_there_are(home):
    configuration, made = home
    assert [one.name for one in configuration.streams] == ["climate", "door"]
    prose = text("docs/home-assistant.md")
    told = set(re.findall(r"\b(?:binary_sensor|sensor|image|button|switch)\.(?!press)\w+", prose))
    assert told <= made.keys()
    assert {one for one in made if "climate" in one} <= told
    for entity in made.values():
        if "bathroom" in entity.entity_id:
            assert f"`{entity.entity_id}` | *{entity.config['name']}*" in prose


AUTOMATION_KEYS = {"alias", "mode", "triggers", "conditions", "actions"}


def texts_in(value):
    """Yield every text of a YAML document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from texts_in(one)


def test_the_automations_that_are_shown_read_what_is_published(home):
    """Their form was checked by hand, with Home Assistant's own validators (decision 15)."""
    configuration, made = home
    *automations, dashboard = [yaml.safe_load(block) for block in yaml_blocks(text("docs/home-assistant.md"))[1:]]
    assert dashboard["type"] == "vertical-stack"
    assert len(automations) == 3
    (raised, *_) = (one for one in json_blocks(text("docs/mqtt.md")) if one.get("event") == "raised")
    shown = {
        "states": lambda entity: made[entity] and "odd",
        "state_attr": lambda entity, name: made[entity] and {"message": "odd"}[name],
        "trigger": {"payload_json": raised},
    }
    for automation in automations:
        assert automation.keys() <= AUTOMATION_KEYS
        for one in texts_in(automation):
            assert ENVIRONMENT.from_string(one, {}).render(shown)
        for trigger in automation["triggers"]:
            if trigger["trigger"] == "mqtt":
                topics = Topics("redshank", configuration.agent.id)
                assert any(
                    TopicPattern(trigger["topic"]).match(topics.alert(name)) is not None
                    for name in ("climate/b", "door")
                )
            else:
                assert (trigger["trigger"], trigger["to"]) == ("state", "on")
