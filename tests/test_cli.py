from __future__ import annotations

import io
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from agent.adapters.recording import line_of, read_messages
from agent.adapters.store import Store
from agent.adapters.tflite import available_runtimes
from agent.app import load_encoders
from agent.bundle import ENCODERS, installed_bundles, read_model
from agent.cli import main
from agent.config import load_configuration
from agent.encoder_trial import CallCost, Tried
from agent.errors import BundleError
from agent.ports import InboundMessage
from converter.cli import main as convert
from tests.brokers import Peer, ScriptedBroker, free_port, wait_until

ROOT = Path(__file__).parents[1]
START = 1_700_000_000
COMMAND = [sys.executable, "-m", "agent.cli"]


@pytest.fixture(autouse=True)
def signal_handlers():
    """Put back the handlers that a command may have set."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def configure(tmp_path):
    """Return a function that writes a configuration and tells its path."""

    def make(broker="", stream="", text=None, listen=None):
        path = tmp_path / "redshank.yaml"
        path.write_text(
            text
            or f"""
agent: {{id: pi, state_dir: {tmp_path}/state}}
broker: {{{broker}}}
metrics: {{listen: "{listen or f"127.0.0.1:{free_port()}"}"}}
streams:
  - name: pump
    topic: plant/+/telemetry
    channels: [temp]
    time: {{path: ts}}
    reference: {{size: 300, warm_up: 200}}
    alert: {{false_alarms: 1 per 10000 decisions, cooldown: 5s}}
    {stream}
"""
        )
        return path

    return make


def reading(i):
    rng = random.Random(i)
    temp = 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + (8 if 300 <= i < 310 else 0)
    return json.dumps({"ts": START + i, "temp": round(temp, 3)}).encode()


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "recording.jsonl"
    messages = [InboundMessage("plant/a/telemetry", reading(i), START + i + 0.1, 0.0) for i in range(330)]
    messages += [InboundMessage("plant/a/telemetry", b"{", START + 340.0, 0.0)] * 2
    path.write_bytes(b"".join(map(line_of, messages)))
    return path


@pytest.fixture
def start():
    """Return a function that starts a command as a process of its own."""
    processes = []

    def make(*arguments):
        processes.append(
            subprocess.Popen(
                [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
        return processes[-1]

    yield make
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def finish(process, *, number=None):
    """Return exit code, output and errors of a process, after sending it a signal if one is given."""
    if number is not None:
        process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


# check


def test_a_good_configuration_is_called_good(configure, capsys):
    path = configure()
    assert main(["check", str(path)]) == 0
    memory, more, good = capsys.readouterr().out.splitlines()
    assert memory.startswith("memory: about 88 MB of agent.memory_limit's 256: 80 for the program, 8 for messages")
    assert re.fullmatch(r"  pump: 0\.\d+ MB for each stream; room for \d+ more", more)
    assert good == f"{path}: good, 1 stream"


def test_the_example_configuration_is_good(capsys):
    assert main(["check", str(ROOT / "deploy" / "redshank.example.yaml")]) == 0
    assert "good" in capsys.readouterr().out


def test_every_problem_of_a_configuration_is_told_with_its_line(configure, capsys):
    path = configure(
        text="""\
agent: {id: pi, snapshot_interval: soon}
streams:
  - name: a/b
    topic: x
    strid: 2
  - {topic: y, alert: {false_alarms: 7}}
"""
    )
    assert main(["check", str(path)]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 4
    for found, wanted in zip(
        sorted(lines),
        ["1 agent.snapshot_interval", "5 streams[0].strid", "6 streams[1].alert", "6 streams[1].name"],
        strict=True,
    ):
        assert found.startswith(f"{path}:{wanted}")
    assert "did you mean 'stride'?" in err


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ("sensor-smal", "installed: efficientnet-lite0, sensor-small"),
        ("/nowhere", "/nowhere/manifest.json: expected an encoder bundle's"),
    ],
)
def test_an_encoder_that_is_not_there_is_a_problem_of_the_configuration(configure, capsys, encoder, says):
    assert main(["check", str(configure(stream=f"encoder: {encoder}"))]) == 78
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check"], ["run", "--config"], ["replay", "x.jsonl", "--config"]])
def test_a_configuration_that_is_not_there_is_named(tmp_path, capsys, command):
    assert main([*command, str(tmp_path / "none.yaml")]) == 78
    assert f"{tmp_path}/none.yaml: expected a configuration file, found none" in capsys.readouterr().err


def test_what_is_probably_not_meant_is_warned_of(configure, tmp_path, capsys):
    password = tmp_path / "password"
    broker = f'username: pi, password_file: "{password}"'
    rare = "period: 1s, alert: {false_alarms: 1 per year}"
    text = f"broker: {{{broker}}}\nstreams: [{{name: pump, topic: a, {rare}}}, {{name: fan, topic: b, stride: 60}}]\n"
    path = configure(text=text)

    def warnings():
        assert main(["check", str(path)]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]

    missing = warnings()
    assert len(missing) == 2
    assert "stream pump: 1 per year with a decision every 1 s is rarer than" in missing[0]
    assert missing[1] == f"warning: broker.password_file {password}: no such file yet"
    password.write_text("secret\n")
    password.chmod(0o640)  # for the service's group, as systemd's credentials are
    assert len(warnings()) == 1
    path = configure('url: "mqtts://broker.local", verify_certificate: never')
    assert ["verify_certificate" in one for one in warnings()] == [True]
    path = configure('url: "mqtt://broker.local", username: pi')
    assert ["in clear text; use TLS" in one for one in warnings()] == [True]


@pytest.mark.parametrize(
    ("stream", "told"),
    [
        ("format: raw, channels: [x], raw: {sample_rate: 1600}, stride: 1", "1,600 times a second"),
        ("format: raw, channels: [x], raw: {sample_rate: 1600}", "48 times a second"),
        ("format: raw, channels: [x], raw: {sample_rate: 600}", None),
        ("period: 50ms", None),
        ("format: raw, channels: [x], raw: {sample_rate: 1600}, stride: 100", None),
        ("period: 10ms, stride: 2", "50 times a second"),
        ("raw: {sample_rate: 1600}", None),  # JSON: not looked at
    ],
)
def test_streams_that_decide_too_often_for_a_small_device_are_warned_of(configure, capsys, stream, told):
    allowed = "alert: {false_alarms: 1 per 1000 decisions}"
    path = configure(text=f"streams: [{{name: bearing, topic: a, {stream}, {allowed}}}]\n")
    assert main(["check", str(path)]) == 0
    found = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert [f"stream bearing: decides {told}" in line for line in found] == [True] * (told is not None)


@pytest.mark.parametrize(
    ("stream", "line", "advice"),
    [
        (
            "format: raw, channels: [x], raw: {sample_rate: 1600}",
            "stream bearing: stride comes to 33 of 1,600 readings a second: 48.5 decisions a second",
            "set stride to more than the 33 that auto comes to",
        ),
        ("period: 10ms", "stream bearing: stride comes to 5 of 100 readings a second: 20 decisions a second", None),
        ("period: 10ms, stride: 2", None, "raise stride, or leave it out"),
        ("period: 1s", None, None),
        ("kind: image", None, None),
    ],
)
def test_what_stride_comes_to_is_told_where_the_rate_is_known(configure, capsys, stream, line, advice):
    allowed = "alert: {false_alarms: 1 per 1000 decisions}"
    path = configure(text=f"streams: [{{name: bearing, topic: a, {stream}, {allowed}}}]\n")
    assert main(["check", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [one for one in lines if "stride comes to" in one] == ([line] if line else [])
    assert [advice in one for one in lines if one.startswith("warning: ")] == ([True] if advice else [])


def test_secrets_that_others_can_read_are_problems_all_at_once(configure, tmp_path, capsys):
    for name in ("word", "key", "line"):
        (tmp_path / name).write_text("s3cr3t-of-mine")
        (tmp_path / name).chmod(0o644)
    broker = f'password_file: "{tmp_path}/word", cert_file: /c, key_file: "{tmp_path}/key"'
    path = configure(broker)
    metrics = f"metrics: {{credentials_file: {tmp_path}/line, cert_file: {tmp_path}/key, "
    path.write_text(path.read_text().replace("metrics: {", metrics))
    assert main(["check", str(path)]) == 78
    err = capsys.readouterr().err
    keys = [line.split(":")[0] for line in err.splitlines()]
    assert keys == ["broker.password_file", "broker.key_file", "metrics.credentials_file", "metrics.key_file"]
    assert "s3cr3t" not in err


@pytest.mark.parametrize(
    ("whole", "fan", "pump", "says"),
    [
        (
            "1 per day",
            "false_alarms: 3 per day",
            "",
            "agent.false_alarms 1 per day: the streams' own budgets allow 3 times as many; lower them, or raise it",
        ),
        ("3 per day", "false_alarms: 1 per day", "false_alarms: 2 per day", None),
        ("1 per hour", "false_alarms: 1 per 1000 decisions", "", "3.6 times as many"),
        ("1 per hour", "", "", None),
        ("1 per year", "", "", "1 per year for all streams with a decision every 1 s"),
    ],
)
def test_streams_budgets_that_exceed_that_of_all_are_warned_of(configure, capsys, whole, fan, pump, says):
    streams = (
        f"{{name: f, topic: a, period: 1s, alert: {{{fan}}}}}, {{name: p, topic: b, stride: 60, alert: {{{pump}}}}}"
    )
    path = configure(text=f"agent: {{id: pi, false_alarms: {whole}}}\nstreams: [{streams}]\n")
    assert main(["check", str(path)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert any(says in line for line in told) if says else told == []


# encoders


def test_encoders_are_listed_with_each_variant_and_combination(capsys, monkeypatch):
    def measured(_, variant, runtime, *, threads, seconds):
        assert (threads, seconds) == (1, 0.5)
        if runtime != available_runtimes()[-1]:
            raise BundleError("it ended")
        sizes = sorted({min(variant.signatures.values()), max(variant.signatures.values())})
        calls = [CallCost(batch, 7, batch + 0.25, batch, batch + 0.5, 3.0 if batch == 1 else None) for batch in sizes]
        return Tried(f"{runtime} 1.2.3", 12_345_678, "a meter", calls)

    monkeypatch.setattr("agent.encoder_trial.in_process", measured)
    failed = len(available_runtimes()) > 1
    assert main(["encoders", "--threads", "1", "--seconds", "0.5"]) == int(failed)
    lines = capsys.readouterr().out.splitlines()
    assert "efficientnet-lite0: image, input 224 x 224 x 3, block_10 14 x 14 x 112, block_14 7 x 7 x 192" in lines
    assert "sensor-small: sensor, input 64 x 2, embedding 32" in lines
    for bundle in installed_bundles():
        for variant in bundle.manifest.variants:
            size = len(read_model(bundle, variant))
            assert f"  {variant.precision}, {size} bytes, sha256 {variant.sha256[:12]}" in lines
    last = available_runtimes()[-1]
    rows = [line.split() for line in lines if f" {last} 1.2.3 " in line and " best: " not in line]
    shown = [" ".join(row) for row in rows]
    assert shown == [
        f"* int8 {last} 1.2.3 1 1 1.25 1 to 1.5 7 12.3 3",
        f"int8-weights {last} 1.2.3 1 1 1.25 1 to 1.5 7 12.3 3",
        f"* int8 {last} 1.2.3 1 1 1.25 1 to 1.5 7 12.3 3",
        f"* int8 {last} 1.2.3 1 32 32.2 32 to 32.5 7 12.3 not told",
    ]
    broken = [line for line in lines if "could not be measured" in line]
    assert len(broken) == 3 * (len(available_runtimes()) - 1)
    assert all(line.endswith("with 1 thread could not be measured: it ended") for line in broken)
    assert lines.count(f"  best: int8 on {last} 1.2.3 with 1 thread") == 2
    assert lines.count("  energy: a meter") == 2


def test_what_is_best_is_written_down_for_the_agents_next_start(configure, tmp_path, capsys):
    path = configure()
    arguments = ["encoders", "--config", str(path), "--threads", "1", "--seconds", "0.01", "--json", "--write"]
    state = tmp_path / "not" / "there yet"
    assert main([*arguments, "--state", str(state)]) == 0
    assert state.stat().st_mode & 0o777 == 0o700
    out, err = capsys.readouterr()
    assert err == f"{state / 'encoders.json'}: written; the agent heeds it at its next start\n"
    told = json.loads(out)
    (encoder,) = told["encoders"]
    assert encoder["name"] == "sensor-small"
    assert [one["runtime"] for one in encoder["trials"]] == available_runtimes()
    assert all(one["tried"]["memory_bytes"] > 0 for one in encoder["trials"])
    written = json.loads((state / "encoders.json").read_text())
    assert written["machine"] == told["machine"]
    assert written["choices"] == [encoder["best"]]
    with closing(Store(state)) as store:
        (loaded,) = load_encoders(load_configuration(path), store).values()
    assert (loaded.runtime, loaded.file) == (encoder["best"]["runtime"], encoder["best"]["file"])


def test_what_could_not_be_written_down_is_not_measured(tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ["encoders", "sensor-small", "--threads", "1", "--seconds", "0.01", "--write"]
    assert main([*arguments, "--state", str(tmp_path / "file" / "state")]) == 1
    out, err = capsys.readouterr()
    assert "file/state" in err
    assert out == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--seconds", "0"], "expected 0.001 to 60 seconds, found 0"),
        (["--threads", "0"], "threads, found 0"),
        (["--threads", "100000"], "threads, found 100000"),
    ],
)
def test_encoders_are_measured_within_bounds(arguments, says, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["encoders", *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_bundle_that_has_nothing_for_the_runtimes_here_is_a_problem_of_the_bundle(tmp_path, capsys):
    folder = Path(shutil.copytree(ENCODERS / "sensor-small", tmp_path / "mine"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["variants"][0]["runtimes"] = ["microcontroller"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert main(["encoders", str(folder)]) == 78
    assert "found variants for microcontroller" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["check"], ["run", "--config"], ["replay", "RECORDING", "--config"]])
def test_an_encoder_of_pictures_is_a_problem_of_the_configuration_of_a_sensor_stream(
    configure, recording, capsys, command
):
    command = [str(recording) if part == "RECORDING" else part for part in command]
    assert main([*command, str(configure(stream="encoder: efficientnet-lite0"))]) == 78
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert "efficientnet-lite0: expected an encoder of sensor windows" in line
    assert "found kind 'image'" in line
    assert "choose another encoder for this stream" in line
    assert line.endswith("choose another encoder for this stream")


def test_an_encoder_may_be_a_zip_and_a_broken_one_is_a_problem_of_the_configuration(
    configure, tmp_path, monkeypatch, capsys
):
    archive = Path(shutil.make_archive(str(tmp_path / "mine"), "zip", ENCODERS, "sensor-small"))
    monkeypatch.chdir(tmp_path)
    for name in (archive, "./mine.zip"):
        assert main(["check", str(configure(stream=f"encoder: {name}"))]) == 0
    archive.write_bytes(archive.read_bytes()[:-100])
    assert main(["check", str(configure(stream="encoder: ./mine.zip"))]) == 78
    assert "mine.zip/manifest.json: expected an encoder bundle's manifest, found none" in capsys.readouterr().err


# replay


def test_a_replay_tells_alerts_and_a_sum_and_ends_with_0(configure, recording, tmp_path, capsys):
    arguments = ["replay", str(recording), "--config", str(configure())]
    files = ["--scores", str(tmp_path / "scores.csv"), "--alerts", str(tmp_path / "alerts.jsonl")]
    assert main([*arguments, *files, "--state", str(tmp_path / "replayed")]) == 0
    *alerts, total = capsys.readouterr().out.splitlines()
    assert total == f"1 streams, 97 decisions, {len(alerts) - len(alerts) // 2} alerts raised; rejected: 2 malformed"
    assert " raised " in alerts[0]
    assert re.search(r"pump/a: temp (rose|fell) to [\d.]+, normally ", alerts[0])
    told = [json.loads(line) for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert [line.split()[2] for line in alerts] == [alert["id"] for alert in told]
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 98
    assert (tmp_path / "replayed" / "state.sqlite").is_file()


def test_a_replay_in_which_nothing_was_wrong_says_so(configure, tmp_path, capsys):
    path = tmp_path / "quiet.csv"
    path.write_text("when,temp\n" + "".join(f"{START + i},{20 + i % 5}\n" for i in range(50)))
    assert main(["replay", str(path), "--config", str(configure()), "--time-column", "when", "--stream", "pump"]) == 0
    assert capsys.readouterr().out == "1 streams, 0 decisions, 0 alerts raised; rejected: none\n"


@pytest.mark.parametrize(
    ("content", "arguments", "says"),
    [
        (None, [], "expected a recording (.jsonl, .csv or a folder), found no such file"),
        ("rubbish\n", [], "recording.csv:1: expected a column 'time', found rubbish; name it with --time-column"),
        ("time,a\nnever,1\n", [], "recording.csv:2: expected a time"),
        ("time,a\n1,1\n", ["--stream", "fan"], "expected one of the streams pump, found fan"),
    ],
)
def test_a_recording_that_cannot_be_read_ends_a_replay_with_2(configure, tmp_path, capsys, content, arguments, says):
    path = tmp_path / "recording.csv"
    if content is not None:
        path.write_text(content)
    assert main(["replay", str(path), "--config", str(configure()), *arguments]) == 2
    assert says in capsys.readouterr().err


def test_where_results_cannot_be_written_the_file_is_named(configure, recording, capsys):
    assert main(["replay", str(recording), "--config", str(configure()), "--scores", "/nowhere/scores.csv"]) == 1
    assert "/nowhere/scores.csv" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_told_before_the_replay(configure, recording, tmp_path, capsys):
    arguments = ["replay", str(recording), "--config", str(configure()), "--report", "/nowhere/report.html"]
    assert main([*arguments, "--scores", str(tmp_path / "scores.csv")]) == 1
    assert "/nowhere/report.html" in capsys.readouterr().err
    assert not (tmp_path / "scores.csv").exists()


def test_a_state_directory_that_cannot_be_used_ends_with_1(configure, recording, tmp_path, capsys):
    (tmp_path / "state" / "state.sqlite").mkdir(parents=True)
    arguments = ["replay", str(recording), "--config", str(configure()), "--state", str(tmp_path / "state")]
    assert main(arguments) == 1
    assert "state.sqlite: expected a database that can be written" in capsys.readouterr().err


# record


def subscribed(broker):
    return lambda: "Received SUBSCRIBE from redshank-pi-recorder" in broker.log


def test_what_is_recorded_from_a_broker_is_what_a_replay_reads(mosquitto, configure, start, tmp_path, capsys):
    path, out = configure(f'url: "{mosquitto.url}"'), tmp_path / "out.jsonl"
    peer = Peer(mosquitto)
    process = start("record", "--config", path, "--out", out)
    wait_until(subscribed(mosquitto), 20)
    payloads = [reading(i) for i in range(330)] + [b"\xff\x00", b""]
    for payload in payloads:
        peer.publish("plant/a/telemetry", payload)
    peer.publish("elsewhere", b"1")
    wait_until(lambda: out.exists() and out.read_bytes().count(b"\n") == len(payloads))
    peer.close()
    code, _, errors = finish(process, number=signal.SIGTERM)
    assert (code, errors.splitlines()[-1]) == (0, f"{len(payloads)} messages in {out}")
    assert [(one.topic, one.payload) for one in read_messages(out)] == [("plant/a/telemetry", one) for one in payloads]
    assert main(["replay", str(out), "--config", str(path)]) == 0
    found = capsys.readouterr().out
    assert " raised " in found.splitlines()[0]
    assert "1 streams, 97 decisions" in found


def test_a_recording_goes_on_in_the_same_file_and_ends_when_its_time_is_over(mosquitto, configure, start, tmp_path):
    path, out = configure(f'url: "{mosquitto.url}"'), tmp_path / "out.jsonl"
    whole = line_of(InboundMessage("plant/a/telemetry", b"1", 5.0, 0.0))
    out.write_bytes(whole + whole[:20])
    peer = Peer(mosquitto)
    peer.publish("plant/a/telemetry", b"2", retain=True)
    peer.close()
    code, _, errors = finish(start("record", "--config", path, "--out", out, "--seconds", "4"))
    assert (code, errors.splitlines()[-1]) == (0, f"1 messages in {out}")
    assert [(one.payload, one.retained) for one in read_messages(out)] == [(b"1", False), (b"2", True)]


def test_a_recorder_does_not_push_the_agent_off_its_connection(mosquitto, configure, start, tmp_path):
    path = configure(f'url: "{mosquitto.url}", client_id: mine')
    start("run", "--config", path)
    wait_until(lambda: "Received SUBSCRIBE from mine\n" in mosquitto.log, 20)
    code, _, _ = finish(start("record", "--config", path, "--out", tmp_path / "out.jsonl", "--seconds", "1"))
    assert code == 0
    assert "Received SUBSCRIBE from mine-recorder\n" in mosquitto.log
    assert "mine disconnected" not in mosquitto.log.replace("mine-recorder", "")
    assert "taken over" not in mosquitto.log


def test_a_recorders_session_gathers_messages_for_a_minute_only(configure, start, tmp_path):
    broker = ScriptedBroker({})
    process = start("record", "--config", configure(f'url: "{broker.url}"'), "--out", tmp_path / "out.jsonl")
    wait_until(lambda: broker.packets, 20)
    kind, body = broker.packets[0]
    assert kind == 1
    assert b"\x11" + (60).to_bytes(4, "big") in body  # CONNECT's session expiry interval
    assert finish(process, number=signal.SIGINT)[0] == 0
    broker.close()


def test_a_file_that_cannot_be_recorded_to_is_named(configure, capsys):
    assert main(["record", "--config", str(configure()), "--out", "/nowhere/out.jsonl"]) == 1
    assert "/nowhere/out.jsonl" in capsys.readouterr().err


# refused credentials


@pytest.mark.parametrize("command", ["run", "record"])
def test_refused_credentials_end_a_command_with_69_and_say_what_to_check(
    make_mosquitto, configure, tmp_path, capsys, command
):
    broker = make_mosquitto(users={"pi": "right"})
    secret = tmp_path / "password"
    secret.write_text("wr0ng-s3cret")
    secret.chmod(0o600)
    path = configure(f'url: "{broker.url}", username: pi, password_file: "{secret}"')
    arguments = ["--out", str(tmp_path / "out.jsonl")] if command == "record" else []
    assert main([command, "--config", str(path), *arguments]) == 69
    err = capsys.readouterr().err
    assert "check broker.username and broker.password_file" in err
    assert "wr0ng" not in err


# run


def test_a_signal_ends_the_daemon_with_0(mosquitto, configure, start):
    process = start("run", "--config", configure(f'url: "{mosquitto.url}"'))
    wait_until(lambda: "Received SUBSCRIBE from redshank-pi" in mosquitto.log, 20)
    code, _, errors = finish(process, number=signal.SIGINT)
    assert code == 0
    assert "Traceback" not in errors


def test_a_metrics_address_in_use_ends_the_daemon_with_1_and_is_named(mosquitto, configure, capsys):
    taken = f"127.0.0.1:{mosquitto.port}"
    assert main(["run", "--config", str(configure(f'url: "{mosquitto.url}"', listen=taken))]) == 1
    assert f"metrics.listen: expected an address that is ours and free, found {taken}" in capsys.readouterr().err


# credential


def test_a_password_becomes_a_line_that_lets_it_in(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\n"))
    assert main(["credential", "basic", "prometheus"]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r"basic prometheus scrypt:16384:8:1:\S{24}:\S{44}\n", out)
    assert err == ""


def test_a_token_is_written_once_where_only_its_owner_reads_it(tmp_path, capsys):
    path = tmp_path / "token"
    assert main(["credential", "bearer", "prometheus", "--token", str(path)]) == 0
    line = capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(path.read_text()) == 43
    assert path.read_text() not in line
    assert main(["credential", "bearer", "prometheus", "--token", str(path)]) == 1  # it is there already


@pytest.mark.parametrize(
    "arguments", [["bearer", "a"], ["basic", "a", "--token", "f"], ["basic", "a:b"], ["basic", "a"]]
)
def test_what_cannot_be_a_credential_is_wrong_use(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    with pytest.raises(SystemExit) as ended:
        main(["credential", *arguments])
    assert ended.value.code == 2
    assert "credential: expected" in capsys.readouterr().err


# demo, and the command line itself


@pytest.mark.parametrize(("arguments", "missing"), [([], "psutil"), (["--images"], "PIL")])
def test_without_the_extra_the_demo_says_what_to_install(tmp_path, arguments, missing):
    (tmp_path / f"{missing}.py").write_text(f"raise ModuleNotFoundError(name='{missing}')\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    found = subprocess.run([*COMMAND, "demo", *arguments], env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 78
    assert found.stderr == f"{missing} is not installed; pip install 'redshank[demo]'\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["check"], ["record"], ["--log-level", "loud", "encoders"]])
def test_wrong_use_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: redshank" in capsys.readouterr().err


@pytest.mark.parametrize(("program", "main"), [("redshank", main), ("redshank-convert", convert)])
def test_the_programs_tell_their_version(program, main, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"{program} {version('redshank')}\n"


def test_the_program_runs_as_a_module_and_tells_its_commands():
    found = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True)
    for command in ("run", "check", "record", "replay", "demo", "encoders"):
        assert f"    {command} " in found.stdout
