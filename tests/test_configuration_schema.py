"""The schema is the one that the types give, and says what the loader says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from agent.cli import main
from agent.config import Configuration, load_configuration
from agent.configuration_schema import schema, schema_text
from agent.errors import ConfigurationError
from agent.settings_builder import _Loader
from tests.test_docs import keys

ROOT = Path(__file__).parents[1]
FILE = ROOT / "docs" / "schemas" / "configuration.schema.json"
EXAMPLE = ROOT / "deploy" / "redshank.example.yaml"
GOOD = "streams:\n  - name: pump\n    topic: plant/+\n"
IMAGE = GOOD + "    kind: image\n"


@pytest.fixture(scope="module")
def validator():
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


def with_stream(*lines, base=GOOD):
    return base + "".join(f"    {line}\n" for line in lines)


def loads(tmp_path, text):
    path = tmp_path / "redshank.yaml"
    path.write_text(text)
    try:
        load_configuration(path)
    except ConfigurationError:
        return False
    return True


def fits(validator, text):
    return validator.is_valid(yaml.load(text, Loader=_Loader))


def test_the_file_in_the_documents_is_current(capsys):
    assert main(["check", "--schema"]) == 0
    assert capsys.readouterr().out == schema_text()
    assert FILE.read_text() == schema_text(), "redshank check --schema > docs/schemas/configuration.schema.json"


def test_a_file_or_the_schema_must_be_asked_for(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["check"])
    assert ended.value.code == 2
    assert "expected a configuration file or --schema" in capsys.readouterr().err


def test_every_key_is_in_it():
    known = {key for one in schema()["$defs"].values() for key in one["properties"]}
    assert {key for _, key in keys(Configuration)} <= known


def test_the_example_names_it_and_fits(validator):
    text = EXAMPLE.read_text()
    (path,) = re.findall(r"^# yaml-language-server: \$schema=(\S+)$", text, flags=re.MULTILINE)
    assert (EXAMPLE.parent / path).resolve() == FILE
    assert fits(validator, text)
    assert fits(validator, re.sub(r"^(\s*)# (?!yaml-language|Every key)", r"\1", text, flags=re.MULTILINE))


def test_defaults_are_what_a_person_would_write(tmp_path):
    content = json.loads(schema_text())["$defs"]
    sections = {"agent": "AgentSettings", "broker": "BrokerSettings", "metrics": "MetricsSettings"}
    lines = []
    for section, name in sections.items():
        defaults = {key: one["default"] for key, one in content[name]["properties"].items() if "default" in one}
        lines.append(f"{section}: {json.dumps(defaults)}")
    path = tmp_path / "redshank.yaml"
    path.write_text("\n".join([*lines, GOOD]))
    made = load_configuration(path)
    (tmp_path / "bare.yaml").write_text(GOOD)
    bare = load_configuration(tmp_path / "bare.yaml")
    assert (made.agent, made.broker, made.metrics) == (bare.agent, bare.broker, bare.metrics)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        IMAGE,
        with_stream("kind: sensor", "qos: 0", "stride: 3"),
        with_stream("stride: auto"),
        with_stream("channels: [a, 5]", "delimiter: ;", "columns: [a]"),
        with_stream("season: 1.5h", "period: 500ms", "silence: {after: 2 min}"),
        with_stream("season: ~", "time: {path: ts, unit: iso, zone: Europe/Berlin, max_ahead: 0s}"),
        with_stream("alert: {false_alarms: 3 per 2 days, min_change: {a: 0.5, b: 10 %, c: 2, d: 1e-3}}"),
        with_stream("alert: {false_alarms: 1 per 1000 decisions, quiet_hours: [22:00-06:00, 9:30 - 24:00]}"),
        with_stream("reference: {size: 500, warm_up: 100}", "score: {method: density, neighbours: 25}"),
        with_stream("region: [0, 0.1, 1, 1]", "ignore: [[[0, 0], [0.5, 0], [0, 0.5]]]", "tiles: [2, 1]", base=IMAGE),
        with_stream("every: 2s", "max_pixels: 1000", "position: same", "format: json", "path: image", base=IMAGE),
        "agent: {id: 12, memory_limit: 256MiB, max_payload: 1.5 kB, false_alarms: ~}\n" + GOOD,
        "broker: {protocol: 5, username: NO, client_id: 0123}\n" + GOOD,
        "broker: {protocol: '5'}\n" + GOOD,
        "broker: {protocol: 3.1.1, session_expiry: 0s, keepalive: 10s}\n" + GOOD,
        "commands: {enabled: true, reply_topic_prefix: ops}\nmetrics: {listen: 'localhost:1'}\n" + GOOD,
    ],
)
def test_what_the_loader_takes_fits(validator, tmp_path, text):
    assert loads(tmp_path, text)
    assert fits(validator, text)


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "streams: {}",
        "agent: {idd: x}\n" + GOOD,
        "agent: ~\n" + GOOD,
        "agent: {max_payload: 0B}\n" + GOOD,
        "agent: {max_payload: 1000}\n" + GOOD,
        "agent: {queue_size: 0}\n" + GOOD,
        "agent: {snapshot_interval: 0.0 s}\n" + GOOD,
        "agent: {state_dir: ~}\n" + GOOD,
        "broker: {protocol: 4}\n" + GOOD,
        "broker: {receive_maximum: many}\n" + GOOD,
        "broker: {url: [a]}\n" + GOOD,
        "commands: {enabled: 'true'}\n" + GOOD,
        "commands: {enabled: NO}\n" + GOOD,
        "streams: [{topic: a}]",
        with_stream("kind: video"),
        with_stream("kind: [sensor]"),
        with_stream("tiles: [2, 1]"),
        with_stream("stride: 2", base=IMAGE),
        with_stream("format: xml"),
        with_stream("format: csv", base=IMAGE),
        with_stream("mode: learn"),
        with_stream("stride: 0"),
        with_stream("stride: 1.5"),
        with_stream("stride: fast"),
        with_stream("stride: ~"),
        with_stream("carry_limit: 1001"),
        with_stream("period: soon"),
        with_stream("period: 60"),
        with_stream("period: 0s"),
        with_stream("season: -1d"),
        with_stream("channels: temp"),
        with_stream("channels: [[a]]"),
        with_stream("time: {unit: ms}"),
        with_stream("score: {neighbours: 26}"),
        with_stream("reference: {size: 99}"),
        with_stream("reference: 5"),
        with_stream("alert: {false_alarms: often}"),
        with_stream("alert: {false_alarms: 1 per fortnight}"),
        with_stream("alert: {min_change: {a: -1}}"),
        with_stream("alert: {min_change: {a: much}}"),
        with_stream("alert: {min_change: [1]}"),
        with_stream("alert: {quiet_hours: 22:00-06:00}"),
        with_stream("alert: {quiet_hours: ['24:00-06:00']}"),
        with_stream("alert: {quiet_hours: ['22:60-06:00']}"),
        with_stream("alert: {severity: loud}"),
        with_stream("silence: {after: 0s}"),
        with_stream("region: [a, 0, 1, 1]", base=IMAGE),
        with_stream("reference: {size: 5001}", base=IMAGE),
    ],
)
def test_what_the_loader_refuses_does_not_fit(validator, tmp_path, text):
    assert not loads(tmp_path, text)
    assert not fits(validator, text)


@pytest.mark.parametrize(
    "text",
    [
        "streams: []",
        GOOD + GOOD.removeprefix("streams:\n"),  # two of one name
        with_stream("qos: 2"),
        with_stream("reference: {size: 200, warm_up: 300}"),
        with_stream("time: {path: ts, zone: Mars/Olympus}"),
        "agent: {memory_limit: 1MB}\n" + GOOD,
        "broker: {url: 'http://a'}\n" + GOOD,
    ],
)
def test_what_only_the_loader_finds_fits(validator, tmp_path, text):
    assert not loads(tmp_path, text)
    assert fits(validator, text)
