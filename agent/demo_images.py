"""`redshank demo --images`: a camera looks at a scene, something is taken away, the alert comes with a heatmap.

Real throughout: a broker, the agent as a process of its own, a photograph, and a change of what stands in it.
"""

from __future__ import annotations

import io
import os
import tempfile
from collections import deque
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image
from rich.console import Console

from agent.adapters.mqtt import BrokerSettings, MqttClient, MqttEvents, Protocol
from agent.adapters.picture_drawing import contact_sheet
from agent.core.alerting import AlertEvent, AlertKind
from agent.demo_parts import Show, Watcher, broker_at
from agent.demo_scene import Camera, photograph, without_plate
from agent.errors import RedshankError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.core.types import U8
    from agent.ports import InboundMessage

PERIOD_S: Final = 0.2
WARM_UP: Final = 100  # pictures
QUIET_S: Final = 15.0
MAX_LEARNING_S: Final = 120.0
MAX_CHANGE_S: Final = 20.0
MAX_CLEARING_S: Final = 30.0
HISTORY: Final = 4096  # scores
SHEET: Final = (300, 352)  # pixels of each picture in the contact sheet
FORMATS: Final = (".png", ".jpg", ".jpeg")
_KEPT: Final = 400  # pictures, to show those that the alert speaks of
_QUALITY: Final = 85
_AGENT: Final = "demo-images"
_LATECOMER: Final = f"{_AGENT}-latecomer"
_TOPIC: Final = "demo/camera"
_HEATMAP: Final = f"redshank/{_AGENT}/camera/heatmap"
_STREAMS: Final = f"""\
streams:
  - name: camera
    topic: {_TOPIC}
    kind: image
    score_topic: always
    tiles: [2, 2]
    adapt_after: 5m
    reference: {{size: 1000, warm_up: {WARM_UP}}}
    alert: {{false_alarms: 1 per hour, after: 2, clear_after: 3, cooldown: 5s}}
"""


class Latecomer(MqttEvents):
    """Somebody who comes to the broker only now, and gets what it has kept."""

    def __init__(self, url: str, topic: str) -> None:
        self.kept: bytes | None = None
        self.client = MqttClient(
            BrokerSettings(url=url, protocol=Protocol.V311),
            agent_id=_LATECOMER,
            subscriptions=[(topic, 0)],
            events=self,
        )
        self.client.start()

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Remember what is retained."""
        for message in messages:
            if message.retained and message.payload:
                self.kept = message.payload

    def close(self) -> None:
        """Leave."""
        self.client.stop()


class PictureDemo(Show):
    """One run."""

    def __init__(self, url: str, folder: Path, console: Console) -> None:
        scene = photograph()
        self.url = url
        self.camera = Camera(*scene.size)
        self.whole, self.changed = scene, without_plate(scene)
        self.scene = self.whole
        self.sent: deque[tuple[float, bytes]] = deque(maxlen=_KEPT)  # when, and the picture
        super().__init__(url, folder, _AGENT, _STREAMS, console, PERIOD_S, Watcher(HISTORY))

    def step(self) -> None:
        """Take a picture and publish it."""
        picture = self.camera.take(self.scene)
        self.sent.append((time(), picture))
        self.mqtt.publish(_TOPIC, picture, qos=0)

    def run(self, sheet: Path, *, forever: bool) -> int:
        """Return 0 if the alert was raised with its heatmap and cleared over MQTT; then the sheet is written."""
        self.mqtt.start()
        begun, told = monotonic(), self.watcher
        self.say(
            f"a camera sends pictures; {WARM_UP} of them are learnt first, which takes about {WARM_UP * PERIOD_S:.0f} s"
        )
        if not self.until(lambda: told.state.get("phase") == "active", MAX_LEARNING_S):
            return self.fail("the agent did not finish learning")
        self.say(f"learnt in {monotonic() - begun:.0f} s; now watching: the camera shakes, its sensor is noisy,")
        self.say("the light changes, and nothing else does")
        if forever:
            self.until(lambda: False, float("inf"))
            return self.fail("the agent has ended")
        self.until(lambda: False, QUIET_S)
        self.until(lambda: told.state.get("alert") != "firing", MAX_CLEARING_S)
        false = sum(one["event"] == AlertEvent.RAISED for one in told.alerts)
        highest = max(told.scores, default=0.0)
        self.say(f"{len(told.scores)} pictures judged: highest score {highest:.1f}, false alarms: {false}")
        seen, heats = len(told.alerts), len(told.heatmaps)
        self.scene = self.changed
        self.say("now the name plate is taken off the uniform")
        self.until(lambda: self._told(AlertEvent.RAISED, seen) is not None, MAX_CHANGE_S)
        raised = self._told(AlertEvent.RAISED, seen)
        if raised is None:
            return self.fail("no alert was raised")
        self.say(f"ALERT over MQTT: {raised['message']} (score {raised['score']:.1f})", "bold red")
        if not self.until(lambda: len(told.heatmaps) > heats, MAX_CHANGE_S):
            return self.fail("no heatmap came")
        heatmap = told.heatmaps[heats]
        told.kept.add(f"redshank/{_LATECOMER}/status")
        with closing(Latecomer(self.url, _HEATMAP)) as latecomer:
            if not self.until(lambda: latecomer.kept == heatmap, MAX_CHANGE_S):
                return self.fail("the broker did not keep the heatmap")
        self.say(f"HEATMAP over MQTT: {_HEATMAP}, PNG of {len(heatmap)} bytes, retained", "bold red")
        about = pictures_of(self.sent, raised)
        self.scene = self.whole
        self.say("the name plate is put back on")
        if not self.until(lambda: self._told(AlertEvent.CLEARED, seen) is not None, MAX_CLEARING_S):
            return self.fail("the alert did not clear")
        cleared = self._told(AlertEvent.CLEARED, seen)
        assert cleared is not None
        self.say(f"CLEARED over MQTT: {cleared['message']}", "bold green")
        write_sheet(sheet, *about, heatmap)
        self.say(f"a reference, the odd picture and the heatmap: {sheet}")
        return 0

    def _told(self, event: str, after: int) -> dict[str, Any] | None:
        return self.watcher.alert(event, after, AlertKind.ANOMALY)


def pictures_of(sent: Sequence[tuple[float, bytes]], raised: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the picture that an alert names as its nearest reference, and the odd one, of those sent."""
    odd_at = seconds(raised["at"])
    near_at = seconds(raised["evidence"]["nearest"][0]["at"])
    before = [one for one in sent if one[0] <= odd_at] or sent
    reference = min(before, key=lambda one: abs(one[0] - near_at))
    return reference[1], before[-1][1]


def seconds(text: str) -> float:
    """Return seconds since the epoch of a time in a message."""
    return datetime.fromisoformat(text).timestamp()


def write_sheet(path: Path, reference: bytes, odd: bytes, heatmap: bytes) -> None:
    """Write the three side by side, PNG, or JPEG where the file is named so."""
    captions = ("a reference: the most similar one", "the odd picture", "where it is odd: the agent's heatmap")
    sheet = contact_sheet([(text, _fit(one)) for text, one in zip(captions, (reference, odd, heatmap), strict=True)])
    if path.suffix.lower() == ".png":
        path.write_bytes(sheet)
    else:
        Image.open(io.BytesIO(sheet)).save(path, "JPEG", quality=_QUALITY)


def _fit(picture: bytes) -> U8:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB").resize(SHEET, Image.Resampling.LANCZOS))


def sheet_path(picture: Path | None) -> Path:
    """Return where the sheet goes, where it can be written: as named, or a new file. Raises RedshankError, OSError."""
    if picture is None:
        handle, name = tempfile.mkstemp(prefix="redshank-demo-", suffix=".png")
        os.close(handle)
        return Path(name)
    if picture.suffix.lower() not in FORMATS:
        raise RedshankError(f"--picture {picture}: expected a name that ends with {', '.join(FORMATS)}")
    picture.open("ab").close()  # what cannot be written is told before the demo
    return picture


def demo_images(*, broker_url: str | None, forever: bool, picture: Path | None) -> int:
    """Run the demo; return 0 only if the alert was seen raised, with its heatmap, and cleared."""
    sheet = sheet_path(picture)
    console = Console(highlight=False, soft_wrap=True)
    with broker_at(broker_url) as (broker, url, folder), ExitStack() as started:
        show = PictureDemo(url, folder, console)
        started.callback(show.close)
        show.say("$ redshank demo --images", "bold")
        show.say(f"broker: {broker}")
        try:
            return show.run(sheet, forever=forever)
        except KeyboardInterrupt:
            return 130
