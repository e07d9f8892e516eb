"""`redshank demo`: watches this very machine, provokes a real disturbance, shows the alert raised and cleared.

Real throughout: a broker, the agent as a process of its own, this machine's counters, processes that burn them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any, Final

import psutil
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.adapters.mqtt import BrokerSettings, MqttClient, MqttEvents, Protocol
from agent.demo_view import CHANNELS, HISTORY, Screen, write_picture
from agent.errors import RedshankError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agent.ports import InboundMessage

PERIOD_S: Final = 0.1
WARM_UP: Final = 300  # samples, half a minute
QUIET_S: Final = 5.0
AFTER_ALERT_S: Final = 2.0
MAX_DISTURBANCE_S: Final = 20.0
MAX_CLEARING_S: Final = 40.0
MAX_LEARNING_S: Final = 90.0
_MEMORY_BYTES: Final = 300 * 1024 * 1024
_CONFIGURATION: Final = """\
agent: {{id: demo, state_dir: {folder}/state}}
broker: {{url: "{url}", protocol: "3.1.1"}}
metrics: {{listen: "127.0.0.1:{port}"}}
streams:
  - name: machine
    topic: demo/machine
    time: {{path: ts}}
    period: 100ms
    score_topic: always
    reference: {{size: 1000, warm_up: {warm_up}}}
    alert: {{false_alarms: 1 per hour, after: 3, clear_after: 10, cooldown: 5s, min_change: {{{least}}}}}
"""
_BURN: Final = {
    "processor": "while True: pass",
    "memory": f"import time\nheld = []\nwhile True:\n    held.append(bytearray(os.urandom(1 << 20)) * 8)\n"
    f"    held = held if len(held) < {_MEMORY_BYTES >> 23} else []\n    time.sleep(0.01)",
    "disk": "with open('burn', 'wb') as file:\n    while True:\n        file.seek(0)\n"
    "        file.write(os.urandom(1 << 22))\n        file.flush()\n        os.fsync(file.fileno())",
}


class Counters:
    """This machine's counters as rates and shares, per sample."""

    def __init__(self) -> None:
        self._before = self._read()
        self._at = monotonic()
        self._cpu = psutil.cpu_times()

    @staticmethod
    def _read() -> dict[str, float]:
        disk, net = psutil.disk_io_counters(), psutil.net_io_counters()
        if disk is None or net is None:
            raise RedshankError("this machine shows no disk or network counters")
        return {
            "disk.read": disk.read_bytes / 1e6,
            "disk.write": disk.write_bytes / 1e6,
            "net.in": net.bytes_recv / 1e6,
            "net.out": net.bytes_sent / 1e6,
        }

    def sample(self) -> dict[str, Any]:
        """Return one reading as nested JSON: shares in percent, rates in MB/s."""
        now, read = monotonic(), self._read()
        elapsed = max(now - self._at, 1e-3)
        rates = {name: round((read[name] - self._before[name]) / elapsed, 3) for name in read}
        self._before, self._at = read, now
        cpu, past = psutil.cpu_times(), self._cpu
        self._cpu = cpu
        total = max(sum(cpu) - sum(past), 1e-3)
        user = cpu.user + getattr(cpu, "nice", 0.0) - past.user - getattr(past, "nice", 0.0)
        return {
            "ts": round(time(), 3),
            "cpu": {"user": round(100 * user / total, 1), "system": round(100 * (cpu.system - past.system) / total, 1)},
            "mem": {"used": round(psutil.virtual_memory().used / 1e6, 1)},
            "disk": {"read": rates["disk.read"], "write": rates["disk.write"]},
            "net": {"in": rates["net.in"], "out": rates["net.out"]},
        }


class Watcher(MqttEvents):
    """What the demo sees over MQTT."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.alerts: list[dict[str, Any]] = []
        self.scores: deque[float] = deque(maxlen=HISTORY)
        self.client: MqttClient | None = None

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Remember states, scores and alerts."""
        for message in messages:
            if message.topic.endswith("/state") and message.payload:
                self.state = json.loads(message.payload)
            elif message.topic.endswith("/score"):
                self.scores.append(json.loads(message.payload)["score"])
            elif message.topic.endswith("/alert"):
                self.alerts.append(json.loads(message.payload))
        if self.client is not None:
            self.client.acknowledge_many(messages)

    def alert(self, event: str, after: float = 0.0) -> dict[str, Any] | None:
        """Return the first alert message of that event received since `after` messages."""
        return next((one for one in self.alerts[int(after) :] if one["event"] == event), None)


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
    """Stop nothing: it is not ours, or ends with this process."""


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


class Disturbance:
    """Processes that burn processor, memory and disk until stopped."""

    def __init__(self, folder: Path) -> None:
        jobs = [_BURN["memory"], _BURN["disk"]] + [_BURN["processor"]] * (os.cpu_count() or 1)
        self._processes = [
            subprocess.Popen([sys.executable, "-c", f"import os\nos.nice(5)\n{job}"], cwd=folder)  # noqa: S603  our own code
            for job in jobs
        ]

    def stop(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()


class Demo:
    """One run."""

    def __init__(self, url: str, broker: str, folder: Path, console: Console) -> None:
        self.console = console
        self.folder = folder
        self.watcher = Watcher()
        self.counters = Counters()
        self.screen = Screen(broker)
        self.shown: list[RenderableType] = [Text("$ redshank demo", style="bold")]
        settings = BrokerSettings(url=url, protocol=Protocol.V311)
        self.mqtt = MqttClient(
            settings, agent_id="demo-viewer", subscriptions=[("redshank/demo/#", 1)], events=self.watcher
        )
        self.watcher.client = self.mqtt
        configuration = folder / "redshank.yaml"
        least = ", ".join(f"{name}: {change:g}" for name, (_, change) in CHANNELS.items())
        configuration.write_text(
            _CONFIGURATION.format(folder=folder, url=url, port=free_port(), warm_up=WARM_UP - 33, least=least)
        )
        self.log = (folder / "agent.log").open("wb")
        self.agent = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", "agent.cli", "run", "--config", str(configuration)], stderr=self.log
        )

    def run(self, *, forever: bool) -> int:
        """Return 0 if the alert was raised and cleared over MQTT."""
        self.mqtt.start()
        with Live(self.view(), console=self.console, refresh_per_second=8, transient=False) as live:
            self.live = live
            return self._forever() if forever else self._acts()

    def _acts(self) -> int:
        begun = monotonic()
        self.screen.headline = "learning what this machine looks like"
        if not self._until(lambda: self.watcher.state.get("phase") == "active", MAX_LEARNING_S):
            return self._fail("the agent did not finish learning")
        self.say(f"learnt in {monotonic() - begun:.0f} s; now watching")
        self.screen.headline = "watching; all is as it was"
        self._until(lambda: False, QUIET_S)
        self._until(lambda: self.watcher.state.get("alert") != "firing", MAX_CLEARING_S)
        seen = len(self.watcher.alerts)
        self.screen.headline = "disturbance: burning processor, memory and disk"
        self.say("starting processes that burn processor, memory and disk")
        disturbance = Disturbance(self.folder)
        try:
            self._until(lambda: self.watcher.alert("raised", seen) is not None, MAX_DISTURBANCE_S)
            raised = self.screen.raised = self.watcher.alert("raised", seen)
            self._until(lambda: False, AFTER_ALERT_S)
            self.shown.append(self.screen.render())
        finally:
            disturbance.stop()
        if raised is None:
            return self._fail("no alert was raised")
        self.say(f"ALERT over MQTT: {raised['message']}", "bold red")
        self.screen.headline = "the disturbance is over; waiting for the alert to clear"
        if not self._until(lambda: self.watcher.alert("cleared", seen) is not None, MAX_CLEARING_S):
            return self._fail("the alert did not clear")
        cleared = self.watcher.alert("cleared", seen)
        assert cleared is not None
        self.screen.cleared = cleared
        self.say(f"CLEARED over MQTT: {cleared['message']}", "bold green")
        self.screen.headline = "done: raised and cleared, both seen over MQTT"
        self.live.update(self.view())
        return 0

    def _forever(self) -> int:
        self.screen.headline = "watching until interrupted"
        self._until(lambda: False, float("inf"))
        return 0

    def _until(self, condition: Callable[[], bool], limit_s: float) -> bool:
        """Publish readings at 10 Hz until the condition holds; tell whether it did in time."""
        deadline = monotonic() + limit_s
        for _ in _ticks(PERIOD_S):
            reading = self.counters.sample()
            self.mqtt.publish("demo/machine", json.dumps(reading).encode(), qos=0)
            self.screen.add(reading)
            self.live.update(self.view())
            if condition():
                return True
            if self.agent.poll() is not None or monotonic() >= deadline:
                return False
        return False

    def say(self, text: str, style: str = "") -> None:
        """Print a line above the live view."""
        line = Text(text, style=style)
        self.console.print(line)
        self.shown.append(line)

    def _fail(self, why: str) -> int:
        self.say(f"FAILED: {why}; the agent's log:", "bold red")
        self.log.flush()
        self.say((self.folder / "agent.log").read_text(errors="replace")[-2000:])
        return 1

    def view(self) -> RenderableType:
        """Return the live view."""
        state = self.watcher.state
        self.screen.learning_left_s = state.get("learning_left_s") if state.get("phase") == "learning" else None
        self.screen.scores = list(self.watcher.scores)  # another thread adds to it
        return self.screen.render()

    def close(self) -> None:
        """Stop the agent and the connection."""
        self.agent.terminate()
        self.agent.wait(20)
        self.mqtt.stop()
        self.log.close()


def _ticks(period_s: float) -> Iterator[None]:
    due = monotonic()
    while True:
        yield
        due = max(due + period_s, monotonic() - period_s)
        sleep(max(0.0, due - monotonic()))


def demo(*, broker_url: str | None, forever: bool, picture: Path | None) -> int:
    """Run the demo; return 0 only if the alert was seen raised and cleared, with the picture written if asked for."""
    console = Console()
    with tempfile.TemporaryDirectory(prefix="redshank-demo-") as name:
        folder = Path(name)
        if broker_url is not None:
            broker, url, stop_broker = broker_url, broker_url, _nothing
        else:
            broker, url, stop_broker = start_broker(folder)
        with ExitStack() as started:
            started.callback(stop_broker)
            show = Demo(url, broker, folder, console)
            started.callback(show.close)
            show.say(f"about {WARM_UP * PERIOD_S:.0f} s of learning come first")
            try:
                code = show.run(forever=forever)
            except KeyboardInterrupt:
                return 130
            if code == 0 and picture is not None:
                write_picture(picture, show.shown)
        return code
