from __future__ import annotations

import hashlib
import json
from contextlib import closing

import msgspec
import pytest

from agent.adapters import tflite
from agent.adapters.mqtt import Command
from agent.adapters.store import AlertRow, OutboxRow, Store
from agent.alert_message import encode, silence
from agent.app import BATCH, Agent, load_encoders
from agent.bundle import find_bundle
from agent.clock import Clock
from agent.config import load_configuration
from agent.core.alerting import AlertEvent, AlertKind, AlertMachine, AlertSettings, AlertState, AlertTransition
from agent.errors import BundleError, ConfigurationError
from agent.pipeline import Outcome
from agent.ports import InboundMessage
from agent.reload import ReloadOutcome
from agent.saving import save
from tests.brokers import Peer, wait_until
from tests.encoder_versions import GOOD, make_version, version_in
from tests.test_pipeline import message as reading
from tests.test_pipeline import quiet


@pytest.fixture
def agent(tmp_path):
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {tmp_path / "state"}, queue_size: 4}}
streams: [{{name: pump, topic: "plant/+", encoder: none}}]
"""
    )
    made = Agent(load_configuration(path))
    yield made
    made.store.close()


def message(number, qos):
    return InboundMessage("plant/a", b"%d" % number, 0.0, 0.0, qos, message_id=number, connection=1)


def taken(agent):
    """Return what the worker would take next, all of it."""
    return list(agent.inbox.take(BATCH, agent.pipeline))


def waiting(agent):
    return [int(one.payload) for one in agent.inbox._queue]


@pytest.mark.parametrize(("most", "said"), [(None, 0), (402_653_184, 0), (300_000_000, 1)])
def test_a_service_that_may_take_too_little_memory_is_said(agent, monkeypatch, caplog, most, said):
    monkeypatch.setattr("agent.app.memory_max", lambda: most)
    agent._doubt_memory()
    assert len([one for one in caplog.messages if "the system allows 300 MB: raise MemoryMax" in one]) == said


def test_what_a_command_changed_and_the_disk_refused_is_due_and_nothing_older_is_written_instead(agent, tmp_path):
    stream = agent.pipeline.stream_of("plant/a")
    agent._save()
    stream.saved_whole(1_000_000_000, 0.0)
    assert not stream.whole_due(1.0)
    (tmp_path / "state" / "streams").rename(tmp_path / "elsewhere")
    agent.saver.begin()
    assert not agent._store_changes([stream])
    (tmp_path / "elsewhere").rename(tmp_path / "state" / "streams")
    assert stream.whole_due(1.0)
    assert not agent.saver.advance()


def test_a_full_queue_drops_the_oldest_of_qos_0_and_none_of_qos_1(agent):
    agent.on_messages([message(i, 0) for i in range(6)])
    assert waiting(agent) == [2, 3, 4, 5]
    assert not agent.is_full()
    agent.on_messages([message(i, 1) for i in range(6, 12)])
    assert waiting(agent) == [6, 7, 8, 9, 10, 11]
    assert agent.is_full()
    agent.on_messages([message(12, 0)])
    assert waiting(agent)[0] == 6
    assert [int(one.payload) for one in taken(agent)] == [6, 7, 8, 9, 10, 11, 12]
    assert not agent.is_full()


@pytest.fixture
def watching(tmp_path):
    """Return an agent that watches pictures below cameras/ and readings elsewhere."""
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {tmp_path / "state"}}}
streams:
  - {{name: gate, topic: "cameras/+", kind: image}}
  - {{name: pump, topic: "plant/+", encoder: none}}
"""
    )
    made = Agent(load_configuration(path))
    yield made
    made.store.close()


def picture(number, qos, topic="cameras/a"):
    return InboundMessage(topic, b"%d" % number, 0.0, 0.0, qos, message_id=number, connection=1)


def test_of_pictures_that_wait_the_newest_of_each_topic_counts_and_all_are_acknowledged(watching):
    watching.on_messages([picture(1, 1), message(2, 1), picture(3, 0, "cameras/b"), picture(4, 1)])
    watching.on_messages([picture(5, 1), picture(6, 0, "cameras/b")])
    found = taken(watching)
    assert [one.message_id for one in found] == [1, 2, 3, 4, 5, 6]
    assert [one.payload for one in found] == [b"", b"2", b"", b"", b"5", b"6"]
    assert [one.superseded for one in found] == [True, False, True, True, False, False]
    assert watching.telemetry.frames_dropped._value.get() == 3.0
    watching.on_messages([picture(7, 1)])  # the one before it was taken: nothing waits
    (last,) = taken(watching)
    assert (last.payload, last.superseded) == (b"7", False)


def test_what_a_kept_session_sends_again_is_not_counted_as_older_pictures(watching):
    watching.on_messages([picture(1, 1), picture(2, 0, "cameras/b")])
    watching.on_connected(session_present=True)
    resent = msgspec.structs.replace(picture(1, 1), connection=2, again=True)
    watching.on_messages([resent, picture(3, 0, "cameras/b")])
    assert [(one.message_id, one.superseded) for one in taken(watching)] == [(2, True), (1, False), (3, False)]
    assert watching.telemetry.frames_dropped._value.get() == 1.0


def test_commands_keep_their_place_among_the_messages(agent):
    agent.on_messages([message(0, 1), message(1, 1)])
    agent.on_command(Command(message(2, 1)))
    agent.on_command(Command(message(3, 0)))
    agent.on_messages([message(4, 1)])
    found = taken(agent)
    assert [isinstance(one, Command) for one in found] == [False, False, True, True, False]
    assert [int((one.message if isinstance(one, Command) else one).payload) for one in found] == [0, 1, 2, 3, 4]


def again(number, qos):
    """Return what the broker sends once more, under a number of its own choice."""
    return InboundMessage("plant/a", b"%d" % number, 0.0, 0.0, qos, message_id=50 + number, connection=2, again=True)


def taken_from(agent):
    return [(int(one.payload), one.connection) for one in taken(agent)]


def test_what_a_kept_session_sends_again_is_not_processed_twice(agent):
    agent.on_messages([message(0, 1), message(1, 0), message(2, 1)])
    agent.on_connected(session_present=True)
    agent.on_messages([again(0, 1), again(2, 1)])
    assert taken_from(agent) == [(1, 1), (0, 2), (2, 2)]


def test_what_a_broker_that_was_killed_does_not_send_again_is_processed_all_the_same(agent):
    alike = msgspec.structs.replace(message(1, 1), message_id=9)
    agent.on_messages([message(0, 1), message(1, 1), alike, message(2, 1)])
    agent.on_connected(session_present=True)
    same = msgspec.structs.replace(again(2, 1), again=False)  # the same value, but another reading
    agent.on_messages([again(1, 1), same])
    assert taken_from(agent) == [(0, 1), (1, 1), (2, 1), (1, 2), (2, 2)]


def test_a_new_session_sends_nothing_again(agent):
    agent.on_messages([message(0, 1)])
    agent.on_connected(session_present=False)
    agent.on_messages([again(0, 1)])
    assert taken_from(agent) == [(0, 1), (0, 2)]


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """Return an agent with messages of many readings and of one, and what it has acknowledged."""
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"""
agent: {{id: pi, state_dir: {tmp_path / "state"}}}
streams:
  - {{name: pump, topic: plant/+, encoder: none, period: 1s}}
  - {{name: table, topic: table, format: csv, time: {{path: ts}}, encoder: none, period: 1s}}
"""
    )
    made, acknowledged = Agent(load_configuration(path)), []
    monkeypatch.setattr(made.mqtt, "acknowledge_many", acknowledged.extend)
    yield made, acknowledged
    made.store.close()


def rows(count, number):
    payload = "".join(f"{1_700_000_000 + i},{i % 7}\n" for i in range(count)).encode()
    return InboundMessage("table", b"ts,x\n" + payload, 1.8e9, 0.0, 1, message_id=number, connection=1)


def test_others_are_processed_before_a_message_of_many_readings_and_acknowledged_behind_it(reader):
    agent, acknowledged = reader
    agent.on_messages([rows(5000, 1), message(2, 1)])
    agent.on_command(Command(message(3, 1)))
    agent.on_messages([message(4, 1), rows(1, 5)])
    agent._take()
    agent._take()
    assert agent.pipeline.streams["pump/a"].detector.grid.total_rows >= 1
    assert len(agent.inbox) == 1  # of the same stream
    assert acknowledged == []
    while agent._busy:
        agent._commit(agent.pipeline.go_on())
        agent._take()
    assert [one.message_id for one in acknowledged] == [1, 2, 3, 4, 5]
    assert agent.telemetry.messages_received._value.get() == 4.0


@pytest.mark.parametrize(("finish_s", "done"), [(600.0, [1]), (0.0, [])])
def test_a_stop_ends_a_message_that_was_begun_if_that_takes_not_too_long(reader, monkeypatch, finish_s, done):
    agent, acknowledged = reader
    agent.on_messages([rows(5000, 1), rows(1, 2)])
    agent._take()
    monkeypatch.setattr("agent.app._FINISH_S", finish_s)
    agent.stop()
    agent._turns()
    assert [one.message_id for one in acknowledged] == done
    assert agent.store.load("table") is not None
    assert len(agent.inbox) == 1


def test_silence_is_not_known_of_beyond_what_was_processed(agent):
    assert agent.inbox.caught_up_to(100.0) == 100.0
    agent.on_messages([msgspec.structs.replace(message(0, 1), elapsed_s=60.0)])
    assert agent.inbox.caught_up_to(100.0) == 60.0
    agent.on_command(Command(msgspec.structs.replace(message(1, 1), elapsed_s=70.0)))
    taken(agent)
    agent.on_command(Command(msgspec.structs.replace(message(1, 1), elapsed_s=80.0)))
    assert agent.inbox.caught_up_to(100.0) == 80.0


def test_silence_is_counted_while_connected_and_awake(agent):
    assert agent._listening_since() is None
    agent.on_connected(session_present=False)
    connected_since = agent._listening_since()
    agent._awake_since = connected_since + 10.0
    assert agent._listening_since() == connected_since + 10.0


def test_a_session_that_cannot_be_stored_is_said_and_stops_nothing(agent, caplog):
    (agent.store.directory / "subscriptions.new").mkdir()
    agent.on_subscriptions({"plant/+": 1})
    assert "cannot store what the broker's session holds" in caplog.text


@pytest.fixture
def two_variants(tmp_path):
    """Return the configuration of a stream whose encoder has two variants: a model, and its copy of another digest."""
    source, folder = find_bundle("sensor-small"), tmp_path / "bundle"
    folder.mkdir()
    for path in source.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (variant,) = source.manifest.variants
    content = (source.path / variant.file).read_bytes() + b"\0" * 16
    (folder / "other.tflite").write_bytes(content)
    other = msgspec.structs.replace(variant, file="other.tflite", sha256=hashlib.sha256(content).hexdigest())
    manifest = msgspec.structs.replace(source.manifest, variants=[variant, other])
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"agent: {{id: pi, state_dir: {tmp_path}/state}}\nstreams: [{{name: a, topic: a, encoder: {folder}}}]\n"
    )
    return load_configuration(path)


@pytest.fixture
def timed(monkeypatch):
    """Return what is timed from now on. The copy seems fastest, on the last runtime, however busy this machine is."""
    preferred = f"{tflite.available_runtimes()[-1]} other.tflite"
    asked = []

    def seconds(encoder):
        asked.append(f"{encoder.runtime.split()[0]} {encoder.file}")
        return 0.1 if asked[-1] == preferred else 1.0

    monkeypatch.setattr(tflite, "seconds_per_window", seconds)
    return asked


def test_variant_and_runtime_are_timed_once_and_kept(two_variants, tmp_path, timed):
    preferred = tflite.available_runtimes()[-1]
    digests = set()
    for _ in range(2):
        with closing(Store(tmp_path / "state")) as store:
            (encoder,) = load_encoders(two_variants, store).values()
        digests.add(encoder.digest)
        assert encoder.file == "other.tflite"
        assert encoder.runtime.startswith(preferred)
    assert len(timed) == 2 * len(tflite.available_runtimes())  # all of them, and only at the first start
    assert digests == {hashlib.sha256((tmp_path / "bundle" / "other.tflite").read_bytes()).hexdigest()}


def start(configuration, tmp_path):
    """Return what a start with the state directory loads."""
    with closing(Store(tmp_path / "state")) as store:
        (encoder,) = load_encoders(configuration, store).values()
    return encoder


def edit(tmp_path, change):
    path = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest["variants"])
    path.write_text(json.dumps(manifest))


def test_without_a_state_directory_they_are_timed_each_time(two_variants, timed):
    for count in (1, 2):
        assert load_encoders(two_variants)[two_variants.streams[0].encoder].file == "other.tflite"
        assert len(timed) == count * 2 * len(tflite.available_runtimes())


def test_they_are_timed_again_when_other_runtimes_are_installed(two_variants, tmp_path, timed, monkeypatch):
    start(two_variants, tmp_path)
    monkeypatch.setattr("agent.encoder_loading.installed_runtimes", lambda: ["ai-edge-litert 99.0.0"])
    timed.clear()
    start(two_variants, tmp_path)
    assert len(timed) == 2 * len(tflite.available_runtimes())


def test_they_are_timed_again_when_the_bundle_has_another_model(two_variants, tmp_path, timed):
    start(two_variants, tmp_path)
    timed.clear()
    edit(tmp_path, lambda variants: variants.pop())
    assert start(two_variants, tmp_path).file != "other.tflite"


@pytest.mark.usefixtures("timed")
def test_a_kept_choice_does_not_outlive_its_proof(two_variants, tmp_path):
    assert start(two_variants, tmp_path).file == "other.tflite"
    edit(tmp_path, lambda variants: variants[1].update(runtimes=["microcontroller"]))
    assert start(two_variants, tmp_path).file != "other.tflite"


@pytest.mark.usefixtures("timed")
def test_a_kept_choice_does_not_outlive_the_name_of_its_file(two_variants, tmp_path):
    assert start(two_variants, tmp_path).file == "other.tflite"
    (tmp_path / "bundle" / "other.tflite").rename(tmp_path / "bundle" / "renamed.tflite")
    edit(tmp_path, lambda variants: variants[1].update(file="renamed.tflite"))
    assert start(two_variants, tmp_path).file in {
        "renamed.tflite",
        find_bundle("sensor-small").manifest.variants[0].file,
    }


def test_a_start_that_fails_over_its_encoder_lets_the_state_directory_go(two_variants, tmp_path):
    manifest = tmp_path / "bundle" / "manifest.json"
    manifest.write_text("{")
    with pytest.raises(BundleError):
        Agent(two_variants)
    Store(tmp_path / "state").close()


@pytest.fixture
def changeable(tmp_path):
    """Return an agent that reads its configuration anew, and a function that changes the file."""
    path = tmp_path / "redshank.yaml"

    def write(streams="{name: pump, topic: plant/+, encoder: none}", more=""):
        path.write_text(f"agent: {{id: pi, state_dir: {tmp_path}/state}}\nstreams: [{streams}]\n{more}\n")

    write()
    agent = Agent(load_configuration(path), path)
    yield agent, write
    agent.mqtt.stop()
    agent.store.close()


SMALL = "{name: a, topic: a, encoder: sensor-small}"


def test_an_encoder_that_is_loaded_is_not_loaded_again(changeable):
    agent, write = changeable
    write(SMALL)
    agent._apply(agent._prepare())
    loaded = agent.pipeline.encoders["sensor-small"]
    write(SMALL + ", {name: b, topic: b, encoder: sensor-small}")
    assert agent._prepare().encoders == {"sensor-small": loaded}
    write()
    agent._apply(agent._prepare())
    assert agent.pipeline.encoders == {}


def test_an_encoder_that_changes_during_a_reload_stays_changed(changeable, tmp_path):
    agent, write = changeable
    path = make_version(tmp_path / "encoders" / "pump")
    write(f"{{name: a, topic: a, encoder: {path}}}")
    agent._apply(agent._prepare())
    write(f"{{name: a, topic: a, encoder: {path}}}, {{name: b, topic: b, encoder: {path}}}")
    prepared = agent._prepare()
    make_version(path, GOOD)
    agent._change_encoder(agent.encoders.load(str(path)))
    agent._apply(prepared)
    assert agent.pipeline.encoders[str(path)].digest[:12] == version_in(path)
    assert len(list((tmp_path / "state" / "encoders").iterdir())) == 2


def test_what_a_reload_has_timed_is_kept_for_the_next_start(two_variants, changeable, timed, tmp_path):
    agent, write = changeable
    write(f"{{name: a, topic: a, encoder: {two_variants.streams[0].encoder}}}")
    prepared = agent._prepare()
    assert len(prepared.choices) == 1
    agent._apply(prepared)
    agent.store.close()
    timed.clear()
    start(two_variants, tmp_path)
    assert timed == []


def test_an_encoder_that_is_not_there_refuses_the_reload(changeable):
    agent, write = changeable
    write("{name: a, topic: a, encoder: none-such}")
    with pytest.raises(BundleError):
        agent._prepare()


@pytest.mark.parametrize(("right", "expected"), [(1, "something of the region is left"), (0.97, "half of it")])
def test_pictures_of_which_nothing_is_left_refuse_the_reload(changeable, right, expected):
    agent, write = changeable
    write(f"{{name: gate, topic: a, kind: image, ignore: [[[0, 0], [{right}, 0], [{right}, 1], [0, 1]]]}}")
    with pytest.raises(ConfigurationError, match=expected):
        agent._prepare()


def test_without_a_file_nothing_is_read_anew(agent):
    with pytest.raises(ConfigurationError, match="a configuration file"):
        agent._prepare()


def test_a_broker_that_cannot_be_used_refuses_the_reload_as_a_whole(changeable, tmp_path):
    agent, write = changeable
    before, client = agent.configuration, agent.mqtt
    write("{name: tank, topic: tank/+, encoder: none}", f"broker: {{url: 'mqtts://a', ca_file: {tmp_path}/none}}")
    agent._apply(agent._prepare())
    assert agent.reloader.last.outcome is ReloadOutcome.REFUSED
    assert "broker.ca_file: expected a readable file" in agent.reloader.last.problems[0]
    assert (agent.configuration, agent.mqtt) == (before, client)


def test_what_the_old_broker_had_not_taken_goes_to_the_new_one(changeable, mosquitto):
    agent, write = changeable
    peer = Peer(mosquitto, "redshank/#")
    agent.store.commit([], [OutboxRow("redshank/pi/pump/a/alert", b'{"late": false}', 0.0)])
    agent._handed = 1  # to the old one, which never said that it has it
    agent._held = {"plant/+": 1}  # there, not here
    write(more=f"broker: {{url: '{mosquitto.url}'}}")
    agent._apply(agent._prepare())
    wait_until(agent.ready)
    agent._send_outbox()
    wait_until(lambda: peer.payloads("redshank/pi/pump/a/alert"))
    peer.close()


def test_commands_are_taken_once_they_are_enabled(changeable, mosquitto):
    agent, write = changeable
    broker = f"broker: {{url: '{mosquitto.url}'}}"
    write(more=broker)
    agent._apply(agent._prepare())
    wait_until(agent.ready)
    write(more=broker + "\ncommands: {enabled: true}")
    agent._apply(agent._prepare())
    wait_until(agent.ready)
    assert agent.topics.command in agent._held


def test_a_stream_that_comes_back_has_its_reference_and_no_alert(changeable):
    agent, write = changeable
    pump = (
        "{name: pump, topic: plant/+, encoder: none, period: 1s, time: {path: ts},"
        " reference: {size: 300, warm_up: 150}, alert: {false_alarms: 1 per 20000 decisions}}"
    )
    write(pump)
    agent._apply(agent._prepare())
    agent._commit(agent.pipeline.process([reading(i, quiet(i)) for i in range(300)]))
    agent._commit(agent.pipeline.process([reading(i, {"a": 50.0, "b": 50.0}) for i in range(300, 310)]))
    fill = agent.pipeline.streams["pump/a"].reference_fill
    assert agent.pipeline.streams["pump/a"].alerts[AlertKind.ANOMALY].state is AlertState.FIRING
    write("{name: tank, topic: tank/+, encoder: none}")
    agent._apply(agent._prepare())
    assert agent.pipeline.streams == {}
    write(pump)
    agent._apply(agent._prepare())
    again = agent.pipeline.stream_of("plant/a")
    assert again.reference_fill == fill > 0
    assert again.alerts[AlertKind.ANOMALY].state is AlertState.INACTIVE


def test_the_last_snapshot_of_a_stream_that_learns_anew_is_kept(changeable, caplog):
    agent, write = changeable
    for topic in ("plant/a", "plant/b"):
        agent.pipeline.stream_of(topic)
    save(agent.store, agent.pipeline.streams["pump/a"])  # and of pump/b there is none yet
    write("{name: pump, topic: plant/+, encoder: none, stride: 2}")
    agent._apply(agent._prepare())
    assert len(list(agent.store.directory.glob("streams/*.unusable"))) == 1
    assert "stream pump/a starts cold" in caplog.text
    assert "cannot write" not in caplog.text


def test_a_topic_that_is_not_cleared_yet_is_cleared_later_unless_its_stream_is_back(changeable, mosquitto):
    agent, write = changeable
    agent.publications._retained = {"redshank/pi/pump/a/state", "redshank/pi/pump/b/state"}
    for topic in ("plant/a", "plant/b"):
        agent.pipeline.stream_of(topic)
    special = "{name: special, topic: plant/a, encoder: none}, {name: pump, topic: plant/+, encoder: none}"
    broker = f"broker: {{url: '{mosquitto.url}'}}"
    write(special)  # no broker yet: what pump/a left there is to be cleared
    agent._apply(agent._prepare())
    peer = Peer(mosquitto, "redshank/#")
    write(special, broker)
    agent._apply(agent._prepare())
    wait_until(agent.ready)
    agent.publications.publish(0.0, 0.0)
    wait_until(lambda: peer.payloads("redshank/pi/pump/a/state") == [b""])
    wait_until(lambda: len(peer.payloads("redshank/pi/pump/b/state")) > 0)
    assert b"" not in peer.payloads("redshank/pi/pump/b/state")
    peer.close()


def test_a_worker_that_does_not_move_is_said_once_and_is_not_healthy(agent, caplog):
    assert agent.healthy()
    agent.moved_at -= 60.0
    agent._look_at_worker()
    agent._look_at_worker()
    assert not agent.healthy()
    assert caplog.text.count("the worker has not moved for 60 s") == 1
    assert agent.telemetry.registry.get_sample_value("redshank_worker_idle_seconds") >= 60.0
    agent.moved_at += 60.0
    agent._look_at_worker()
    assert agent.healthy()
    assert "the worker moves again" in caplog.text


def test_alerts_of_before_the_clock_is_set_say_so_and_the_state_does(agent, schema, caplog):
    now = [60.0]
    agent.clock = Clock(0.0, lambda: now[0], lambda: 0.0)
    payload = encode(
        AlertTransition("0123456789abcdef", AlertKind.SILENT, AlertEvent.RAISED, 50.0, 50.0),
        agent="pi",
        stream="pump/a",
        topic="plant/a",
        severity="warning",
        budget="1 per week",
        late=False,
        threshold=0.0,
        score=None,
        found=silence(40.0, 50.0),
        encoder=None,
    )
    machine = AlertMachine(AlertSettings(), agent="pi", stream="pump/a", kind=AlertKind.SILENT)
    row = AlertRow("pump/a", "silent", machine.snapshot())
    agent._commit(Outcome([row], [OutboxRow("redshank/pi/pump/a/alert", payload, 60.0)], []))
    (sent,) = agent.store.outbox(0, 10)
    told = json.loads(sent.payload)
    assert told["clock"] == "wrong"
    schema.validate(told)
    agent._look_at_clock()
    assert agent.troubles.names == ["clock"]
    now[0] = 1_800_000_000.0
    agent._look_at_clock()
    assert agent.troubles.names == []
    assert "clock was set forward by 1799999940 s" in caplog.text
