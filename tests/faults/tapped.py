"""Runs `redshank` as it is, and writes down beside it what it processed and acknowledged, for an independent count.

`python -m tests.faults.tapped TAP CLOCK run --config FILE`: to TAP goes a line for each message that was processed
whole (`p`) and, once all that followed is on disk, acknowledged (`a`), with the number that its payload carries.
CLOCK holds a double, in seconds: how wrong the clock is set. Both are there before the agent is loaded.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
import sys
import time
from functools import partial
from typing import Any

_NUMBER = re.compile(rb'"n": (\d+)')


def _wrong(real: Any, clock: mmap.mmap) -> float:
    return float(real() + struct.unpack_from("d", clock)[0])


def _number_of(message: Any) -> bytes:
    found = _NUMBER.search(message.payload)
    return found[1] if found else b""


def _note(tap: int, letter: bytes, numbers: list[bytes]) -> None:
    if any(numbers):
        os.write(tap, b"".join(b"%c%s\n" % (letter, number) for number in numbers if number))


def main() -> None:
    """Patch the clock and the three places, and run."""
    tap = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with open(sys.argv[2], "rb") as file:  # noqa: PTH123  a descriptor is all that is wanted
        clock = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
    time.time = partial(_wrong, time.time, clock)
    from agent import cli  # noqa: PLC0415  after the clock
    from agent.adapters.mqtt import MqttClient  # noqa: PLC0415
    from agent.pipeline import Pipeline  # noqa: PLC0415

    acknowledge = MqttClient.acknowledge_many
    done: dict[tuple[int, int], bytes] = {}  # numbers by connection and message id: what waits has lost its payload

    def tapped(process: Any) -> Any:
        def processing(self: Any, *messages: Any) -> Any:
            outcome = process(self, *messages)
            _note(tap, b"p", [_number_of(message) for message in outcome.done if not message.superseded])
            done.update(((one.connection, one.message_id), _number_of(one)) for one in outcome.done if one.qos)
            return outcome

        return processing

    def acknowledging(self: Any, messages: Any) -> None:
        _note(tap, b"a", [done.pop((one.connection, one.message_id), b"") for one in messages])
        acknowledge(self, messages)

    for name in ("take", "go_on"):
        setattr(Pipeline, name, tapped(getattr(Pipeline, name)))
    MqttClient.acknowledge_many = acknowledging  # type: ignore[method-assign]
    sys.exit(cli.main(sys.argv[3:]))


if __name__ == "__main__":
    main()
