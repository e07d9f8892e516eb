"""What a machine may look like when it has just been switched on, with real processes."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import urllib.error

from tests.brokers import wait_until
from tests.test_agent import alerts, make_peer, make_process, publish, written_tomorrow

__all__ = ["make_peer", "make_process"]  # fixtures
TROUBLED = 'redshank_trouble{trouble="state_directory"}'


def answers(process, path):
    try:
        process.get(path)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
    return 200


def test_without_a_network_it_starts_answers_and_connects_once_there_is_one(make_mosquitto, make_process, make_peer):
    broker = make_mosquitto()
    process = make_process(broker)
    good = process.config.read_text()
    process.config.write_text(good.replace(broker.url, "mqtt://no-such-host.invalid"))
    broker.stop()
    process.start()
    wait_until(lambda: answers(process, "/healthz") == 200, 20)
    assert answers(process, "/readyz") == 503
    assert process.metric("redshank_broker_connected") == 0.0
    process.config.write_text(good)  # a host that is there, and nothing listens yet
    process.popen.send_signal(signal.SIGHUP)
    wait_until(lambda: process.metric('redshank_configuration_reloads_total{outcome="applied"}') == 1.0, 30)
    assert answers(process, "/readyz") == 503
    broker.start()
    process.ready()
    publish(make_peer(broker), range(3))
    wait_until(lambda: process.metric("redshank_messages_received_total") == 3.0)
    code, errors = process.stop()
    assert code == 0
    for reason in ("the host name 'no-such-host.invalid' cannot be resolved", "nothing listens at mqtt://localhost"):
        assert errors.count(reason) == 1, errors


def test_two_agents_of_one_id_say_so_and_the_one_that_stays_goes_on(mosquitto, make_process):
    first, second = make_process(mosquitto).start().ready(), make_process(mosquitto).start()

    def troubled(process):
        return process.metric('redshank_trouble{trouble="client_id"}') == 1.0

    wait_until(lambda: troubled(first) or (answers(second, "/metrics") == 200 and troubled(second)), 30)
    told = first if troubled(first) else second
    assert '"troubles":["client_id"]' in told.get("/status")
    errors = [process.stop()[1] for process in (second, first)]
    assert any("trouble client_id: another client uses our MQTT client id" in text for text in errors)


def test_two_agents_on_one_state_directory_are_refused(mosquitto, make_process):
    first, second = make_process(mosquitto).start(), make_process(mosquitto)
    second.config.write_text(second.config.read_text().replace(str(second.state), str(first.state)))
    wait_until(lambda: answers(first, "/healthz") == 200, 20)
    code, errors = second.start().popen.wait(30), second.popen.stderr.read().decode()
    second.popen.stderr.close()
    assert code == 1
    assert f"found it in use by process {first.popen.pid}; stop the other agent or replay that uses it" in errors
    assert answers(first, "/healthz") == 200


def test_a_full_disk_at_boot_costs_neither_what_was_learnt_nor_an_alert(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/#")
    process = make_process(mosquitto).start().ready()
    publish(peer, range(300))
    active = 'redshank_stream_phase{phase="active",stream="pump/a"}'
    wait_until(lambda: process.metric(active) == 1.0, 20)
    assert process.stop()[0] == 0
    full = ("prlimit", "--fsize=0:unlimited")  # no file may grow: every write fails, reading does not
    process.popen = subprocess.Popen([*full, *process.command], stderr=subprocess.PIPE)
    process.ready()
    wait_until(lambda: process.metric(TROUBLED) == 1.0)
    assert process.metric(active) == 1.0
    publish(peer, range(300, 310), odd=True)
    wait_until(lambda: [one["event"] for one in alerts(peer)] == ["raised"], 20)
    limits = resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.popen.pid, resource.RLIMIT_FSIZE, (limits[1], limits[1]))
    wait_until(lambda: process.metric(TROUBLED) == 0.0, 20)
    process.popen.kill()  # what was in memory is on disk
    process.popen.communicate()
    process.start().ready()
    wait_until(lambda: '"kind":"anomaly","firing":true' in process.get("/status"), 20)
    assert [one["event"] for one in alerts(peer)] == ["raised"]


def test_a_clock_that_lags_behind_what_was_written_before_is_told_and_alerts_say_so(mosquitto, make_process, make_peer):
    peer = make_peer(mosquitto, "redshank/pi/+/+/alert", "redshank/pi/state")
    process = make_process(mosquitto, stream="silence: {after: 1s}")
    written_tomorrow(process.state)
    process.start().ready()
    wait_until(lambda: process.metric('redshank_trouble{trouble="clock"}') == 1.0)
    wait_until(lambda: json.loads(peer.payloads("redshank/pi/state")[-1])["troubles"] == ["clock"])
    publish(peer, range(3))
    wait_until(lambda: alerts(peer, "silent"), 30)
    assert [(one["event"], one["clock"]) for one in alerts(peer, "silent")] == [("raised", "wrong")]
    code, errors = process.stop()
    assert code == 0
    assert "trouble clock: this machine's clock shows a time that is past" in errors


def test_a_state_directory_that_cannot_be_made_is_made_later(mosquitto, make_process):
    process = make_process(mosquitto)
    process.state.write_text("as where a disk is not mounted yet")
    process.start().ready()
    wait_until(lambda: process.metric(TROUBLED) == 1.0)
    assert '"troubles":["state_directory"]' in process.get("/status")
    process.state.unlink()
    wait_until(lambda: process.metric(TROUBLED) == 0.0, 20)
    assert (process.state / "state.sqlite").is_file()
    code, errors = process.stop()
    assert code == 0
    assert errors.count("cannot write the state directory") == 1
    assert "trouble state_directory is over" in errors
