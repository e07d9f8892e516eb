"""`redshank demo`: watches this very machine, provokes a real disturbance, shows the alert raised and cleared.

Real throughout: a broker, the agent as a process of its own, this machine's counters, processes that burn them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import psutil
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from agent.demo_parts import Show, broker_at
from agent.demo_view import CHANNELS, Screen, write_picture
from agent.errors import RedshankError

if TYPE_CHECKING:
    from pathlib import Path

PERIOD_S: Final = 0.1
WARM_UP: Final = 300  # samples, half a minute
QUIET_S: Final = 5.0
AFTER_ALERT_S: Final = 2.0
MAX_DISTURBANCE_S: Final = 20.0
MAX_CLEARING_S: Final = 40.0
MAX_LEARNING_S: Final = 90.0
_MEMORY_BYTES: Final = 300 * 1024 * 1024
_STREAMS: Final = """\
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


class Demo(Show):
    """One run."""

    live: Live

    def __init__(self, url: str, broker: str, folder: Path, console: Console) -> None:
        least = ", ".join(f"{name}: {change:g}" for name, (_, change) in CHANNELS.items())
        self.counters = Counters()
        self.screen = Screen(broker)
        streams = _STREAMS.format(warm_up=WARM_UP - 33, least=least)
        super().__init__(url, folder, "demo", streams, console, PERIOD_S)
        self.shown.append(Text("$ redshank demo", style="bold"))

    def run(self, *, forever: bool) -> int:
        """Return 0 if the alert was raised and cleared over MQTT."""
        self.mqtt.start()
        with Live(self.view(), console=self.console, refresh_per_second=8, transient=False) as live:
            self.live = live
            return self._forever() if forever else self._acts()

    def _acts(self) -> int:
        begun = monotonic()
        self.screen.headline = "learning what this machine looks like"
        if not self.until(lambda: self.watcher.state.get("phase") == "active", MAX_LEARNING_S):
            return self.fail("the agent did not finish learning")
        self.say(f"learnt in {monotonic() - begun:.0f} s; now watching")
        self.screen.headline = "watching; all is as it was"
        self.until(lambda: False, QUIET_S)
        self.until(lambda: self.watcher.state.get("alert") != "firing", MAX_CLEARING_S)
        seen = len(self.watcher.alerts)
        self.screen.headline = "disturbance: burning processor, memory and disk"
        self.say("starting processes that burn processor, memory and disk")
        disturbance = Disturbance(self.folder)
        try:
            self.until(lambda: self.watcher.alert("raised", seen) is not None, MAX_DISTURBANCE_S)
            raised = self.screen.raised = self.watcher.alert("raised", seen)
            self.until(lambda: False, AFTER_ALERT_S)
            self.shown.append(self.screen.render())
        finally:
            disturbance.stop()
        if raised is None:
            return self.fail("no alert was raised")
        self.say(f"ALERT over MQTT: {raised['message']}", "bold red")
        self.screen.headline = "the disturbance is over; waiting for the alert to clear"
        if not self.until(lambda: self.watcher.alert("cleared", seen) is not None, MAX_CLEARING_S):
            return self.fail("the alert did not clear")
        cleared = self.watcher.alert("cleared", seen)
        assert cleared is not None
        self.screen.cleared = cleared
        self.say(f"CLEARED over MQTT: {cleared['message']}", "bold green")
        self.screen.headline = "done: raised and cleared, both seen over MQTT"
        self.live.update(self.view())
        return 0

    def _forever(self) -> int:
        self.screen.headline = "watching until interrupted"
        self.until(lambda: False, float("inf"))
        return 0

    def step(self) -> None:
        """Publish a reading, and show it."""
        reading = self.counters.sample()
        self.mqtt.publish("demo/machine", json.dumps(reading).encode(), qos=0)
        self.screen.add(reading)
        self.live.update(self.view())

    def view(self) -> RenderableType:
        """Return the live view."""
        state = self.watcher.state
        self.screen.learning_left_s = state.get("learning_left_s") if state.get("phase") == "learning" else None
        self.screen.scores = list(self.watcher.scores)  # another thread adds to it
        return self.screen.render()


def demo(*, broker_url: str | None, forever: bool, picture: Path | None) -> int:
    """Run the demo; return 0 only if the alert was seen raised and cleared, with the picture written if asked for."""
    console = Console()
    with broker_at(broker_url) as (broker, url, folder), ExitStack() as started:
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
