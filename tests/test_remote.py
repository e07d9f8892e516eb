from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from agent import remote
from agent.adapters.http import HttpServer, MetricsSettings, Pages
from agent.adapters.http_access import line_of
from agent.adapters.statelock import StateLock
from agent.config import whereabouts
from agent.errors import BusyError, RemoteError
from agent.reload import ReloadOutcome, ReloadResult
from agent.remote import RemoteAgent
from tests.test_status import STATUS

FILE = Path(STATUS.configuration.file)
DONE = ReloadResult(ReloadOutcome.APPLIED, 5.0)


class Answers:
    """What /status answers, one after another; the last one for ever."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def __call__(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return msgspec.json.encode(answer) if isinstance(answer, msgspec.Struct) else answer


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def make(*answers, host="127.0.0.1", token="", **settings):
            pages = Pages(CollectorRegistry(), bool, bool, Answers(*answers))
            server = HttpServer(MetricsSettings(listen=f"{host}:0", **settings), pages, token=token)
            stack.callback(server.stop)
            return server.port

        yield make


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    monkeypatch.setattr("agent.adapters.http_access._COST", (16, 8, 1))
    path = tmp_path / "credentials"
    path.write_text(line_of("basic", "prometheus", "correct horse battery"))
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def held(tmp_path):
    lock = StateLock(tmp_path)
    yield lock
    lock.close()


@pytest.fixture
def signals(monkeypatch):
    sent = []
    monkeypatch.setattr(remote.os, "kill", lambda pid, number: sent.append((pid, number.name)))
    return sent


def agent_at(folder, listen, **settings):
    return RemoteAgent(str(folder), MetricsSettings(listen=listen, **settings))


def after(reloads, last=None, *, reloading=False):
    of = STATUS.configuration
    return msgspec.structs.replace(
        STATUS, configuration=msgspec.structs.replace(of, reloads=reloads, last_reload=last, reloading=reloading)
    )


@pytest.mark.parametrize(("host", "listen"), [("127.0.0.1", "0.0.0.0"), ("127.0.0.1", "127.0.0.1"), ("[::1]", "[::]")])
def test_an_agent_is_asked_where_its_configuration_says(serve, tmp_path, host, listen):
    assert agent_at(tmp_path, f"{listen}:{serve(STATUS, host=host)}").status() == STATUS


def test_an_agent_that_holds_the_directory_tells_itself_where_it_listens(serve, tmp_path, held):
    held.listens(f"127.0.0.1:{serve(STATUS)}")
    assert agent_at(tmp_path, "127.0.0.1:1").status() == STATUS


def test_who_may_read_the_state_directory_needs_no_password_and_others_are_told_why(
    serve, tmp_path, held, credentials, authority
):
    certificate, key = map(str, authority.issue("metrics", host="DNS:elsewhere"))
    settings = {"credentials_file": credentials, "cert_file": certificate}
    port = serve(STATUS, host="0.0.0.0", token="of-our-own", key_file=key, **settings)
    held.listens(f"0.0.0.0:{port}", "of-our-own")
    assert agent_at(tmp_path, "127.0.0.1:1", **settings).status() == STATUS
    with pytest.raises(RemoteError, match="the right to read the agent's token there, found none; run this as root"):
        agent_at(tmp_path / "elsewhere", f"127.0.0.1:{port}", **settings).status()


def test_another_certificate_is_not_taken_for_the_agents(serve, tmp_path, authority):
    certificate, key = map(str, authority.issue("metrics", host="DNS:localhost"))
    other, _ = map(str, authority.issue("other", host="DNS:localhost"))
    port = serve(STATUS, cert_file=certificate, key_file=key)
    assert agent_at(tmp_path, f"127.0.0.1:{port}", cert_file=certificate).status() == STATUS
    with pytest.raises(RemoteError, match="CERTIFICATE_VERIFY_FAILED"):
        agent_at(tmp_path, f"127.0.0.1:{port}", cert_file=other).status()


@pytest.mark.parametrize(
    ("answer", "found"),
    [(None, "one that is too busy to answer"), (b"{}", "something else"), (b"<html>", "something else")],
)
def test_an_answer_that_is_none_is_said_so(serve, tmp_path, answer, found):
    with pytest.raises(RemoteError, match=rf"expected an agent at 127.0.0.1:\d+ .*, found {found}"):
        agent_at(tmp_path, f"127.0.0.1:{serve(answer)}").status()


def test_who_asks_for_a_reload_waits_for_what_it_led_to(serve, tmp_path, held, signals):
    port = serve(after(1), after(1, reloading=True), after(2, DONE, reloading=True), after(3, DONE))
    held.listens(f"127.0.0.1:{port}")
    assert agent_at(tmp_path, "").reload(FILE) == DONE
    assert signals == [(os.getpid(), "SIGHUP")]


def test_an_agent_that_is_busy_with_a_reload_is_asked_again(serve, tmp_path, held, signals, monkeypatch):
    held.listens(f"127.0.0.1:{serve(None, after(1), None, None, after(2, DONE))}")
    assert agent_at(tmp_path, "").reload(FILE) == DONE
    assert len(signals) == 1
    monkeypatch.setattr(remote, "RELOAD_S", 0.3)
    held.listens(f"127.0.0.1:{serve(after(1), None)}")
    with pytest.raises(BusyError, match="found one that is too busy to answer"):
        agent_at(tmp_path, "").reload(FILE)


def test_a_replay_is_not_signalled(serve, tmp_path, held, signals):
    del held  # without a word of where it listens
    with pytest.raises(RemoteError, match="expected an agent that uses it, found none"):
        agent_at(tmp_path, f"127.0.0.1:{serve(STATUS)}").reload(FILE)
    assert signals == []


def test_who_may_not_signal_the_agent_is_told_what_to_do(serve, tmp_path, monkeypatch):
    def refused(_):
        raise PermissionError

    monkeypatch.setattr(remote, "holder", refused)
    with pytest.raises(RemoteError, match="run this as root, or as the agent's user"):
        agent_at(tmp_path, f"127.0.0.1:{serve(STATUS)}").reload(FILE)


def test_a_reload_that_takes_for_ever_is_not_waited_for(serve, tmp_path, held, signals, monkeypatch):
    monkeypatch.setattr(remote, "RELOAD_S", 0.0)
    held.listens(f"127.0.0.1:{serve(STATUS)}")
    with pytest.raises(RemoteError, match="expected an answer within 0 s"):
        agent_at(tmp_path, "").reload(FILE)
    assert len(signals) == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("agent: {state_dir: /s}\nstreams: [{name: 5, topic: []}]\nmetrics: {listen: 'h:1'}", ("/s", "h:1")),
        ("agent: {state_dir: [}", ("/var/lib/redshank", "127.0.0.1:9791")),
        ("agent: {id: []}\nmetrics: {listen: 'h:1'}", ("/var/lib/redshank", "h:1")),
    ],
)
def test_where_an_agent_is_found_is_read_from_a_file_that_is_wrong_elsewhere(tmp_path, text, found):
    path = tmp_path / "redshank.yaml"
    path.write_text(text)
    directory, metrics = whereabouts(path)
    assert (directory, metrics.listen) == found
