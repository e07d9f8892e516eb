"""What is done to the agent, its broker and the network between: one function each, which also ends what it began."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.store import MAX_OUTBOX
from tests.brokers import wait_until
from tests.faults.agent_process import KEEPALIVE_S
from tests.faults.proxy import PUBACK

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from tests.brokers import Mosquitto
    from tests.faults.agent_process import AgentProcess
    from tests.faults.observer import Observer
    from tests.faults.plant import Plant
    from tests.faults.proxy import Proxy

_SUBSCRIBE: Final = 8
_TROUBLED: Final = 'redshank_trouble{trouble="state_directory"}'
_HOUR_S: Final = 3600.0


class Scene(msgspec.Struct):
    """All that a fault can reach."""

    broker: Mosquitto
    proxy: Proxy
    agent: AgentProcess
    plant: Plant
    observer: Observer
    rng: random.Random
    saved_ago_s: float = 0.0  # how old what was learnt was on disk, when the agent was last killed
    killed_after: set[int] = msgspec.field(default_factory=set)  # readings that were acknowledged by then
    owed: list[int] = msgspec.field(default_factory=list)  # alerts that were put into the outbox and wait there

    def wait(self, least_s: float, most_s: float) -> None:
        time.sleep(self.rng.uniform(least_s, most_s))

    def stop_agent(self, number: int) -> None:
        self.saved_ago_s = time.time() - self.agent.saved_at()
        code = self.agent.end(number)
        self.agent.look()
        if number == signal.SIGKILL:
            self.killed_after = set(self.agent.acknowledged)
        assert code == (-number if number == signal.SIGKILL else 0), f"the agent ended with {code}"

    def peers_are_back(self) -> None:
        wait_until(lambda: self.plant.connected and self.observer.listening, 30, "for plant and observer to be back")


class Fault(msgspec.Struct, frozen=True):
    """`do` returns when what it did is undone. `broker_forgets`: it may lose what it had taken and not delivered.

    `relearns`: what the streams knew is gone. `kills`: the agent ends without warning. `calm`: it takes with it the
    state of alerts, or alerts that a broker has taken and told nobody, so that none shall fire then. `full_disk`:
    nothing can be saved. `gap`: readings are missing in the middle.
    """

    name: str
    do: Callable[[Scene], None]
    broker_forgets: bool = False
    relearns: bool = False
    kills: bool = False
    calm: bool = False
    full_disk: bool = False
    gap: bool = False


def _nothing(scene: Scene) -> None:
    scene.wait(0.5, 1.5)


def _broker_killed(scene: Scene) -> None:
    scene.broker.kill()
    scene.wait(0.0, 2.0)
    scene.broker.start()


def _broker_restarted(scene: Scene) -> None:
    scene.broker.stop()
    scene.wait(0.0, 2.0)
    scene.broker.start()


def _broker_killed_and_emptied(scene: Scene) -> None:
    """Have nobody remembered. The observer is to be there again before the agent: without a session it gets nothing."""
    scene.proxy.closing = True
    scene.broker.kill()
    for path in scene.broker.folder.glob("mosquitto.db*"):
        path.unlink()
    scene.broker.start()
    scene.peers_are_back()
    scene.proxy.closing = False


def _broker_killed_at_subscribe(scene: Scene) -> None:
    scene.broker.kill()
    subscribed = scene.proxy.sent[_SUBSCRIBE]
    scene.broker.start()
    wait_until(lambda: scene.proxy.sent[_SUBSCRIBE] > subscribed, 30, "for the agent to subscribe")
    scene.broker.kill()
    scene.broker.start()


def _broker_frozen(scene: Scene) -> None:
    scene.broker.signal(signal.SIGSTOP)
    scene.wait(1.0, 2.5 * KEEPALIVE_S)
    scene.broker.signal(signal.SIGCONT)


def _closing(scene: Scene) -> None:
    scene.proxy.closing = True
    scene.proxy.cut()
    scene.wait(1.0, 3.0)


def _refusing(scene: Scene) -> None:
    scene.proxy.refusing = True
    scene.proxy.cut()
    scene.wait(1.0, 3.0)


def _slow_connack(scene: Scene) -> None:
    scene.proxy.hold_connack_s = scene.rng.choice((1.0, 3.0, 6.0))  # we wait 5 s for it
    scene.proxy.cut()
    scene.wait(2.0, 7.0)


def _cut(scene: Scene) -> None:
    for _ in range(scene.rng.randint(1, 3)):
        scene.proxy.cut()
        scene.wait(0.0, 0.5)


def _half_open(scene: Scene) -> None:
    scene.proxy.swallow()
    scene.wait(0.5, 1.0)
    scene.proxy.half_open = scene.rng.random() < 0.5
    scene.wait(1.5 * KEEPALIVE_S, 2.5 * KEEPALIVE_S)


def _delayed(scene: Scene) -> None:
    scene.proxy.delay_s = scene.rng.uniform(0.1, 0.5)
    scene.wait(2.0, 4.0)


def _trickling(scene: Scene) -> None:
    scene.proxy.trickle = True
    scene.wait(2.0, 4.0)


def _deaf(scene: Scene) -> None:
    """Swallow what is delivered. It is never sent again on the same connection, so this one has to end."""
    scene.proxy.deaf = True
    scene.wait(2.0, 8.0)
    scene.proxy.cut()


def _killed(scene: Scene) -> None:
    scene.stop_agent(signal.SIGKILL)
    scene.wait(0.0, 1.0)
    scene.agent.start()


def _killed_while_saving(scene: Scene) -> None:
    scene.agent.catch_a_save(5.0)
    _killed(scene)


def _killed_with_a_full_outbox(scene: Scene) -> None:
    """Have as many alerts wait as fit, none leave, and one come to them, for which the oldest has to go."""
    scene.stop_agent(signal.SIGTERM)
    scene.agent.fill_outbox()
    scene.proxy.keep_back = lambda packet: b"/alert" in packet[:100]
    scene.agent.start()
    scene.agent.wait_ready(60)
    scene.plant.disturb()
    with contextlib.suppress(AssertionError):  # a stream whose alert still fires has no other
        wait_until(lambda: (scene.agent.metric("redshank_outbox_dropped_total") or 0) > 0, 10)
    scene.stop_agent(signal.SIGKILL)
    waiting, scene.owed = scene.agent.outbox()
    assert waiting == MAX_OUTBOX, f"{waiting} alerts wait"
    scene.proxy.heal()
    scene.agent.start()


def _killed_unacknowledged(scene: Scene) -> None:
    """Keep from the broker what was processed."""
    scene.proxy.keep_back = lambda packet: packet[0] >> 4 == PUBACK
    scene.wait(0.2, 1.0)
    scene.stop_agent(signal.SIGKILL)
    scene.proxy.heal()
    scene.agent.start()


def _killed_in_its_first_second(scene: Scene) -> None:
    _killed(scene)
    scene.wait(0.0, 1.0)
    _killed(scene)


def _terminated(scene: Scene) -> None:
    scene.stop_agent(signal.SIGTERM)
    scene.wait(0.0, 1.0)
    scene.agent.start()


def _suspended(scene: Scene) -> None:
    assert scene.agent.popen is not None
    scene.agent.popen.send_signal(signal.SIGSTOP)
    scene.wait(1.5 * KEEPALIVE_S, 3.0 * KEEPALIVE_S)
    scene.agent.popen.send_signal(signal.SIGCONT)


def _second_agent(scene: Scene) -> None:
    """Let another one of our id in. They throw each other out until it ends."""
    name = 'redshank_trouble{trouble="client_id"}'
    with scene.agent.twin() as twin:
        wait_until(lambda: 1.0 in (scene.agent.metric(name), twin.metric(name)), 60, "for the trouble to be told")
        scene.wait(0.0, 4.0)


def _full_disk(scene: Scene) -> None:
    with scene.agent.full_disk():
        scene.wait(1.0, 4.0)


def _disk_turned_read_only(scene: Scene) -> None:
    """Have it so long that saving fails, and see that this is told, and no longer when it is over."""
    with scene.agent.disk_turned_read_only():
        wait_until(lambda: scene.agent.metric(_TROUBLED) == 1.0, 60, "for the trouble to be told")
        scene.wait(1.0, 4.0)
    wait_until(lambda: scene.agent.metric(_TROUBLED) == 0.0, 60, "for the trouble to be over")


def _killed_on_a_full_disk(scene: Scene) -> None:
    with scene.agent.full_disk():
        scene.wait(1.0, 3.0)
        scene.stop_agent(signal.SIGKILL)
    scene.agent.start()


def _started_on(disk: Callable[[AgentProcess], AbstractContextManager[None]]) -> Callable[[Scene], None]:
    """Return how the agent is started on a disk that cannot be written, and works so for a while."""

    def told(scene: Scene, troubled: float) -> bool:
        time.sleep(0.2)
        return scene.agent.metric(_TROUBLED) == troubled

    def do(scene: Scene) -> None:
        scene.stop_agent(signal.SIGTERM)
        with disk(scene.agent):
            scene.agent.start()
            scene.agent.wait_ready(60)
            wait_until(lambda: told(scene, 1.0), 60, "for the trouble to be told")
            scene.wait(1.0, 4.0)
        wait_until(lambda: told(scene, 0.0), 60, "for the trouble to be over")

    return do


def _locked_database(scene: Scene) -> None:
    with scene.agent.locked_database():
        scene.wait(1.0, 7.0)


def _broker_killed_while_readings_wait(scene: Scene) -> None:
    """Have readings wait for a worker that waits for the database, and the broker forget that it has sent them."""
    with scene.agent.locked_database():
        scene.wait(1.0, 2.0)
        scene.broker.kill()
        scene.broker.start()
        scene.wait(0.5, 1.5)


def _truncated_snapshots(scene: Scene) -> None:
    scene.stop_agent(scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    for path in scene.agent.state_files():
        content = path.read_bytes()
        path.write_bytes(content[: scene.rng.randrange(len(content))])
    scene.agent.start()


def _flipped_bytes(scene: Scene) -> None:
    scene.stop_agent(scene.rng.choice((signal.SIGKILL, signal.SIGTERM)))
    for path in scene.agent.state_files():
        content = bytearray(path.read_bytes())
        for _ in range(scene.rng.randint(1, 5)):
            content[scene.rng.randrange(len(content))] ^= scene.rng.randint(1, 255)
        path.write_bytes(content)
    scene.agent.start()


def _damaged_journals(scene: Scene) -> None:
    """Damage the end of what was added, as a card without power leaves it."""
    scene.stop_agent(signal.SIGKILL)
    for path in (scene.agent.state / "streams").glob("*.journal"):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if scene.rng.random() < 0.5 else content[:-3])
    scene.agent.start()


def _corrupt_database(scene: Scene) -> None:
    scene.stop_agent(signal.SIGTERM)
    path = scene.agent.state / "state.sqlite"
    path.write_bytes(scene.rng.randbytes(path.stat().st_size))
    scene.agent.start()


def _clock_set(scene: Scene) -> None:
    scene.agent.set_clock(scene.rng.choice((-1, 1)) * _HOUR_S)
    scene.wait(1.0, 3.0)
    scene.agent.set_clock(0.0)


def _weekend(scene: Scene) -> None:
    scene.plant.weekend()


FAULTS: Final = (
    Fault("nothing", _nothing),
    Fault("broker killed", _broker_killed, broker_forgets=True),
    Fault("broker restarted", _broker_restarted),
    Fault("broker killed, its database lost", _broker_killed_and_emptied, broker_forgets=True),
    Fault("broker killed while the agent subscribes", _broker_killed_at_subscribe, broker_forgets=True, calm=True),
    Fault("broker killed while readings wait", _broker_killed_while_readings_wait, broker_forgets=True),
    Fault("broker frozen", _broker_frozen),
    Fault("broker accepts and closes", _closing),
    Fault("broker refuses", _refusing),
    Fault("broker answers CONNECT slowly", _slow_connack),
    Fault("broker delivers nothing", _deaf),
    Fault("network cut", _cut),
    Fault("network half open", _half_open),
    Fault("network slow", _delayed),
    Fault("network byte by byte", _trickling),
    Fault("agent killed", _killed, kills=True),
    Fault("agent killed while it saves", _killed_while_saving, kills=True),
    Fault("agent killed, outbox full", _killed_with_a_full_outbox, kills=True),
    Fault("agent killed before it acknowledges", _killed_unacknowledged, kills=True),
    Fault("agent killed while it starts", _killed_in_its_first_second, kills=True),
    Fault("agent stopped and started", _terminated),
    Fault("agent suspended", _suspended),
    Fault("two agents of one id", _second_agent, gap=True),
    Fault("disk full", _full_disk),
    Fault("disk full, agent killed", _killed_on_a_full_disk, kills=True, calm=True, full_disk=True),
    Fault("disk full at the start", _started_on(lambda agent: agent.full_disk())),
    Fault("disk turns read-only", _disk_turned_read_only),
    Fault("disk read-only at the start", _started_on(lambda agent: agent.read_only_disk())),
    Fault("database locked", _locked_database),
    Fault("database corrupt", _corrupt_database, calm=True),
    Fault("snapshots truncated", _truncated_snapshots, relearns=True, calm=True),
    Fault("snapshots with flipped bytes", _flipped_bytes, relearns=True, calm=True),
    Fault("journals damaged", _damaged_journals, kills=True),
    Fault("clock an hour wrong", _clock_set),
    Fault("plant quiet for two days", _weekend, gap=True),
)
