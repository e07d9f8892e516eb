"""Secrets are planted wherever the agent reads one, and looked for in everything that it emits."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from agent.adapters.http_access import line_of
from agent.cli import main
from tests.brokers import free_port, wait_until

COMMAND = [sys.executable, "-m", "agent.cli", "--log-level", "debug"]
PASSWORD, WRONG, TOKEN, LOGIN = (
    "plant3d-broker-word",
    "plant3d-wrong-word",
    "plant3d-metrics-token",
    "plant3d-login-word",
)


class House:
    """A broker that wants a password and a certificate, the files for it, and all that was said."""

    def __init__(self, folder, make_mosquitto, authority):
        self.folder, self.said = folder, []
        server, client = authority.issue("house", host="DNS:localhost"), authority.issue("agent")
        self.authority, self.ca, self.certificate, self.key, self.server = (
            authority,
            authority.certificate,
            *client,
            server,
        )
        self.broker = make_mosquitto(
            users={"pi": PASSWORD}, tls=(authority.certificate, *server), client_certificates=True
        )
        self.port, self.config, self.word = free_port(), folder / "redshank.yaml", folder / "word"
        self.write(self.word, PASSWORD + "\n")
        self.write(
            folder / "credentials", f"{line_of('basic', 'me', LOGIN)}\n{line_of('bearer', 'prometheus', TOKEN)}\n"
        )
        self.secrets = [PASSWORD, WRONG, TOKEN, LOGIN, base64.b64encode(f"me:{LOGIN}".encode()).decode()]
        self.secrets += [
            line for path in (self.key, server[1]) for line in path.read_text().splitlines() if line[0] != "-"
        ]
        self.secrets += [one.split(":")[-1] for one in (folder / "credentials").read_text().split()[2::3]]
        self.configure()

    def write(self, path, text):
        path.write_text(text)
        path.chmod(0o600)

    def configure(self):
        self.config.write_text(
            f"""
agent: {{id: pi, state_dir: {self.folder}/state}}
broker:
  url: {self.broker.url}
  username: pi
  password_file: {self.word}
  ca_file: {self.ca}
  cert_file: {self.certificate}
  key_file: {self.key}
commands: {{enabled: true}}
metrics:
  listen: 0.0.0.0:{self.port}
  credentials_file: {self.folder}/credentials
  cert_file: {self.server[0]}
  key_file: {self.server[1]}
streams:
  - {{name: pump, topic: plant/+, encoder: none}}
"""
        )

    def command(self, *words, **environment):
        done = subprocess.run(
            [*COMMAND, *words], capture_output=True, timeout=60, check=False, env={**os.environ, **environment}
        )
        self.said += [done.stdout, done.stderr]
        return done.returncode

    def get(self, path, authorization):
        context = self.authority.trusted()
        context.check_hostname = False
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.port}{path}", headers={"Authorization": authorization}
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                self.said += [str(answer.headers).encode(), answer.read()]
                return answer.status
        except urllib.error.HTTPError as error:
            with error:
                self.said += [str(error.headers).encode(), error.read()]
                return error.code
        except OSError:
            return 0  # it has not begun to listen

    def listen(self):
        client = Client(CallbackAPIVersion.VERSION2)
        client.tls_set(str(self.ca), str(self.certificate), str(self.key))
        client.username_pw_set("pi", PASSWORD)
        client.on_connect = lambda client, *_: client.subscribe("#", 1)
        client.on_message = lambda *args: self.said.append(args[2].topic.encode() + b" " + args[2].payload)
        client.connect("localhost", self.broker.port)
        client.loop_start()
        return client

    def leaks(self):
        whole = b"\n".join(self.said)
        return [one for one in self.secrets if one.encode() in whole]


@pytest.fixture
def house(tmp_path, make_mosquitto, authority, monkeypatch):
    monkeypatch.setattr("agent.adapters.http_access._COST", (16, 8, 1))
    return House(tmp_path, make_mosquitto, authority)


def test_no_secret_is_in_anything_that_a_running_agent_emits(house):
    listener = house.listen()
    agent = subprocess.Popen(
        [*COMMAND, "run", "--config", str(house.config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        wait_until(lambda: house.get("/readyz", f"Bearer {TOKEN}") == 200, 60)
        house.said += [Path(f"/proc/{agent.pid}/cmdline").read_bytes(), Path(f"/proc/{agent.pid}/environ").read_bytes()]
        login = "Basic " + base64.b64encode(f"me:{LOGIN}".encode()).decode()
        assert [house.get(path, how) for path in ("/metrics", "/status") for how in (login, f"Bearer {TOKEN}")] == [
            200
        ] * 4
        assert house.get("/metrics", f"Bearer {WRONG}") == 401
        assert house.command("status", "--json", "--config", str(house.config)) == 0
        listener.publish("redshank/pi/command", '{"command": "snapshot"}', 1).wait_for_publish(10)
        wait_until(lambda: any(b"redshank/pi/reply" in one for one in house.said), 30)
        house.write(house.word, WRONG)  # for the next connection
        house.broker.set_users({"pi": "another"})
        house.broker.restart()
        house.config.write_text(house.config.read_text().replace("encoder: none", f"encoder: none, {WRONG[:7]}: 1"))
        agent.send_signal(signal.SIGHUP)
        wait_until(lambda: house.get("/status", f"Bearer {TOKEN}") == 200 and b'"refused"' in house.said[-1], 60)
    finally:
        agent.terminate()
        house.said += agent.communicate(timeout=60)
        listener.loop_stop()
    house.said += [path.read_bytes() for path in (house.folder / "state").rglob("*") if path.is_file()]
    assert b"connected to mqtts://localhost" in b"".join(house.said)
    assert house.leaks() == []


WRONG_PLACES = {
    f"password: {PASSWORD}": "did you mean 'password_env'",
    f"password_env: {PASSWORD}": "none in the environment",
    f"password_file: [{PASSWORD}]": "expected text, found a list",
    f"password_file: {{word: {PASSWORD}}}": "expected text, found keys and values",
    f"url: mqtts://pi:{PASSWORD}@localhost": "use username and password_file",
    f"password: '{PASSWORD}": "expected YAML",
}


@pytest.mark.parametrize("line", WRONG_PLACES)
def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path, capfd, caplog, line):
    path = tmp_path / "redshank.yaml"
    path.write_text(
        f"agent: {{state_dir: {tmp_path}/state}}\n"
        f"broker:\n  keepalive: 9s\n  {line}\n"
        "streams: [{name: pump, topic: a, encoder: none}]\n"
    )
    assert main(["run", "--config", str(path)]) == 78
    main(["check", str(path)])
    said = "".join(capfd.readouterr()) + caplog.text
    assert WRONG_PLACES[line] in said
    assert PASSWORD not in said
