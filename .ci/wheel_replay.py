"""A recording with two faults, and what every runtime has to say of it: two alerts, the same on all."""

import csv
import json
import math
import random
import sys
from datetime import datetime
from pathlib import Path

BEGIN = 1_700_000_000
ROWS = 1600
FAULTS = {"temp": range(700, 740), "flow": range(1200, 1240)}
MAX_DELAY_S = 10
CONFIGURATION = """\
agent: {id: wheel, state_dir: state}
broker: {url: "mqtt://localhost:1883"}
streams:
  - name: pump
    topic: plant/pump
    period: 1s
    reference: {size: 500, warm_up: 300}
    alert: {false_alarms: 1 per 10000 decisions, cooldown: 5s}
"""


def generate(folder: Path) -> None:
    """Write faults.csv and redshank.yaml."""
    rng = random.Random(11)
    (folder / "redshank.yaml").write_text(CONFIGURATION)
    with (folder / "faults.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "temp", "flow"])
        for i in range(ROWS):
            temp = 20 + math.sin(i / 15) + rng.gauss(0, 0.1) + (8 if i in FAULTS["temp"] else 0)
            flow = 5 + rng.gauss(0, 0.2) + (3 * math.sin(i) if i in FAULTS["flow"] else 0)
            writer.writerow([BEGIN + i, round(temp, 4), round(flow, 4)])


def compare(folder: Path) -> int:
    """Tell whether all runtimes raised the same two alerts, each at its fault, and cleared them."""
    expected = [(name, event) for name in FAULTS for event in ("raised", "cleared")]
    told = {}
    for path in sorted(folder.glob("alerts-*.jsonl")):
        alerts = [json.loads(line) for line in path.read_text().splitlines()]
        alerts = [one for one in alerts if one["event"] != "updated"]
        told[path.name] = [(one["id"], one["event"], one["started_at"]) for one in alerts]
        found = [(one["evidence"]["parts"][0]["name"] if one["evidence"] else "", one["event"]) for one in alerts]
        if [event for _, event in found] != [event for _, event in expected]:
            print(f"{path.name}: expected {expected}, found {found}")
            return 1
        for one, (name, event) in zip(alerts, expected, strict=True):
            delay = datetime.fromisoformat(one["started_at"]).timestamp() - BEGIN - FAULTS[name].start
            leading = one["evidence"]["parts"][0]["name"] if event == "raised" else name
            if leading != name or not 0 <= delay <= MAX_DELAY_S:
                print(f"{path.name}: expected {name} within {MAX_DELAY_S} s, found {leading} after {delay:g} s")
                return 1
    if len(told) < 2 or len({json.dumps(one) for one in told.values()}) != 1:
        print(f"expected the same alerts from every runtime, found {json.dumps(told, indent=1)}")
        return 1
    print(f"== the same alerts from {' and '.join(told)}: {json.dumps(next(iter(told.values())))}")
    return 0


if __name__ == "__main__":
    folder = Path(sys.argv[2])
    sys.exit(generate(folder) if sys.argv[1] == "generate" else compare(folder))
