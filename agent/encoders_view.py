"""What `redshank encoders` prints: a table of what each combination costs here, or the same as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import msgspec
from tqdm import tqdm

from agent.adapters.tflite import available_runtimes, no_variant
from agent.bundle import Bundle, read_model
from agent.encoder_choice import Choice, best, choice_of, this_machine
from agent.encoder_trial import Trial, combinations, trials
from agent.errors import BundleError

_HEADINGS: Final = ("", "variant", "runtime", "threads", "inputs", "ms", "half within", "calls", "MB", "mJ")
_WORDS: Final = 3  # columns that are words
_MEGA: Final = 1e6


class Measurement(msgspec.Struct, frozen=True):
    """A bundle, what each combination of it costs, and which of them is to be used."""

    bundle: Bundle
    trials: list[Trial]
    best: Trial

    @property
    def choice(self) -> Choice:
        """Return it as the agent reads it."""
        return choice_of(self.bundle, self.best)


def measure(bundles: Sequence[Bundle], threads: Sequence[int], seconds: float) -> Iterator[Measurement]:
    """Measure bundles one after the other, with a progress bar on a terminal. Raises BundleError if one cannot run."""
    whole = sum(len(combinations(bundle, threads)) for bundle in bundles)
    with tqdm(total=whole, unit="combination", disable=not sys.stderr.isatty(), leave=False) as bar:
        for bundle in bundles:
            done = []
            for trial in trials(bundle, threads, seconds):
                done.append(trial)
                bar.update()
            if not done:
                raise no_variant(bundle, " or ".join(available_runtimes()) or "a TFLite runtime")
            found = best(done)
            if found is None:
                raise BundleError(str(done[0].error))
            yield Measurement(bundle, done, found)


def lines(measured: Measurement) -> Iterator[str]:
    """Yield what is told of a bundle: what it is, each combination, and what is best."""
    manifest = measured.bundle.manifest
    outputs = ", ".join(f"{one.name} {_shape(one.shape)}" for one in manifest.outputs)
    yield f"{manifest.name}: {manifest.kind}, input {_shape(manifest.input.shape)}, {outputs}"
    for variant in manifest.variants:
        yield f"  {variant.precision}, {len(read_model(measured.bundle, variant))} bytes, sha256 {variant.sha256[:12]}"
    rows = [_HEADINGS, *(row for one in measured.trials for row in _rows(one, chosen=one is measured.best))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield (
            "  "
            + "  ".join(
                cell.ljust(width) if column < _WORDS else cell.rjust(width)
                for column, (cell, width) in enumerate(cells)
            ).rstrip()
        )
    for one in measured.trials:
        if one.error is not None:
            yield f"  {one.precision} on {one.runtime} with {_threads(one)} could not be measured: {one.error}"
    assert measured.best.tried is not None
    yield f"  energy: {measured.best.tried.energy}"
    yield f"  best: {measured.best.precision} on {measured.best.tried.runtime} with {_threads(measured.best)}"


def _threads(trial: Trial) -> str:
    return f"{trial.threads} thread{'' if trial.threads == 1 else 's'}"


def _rows(trial: Trial, *, chosen: bool) -> Iterator[tuple[str, ...]]:
    mark = "*" if chosen else ""
    if trial.tried is None:
        yield mark, trial.precision, trial.runtime, str(trial.threads), *["-"] * 6
        return
    for one in trial.tried.calls:
        yield (
            mark,
            trial.precision,
            trial.tried.runtime,
            str(trial.threads),
            str(one.batch),
            f"{one.median_ms:.3g}",
            f"{one.low_ms:.3g} to {one.high_ms:.3g}",
            str(one.calls),
            f"{trial.tried.memory_bytes / _MEGA:.1f}",
            "not told" if one.energy_mj is None else f"{one.energy_mj:.3g}",
        )


def as_json(measured: Iterable[Measurement]) -> bytes:
    """Return all of it, for programs."""
    encoders: list[dict[str, Any]] = []
    for one in measured:
        manifest = one.bundle.manifest
        encoders.append(
            {
                "name": manifest.name,
                "path": str(one.bundle.path),
                "kind": manifest.kind,
                "input": manifest.input,
                "outputs": manifest.outputs,
                "variants": [
                    {
                        "file": variant.file,
                        "precision": variant.precision,
                        "sha256": variant.sha256,
                        "bytes": len(read_model(one.bundle, variant)),
                    }
                    for variant in manifest.variants
                ],
                "trials": one.trials,
                "best": one.choice,
            }
        )
    return msgspec.json.format(msgspec.json.encode({"machine": this_machine(), "encoders": encoders}))


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
