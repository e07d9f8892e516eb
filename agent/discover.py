"""`redshank discover`: listens to a broker, publishes nothing, and proposes a configuration for what it heard."""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from agent.adapters.mqtt import MqttClient, MqttEvents
from agent.bundle import find_bundle
from agent.config import AgentSettings, SensorSettings, read_configuration
from agent.core.bank import DetectorBank
from agent.core.picture_settings import PictureReferenceSettings
from agent.core.views import views_for
from agent.core.workspace import Workspace
from agent.discovery.estimate import Costs
from agent.discovery.heard import Heard, Limits
from agent.discovery.proposal import propose
from agent.discovery.rendering import render
from agent.errors import RedshankError, RefusedError
from agent.room import BASE_BYTES, waiting_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agent.adapters.mqtt import BrokerSettings
    from agent.ports import InboundMessage

CONNECT_S: Final = 30.0
PICTURE_BYTES: Final = 14_000_000  # of a picture stream: its reference, and what it works with
_TURN_S: Final = 0.2


class Listener(MqttEvents):
    """Gathers what comes. It does so in the network thread: while that is busy, TCP holds the broker back."""

    def __init__(self, limits: Limits) -> None:
        self.heard = Heard(limits)
        self.connected = threading.Event()
        self.ended = threading.Event()
        self.refused: RefusedError | None = None
        self.unheard: dict[str, str] = {}

    def on_messages(self, messages: Sequence[InboundMessage]) -> None:
        """Take them in."""
        self.heard.take(messages)

    def on_oversized(self, topic: str, size_bytes: int) -> None:
        """Count it."""
        del size_bytes
        self.heard.too_large(topic)

    def on_connected(self, *, session_present: bool) -> None:
        """Begin to count the time."""
        del session_present
        self.connected.set()

    def on_subscription_refused(self, topic_filter: str, reason: str) -> None:
        """Tell the user: what is not heard cannot be proposed."""
        self.unheard[topic_filter] = reason

    def on_refused(self, error: RefusedError) -> None:
        """End."""
        self.refused = error
        self.ended.set()


def discover(
    broker: BrokerSettings,
    *,
    seconds: float,
    filters: Sequence[str] = ("#",),
    topic_prefix: str = "redshank",
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> str:
    """Listen for so long, or until interrupted, and return a configuration as text.

    Raises RefusedError; RedshankError if there was no connection, or nothing came that could be watched.
    """
    listener = Listener(limits)
    client = MqttClient(
        broker,
        agent_id=f"discover-{secrets.token_hex(4)}",
        subscriptions=[(name, 0) for name in filters],
        events=listener,
        silent=True,
    )
    before = {
        number: signal.signal(number, lambda *_: listener.ended.set()) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        client.start()
        listened_s = _listen(listener, broker.url, seconds)
    finally:
        client.stop()
        for number, handler in before.items():
            signal.signal(number, handler)
    heard = listener.heard
    for name, reason in listener.unheard.items():
        sys.stderr.write(f"the broker refused the subscription to {name}: {reason}\n")
    pictures = importlib.util.find_spec("PIL") is not None
    proposal = propose(heard, listened_s, own_prefix=topic_prefix, pictures=pictures)
    if not proposal.entries:
        why = (
            "; ".join(f"{one.reason}: {len(one.topics)} topics" for one in proposal.left_out) or "nothing was published"
        )
        raise RedshankError(
            f"expected topics with numbers or pictures within {listened_s:.0f} s, found none ({why}); "
            "listen longer with --seconds, and look whether this user may read the topics"
        )
    text = render(proposal, heard, broker=shown_broker(broker), listened_s=listened_s, costs=costs())
    read_configuration("the proposal", text.encode())  # what is printed can be run
    return text


def _listen(listener: Listener, url: str, seconds: float) -> float:
    """Return for how long was listened, s."""
    deadline = monotonic() + CONNECT_S
    while not listener.connected.wait(_TURN_S):
        if listener.refused is not None:
            raise listener.refused
        if listener.ended.is_set() or monotonic() > deadline:
            raise RedshankError(f"{url}: expected a broker that answers within {CONNECT_S:.0f} s, found none")
    begun = monotonic()
    progress = sys.stderr.isatty()
    while not listener.ended.wait(_TURN_S) and monotonic() < begun + seconds:
        if progress:
            heard = listener.heard
            sys.stderr.write(
                f"\r{monotonic() - begun:.0f} of {seconds:.0f} s, {len(heard.topics)} topics, {heard.messages} messages"
            )
    if progress:
        sys.stderr.write("\n")
    if listener.refused is not None:
        raise listener.refused
    return max(monotonic() - begun, _TURN_S)


def shown_broker(broker: BrokerSettings) -> dict[str, Any]:
    """Return the keys of the broker's section that are not the default; None where a password must be put."""
    keys: dict[str, Any] = {"url": broker.url}
    if broker.protocol.value != "5":
        keys["protocol"] = broker.protocol.value
    for key in ("username", "password_file", "password_env", "ca_file", "cert_file", "key_file"):
        value = getattr(broker, key)
        if value is not None:
            keys[key] = value
    if broker.username is not None and broker.password_file is None and broker.password_env is None:
        keys["password_file"] = None
    return keys


def costs() -> Costs:
    """Return what streams cost with the default settings and encoder."""
    settings = SensorSettings(name="", topic="")
    manifest = find_bundle(settings.encoder).manifest
    views = views_for(manifest.input.shape[0], manifest.outputs[0].shape[-1], 1.0, 0)
    bank = DetectorBank(settings.detector(), views, Workspace())
    return Costs(
        base_bytes=BASE_BYTES + waiting_bytes(AgentSettings()),
        channel_bytes=bank.lane_bytes,
        picture_bytes=PICTURE_BYTES,
        rows=bank.detector(()).warm_up_rows,
        pictures=PictureReferenceSettings().warm_up,
    )


def write(path: Path, text: str, *, force: bool) -> None:
    """Write a new file; with `force` replace one that is there. Raises FileExistsError."""
    if not force:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
        return
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
