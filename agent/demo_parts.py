"""What every demo needs: a broker, the agent as a process of its own, and a viewer that hears it over MQTT."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from agent.adapters.mqtt import BrokerSettings, MqttClient, MqttEvents, Protocol
from agent.demo_view import HISTORY
from agent.errors import RedshankError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, RenderableType

    from agent.ports import InboundMessage

_AGENT: Final = """\
agent: {{id: {agent_id}, state_dir: {folder}/state}}
broker: {{url: "{url}", protocol: "3.1.1"}}
metrics: {{listen: "127.0.0.1:{port}"}}
"""


class Watcher(MqttEvents):
    """What a demo sees over MQTT. What a broker kept from an earlier run is not news."""

    def __init__(self, history: int = HISTORY) -> None:
        self.state: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []
        self.scores: deque[float] = deque(maxlen=history)
        self.heatmaps: list[bytes] = []
        self.kept: set[str] = set()  # topics that a broker still holds something of when the demo is over
        self.client: MqttClient | None = None

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Remember states, scores, alerts and heatmaps."""
        for message in messages:
            self._take(message)
        if self.client is not None:
            self.client.acknowledge_many(messages)

    def _take(self, message: InboundMessage) -> None:
        _, _, *stream, leaf = message.topic.split("/")
        if leaf in {"state", "status", "heatmap"}:
            self.kept.add(message.topic)
        if message.retained or not message.payload:
            return
        if leaf == "state" and stream:  # not the agent's own
            self.state = json.loads(message.payload)
        elif leaf == "score":
            self.scores.append(json.loads(message.payload)["score"])
        elif leaf == "alert":
            self.alerts.append(json.loads(message.payload))
        elif leaf == "heatmap":
            self.heatmaps.append(message.payload)

    def alert(self, event: str, after: int = 0, kind: str | None = None) -> dict[str, Any] | None:
        """Return the first alert message of that event, and kind, received since `after` messages."""
        of_event = (one for one in self.alerts[after:] if one["event"] == event)
        return next((one for one in of_event if kind is None or one["kind"] == kind), None)


class Show:
    """One run of a demo; `streams` is that part of the agent's configuration.

    A demo derives from it and says in `step` what happens each `period_s`.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        agent_id: str,
        streams: str,
        console: Console,
        period_s: float,
        watcher: Watcher | None = None,
    ) -> None:
        self.console = console
        self.folder = folder
        self.watcher = watcher or Watcher()
        self.shown: list[RenderableType] = []
        self._period_s = period_s
        self.mqtt = MqttClient(
            BrokerSettings(url=url, protocol=Protocol.V311),
            agent_id=f"{agent_id}-viewer",
            subscriptions=[(f"redshank/{agent_id}/#", 1)],
            events=self.watcher,
        )
        self.watcher.client = self.mqtt
        path = folder / "redshank.yaml"
        path.write_text(_AGENT.format(agent_id=agent_id, folder=folder, url=url, port=free_port()) + streams)
        self._log = (folder / "agent.log").open("wb")
        self.agent = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", "agent.cli", "run", "--config", str(path)], stderr=self._log
        )

    def step(self) -> None:
        """Do what is done each period."""
        raise NotImplementedError

    def until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Go on step by step until the condition holds; tell whether it did in time."""
        deadline = monotonic() + limit_s
        for _ in ticks(self._period_s):
            self.step()
            if condition():
                return True
            if self.agent.poll() is not None or monotonic() >= deadline:
                return False
        return False

    def say(self, text: str, style: str = "") -> None:
        """Print a line."""
        line = Text(text, style=style)
        self.console.print(line)
        self.shown.append(line)

    def fail(self, why: str) -> int:
        """Say why, with the agent's last words; return the exit code."""
        self.say(f"FAILED: {why}; the agent's log:", "bold red")
        self.say((self.folder / "agent.log").read_text(errors="replace")[-2000:])
        return 1

    def close(self) -> None:
        """Stop the agent and the connection; leave nothing at the broker."""
        self.agent.terminate()
        self.agent.wait(20)
        for topic in sorted(self.watcher.kept):
            self.mqtt.publish(topic, b"", retain=True)
        self.mqtt.stop()
        self._log.close()


def ticks(period_s: float) -> Iterator[None]:
    """Come once each period; what was missed is not made up for."""
    due = monotonic()
    while True:
        yield
        due = max(due + period_s, monotonic() - period_s)
        sleep(max(0.0, due - monotonic()))


@contextmanager
def broker_at(broker_url: str | None) -> Iterator[tuple[str, str, Path]]:
    """Give the broker's name, its URL and a folder of the demo's own; a broker is started where none is named."""
    with tempfile.TemporaryDirectory(prefix="redshank-demo-") as name:
        folder = Path(name)
        if broker_url is not None:
            yield broker_url, broker_url, folder
            return
        broker, url, stop = start_broker(folder)
        try:
            yield broker, url, folder
        finally:
            stop()


def free_port() -> int:
    """Return a TCP port that nobody uses right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_broker(folder: Path) -> tuple[str, str, Callable[[], None]]:
    """Start Mosquitto, or amqtt where it is not installed; return its name, URL and how to stop it."""
    port = free_port()
    url = f"mqtt://127.0.0.1:{port}"
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if mosquitto is not None:
        configuration = folder / "mosquitto.conf"
        configuration.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
        process = subprocess.Popen(  # noqa: S603  the path was found by the system
            [mosquitto, "-c", str(configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

        def stop() -> None:
            process.terminate()
            process.wait(10)

        _wait_for_port(port)
        return "Mosquitto", url, stop
    _start_amqtt(port)
    _wait_for_port(port)
    return "amqtt (install Mosquitto for the real thing)", url, _nothing


def _start_amqtt(port: int) -> None:
    """Start it in a daemon thread, which ends with this process."""
    from amqtt.broker import Broker  # noqa: PLC0415  only where Mosquitto is missing

    for name in ("amqtt", "transitions"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they tell of every state, and complain of our own probing
    loop = asyncio.new_event_loop()
    settings = {
        "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}"}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }

    async def begin() -> None:
        make: Any = Broker
        await make(settings).start()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(begin())
        loop.run_forever()

    threading.Thread(target=serve, name="amqtt", daemon=True).start()


def _nothing() -> None:
    """Stop nothing: it ends with this process."""


def _wait_for_port(port: int) -> None:
    deadline = monotonic() + 10
    while monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            sleep(0.05)
        else:
            return
    raise RedshankError("the broker did not start within 10 s")
