from __future__ import annotations

import re

import pytest

from agent.adapters.homeassistant import Discovery
from agent.config import MAX_FILE_BYTES, default_agent_id, load_configuration, valid_filter
from agent.core.pace import Steps
from agent.core.quiet import QuietSpan
from agent.core.types import Change, Mode
from agent.errors import ConfigurationError
from agent.settings_builder import key_of, parse_budget, parse_duration, parse_size

GOOD = """\
broker: {url: "mqtt://localhost:1883"}
streams:
  - name: pump
    topic: plant/+/telemetry
"""


def load(tmp_path, text):
    path = tmp_path / "redshank.yaml"
    path.write_text(text) if isinstance(text, str) else path.write_bytes(text)
    return load_configuration(path)


def problems(tmp_path, text):
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, text)
    return [str(problem).replace(str(tmp_path) + "/", "") for problem in caught.value.problems]


def with_stream(line):
    return GOOD + f"    {line}\n"


def test_a_short_configuration_is_filled_with_defaults(tmp_path):
    made = load(tmp_path, GOOD)
    stream = made.streams[0]
    assert (stream.qos, stream.stride, stream.mode, stream.alert.after) == (1, Steps.AUTO, Mode.ADAPT, 2)
    assert stream.alert.budget_for(stream.mode).per_s == 7 * 86400
    assert made.metrics.listen == "127.0.0.1:9791"


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (
            "listen: 0.0.0.0:9791",
            "1 metrics.listen: expected metrics.credentials_file beside an address that others reach",
        ),
        ("listen: '[::]:9791'", "make one by `redshank credential`, or listen at 127.0.0.1"),
        ("key_file: /k", "1 metrics.key_file: expected cert_file beside it"),
        ("listen: 127.0.0.1:99999", "expected HOST:PORT such as 127.0.0.1:9791"),
    ],
)
def test_others_are_let_in_only_with_credentials(tmp_path, metrics, says):
    (problem,) = problems(tmp_path, f"metrics: {{{metrics}}}\n" + GOOD)
    assert says in problem


def test_words_become_seconds_bytes_and_rates(tmp_path):
    text = "agent: {snapshot_interval: 90s, max_payload: 2MiB}\n" + with_stream(
        "alert: {false_alarms: 3 per day, cooldown: 1.5h, severity: info, min_change: {temp: 0.5, flow: 10 %, v: 2}}"
    )
    made = load(tmp_path, text)
    assert made.agent.snapshot_interval_s == 90.0
    assert made.agent.max_payload_bytes == 2 * 2**20
    assert made.streams[0].alert.cooldown_s == 5400.0
    assert made.streams[0].alert.false_alarms.rate_per_decision(1.0) == pytest.approx(3 / 86400)
    assert made.streams[0].alert.min_change == {
        "temp": Change(amount=0.5), "flow": Change(amount=0.1, relative=True), "v": Change(amount=2.0)
    }  # fmt: skip


def test_quiet_hours_are_spans_of_the_day(tmp_path):
    alert = (
        load(tmp_path, with_stream("alert: {quiet_hours: [22:00-06:00, 12:30 - 24:00], zone: Europe/Berlin}"))
        .streams[0]
        .alert
    )
    assert alert.quiet_hours == (QuietSpan(begin=1320, end=360), QuietSpan(begin=750, end=1440))
    assert alert.zone == "Europe/Berlin"


def test_every_problem_is_found_in_one_pass_each_with_its_line(tmp_path):
    found = problems(
        tmp_path,
        """\
agent: {idd: x}
agent: {}
streams:
  - name: a
    topic: t
    stride: fast
    alert: {false_alarms: often, cooldown: 5}
    mode: learn
    channels: temp
""",
    )
    assert [line.split(":")[1].split()[0] for line in found] == ["1", "2", "6", "7", "7", "8", "9"]
    assert "did you mean 'id'" in found[0]
    assert "a second 'agent'" in found[1]
    assert "adapt, hold, frozen" in found[5]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("topic: a/#/b", "once"),
        ("format: yaml", "one of json, csv, value"),
        ("format: raw\n    raw: {sample_rate: 0}", "more than 0"),
        ("format: raw\n    raw: {skip: 2}", "a size"),
        ("format: value\n    time: {path: ts}", "none with format: value"),
        ("kind: video", "one of sensor, image"),
        ("kind: [sensor]", "one of sensor, image"),
        ("qos: 2", "0 or 1"),
        ("stride: 0", "at least 1"),
        ("stride: 1.5", "a whole number or auto, found"),
        ("stride: fast", "a whole number or auto, found 'fast'"),
        ("stride: ~", "a whole number or auto"),
        ("stride: [5]", "a whole number or auto, found a list"),
        ("score: {neighbours: 26}", "at most 25"),
        ("carry_limit: 1001", "at most 1000"),
        ("reference: {size: 200, warm_up: 300}", "at most reference.size"),
        ("reference: 5", "keys and values"),
        ("channels: [[a]]", "text"),
        ("channels: [a.b, c]\n    ignore_channels: [a]", "none of the channels, found 'a.b'"),
        ("channels: [temp]\n    counters: [energy]", "some of the channels (temp), found 'energy'"),
        ("alert: {min_change: [1]}", "keys and values"),
        *(
            (f"alert: {{min_change: {{a: {one}}}}}", "a number")
            for one in ("much", "-1", "5 m", "5 %%", "1e", "[1]", ".nan")
        ),
        ("time: {path: ts, zone: Mars/Olympus}", "a time zone"),
        ("alert: {zone: Mars/Olympus}", "a time zone"),
        ("alert: {quiet_hours: 22:00-06:00}", "a list"),
        *(
            (f"alert: {{quiet_hours: ['{one}']}}", f"a span of the day such as 22:00-06:00, found '{one}'")
            for one in (
                "22-6",
                "22:00",
                "24:00-06:00",
                "22:60-06:00",
                "22:00-24:01",
                "06:00-06:00",
                "night",
                "-1:00-2:00",
            )
        ),
        ("time: {unit: ms}", "add `path:`"),
        ("period: soon", "a duration"),
        ("period: 0s", "more than 0"),
        ("delimiter: '::'", "one character"),
        ("encoder: []", "text"),
    ],
)
def test_each_kind_of_mistake_is_named(tmp_path, line, words):
    text = with_stream(line) if not line.startswith("topic") else GOOD.replace("topic: plant/+/telemetry", line)
    found = problems(tmp_path, text)
    if line.startswith("topic"):
        words = "an MQTT topic filter"
    assert any(words in one for one in found), found


def test_a_budget_for_all_streams_is_one_over_time(tmp_path):
    assert load(tmp_path, "agent: {false_alarms: 2 per day}\n" + GOOD).agent.false_alarms.count == 2
    (found,) = problems(tmp_path, "agent: {false_alarms: 1 per 1000 decisions}\n" + GOOD)
    assert "1 agent.false_alarms: expected a budget over time such as `1 per day`" in found


def test_two_streams_may_not_share_a_name(tmp_path):
    assert "no other stream" in problems(tmp_path, GOOD + "  - {name: pump, topic: other}\n")[0]


def test_values_are_checked_even_where_other_things_are_wrong(tmp_path):
    found = problems(
        tmp_path,
        "agent: {queue_size: 9, colour: red}\nmetrics: {listen: nowhere}\nbroker: {url: 'http://x'}\n"
        + with_stream("stride: 0").removeprefix('broker: {url: "mqtt://localhost:1883"}\n'),
    )
    keys = {one.split(" ")[1].rstrip(":") for one in found}
    assert keys == {"agent.colour", "metrics.listen", "broker.url", "streams[0].stride"}


def test_a_stream_is_needed(tmp_path):
    assert "at least one stream" in problems(tmp_path, "streams: []\n")[0]
    assert "add `streams:`" in problems(tmp_path, "broker: {}\n")[0]


def test_yaml_1_1_surprises_stay_the_text_that_was_written(tmp_path):
    text = GOOD.replace("name: pump", "name: NO").replace("plant/+/telemetry", "0123")
    stream = load(tmp_path, text).streams[0]
    assert (stream.name, stream.topic) == ("NO", "0123")


@pytest.mark.parametrize(
    "content",
    [
        "streams: [",
        "a: b: c",
        "\tstreams: []",
        b"\xff\xfe\x00",
        "",
        "- a\n",
        "just text",
        "streams: *nowhere",
        "&a [*a]",
        "? [a, b]\n: {}",
        "[" * 3000,
    ],
)
def test_what_is_no_configuration_gives_problems_and_nothing_else(tmp_path, content):
    assert problems(tmp_path, content)


def test_a_billion_laughs_and_deep_nesting_end_soon(tmp_path):
    laughs = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    assert problems(tmp_path, laughs + "streams: *a59\n")
    assert problems(tmp_path, "streams: " + "[" * 3000 + "]" * 3000)


def test_a_missing_or_huge_file_is_a_problem(tmp_path):
    with pytest.raises(ConfigurationError, match="a configuration file"):
        load_configuration(tmp_path / "none.yaml")
    assert "at most" in problems(tmp_path, "#" * (MAX_FILE_BYTES + 1))[0]


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("5m", 300), ("2 h", 7200), ("1d", 86400), ("1w", 604800)]
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("10B", 10), ("256MB", 256_000_000), ("1KiB", 1024)])
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "5", "1 parsec", "-1s", "1 per", "1 per fortnight", "0 per day", "1 per 0 decisions"]
)
def test_what_is_no_quantity_is_refused(text):
    for parse in (parse_duration, parse_size, parse_budget):
        with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("1 per 1000 decisions", 1e-3), ("2 per hour", 2 / 3600), ("1 per 2 weeks", 1 / 1209600)]
)
def test_budgets(text, rate):
    assert parse_budget(text).rate_per_decision(1.0) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("topic", "good"),
    [
        ("a/b", True),
        ("+", True),
        ("#", True),
        ("a/#", True),
        ("a/+/c", True),
        ("", False),
        ("a+", False),
        ("#/a", False),
        ("a\0", False),
    ],
)
def test_topic_filters(topic, good):
    assert valid_filter(topic) is good


def test_keys_are_field_names_without_their_unit():
    assert [key_of(name) for name in ("period_s", "max_payload_bytes", "stride")] == ["period", "max_payload", "stride"]


def test_an_agent_has_a_name_even_if_none_is_given():
    assert default_agent_id()


@pytest.mark.parametrize("prefix", ["''", "/", "a/+/b", "a/#", "$SYS/x"])
def test_a_reply_topic_prefix_is_the_beginning_of_a_topic(tmp_path, prefix):
    (problem,) = problems(
        tmp_path, GOOD + f"commands: {{enabled: true, reply_topic_prefix: {prefix}}}\n".replace("a/#", '"a/#"')
    )
    assert "redshank.yaml:5 commands.reply_topic_prefix: expected the first levels of a topic" in problem
    made = load(tmp_path, GOOD + "commands: {reply_topic_prefix: ops/answers}\n")
    assert (made.commands.enabled, made.commands.reply_topic_prefix) == (False, "ops/answers")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("discovery: yes", "one of never, always"),
        ("prefix: home/+", "prefix: expected a topic without wildcards"),
        ("prefix: /home", "prefix: expected a topic without wildcards"),
        ('status_topic: ""', "status_topic: expected a topic without wildcards"),
        ("snooze: 500ms", "snooze: expected 1s to 366d, found 0.5 s"),
        ("snooze: 367d", "snooze: expected 1s to 366d"),
    ],
)
def test_mistakes_about_home_assistant_are_named(tmp_path, line, words):
    (problem,) = problems(tmp_path, GOOD + f"homeassistant: {{{line}}}\n")
    assert words in problem
    assert "redshank.yaml:5 homeassistant." in problem


def test_home_assistant_is_told_nothing_unless_asked(tmp_path):
    assert load(tmp_path, GOOD).homeassistant.discovery is Discovery.NEVER
    made = load(tmp_path, GOOD + "homeassistant: {discovery: always, prefix: ha/disco, snooze: 2h}\n").homeassistant
    assert (made.discovery, made.prefix, made.status_topic) == (Discovery.ALWAYS, "ha/disco", "homeassistant/status")
    assert made.snooze_s == 7200.0


@pytest.mark.parametrize("topic", ["$share/agents/plant/+/telemetry", "$share/a/+/x", "$share/a/plant/#"])
def test_shared_subscriptions_are_filters_too(tmp_path, topic):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"streams: [{{name: pump, topic: {topic}}}]\n")
    (stream,) = load_configuration(path).streams
    assert stream.topic == topic


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("$share", "$share/GROUP/FILTER"),
        ("$share/agents", "$share/GROUP/FILTER"),
        ("$share//plant/a", "$share/GROUP/FILTER"),
        ("$share/a+/plant/a", "$share/GROUP/FILTER"),
        ("$shared/agents/plant/a", "$share/GROUP/FILTER"),
        ("$share/agents/", "$share/GROUP/FILTER"),
        ("$share/agents/plant/a+", "$share/GROUP/FILTER"),
        ("$share/agents/#", "the agents' own topics"),
        ("$share/agents/+/#", "the agents' own topics"),
    ],
)
def test_shared_subscriptions_that_cannot_be_meant_are_refused(tmp_path, topic, words):
    path = tmp_path / "redshank.yaml"
    path.write_text(f"streams: [{{name: pump, topic: '{topic}'}}]\n")
    with pytest.raises(ConfigurationError) as caught:
        load_configuration(path)
    (problem,) = caught.value.problems
    assert words in problem.expected


@pytest.mark.parametrize(
    ("topic", "more", "words"),
    [
        ("home/{room}/{channel}", "", "{device} or {channel}, alone in a level"),
        ("home/{channel}", "format: csv", "no {channel} with format: csv"),
        ("home/{channel}", "kind: image", "no {channel}"),
        ("$share/agents/home/{channel}", "", "no {channel} in a shared subscription"),
        ("$share/agents/spBv1.0/#", "format: sparkplug", "spBv1.0/GROUP/+/NODE/#"),
        ("plant/#", "format: sparkplug", "spBv1.0/GROUP/+/NODE/#"),
        ("spBv1.0/g/DDATA/n/d", "format: sparkplug", "births, data and deaths"),
        ("spBv1.0/#", "format: sparkplug\n    time: {path: ts}", "none with format: sparkplug"),
    ],
)
def test_topics_that_cannot_be_watched(tmp_path, topic, more, words):
    (found,) = problems(tmp_path, GOOD.replace("plant/+/telemetry", topic) + f"    {more}\n")
    assert words in found


NINES = "9" * 5000  # Python itself refuses to read a whole number of so many digits


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"carry_limit: {NINES}", "a whole number"),
        (f"stride: {NINES}", "a whole number"),
        (f"period: {NINES}s", "a duration"),
        (f"alert: {{min_change: {{a: {NINES}}}}}", "a number of at least 0"),
        (f"alert: {{false_alarms: {NINES} per {NINES} days}}", "a budget"),
        ('format: "\\0"', "one of json"),
        ('delimiter: "\\0"', "text without NUL"),
        ('encoder: "\\ud800"', "text without NUL"),
        ('alert: {min_change: {"\\0": 1}}', "text without NUL"),
        ('channels: ["\\udfff"]', "text without NUL"),
        ("max_channels: 0", "at least 1"),
        ("max_channels: 1025", "at most 1024"),
        ("max_depth: 101", "at most 100"),
        ("max_samples: 0", "at least 1"),
        ("{channels: [a, b], max_channels: 1}"[1:-1].replace(", max", "\n    max"), "at most max_channels (1)"),
    ],
)
def test_rubbish_in_a_value_is_a_problem_and_nothing_else(tmp_path, line, words):
    text = f"streams:\n  - name: a\n    topic: b\n    {line}\n"
    assert any(words in one for one in problems(tmp_path, text))
    assert problems(tmp_path, f"agent: {{memory_limit: {NINES}MB}}\nstreams: [{{name: a, topic: b}}]")


def test_anchors_do_not_multiply_a_file(tmp_path):
    many = "s: &s {name: a, topic: b, channels: &c [" + "x, " * 1000 + "]}\nstreams: [" + "*s, " * 300 + "]\n"
    found = problems(tmp_path, many)
    assert sum("an anchor counts each time it is used" in one for one in found) == 1
