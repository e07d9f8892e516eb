"""Makes the input of every scenario from fixed seeds: `python tests/scenarios/make.py` writes them all again.

A stream is a list of readings, (time, values); what happens in it is done to that list. Only `random.Random` is used,
whose sequences are the same on every machine and version of Python.
"""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Callable

    Reading = tuple[float, dict[str, float]]

FOLDER = Path(__file__).parent
START = 1_700_000_000


def pump(count: int, seed: int, *, first: int = 0) -> list[Reading]:
    """Return a pump's readings, one a second: a temperature that comes and goes, a flow, a motor's current."""
    rng = random.Random(seed)
    return [
        (
            float(START + i),
            {
                "temp": round(40 + 1.5 * math.sin(i / 40) + rng.gauss(0, 0.15), 2),
                "flow": round(12 + rng.gauss(0, 0.25), 2),
                "current": round(3 + 0.2 * math.sin(i / 7) + rng.gauss(0, 0.04), 3),
            },
        )
        for i in range(first, first + count)
    ]


def changed(readings: list[Reading], name: str, span: range, how: Callable[[float, int], float]) -> list[Reading]:
    """Return the readings with one channel changed in a span of positions; `how` gets value and position."""
    return [
        (at, {**values, name: round(how(values[name], i), 3)} if i in span else values)
        for i, (at, values) in enumerate(readings)
    ]


def level_shift() -> list[Reading]:
    # The flow falls from 12 to 9 and stays there.
    return changed(pump(1400, 1), "flow", range(1000, 1400), lambda value, _: value - 3)


def short_disturbance() -> list[Reading]:
    # Twelve seconds of spikes in the current.
    return changed(pump(1400, 2), "current", range(1100, 1112), lambda value, i: value + (1.5 if i % 2 else -0.5))


def one_reading_off() -> list[Reading]:
    # A single reading far off: one alert and not one for each window that it is in.
    return changed(pump(1400, 3), "temp", range(1100, 1101), lambda _value, _i: 85.0)


def last_digit() -> list[Reading]:
    # A mains voltage that stood still while it was learnt, and then flickers in its last digit.
    rng = random.Random(4)
    return [
        (float(START + i), {"voltage": 230.1 if i >= 700 and rng.random() < 0.5 else 230.0, "load": _load(rng, i)})
        for i in range(1500)
    ]


def _load(rng: random.Random, i: int) -> float:
    return round(50 + 5 * math.sin(i / 30) + rng.gauss(0, 0.5), 2)


def gap() -> list[Reading]:
    # Five minutes without data; afterwards all is as before.
    readings = pump(1700, 5)
    return readings[:1000] + readings[1300:]


def missing_channel() -> list[Reading]:
    # The flow meter is away for a while, now and then for one reading, at last for good; then the temperature is off.
    rng = random.Random(6)
    readings = [
        (at, {k: v for k, v in values.items() if k != "flow" or not _absent(i, rng)})
        for i, (at, values) in enumerate(pump(1600, 6))
    ]
    return changed(readings, "temp", range(1450, 1480), lambda value, _: value + 8)


def _absent(i: int, rng: random.Random) -> bool:
    return rng.random() < 0.02 or 900 <= i < 1000 or i >= 1300


def clock_set_back() -> list[Reading]:
    # The sender's clock is set back by an hour; a level shift follows later.
    readings = pump(1700, 7)
    back = [(at - 3600 if i >= 1000 else at, values) for i, (at, values) in enumerate(readings)]
    return changed(back, "flow", range(1500, 1700), lambda value, _: value - 3)


def frequency_change() -> list[Reading]:
    # A vibration that keeps its range while it becomes three times as fast.
    rng = random.Random(8)
    phase, readings = 0.0, []
    for i in range(1600):
        phase += 2 * math.pi / (24 if i < 1300 else 8)
        readings.append((float(START + i), {"vibration": round(math.sin(phase) + rng.gauss(0, 0.05), 3)}))
    return readings


def more_noise() -> list[Reading]:
    # The current's noise becomes three times as strong: a worn brush.
    rng = random.Random(12)
    return changed(pump(1500, 12), "current", range(1200, 1500), lambda value, _: value + rng.gauss(0, 0.12))


def slow_drift() -> list[Reading]:
    # Over three quarters of an hour the temperature rises by one degree: the season, and no news.
    return changed(pump(3600, 9), "temp", range(900, 3600), lambda value, i: value + (i - 900) / 2700)


def duplicates_and_stragglers() -> list[Reading]:
    # A gateway that sends one reading in ten twice, and one in ten late; then the flow falls for a while.
    rng = random.Random(10)
    sent: list[tuple[float, Reading]] = []
    readings = changed(pump(1500, 10), "flow", range(1300, 1330), lambda value, _: value - 4)
    for i, reading in enumerate(readings):
        sent.append((float(i), reading))
        kind = rng.random()
        if kind < 0.1:
            sent.append((i + rng.choice([0.5, 3.5]), reading))
        elif kind < 0.2:
            sent[-1] = (i + rng.choice([1.5, 2.5]), reading)
    sent.sort(key=lambda one: one[0])
    return [reading for _, reading in sent]


def silent_stream() -> list[tuple[str, Reading]]:
    # Two devices; `b` says nothing for two minutes.
    found = []
    for i in range(400):
        devices = ["a"] if 200 <= i < 320 else ["a", "b"]
        found += [(device, (float(START + i), {"temp": round(20 + i % 7 / 10, 1)})) for device in devices]
    return found


def course(period_s: float, values: list[dict[str, float]], start: float = START) -> list[Reading]:
    """Return readings at even times."""
    return [(start + i * period_s, one) for i, one in enumerate(values)]


def constant() -> list[Reading]:
    # A set point that never moves, beside a load that does.
    rng = random.Random(20)
    return course(1, [{"setpoint": 21.5, "load": _load(rng, i)} for i in range(1500)])


def frozen() -> list[Reading]:
    # A thermometer whose cable is loose: for five minutes the gateway repeats its last value.
    rng = random.Random(21)
    values = [{"temp": round(40 + 1.5 * math.sin(i / 40) + rng.gauss(0, 0.15), 2)} for i in range(1800)]
    return course(1, [values[1200] if 1200 <= i < 1500 else one for i, one in enumerate(values)])


def quantised() -> list[Reading]:
    # A room's temperature in steps of half a degree, from a cheap sensor.
    rng = random.Random(22)
    return course(1, [{"temp": round(2 * (21 + 1.2 * math.sin(i / 90) + rng.gauss(0, 0.1))) / 2} for i in range(2400)])


def saturating() -> list[Reading]:
    # A level sensor that ends at 100 %, in a tank that is filled and emptied; then it leaks while it is full.
    rng = random.Random(23)
    values = [{"level": _level(rng, 80 + 35 * math.sin(i / 20))} for i in range(2400)]
    return changed(course(1, values), "level", range(2035, 2060), lambda _value, _i: _level(rng, 70))


def saturating_slowly() -> list[Reading]:
    # The same in a large tank: what is learnt at first are not even two cycles.
    rng = random.Random(23)
    values = [{"level": _level(rng, 80 + 35 * math.sin(i / 60))} for i in range(2500)]
    return changed(course(1, values), "level", range(2335, 2375), lambda _value, _i: _level(rng, 70))


def _level(rng: random.Random, true: float) -> float:
    return round(min(100.0, true + rng.gauss(0, 0.8)), 1)


def counter() -> list[Reading]:
    # A meter of 16 bits that wraps every five minutes, and is set to zero at 1300; from 2000 on its rate is half.
    rng = random.Random(24)
    total, values = 40_000, []
    for i in range(2300):
        rate = (200 + 20 * math.sin(i / 50)) * (0.5 if i >= 2000 else 1.0)
        total = 0 if i == 1300 else (total + round(rate + rng.gauss(0, 5))) % 65_536
        values.append({"pulses": float(total)})
    return course(1, values)


def on_off() -> list[Reading]:
    # A lamp that people switch.
    rng = random.Random(25)
    on, values = False, []
    for _ in range(2400):
        if rng.random() < 0.02:
            on = not on
        values.append({"power": round(60 + rng.gauss(0, 0.5), 1) if on else 0.0})
    return course(1, values)


def bursts() -> list[Reading]:
    # Requests that come in bursts, of any height, every minute or two.
    rng = random.Random(26)
    left, height, values = 0, 0.0, []
    for _ in range(3000):
        if left == 0 and rng.random() < 1 / 80:
            left, height = rng.randint(3, 15), rng.uniform(20, 60)
        values.append({"requests": float(max(0, round(rng.gauss(4, 1.5) + (height + rng.gauss(0, 4) if left else 0))))})
        left = max(0, left - 1)
    return course(1, values)


DAY_S = 86_400
MONDAY = 1_704_067_200  # 2024-01-01T00:00:00Z


def heating(days: int, seed: int, zone: str = "UTC", start: float = MONDAY) -> list[Reading]:
    """Return a room's temperature every ten minutes: towards 21 by day, towards 17 by night, from 22 to 6."""
    rng = random.Random(seed)
    clock = ZoneInfo(zone)
    temp, values = 17.0, []
    for i in range(days * 144):
        at = start + i * 600
        local = datetime.fromtimestamp(at, clock)
        night = not 6 <= local.hour < 22
        temp += 0.12 * ((17.0 if night else 21.0) - temp) + rng.gauss(0, 0.05)
        values.append({"temp": round(temp, 2)})
    return course(600, values, start)


def daily_cycle() -> list[Reading]:
    # In the 17th night the set-back fails.
    readings = heating(20, 27)
    rng = random.Random(27)
    first = 16 * 144 + 132
    return changed(readings, "temp", range(first, first + 48), lambda _value, _i: 20.9 + rng.gauss(0, 0.08))


def daylight_saving() -> list[Reading]:
    # The clocks go forward on 31 March 2024: all comes an hour early.
    return heating(21, 28, "Europe/Berlin", datetime(2024, 3, 15, tzinfo=UTC).timestamp())


def weekly_cycle() -> list[Reading]:
    # A factory's power every half hour, from Monday to Friday; in the sixth week it stands still on a Tuesday.
    rng = random.Random(29)
    values = []
    for i in range(6 * 336):
        day, hour = i // 48 % 7, i % 48 / 2
        works = day < 5 and 6 <= hour < 18 and i // 48 != 36
        values.append({"power": round((80 + 8 * math.sin(hour) if works else 12) + rng.gauss(0, 2), 1)})
    return course(1800, values, MONDAY)


def duty_cycle() -> list[Reading]:
    # A refrigerator: its compressor runs until it is cold enough; at 2700 its door is left open.
    rng = random.Random(30)
    temp, runs, values = 5.0, False, []
    for i in range(3300):
        runs = temp > 4.0 if runs else temp > 6.0
        open_door = 2700 <= i < 2900
        temp += (-0.05 if runs else 0.025) + (0.04 if open_door else 0.0) + rng.gauss(0, 0.01)
        values.append({"temp": round(temp, 2), "power": round(90 + rng.gauss(0, 1), 1) if runs else 0.0})
    return course(1, values)


def missing_data() -> list[Reading]:
    # One reading in twelve is lost, and now and then a quarter of a minute of them.
    rng = random.Random(31)
    readings, lost = [], 0
    for reading in pump(2600, 31):
        lost = rng.randint(10, 20) if lost == 0 and rng.random() < 0.005 else max(0, lost - 1)
        if lost == 0 and rng.random() > 1 / 12:
            readings.append(reading)
    return readings


def changed_rate() -> list[Reading]:
    # After a new firmware readings come every three seconds, and later every half second.
    rng = random.Random(32)
    at = [*range(1300), *range(1300, 2800, 3), *(2800 + i / 2 for i in range(1200))]
    return [(START + one, {"temp": round(40 + 1.5 * math.sin(one / 40) + rng.gauss(0, 0.15), 2)}) for one in at]


def much_slower() -> list[Reading]:
    # After a new firmware readings come every ten seconds; at last the temperature rises by a lot.
    rng = random.Random(36)
    at = [*range(1300), *range(1300, 9300, 10)]
    return [
        (
            START + one,
            {"temp": round(40 + 1.5 * math.sin(one / 40) + rng.gauss(0, 0.15) + (20 if one > 8000 else 0), 2)},
        )
        for one in map(float, at)
    ]


def sensor_replaced() -> list[Reading]:
    # A new thermometer reads three degrees more.
    return changed(pump(2600, 33), "temp", range(1300, 2600), lambda value, _: value + 3)


def on_change() -> list[Reading]:
    # A room's sensor that reports when something has changed, a minute later or an hour; then it gets hot.
    rng = random.Random(34)
    at, value, readings = float(START), 21.0, []
    for i in range(1700):
        at += rng.choice([60, 60, 60, 120, 300, 1200, 3600])
        value += 0.05 * (21 - value) + rng.gauss(0, 0.15)
        readings.append((at, {"temp": round(value + (9 if 1500 <= i < 1520 else 0), 1)}))
    return readings


def slow_ramp() -> list[Reading]:
    # Someone lets the flow sink by little, from 12 to 4 within twenty minutes, so that each window is like the last.
    return changed(pump(2600, 35), "flow", range(1000, 2600), lambda value, i: value - min(8.0, (i - 1000) / 150))


def csv_of(readings: list[Reading]) -> bytes:
    """Return a CSV file; a channel that is missing is an empty field."""
    names = list(dict.fromkeys(name for _, values in readings for name in values))
    lines = [",".join(["time", *names])]
    lines += [
        ",".join([str(at).removesuffix(".0"), *(str(values.get(name, "")) for name in names)])
        for at, values in readings
    ]
    return ("\n".join(lines) + "\n").encode()


def jsonl_of(sent: list[tuple[str, Reading]]) -> bytes:
    """Return a recording of messages on plant/DEVICE/telemetry."""
    lines: list[dict[str, Any]] = [
        {"topic": f"plant/{device}/telemetry", "received_at": at, "text": json.dumps(values)}
        for device, (at, values) in sent
    ]
    return ("\n".join(map(json.dumps, lines)) + "\n").encode()


INPUTS: dict[str, Callable[[], bytes]] = {
    "level-shift/input.csv": lambda: csv_of(level_shift()),
    "short-disturbance/input.csv": lambda: csv_of(short_disturbance()),
    "one-reading-off/input.csv": lambda: csv_of(one_reading_off()),
    "last-digit/input.csv": lambda: csv_of(last_digit()),
    "gap/input.csv": lambda: csv_of(gap()),
    "missing-channel/input.csv": lambda: csv_of(missing_channel()),
    "clock-set-back/input.csv": lambda: csv_of(clock_set_back()),
    "frequency-change/input.csv": lambda: csv_of(frequency_change()),
    "more-noise/input.csv": lambda: csv_of(more_noise()),
    "slow-drift/input.csv": lambda: csv_of(slow_drift()),
    "duplicates-and-stragglers/input.csv": lambda: csv_of(duplicates_and_stragglers()),
    "constant/input.csv": lambda: csv_of(constant()),
    "frozen/input.csv": lambda: csv_of(frozen()),
    "quantised/input.csv": lambda: csv_of(quantised()),
    "saturating/input.csv": lambda: csv_of(saturating()),
    "saturating-slowly/input.csv": lambda: csv_of(saturating_slowly()),
    "counter/input.csv": lambda: csv_of(counter()),
    "on-off/input.csv": lambda: csv_of(on_off()),
    "bursts/input.csv": lambda: csv_of(bursts()),
    "daily-cycle/input.csv": lambda: csv_of(daily_cycle()),
    "daylight-saving/input.csv": lambda: csv_of(daylight_saving()),
    "weekly-cycle/input.csv": lambda: csv_of(weekly_cycle()),
    "duty-cycle/input.csv": lambda: csv_of(duty_cycle()),
    "missing-data/input.csv": lambda: csv_of(missing_data()),
    "changed-rate/input.csv": lambda: csv_of(changed_rate()),
    "much-slower/input.csv": lambda: csv_of(much_slower()),
    "sensor-replaced/input.csv": lambda: csv_of(sensor_replaced()),
    "on-change/input.csv": lambda: csv_of(on_change()),
    "slow-ramp/input.csv": lambda: csv_of(slow_ramp()),
    "slow-ramp-hold/input.csv": lambda: csv_of(slow_ramp()),
    "silent-stream/input.jsonl": lambda: jsonl_of(silent_stream()),
}


if __name__ == "__main__":
    for name, make in INPUTS.items():
        (FOLDER / name).parent.mkdir(exist_ok=True)
        (FOLDER / name).write_bytes(make())
