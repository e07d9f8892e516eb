"""`make soak`: weeks of compressed time: memory, files, threads, state, bytes written, and whether any of them grows.

In this process, without a broker: the daemon's pipeline, state directory and publications are fed as fast as they take
it, in virtual time: first 20 streams of three channels at 1 Hz for 30 days (52 million readings), which decide every 16
readings, for to decide at each of them would take most of a day; then the same streams at default settings for two
days; then one camera whose 100,000 pictures a small stand-in encoder maps. Every ten virtual minutes the state is saved
as the daemon saves it. `--days`, `--default-days` and `--pictures` shorten it. With `--samples` each part is kept as
JSON, and one that is there is not run again, so that parts can run side by side and be put together afterwards.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from PIL import Image
from tqdm import tqdm

from agent.adapters.allocator import return_memory
from agent.config import load_configuration
from agent.encoder_trial import resident_bytes
from agent.ports import InboundMessage
from tests.benchmarks.plots import COLOURS, pyplot
from tests.benchmarks.tables import table
from tests.benchmarks.virtual import VirtualAgent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from agent.core.types import F32

DAYS = 30.0
STRIDE = 16
DEFAULT_DAYS = 2.0
STREAMS = 20
PICTURES = 100_000
SNAPSHOT_S = 600
BLOCKS = 24  # of samples, whose means the slope is told from: neighbours are alike
STUDENT = 2.07  # t of 22 degrees of freedom, 95 %
WARM_SHARE = 0.25  # of the samples that are left out at the beginning
_DAY_S = 86400.0
_EPOCH = 1_767_225_600.0
_PICTURE_EVERY_S = 10
_SIDE = 64
_DIFFERENT = 64  # pictures, each moved by noise when it is made


@dataclass
class Samples:
    """What was read now and then; `at` in virtual days."""

    at: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)  # MB
    files: list[int] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    state: list[float] = field(default_factory=list)  # MB
    written: list[float] = field(default_factory=list)  # MB since the start

    def take(self, at: float, folder: Path) -> None:
        """Read everything once."""
        self.at.append(at)
        self.memory.append(resident_bytes() / 1e6)
        self.files.append(len(list(Path("/proc/self/fd").iterdir())))
        self.threads.append(threading.active_count())
        self.state.append(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6)
        self.written.append(written_bytes() / 1e6)

    def slope(self) -> tuple[float, float]:
        """Return MB of memory for each virtual day after the warm-up, and half its 95 % interval."""
        first = int(len(self.at) * WARM_SHARE)
        blocks = np.array_split(np.stack([self.at[first:], self.memory[first:]]), min(BLOCKS, len(self.at) - first), 1)
        means = np.array([block.mean(axis=1) for block in blocks])
        days, memory = (means - means.mean(axis=0)).T
        slope = float(days @ memory / (days @ days))
        left = memory - slope * days
        return slope, STUDENT * float(np.sqrt(left @ left / (len(means) - 2) / (days @ days)))

    def daily(self) -> float:
        """Return MB written for each virtual day after the warm-up."""
        first = int(len(self.at) * WARM_SHARE)
        return (self.written[-1] - self.written[first]) / (self.at[-1] - self.at[first])


def written_bytes() -> int:
    """Return the bytes that this process has had written to disks, whatever wrote them."""
    fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(fields["write_bytes"])


def settings(folder: Path, stream: str) -> Any:
    """Return a configuration at default settings, but for the streams."""
    path = folder / "redshank.yaml"
    path.write_text(f"agent: {{id: soak, state_dir: {folder / 'state'}}}\nstreams: [{stream}]\n")
    return load_configuration(path)


def soak(agent: VirtualAgent, feed: Iterator[list[InboundMessage]], seconds: int, every_s: int, what: str) -> Samples:
    """Let virtual time pass, `every_s` for each batch of `feed`; sample 400 times."""
    samples, state = Samples(), agent.store.directory
    sampled = max(SNAPSHOT_S, seconds // 400 // SNAPSHOT_S * SNAPSHOT_S)
    for second in tqdm(range(0, seconds, every_s), desc=what, leave=False, disable=None):
        agent.take(next(feed))
        agent.tick(_EPOCH + second)
        if second % SNAPSHOT_S == 0 and second:
            agent.save(_EPOCH + second, whole=False)
        if second % sampled == 0:
            samples.take(second / _DAY_S, state)
    return samples


def readings() -> Iterator[list[InboundMessage]]:
    """Yield a second's readings of all streams after another."""
    rng = np.random.default_rng(0)
    second = 0
    while True:
        noise = rng.normal(size=(3600, STREAMS, 3))
        for step in range(3600):
            at = _EPOCH + second
            daily = np.sin(2 * np.pi * second / _DAY_S)
            values = np.round(noise[step] * [0.1, 0.3, 2.0] + [20 + 3 * daily, 5.0, 100 + 30 * daily], 3).tolist()
            yield [
                InboundMessage(
                    f"plant/{number}", f'{{"temp":{one[0]},"flow":{one[1]},"power":{one[2]}}}'.encode(), at, at
                )
                for number, one in enumerate(values)
            ]
            second += 1


class SmallEncoder:
    """Maps pictures by a fixed random projection of their blocks: stands in for a network, at hardly any cost."""

    name, digest, runtime = "small", "0" * 64, "none"
    shape = (_SIDE, _SIDE, 3)
    output_shapes = [(8, 8, 32), (4, 4, 48)]  # noqa: RUF012  as the protocol has it

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._weights = [
            rng.normal(size=(_SIDE // rows * (_SIDE // columns) * 3, dim)).astype(np.float32) / 100
            for rows, columns, dim in self.output_shapes
        ]

    def run(self, inputs: F32) -> list[F32]:
        """Return the outputs."""
        made = []
        for (rows, columns, dim), weights in zip(self.output_shapes, self._weights, strict=True):
            high, wide = _SIDE // rows, _SIDE // columns
            blocks = inputs.reshape(-1, rows, high, columns, wide, 3).swapaxes(2, 3)
            made.append(np.maximum(blocks.reshape(-1, high * wide * 3) @ weights, 0.0).reshape(-1, rows, columns, dim))
        return made


def pictures() -> Iterator[list[InboundMessage]]:
    """Yield a picture after another: one of some scenes, with noise, as JPEG."""
    rng = np.random.default_rng(0)
    ramp = np.linspace(60, 180, _SIDE)
    scene = np.stack(
        [ramp[None] + np.zeros((_SIDE, 1)), ramp[:, None] + np.zeros(_SIDE), np.full((_SIDE,) * 2, 90.0)], 2
    )
    at = _EPOCH
    while True:
        payloads = []
        for _ in range(_DIFFERENT):
            noisy = np.clip(scene + rng.normal(0, 6, scene.shape), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(made := io.BytesIO(), "JPEG")
            payloads.append(made.getvalue())
        for payload in payloads:
            yield [InboundMessage("cameras/a", payload, at, at)]
            at += _PICTURE_EVERY_S


def sensors_soak(folder: Path, days: float, stride: int = 1) -> Samples:
    """Soak 20 streams of three channels at default settings, but for the stride."""
    agent = VirtualAgent(settings(folder, f'{{name: plant, topic: "plant/+", stride: {stride}}}'))
    found = soak(agent, readings(), int(days * _DAY_S), 1, f"readings, stride {stride}")
    agent.close()
    return found


def pictures_soak(folder: Path, count: int) -> Samples:
    """Soak one camera at default settings, but for the encoder."""
    made = settings(folder, '{name: gate, topic: "cameras/+", kind: image}')
    agent = VirtualAgent(made, encoders={"efficientnet-lite0": SmallEncoder()})
    found = soak(agent, pictures(), count * _PICTURE_EVERY_S, _PICTURE_EVERY_S, "pictures")
    agent.close()
    return found


def draw(parts: dict[str, Samples], path: Path) -> None:
    """Draw memory and bytes written over virtual days."""
    plt = pyplot()
    figure, axes = plt.subplots(2, len(parts), figsize=(4.2 * len(parts), 4.2), squeeze=False, sharex="col")
    for (name, found), (above, below), colour in zip(parts.items(), axes.T, COLOURS, strict=False):
        above.plot(found.at, found.memory, color=colour)
        above.set(title=name, ylabel="MB resident", ylim=(0, 1.3 * max(found.memory)))
        below.plot(found.at, found.written, color=colour)
        below.set(xlabel="virtual days", ylabel="MB written")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight")


def row(name: str, found: Samples) -> list[str]:
    """Return a line of the table."""
    slope, half = found.slope()

    def span(values: list[Any], digits: int = 0) -> str:
        return f"{values[int(len(values) * WARM_SHARE)]:.{digits}f}, {values[-1]:.{digits}f}"

    return [
        name, f"{found.at[-1]:.2f}", f"{span(found.memory, 1)}", f"{slope:+.3f} ± {half:.3f}", span(found.files),
        span(found.threads), span(found.state, 1), f"{found.daily():.1f}",
    ]  # fmt: skip


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.soak", description=__doc__)
    parser.add_argument("--days", type=float, default=DAYS, help=f"with stride {STRIDE}; default: %(default)s")
    parser.add_argument("--default-days", type=float, default=DEFAULT_DAYS, help="with stride 1; default: %(default)s")
    parser.add_argument("--pictures", type=int, default=PICTURES, help="default: %(default)s")
    parser.add_argument("--samples", type=Path, metavar="FOLDER", help="keep them there")
    parser.add_argument("--plot", type=Path, help="draw it here, as SVG")
    wanted = parser.parse_args()
    return_memory()
    parts: dict[str, Samples] = {}
    runs: list[tuple[str, Callable[[Path], Samples]]] = []
    for days, stride in ((wanted.days, STRIDE), (wanted.default_days, 1)):
        if days:
            name = f"{STREAMS} streams, stride {stride}, {days * _DAY_S * STREAMS:,.0f} readings"
            runs.append((name, partial(sensors_soak, days=days, stride=stride)))
    if wanted.pictures:
        runs.append((f"1 camera, {wanted.pictures:,} pictures", lambda folder: pictures_soak(folder, wanted.pictures)))
    for name, run in runs:
        kept = wanted.samples and wanted.samples / f"{name}.json"
        if kept and kept.exists():
            parts[name] = msgspec.json.decode(kept.read_bytes(), type=Samples)
            continue
        with tempfile.TemporaryDirectory() as folder:
            parts[name] = run(Path(folder))
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(msgspec.json.encode(parts[name]))
    header = ["", "days", "MB resident", "MB a day (95 %)", "files", "threads", "MB of state", "MB written a day"]
    print(table(header, [row(name, found) for name, found in parts.items()]))
    if wanted.plot:
        draw(parts, wanted.plot)


if __name__ == "__main__":
    main()
