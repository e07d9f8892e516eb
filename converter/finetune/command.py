"""`redshank-convert finetune`: tune, convert, try both encoders in the detector; write what is better, or nothing."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from time import monotonic
from typing import Final

import msgspec
import numpy as np
from tqdm import tqdm

from agent.adapters.tflite import load_encoder
from agent.bundle import find_bundle, load_bundle
from agent.core.types import F32
from converter.build import About, Built, build, check_place, put_bundle
from converter.finetune.disturbances import KINDS, STRENGTHS
from converter.finetune.recorded import Channel, FinetuneError, Recorded, channels_of, read
from converter.finetune.trial import Found, Place, Verdict, decide, find, places_of, rows_of_trial
from converter.finetune.tuning import LOSSES, Tuned, own_example, tune, validate
from converter.gates import Gate, GateError
from converter.pretrain.network import SensorSmall
from converter.recipes import RECIPES
from converter.representative import Samples, generated_windows

UNTUNED: Final = "sensor-small"
_TUNING: Final = 0.6  # share of the time that the losses may take
_WINDOWS: Final = 32  # of each of the recording's examples, for the ranges of int8
_EXAMPLES: Final = 16


class Compared(msgspec.Struct, frozen=True):
    """What the trial of the untuned and of the tuned encoder found, and what follows."""

    untuned: Found
    tuned: Found
    verdict: Verdict


def finetune(options: argparse.Namespace, gates: dict[str, Gate]) -> Built:
    """Write the bundle of a tuned encoder, if it is better than the untuned one in the streaming detector.

    Raises GateError where it is not, and FinetuneError, RecordingError or ConfigurationError for what is given; then
    `out` is as it was.
    """
    if options.minutes <= 0 or options.steps < 1:
        raise FinetuneError(
            f"expected --minutes above 0 and --steps of at least 1, found {options.minutes:g} and {options.steps}"
        )
    out = options.out or Path(f"{UNTUNED}-tuned")
    check_place(out)
    begun = monotonic()
    streams = read(options.recording, options.config, options.stream, options.time_column)
    channels = channels_of(streams)
    places = places_of(streams, options.seed)
    _say(f"streams: {len(streams)}; channels to tune with: {len(channels)}; places held back: {len(places)}")
    until = begun + 60.0 * options.minutes * _TUNING
    tuned = chosen(channels, options.loss, seed=options.seed, steps=options.steps, until=until)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        draft = Path(folder) / "draft"
        name = options.name or out.name
        built = convert(name, tuned, channels, draft, gates, recording=options.recording.name, seed=options.seed)
        compared = compare(streams, places, draft, options.seed)
        for line in table(compared):
            _say(line)
        _say(sentence(compared.verdict))
        if not compared.verdict.better:
            raise GateError(
                "the tuned encoder is not better than the untuned one beyond chance, so nothing was written; "
                f"keep {UNTUNED}"
            )
        put_bundle(out, draft)
    return Built(load_bundle(out), built.choices, built.uncovered)


def chosen(channels: list[Channel], loss: str | None, *, seed: int, steps: int, until: float) -> Tuned:
    """Return the network tuned by the named loss, or by the one that does better on the validation."""
    untuned = RECIPES[UNTUNED].network((), None)
    assert isinstance(untuned, SensorSmall)
    _say(f"validation: untuned {validate(untuned, channels, seed):.3f}")
    names = [loss] if loss else list(LOSSES)
    candidates = []
    with tqdm(total=steps * len(names), desc="tuning", unit="step", mininterval=1.0, file=sys.stderr) as bar:
        for place, name in enumerate(names):
            now = monotonic()
            share = (until - now) / (len(names) - place)
            made = tune(untuned, channels, name, seed=seed, steps=steps, until=now + share, bar=bar)
            candidates.append(made)
    for one in candidates:
        early = "" if one.steps == steps else f" of {steps}, for there was no time for more; give more with --minutes"
        _say(f"validation: {one.loss} {one.share:.3f} after {one.steps} steps{early}")
    return max(candidates, key=lambda one: one.share)


def convert(
    name: str, tuned: Tuned, channels: list[Channel], out: Path, gates: dict[str, Gate], *, recording: str, seed: int
) -> Built:
    """Write the bundle of a tuned network by the pipeline that all bundles come from. Raises GateError."""
    recipe = RECIPES[UNTUNED]
    how = f"{tuned.steps} steps of the loss `{tuned.loss}`, seed {seed}"
    told = {
        "name": name,
        "provenance": (
            f"The network of {UNTUNED}, pretrained on generated streams alone, then tuned to recorded data of the "
            f"user's own, {recording}, by `redshank-convert finetune`: {how}."
        ),
    }
    about = About(**{**{one: getattr(recipe, one) for one in About.__struct_fields__}, **told})
    return build(about, tuned.network, _samples(channels, seed), out, gates)


def _samples(channels: list[Channel], seed: int) -> Samples:
    """Return the generated windows, and for the ranges some of the recording too, disturbed and as they are."""
    made = generated_windows(RECIPES[UNTUNED].shape[0])
    rng = np.random.default_rng([seed, 7])
    own = np.concatenate([_windows(rng, channels) for _ in range(_EXAMPLES)])
    return msgspec.structs.replace(
        made,
        representative=np.concatenate([made.representative, own]),
        about=f"{made.about}; for the ranges also {len(own)} windows of the recording",
    )


def _windows(rng: np.random.Generator, channels: list[Channel]) -> F32:
    """Return windows of an example, float32 [_WINDOWS, 64, 2], half of them of disturbed readings."""
    one = own_example(rng, channels, fit=True)
    length = RECIPES[UNTUNED].shape[0]
    firsts = rng.integers(len(one.known) - length + 1, size=_WINDOWS // 2)
    odd = one.events[rng.integers(len(one.events), size=_WINDOWS // 2)]
    return np.concatenate([np.stack([one.known[first : first + length] for first in firsts]), odd[:, -length:]])


def compare(streams: list[Recorded], places: list[Place], tuned: Path, seed: int) -> Compared:
    """Try the shipped encoder and the bundle `tuned` on the same disturbances, on the runtime that is fastest here."""
    with tqdm(
        total=2 * rows_of_trial(streams, places), desc="trial", unit=" readings", mininterval=1.0, file=sys.stderr
    ) as bar:
        first, second = (
            find(streams, places, load_encoder(bundle), bar) for bundle in (find_bundle(UNTUNED), load_bundle(tuned))
        )
    return Compared(first, second, decide(first.areas, second.areas, seed))


def table(compared: Compared) -> list[str]:
    """Return the trial as a table in Markdown: areas under the curve and shares told, untuned and tuned."""
    before, after = compared.untuned, compared.tuned
    lines = [f"| untuned tuned | {' | '.join(f'{one:g}' for one in STRENGTHS)} | all | told |", "|---" * 8 + "|"]
    for name, kinds in {**{kind: [row] for row, kind in enumerate(KINDS)}, "all": list(range(len(KINDS)))}.items():
        pairs = [
            (before.areas[:, kinds, strength], after.areas[:, kinds, strength]) for strength in range(len(STRENGTHS))
        ]
        pairs += [(before.areas[:, kinds], after.areas[:, kinds]), (before.told[:, kinds], after.told[:, kinds])]
        lines.append(f"| {name} | {' | '.join(f'{a.mean():.3f} {b.mean():.3f}' for a, b in pairs)} |")
    return lines


def sentence(verdict: Verdict) -> str:
    """Return by how much the tuned encoder is better, or worse."""
    which = "better" if verdict.gain >= 0 else "worse"
    return (
        f"the tuned encoder is {which} by {abs(verdict.gain):.4f} of the area under the ROC curve (95 % interval of "
        f"the gain: {verdict.low:.4f} to {verdict.high:.4f})"
    )


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
