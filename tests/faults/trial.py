"""Runs faults one after another on an agent at work, and counts from outside what became of readings and alerts."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.brokers import Mosquitto
from tests.faults.agent_process import SNAPSHOT_INTERVAL_S, AgentProcess
from tests.faults.faults import Fault, Scene
from tests.faults.observer import Observer, out_of_order
from tests.faults.plant import TIMED, Disturbance, Plant
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SETTINGS: Final = Path(__file__).parents[2] / "deploy" / "mosquitto" / "redshank.conf"
WARM_UP: Final = 320  # readings of each stream, more than it learns from
LEAST: Final = 150  # windows in a reference of one that has learnt
PATIENCE_S: Final = 60.0
WINDOW_S: Final = 33.0  # behind a gap the first decision is about so much
_NUMBER: Final = re.compile(rb'"n": (\d+)')
_BAD_WORDS: Final = ("Traceback", "a bug in this program")


class Limits(msgspec.Struct, frozen=True):
    """What is held against a clock, s: how soon the agent is ready, how old a reference may be after a kill."""

    ready_s: float = 10.0
    snapshot_s: float = SNAPSHOT_INTERVAL_S + 2.0


class Episode(msgspec.Struct):
    """What one fault did. `lost_by_broker` is what it had taken, never sent, and no longer had."""

    fault: str
    published: int = 0
    lost: int = 0
    lost_by_broker: int = 0
    duplicated: int = 0
    alerts_expected: int = 0
    alerts_lost: int = 0
    alerts_false: int = 0
    ready_s: float = 0.0
    wrong: list[str] = []


class Trial:
    """An agent, its broker with the settings that we ship, a plant and an observer; `close` ends them."""

    def __init__(self, folder: Path, seed: int, *, rate: float = 4.0, limits: Limits | None = None) -> None:
        self.rng = random.Random(seed)
        self.limits = limits or Limits()
        (folder / "conf.d").mkdir(parents=True)
        (folder / "conf.d" / SETTINGS.name).write_text(SETTINGS.read_text())
        self.broker = Mosquitto(
            folder / "broker", persistence=True, log="error", extra=f"include_dir {folder / 'conf.d'}\nsys_interval 1"
        )
        self.broker.start()
        self.proxy = Proxy(self.broker.port)
        self.agent = AgentProcess(folder / "agent", self.proxy.url)
        self.plant = Plant(self.broker.port, seed, rate)
        self.observer = Observer(self.broker.port)
        self.scene = Scene(self.broker, self.proxy, self.agent, self.plant, self.observer, self.rng)
        self._acknowledged: set[int] = set()  # readings, by the PUBACKs that the proxy saw pass
        self._settled: set[int] = set()  # readings that were accounted for
        self._decides_from = 0  # the reading
        self._read = 0  # of the log
        self._said_before: set[str] = set()

    def begin(self) -> None:
        """Let the agent learn, and the broker remember who is there."""
        self.agent.start()
        self.agent.wait_ready(PATIENCE_S)
        self.scene.peers_are_back()
        self._learn()
        self.broker.save()
        self.plant.start()

    def close(self) -> None:
        self.agent.close()
        self.plant.close()
        self.observer.close()
        self.proxy.close()
        self.broker.kill()

    def episode(self, fault: Fault) -> Episode:
        """Do it, let all become good again, and count."""
        found = Episode(fault.name)
        told = len(self.observer.told)
        disturbances = len(self.plant.disturbances)
        dropped = self.observer.dropped
        when = "after" if fault.calm else self.rng.choice(("before", "meanwhile", "after", "never"))
        if when == "before":
            self.plant.disturb()
            self.scene.wait(0.0, 0.5)
        meanwhile = threading.Timer(self.rng.uniform(0.0, 2.0), self.plant.disturb)
        if when == "meanwhile":
            meanwhile.start()
        fault.do(self.scene)
        self.proxy.heal()
        healed = time.monotonic()
        self._wait(found, self.agent.ready, "the agent is not ready")
        found.ready_s = time.monotonic() - healed
        if found.ready_s > self.limits.ready_s:
            found.wrong.append(f"ready only after {found.ready_s:.1f} s")
        self.scene.peers_are_back()
        if fault.broker_forgets:
            self.broker.save()  # or at the next kill it may know nobody, and tell an alert to none
        if fault.relearns:
            self._learn()
        if fault.kills or fault.broker_forgets or fault.gap:
            self._drain(found, self.plant.published + 3)
            decided = self._decisions()
            self._wait(found, lambda: self._decisions() >= decided + 3, "the agent does not decide")
        self._decides_from = self.plant.published
        if when == "after":
            self.plant.disturb()
        if when == "meanwhile":
            meanwhile.join()
        mine = self.plant.disturbances[disturbances:]
        self._wait(found, lambda: all(one.over for one in mine), "the plant does not go on")
        self._drain(found, self.plant.published + 3 * 15)
        self._count(found, fault)
        self._judge(found, fault, mine, told)
        self._wait(found, self._retained_true, "what is retained is not true")
        if self.observer.dropped > dropped:
            found.wrong.append(f"the broker dropped {self.observer.dropped - dropped} messages")
        found.wrong += [*self._said(fault), *self._forgotten(fault)]
        return found

    def _learn(self) -> None:
        """Publish enough for all streams to know what is usual, and wait until it was processed."""
        last = self.plant.burst(WARM_UP)
        self._wait(None, lambda: last in self._look(), "", PATIENCE_S)

    def _decisions(self) -> float:
        """Return how many there were of the stream with fewest; behind a gap it needs a window before the next one."""
        counts = [self.agent.metric(f'redshank_windows_encoded_total{{stream="pump/{one}"}}') for one in TIMED]
        return min(count or 0.0 for count in counts)

    def _look(self) -> set[int]:
        """Return the readings that were acknowledged to the broker by now."""
        while self.proxy.acknowledged:
            if found := _NUMBER.search(self.proxy.acknowledged.popleft()):
                self._acknowledged.add(int(found[1]))
        return self._acknowledged

    def _drain(self, found: Episode, number: int) -> None:
        """Wait until readings of all streams, taken by the broker after all the others, were acknowledged."""
        last = range(number, number + 3)
        self._wait(found, lambda: all(one in self._look() for one in last), "readings wait")

    def _count(self, found: Episode, fault: Fault) -> None:
        """Count by what passed the proxy, and hold against it what the agent wrote down beside its work.

        What a broker has forgotten before it heard of it cannot be acknowledged to it any more; then it is enough to
        have been processed.
        """
        acknowledged = self._look()
        self.agent.look()
        processed, stored = self.agent.processed, self.agent.acknowledged
        mine = {one for one in self.plant.accepted() if one <= max(acknowledged, default=0)} - self._settled
        delivered = {int(one[1]) for packet in list(self.proxy.delivered) if (one := _NUMBER.search(packet))}
        missing = mine - acknowledged
        if fault.broker_forgets:
            missing = {one for one in missing if one not in stored}
        false = {one for one in mine & acknowledged if one not in processed or one not in stored}
        found.published = len(mine)
        found.lost = len(missing & delivered) + len(false)
        found.lost_by_broker = len(missing - delivered)
        found.duplicated = sum(processed[one] > 1 for one in mine)
        if missing & delivered:
            found.wrong.append(f"delivered and never acknowledged: {sorted(missing & delivered)[:10]}")
        if false:
            found.wrong.append(f"acknowledged and not processed: {sorted(false)[:10]}")
        if found.lost_by_broker and not fault.broker_forgets:
            found.wrong.append(f"never delivered: {sorted(missing - delivered)[:10]}")
        self._settled |= mine
        self.proxy.delivered.clear()

    def _cut_short(self, found: Episode, fault: Fault, disturbance: Disturbance) -> bool:
        """Tell whether it may have fallen into a gap, in which nothing is decided and no alert is promised.

        A kill takes what was learnt since the last snapshot, and a broker what it has lost.
        """
        if disturbance.numbers[0] >= self._decides_from:
            return False
        killed = fault.kills and not all(one in self.scene.killed_after for one in disturbance.numbers)
        return killed or fault.gap or found.lost_by_broker > 0

    def _judge(self, found: Episode, fault: Fault, mine: list[Disturbance], told: int) -> None:
        """Compare the alerts that were told with the disturbances that reached the agent."""
        reached = self._look() | self.agent.acknowledged.keys()
        expected = [
            one
            for one in mine
            if all(number in reached for number in one.numbers) and not self._cut_short(found, fault, one)
        ]
        found.alerts_expected = len(expected)

        def events(one: Disturbance) -> set[tuple[str, str]]:
            heard = self.observer.told[told:]
            return {(x.id, x.event) for x in heard if x.kind == "anomaly" and one.explains(x.stream, x.started_at)}

        def complete() -> bool:
            return all({"raised", "cleared"} <= {event for _, event in events(one)} for one in expected)

        self._wait(None, complete, "", 20.0)
        for one in expected:
            kinds = {event for _, event in events(one)}
            ids = {name for name, _ in events(one)}
            if not {"raised", "cleared"} <= kinds:
                found.alerts_lost += 1
                found.wrong.append(f"of pump/{one.stream} from {one.times[0]:.0f} on, only {sorted(kinds)} was told")
            elif len(ids) != 1:
                found.alerts_false += len(ids) - 1
                found.wrong.append(f"one disturbance of pump/{one.stream} is told under {len(ids)} ids: {events(one)}")
        self._look_at_waiting(found)
        for alert in {name for one in mine for name, _ in events(one)}:
            self.observer.confirm(alert)
        late = [one for one in mine if self._cut_short(found, fault, one)]
        for one in self.observer.told[told:]:
            known = any(x.explains(one.stream, one.started_at) for x in self.plant.disturbances)
            if not known and not any(x.explains(one.stream, one.started_at, WINDOW_S) for x in late):
                found.alerts_false += one.event == "raised"
                found.wrong.append(f"{one.event} for nothing: {one.kind} {one.id}, {one.text}")
        found.wrong += [line for line in out_of_order(self.observer.told) if line not in self._said_before]
        self._said_before.update(found.wrong)

    def _look_at_waiting(self, found: Episode) -> None:
        """Look for the alerts that waited in an outbox that was full."""
        owed, self.scene.owed = self.scene.owed, []
        self._wait(None, lambda: set(owed) <= set(self.observer.waited), "", 20.0)
        heard = list(dict.fromkeys(self.observer.waited))
        self.observer.waited.clear()
        found.alerts_lost += (lost := len(set(owed) - set(heard)))
        if lost:
            found.wrong.append(f"{lost} of {len(owed)} alerts that waited were never told")
        if heard != sorted(heard):
            found.wrong.append("alerts that waited were told in another order")

    def _retained_true(self) -> bool:
        retained = dict(self.observer.retained)
        if retained.get("redshank/pi/status") != b"online":
            return False
        for name in [f"pump/{one}" for one in TIMED]:
            state = json.loads(retained.get(f"redshank/pi/{name}/state", b"{}"))
            if state.get("alert") != "inactive" or state.get("phase") != "active":
                return False
        agent = json.loads(retained.get("redshank/pi/state", b"{}"))
        return bool(agent.get("hearing") == "proven" and agent.get("firing") == 0)

    def _said(self, fault: Fault) -> Iterator[str]:
        """Yield what the agent's log should not hold."""
        text = self.agent.log.read_text(errors="replace")
        new, self._read = text[self._read :], len(text)
        for word in _BAD_WORDS:
            if word in new:
                yield f"the log says {word!r}: {new[new.index(word) : new.index(word) + 1500]}"
        if not fault.relearns:
            for word in ("starts cold", "cannot go on from"):
                if word in new:
                    yield f"a stream {word}"

    def _forgotten(self, fault: Fault) -> Iterator[str]:
        """Yield what was learnt and should not be gone."""
        if fault.kills and not fault.full_disk and self.scene.saved_ago_s > self.limits.snapshot_s:
            yield f"when it was killed, what it had learnt was {self.scene.saved_ago_s:.1f} s old on disk"
        for name in (f"pump/{one}" for one in TIMED):
            size = self.agent.metric(f'redshank_reference_size{{stream="{name}"}}')
            if size is None or size < LEAST:
                yield f"the reference of {name} has {size} windows"

    def _wait(self, found: Episode | None, what: Callable[[], bool], wrong: str, within_s: float = PATIENCE_S) -> None:
        """Wait for something, not too eagerly: plant and proxy are threads beside this one."""
        deadline = time.monotonic() + within_s
        while not what():
            if time.monotonic() > deadline:
                if found is not None:
                    found.wrong.append(f"{wrong}, even after {within_s:.0f} s")
                return
            time.sleep(0.05)
