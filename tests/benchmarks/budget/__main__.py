"""`python -m tests.benchmarks.budget`: alarms observed over alarms promised, and what keeping the promise costs.

Scores come from the detection core with the agent's defaults, computed once for each stream; every method then plays
over them with the agent's own decisions. Normal are the rows of NAB outside labelled windows (all files; alarms inside
windows are not counted, though they steer) and twelve kinds of generated streams, five of each for four weeks at one
value a minute: 20 alarms expected for each kind at the rarest budget. Recall is that of disturbances of 2 and 4 times
the stream's robust deviation, each played from a copy of the detector's, the control's and the alert's state; for
NAB, the share of labelled windows in which an alert began. For reproducible figures set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from tqdm import tqdm

from agent.core.alerting import AlertSettings
from agent.errors import RedshankError
from agent.settings_builder import parse_budget
from tests.benchmarks.budget.methods import COUNT_SAMPLES, METHODS
from tests.benchmarks.budget.play import Branch, Played, Track, garwood, play, worst_day
from tests.benchmarks.budget.streams import KINDS, WEEK, normal_stream
from tests.benchmarks.detection.disturbances import LONGEST, disturbed, robust_std
from tests.benchmarks.detection.drive import Driver, Feed, keep_memory
from tests.benchmarks.detection.encoders import BenchmarkEncoder, make_encoder
from tests.benchmarks.detection.injected import AFTER_ROWS, TOGETHER, Job
from tests.benchmarks.detection.injected import play as play_jobs
from tests.benchmarks.detection.nab import Nab
from tests.benchmarks.detection.recordings import missing, periods
from tests.benchmarks.plots import COLOURS, pyplot, save
from tests.benchmarks.tables import table

BUDGETS = ("1 per 1000 decisions", "1 per 10000 decisions", "1 per week")
STREAMS = 5  # of each kind
WEEKS = 4
_MINUTE_S = 60.0
_EPOCH_ROW = 1_000_000
_INJECTED = ("noise", "oscillation", "shift", "drift", "spike", "frozen")
_STRENGTHS = (2.0, 4.0)
_INJECTIONS = 24  # into each stream
_FIRST_SHARE = 0.2  # of the rows, before the first injection
_SEED = 5
_SHIPS = "ladder (ships)"
_BROKEN = 2.0  # times the promise
NAB = "NAB, normal parts"


class Scores:
    """All tracks, with the scores of their rows and of their injections."""

    def __init__(self, encoder: BenchmarkEncoder, nab: Nab | None, streams: int, weeks: float) -> None:
        self.driver = Driver(encoder)
        self.tracks: list[Track] = []
        self._feeds: list[Feed] = []
        self.windows: dict[str, list[tuple[int, int]]] = {}
        if nab is not None:
            self._add_nab(nab)
        self._plan: dict[int, list[tuple[Track, Feed, str, float, int]]] = {}
        rows = self.driver.warm_up_rows + round(weeks * WEEK)
        for kind in KINDS:
            for number in range(streams):
                self._add_generated(kind, number, rows)

    def _add(self, name: str, source: str, at: np.ndarray, values: np.ndarray, period_s: float, counts: Any) -> Track:
        feed = self.driver.feed(name, at / period_s, values[:, None], self.driver.warm_up_rows)
        self._feeds.append(feed)
        self.tracks.append(Track(name, source, at, period_s, feed.scores, counts))
        return self.tracks[-1]

    def _add_nab(self, nab: Nab) -> None:
        for name, recording in nab.tables.items():
            counts = np.ones(len(recording.at), np.bool_)
            for first, last in nab.truths[name].windows:
                counts[first : last + 1] = False
            self.windows[name] = list(nab.truths[name].windows)
            period_s = float(recording.at[-1] / periods(recording.at)[-1])
            self._add(name, NAB, recording.at, recording.columns["value"], period_s, counts)

    def _add_generated(self, kind: str, number: int, rows: int) -> None:
        values = normal_stream(kind, number, rows)
        at = _MINUTE_S * (_EPOCH_ROW + np.arange(rows))
        track = self._add(f"{kind} {number}", kind, at, values, _MINUTE_S, np.ones(rows, np.bool_))
        rng = np.random.default_rng([_SEED, list(KINDS).index(kind), number])
        first, last = max(self.driver.warm_up_rows, int(_FIRST_SHARE * rows)), rows - LONGEST - AFTER_ROWS
        places = np.linspace(first, last, _INJECTIONS, endpoint=False).astype(int)
        wanted = [(kind, strength) for kind in _INJECTED for strength in _STRENGTHS]
        for index, place in enumerate(places + rng.integers(0, max(1, (last - first) // _INJECTIONS), _INJECTIONS)):
            what, strength = wanted[(index + number) % len(wanted)]
            seed = int(rng.integers(2**32))
            self._plan.setdefault(int(place), []).append((track, self._feeds[-1], what, strength, seed))

    def compute(self) -> None:
        """Let the detector score everything."""
        jobs: list[Job] = []
        owners: list[Track] = []
        values = {id(feed): feed.values[:, 0] for feed in self._feeds}
        total = sum(len(feed.at) for feed in self._feeds)
        total += sum(len(planned) for planned in self._plan.values()) * (LONGEST + AFTER_ROWS)
        with tqdm(total=total, desc="scores", unit="row", leave=False, disable=None) as bar:

            def played() -> None:
                play_jobs(self.driver, jobs, bar)
                for track, job in zip(owners, jobs, strict=True):
                    assert job.scores is not None
                    track.branches.append(
                        Branch(job.found["row"], job.found["kind"], job.found["strength"], job.scores)
                    )
                jobs.clear()
                owners.clear()

            def before_row(row: int) -> None:
                if row not in self._plan:
                    return
                self.driver.flush()
                for track, feed, what, strength, seed in self._plan[row]:
                    ahead = slice(row, row + LONGEST + AFTER_ROWS)
                    stream = values[id(feed)]
                    unit = robust_std(stream[max(0, row - WEEK) : row])
                    rng = np.random.default_rng(seed)
                    changed, length = disturbed(rng, stream[ahead], what, strength, unit, -np.inf)
                    found = {"row": row, "kind": what, "strength": strength}
                    state = self.driver.bank.snapshot(feed.detector)
                    jobs.append(Job(state, feed.at[ahead], changed, length, found))
                    owners.append(track)
                if len(jobs) >= TOGETHER:
                    played()

            self.driver.run(self._feeds, bar, before_row)
            played()


def measured(tracks: list[Track], budget: str, windows: dict[str, list[tuple[int, int]]]) -> dict[str, Any]:
    """Return for each method and source what was observed at one budget."""
    alert = msgspec.structs.replace(AlertSettings(), false_alarms=parse_budget(budget))
    found: dict[str, Any] = {}
    sources = list(dict.fromkeys(track.source for track in tracks))
    for method, make in METHODS.items():
        # Counting odd decisions, the first one uses up the whole level: it must be an alert of its own.
        how = msgspec.structs.replace(alert, after=1) if method in COUNT_SAMPLES else alert
        played = {source: [] for source in sources}
        for one in tqdm(tracks, desc=f"{budget}: {method}", unit="stream", leave=False, disable=None):
            played[one.source].append(play(one, make(how), how))
        found[method] = {
            source: _cell([track for track in tracks if track.source == source], played[source], windows)
            for source in sources
        }
    return found


def _cell(tracks: list[Track], played: list[Played], windows: dict[str, list[tuple[int, int]]]) -> dict[str, Any]:
    observed = sum(len(one.raised) for one in played)
    expected = sum(one.expected for one in played)
    low, high = garwood(observed)
    hits = [hit for one in played for hit in one.found if hit is not None]
    chance = [hit for one in played for hit in one.by_chance if hit is not None]
    kinds = [
        (branch.kind, hit)
        for track, one in zip(tracks, played, strict=True)
        for branch, hit in zip(track.branches, one.found, strict=True)
        if hit is not None
    ]
    for track, one in zip(tracks, played, strict=True):
        for first, last in windows.get(track.name, []):
            if not np.isnan(track.scores[first : last + 1]).all():
                hits.append(any(first <= row <= last for row in one.raised_all))
    return {
        "streams": len(tracks),
        "observed": observed,
        "expected": expected,
        "ratio": observed / expected,
        "low": low / expected,
        "high": high / expected,
        "worst_day": worst_day(tracks, played),
        "injections": len(hits),
        "recall": float(np.mean(hits)) if hits else None,
        "by_chance": float(np.mean(chance)) if chance else None,
        "by_kind": {name: [hit for kind, hit in kinds if kind == name] for name in _INJECTED},
    }


def summary(results: dict[str, Any]) -> str:
    """Return a line for each budget and method over the generated kinds, and NAB beside it."""
    rows = []
    for budget, methods in results.items():
        for method, cells in methods.items():
            kinds = {name: cell for name, cell in cells.items() if name != NAB}
            row = [budget, method]
            if kinds:
                ratios = [cell["ratio"] for cell in kinds.values()]
                row.append(f"{np.mean(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")
                row.append(str(sum(ratio > _BROKEN for ratio in ratios)))
                row.append(str(max(cell["worst_day"] for cell in kinds.values())))
                row.append(f"{_mean(kinds, 'recall'):.3f} ({_mean(kinds, 'by_chance'):.3f})")
                row += [_share([hit for c in kinds.values() for hit in c["by_kind"][name]]) for name in _INJECTED]
            else:
                row += [""] * (4 + len(_INJECTED))
            nab = cells.get(NAB)
            row += (
                [f"{nab['ratio']:.2f} ({nab['low']:.2f}-{nab['high']:.2f})", f"{nab['recall']:.2f}"]
                if nab
                else ["", ""]
            )
            rows.append(row)
    header = ["budget", "method", "observed/promised, mean (range) of kinds", f"kinds > {_BROKEN:g}x", "worst day"]
    header += ["recall (by chance)", *_INJECTED, "NAB: observed/promised (95 %)", "NAB: windows found"]
    return table(header, rows)


def _share(hits: list[bool]) -> str:
    return f"{np.mean(hits):.2f}" if hits else ""


def _mean(kinds: dict[str, Any], key: str) -> float:
    counted = [(cell[key], cell["injections"]) for cell in kinds.values() if cell[key] is not None]
    return sum(value * count for value, count in counted) / max(1, sum(count for _, count in counted))


def by_source(results: dict[str, Any]) -> str:
    """Return a table of observed over promised for each source: all methods, the interval for what ships."""
    rows = []
    sources = next(iter(next(iter(results.values())).values()))
    for source in sources:
        row = [source]
        for methods in results.values():
            cells = {method: methods[method][source] for method in METHODS}
            ships = cells[_SHIPS]
            others = "/".join(f"{cell['ratio']:.2f}" for method, cell in cells.items() if method != _SHIPS)
            mark = "**" if ships["ratio"] > _BROKEN else ""
            interval = f"({ships['low']:.2f}-{ships['high']:.2f})"
            row += [f"{mark}{ships['ratio']:.2f}{mark} {interval}", others, str(ships["worst_day"])]
        rows.append(row)
    header = ["stream"]
    for budget in results:
        header += [f"{budget}: ships (95 %)", "plain/tracking/conformal on samples/on events", "worst day"]
    return table(header, rows)


def draw(results: dict[str, Any], folder: Path) -> None:
    """Plot promised against observed alarms, a panel for each method: one point for each source and budget."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(METHODS), figsize=(3.2 * len(METHODS), 3.4), sharex=True, sharey=True)
    least = 0.3
    for axis, method in zip(axes, METHODS, strict=True):
        axis.set_title(method)
        for colour, (budget, methods) in zip(COLOURS, results.items(), strict=False):
            cells = methods[method].values()
            x = np.array([cell["expected"] for cell in cells]) * np.linspace(0.9, 1.1, len(cells))
            y = np.array([max(cell["observed"], least) for cell in cells])
            low = np.array([max(cell["low"] * cell["expected"], least) for cell in cells])
            high = np.array([cell["high"] * cell["expected"] for cell in cells])
            bars = np.array([y - low, high - y]).clip(0)
            axis.errorbar(x, y, yerr=bars, fmt="o", ms=3, lw=0.7, color=colour, label=budget)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ends = np.array([1.0, 2.0 * max(cell["expected"] for m in results.values() for cell in m[method].values())])
        axis.plot(ends, ends, color="#000000", lw=0.8)
        axis.fill_between(ends, ends / _BROKEN, ends * _BROKEN, color="#000000", alpha=0.07, lw=0)
        axis.set_xlabel("alarms promised")
    axes[0].set_ylabel("alarms observed (none: at the bottom)")
    axes[-1].legend(frameon=False, fontsize=7)
    save(figure, folder, "budget")
    plt.close(figure)


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.budget", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with nab; without it only generated streams are played")
    parser.add_argument("--encoder", default="sensor-small", help="as for tests.benchmarks.detection")
    parser.add_argument("--streams", type=int, default=STREAMS, help="of each generated kind; default: %(default)s")
    parser.add_argument("--weeks", type=float, default=WEEKS, help="of each; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plots", type=Path, help="folder for budget.png and budget.svg")
    wanted = parser.parse_args()
    problem = missing(wanted.data, "nab") if wanted.data else None
    if problem:
        print(problem, file=sys.stderr)
        return 2
    keep_memory()
    begun = time.perf_counter()
    try:
        if wanted.plots:
            pyplot()
        encoder = make_encoder(wanted.encoder)
    except (RedshankError, OSError, ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 2
    scores = Scores(encoder, Nab(wanted.data) if wanted.data else None, wanted.streams, wanted.weeks)
    scores.compute()
    scored = time.perf_counter() - begun
    results = {budget: measured(scores.tracks, budget, scores.windows) for budget in BUDGETS}
    print(summary(results), by_source(results), sep="\n\n")
    print(f"\n{scored:.0f} s for scores, {time.perf_counter() - begun:.0f} s in all")
    if wanted.json:
        wanted.json.write_text(json.dumps(results, indent=2))
    if wanted.plots:
        draw(results, wanted.plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
