"""What ranges are taken from, and what is held out for the proof: generated windows, recorded ones, or real pictures.

Never random pictures: int8 ranges taken from them ruin the statistics over space, and leave the patches unhurt.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from agent.core.types import F32, I64, Bools
from agent.encoder_proof import MARGIN, vary
from agent.errors import RedshankError
from converter.ranking import Population
from converter.vectors import I16, LABELS, U8, packed, variations

if TYPE_CHECKING:
    from PIL.Image import Image

    from agent.adapters.tflite import Inputs
    from agent.config import Configuration

HELD_OUT: Final = 240  # windows
HELD_OUT_PICTURES: Final = 192  # made of those kept
REPRESENTATIVE: Final = 512  # windows
PICTURES: Final = 40  # for the ranges: 24 to 40 diverse ones are enough
LEAST_PICTURES: Final = 24
KEPT_PICTURES: Final = 8  # held out
REFERENCES, NORMAL, ODD = 36, 12, 12  # inputs of each generated stream
LEAST_ODD = ODD  # windows that a user gives as anomalous
SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
MAX_PIXELS: Final = 100_000_000
_KINDS: Final = ", ".join(sorted(SUFFIXES))
_SEED: Final = 20
_EPISODES: Final = 6

# Real pictures that come with scikit-image, CC0 or in the public domain: its skimage/data/_fetchers.py tells by whom.
_FOR_RANGES: Final = (
    "astronaut.png brick.png clock_motion.png gravel.png horse.png hubble_deep_field.jpg ihc.png moon.png "
    "motorcycle_left.png page.png retina.jpg rocket.jpg"
)
_HELD_OUT: Final = "coffee.png coins.png grass.png text.png"  # a stream each
_BY: Final = (
    "coffee: Rachel Michetti, CC0; coins: Brooklyn Museum Collection, no known restrictions; grass: linolafett, CC0; "
    "text: Wikipedia, public domain"
)
# Parts of a picture: of the largest square in its middle the whole, and two smaller squares; left, top, side.
_PARTS: Final = ((0.0, 0.0, 1.0), (0.05, 0.1, 0.6), (0.45, 0.4, 0.5))


class RepresentativeError(RedshankError):
    """A folder or a recording that holds too little, or something else."""


class Samples(msgspec.Struct, frozen=True):
    """`representative` inputs [n, *shape] for ranges, and held-out `inputs` [m, *shape] for the proof.

    `population` says what the held-out ones are, `stored` are the arrays from which they are made again, `about` says
    where they are from.
    """

    representative: Inputs
    inputs: Inputs
    population: Population
    stored: dict[str, npt.NDArray[Any]]
    about: str


def check_kind(option: str, path: Path, kind: str) -> None:
    """Raise RepresentativeError unless a user gave a folder to an encoder of pictures, a file to one of sensors."""
    if path.is_dir() if kind == "image" else path.is_file():
        return
    wanted = "a folder of pictures" if kind == "image" else "a recording (.jsonl, .csv)"
    found = "a folder" if path.is_dir() else "a file" if path.exists() else "nothing there"
    raise RepresentativeError(
        f"{path}: expected {wanted} for an encoder of kind {kind!r}, found {found}; give one with {option}"
    )


def generated_windows(length: int) -> Samples:
    """Return windows of generated streams; of those held out some are reference, some new, some anomalous.

    Raises RepresentativeError for another length than that of the generator.
    """
    from converter.pretrain.corpus import LENGTH, episode  # noqa: PLC0415  only for this source

    if length != LENGTH:
        raise RepresentativeError(
            f"expected windows of {LENGTH} readings for generated data, found {length}; give a recording with "
            "--representative FILE --config FILE"
        )
    rng = np.random.default_rng(_SEED)
    made = [episode(rng) for _ in range(2 * _EPISODES)]
    known = [np.concatenate(one[:2]) for one in made[:_EPISODES]]
    representative = np.concatenate([one[:: max(1, len(one) * _EPISODES // REPRESENTATIVE)] for one in known])
    inputs, stream, reference, odd = [], [], [], []
    for number, (references, queries, labels) in enumerate(made[_EPISODES:]):
        chosen = references[_spread(len(references), REFERENCES)]
        normal, anomalous = (np.flatnonzero(labels == label) for label in (False, True))
        normal, anomalous = normal[_spread(len(normal), NORMAL)], anomalous[_spread(len(anomalous), ODD)]
        inputs += [chosen, queries[normal], queries[anomalous]]
        counts = [len(chosen), len(normal), len(anomalous)]
        stream.append(np.full(sum(counts), number))
        reference.append(np.repeat([True, False, False], counts))
        odd.append(np.repeat([False, False, True], counts))
    population = Population(np.concatenate(stream), np.concatenate(reference), np.concatenate(odd))
    return _windows(representative, np.concatenate(inputs), population, "generated streams")


def recorded_windows(
    recording: Path, configuration: Path, shape: tuple[int, ...], stream: str | None, anomalous: Path | None = None
) -> Samples:
    """Return windows of a recording as the agent would cut them: the earlier ones for ranges, the later ones held out.

    Those of the recording `anomalous` are held out too, labelled so; they are cut as if it came after the other one.
    Raises RecordingError, ConfigurationError, or RepresentativeError where one of the two is too short.
    """
    from agent.config import load_configuration  # noqa: PLC0415  only for this source

    settings = load_configuration(configuration)
    streams = [msgspec.structs.replace(one, encoder="capture") for one in settings.streams]
    settings = msgspec.structs.replace(settings, streams=streams)
    given = [recording] if anomalous is None else [recording, anomalous]
    windows, *more = _cut(given, settings, shape, stream)
    split = len(windows) * 2 // 3
    later = windows[split:]
    if len(later) < HELD_OUT:
        raise RepresentativeError(
            f"{recording}: expected at least {3 * HELD_OUT} windows of {shape[0]} readings, found {len(windows)}; "
            "record for longer, or lower reference.warm_up in the configuration"
        )
    later, earlier = later[_spread(len(later), HELD_OUT)], windows[:split][_spread(split, REPRESENTATIVE)]
    about = f"{recording.name}, {len(windows)} windows"
    reference = np.arange(HELD_OUT) % 5 < 3  # noqa: PLR2004  three fifths
    if anomalous is None:
        return _windows(earlier, later, _population(reference, 0), about)
    (odd,) = more
    if len(odd) < LEAST_ODD:
        raise RepresentativeError(
            f"{anomalous}: expected at least {LEAST_ODD} windows of {shape[0]} anomalous readings, found {len(odd)}; "
            f"give a longer recording, of the topics and channels of {recording.name}"
        )
    odd = odd[_spread(len(odd), _EPISODES * ODD)]
    held_out = np.concatenate([later, odd])
    return _windows(earlier, held_out, _population(reference, len(odd)), about, _given(anomalous, len(odd), "windows"))


def _population(reference: Bools, odd: int) -> Population:
    """Return what one stream's inputs are: references and new ones, then so many anomalous ones."""
    place = np.arange(len(reference) + odd)
    return Population(
        np.zeros(len(place), np.int64), np.append(reference, np.zeros(odd, np.bool_)), place >= len(reference)
    )


def _given(path: Path, count: int, what: str) -> str:
    return f"given by the user from {path.name}: {count} {what}"


def _cut(recordings: list[Path], settings: Configuration, shape: tuple[int, ...], stream: str | None) -> list[F32]:
    """Return the windows of each recording, float32 [windows, *shape], by an agent to which one comes after the other.

    So the later ones are scaled by what is usual in the earlier ones; no window reaches from one into the next.
    """
    from agent.adapters.store import Store  # noqa: PLC0415  only for this source
    from agent.replay import replay  # noqa: PLC0415  as above
    from agent.routing import pattern_of, stream_name  # noqa: PLC0415  as above

    made = []
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder)
        for recording in recordings:
            capture = _Capture(*shape)
            replay(recording, settings, stream=stream, encoders={"capture": capture}, state=state)
            made.append(capture.windows())
            with closing(Store(state)) as store:
                for topic, one in itertools.product(store.topics(), settings.streams):
                    found = pattern_of(one).match(topic)
                    name = "" if found is None else stream_name(one.name, found.parts)
                    saved = store.load(name) if found is not None else None
                    if saved is not None:
                        grid = saved["detector"]["grid"]
                        grid["break_row"] = grid["total_rows"]  # as behind a long gap
                        store.save(name, saved)
    return made


class _Capture:
    """Fulfils agent.ports.Encoder: keeps what it is asked to embed, evenly thinned where that is a lot."""

    name, digest, runtime = "capture", "", ""
    dim, output_step, output_offset = 2, 1.0, 0
    _MOST = 16384

    def __init__(self, length: int, features: int) -> None:
        self.length, self._features = length, features
        self._kept: list[F32] = []
        self._every, self._seen = 1, 0

    def encode(self, windows: F32) -> F32:
        for window in windows:
            if self._seen % self._every == 0:
                self._kept.append(window.copy())
            self._seen += 1
        if len(self._kept) > self._MOST:
            self._kept = self._kept[::2]
            self._every *= 2
        return np.zeros((len(windows), self.dim), np.float32)

    def windows(self) -> F32:
        if not self._kept:
            return np.empty((0, self.length, self._features), np.float32)
        return np.stack(self._kept)


def _windows(representative: F32, inputs: F32, population: Population, about: str, labels: str = "") -> Samples:
    kept = inputs.astype(np.float16)
    stored = {"inputs": kept, **_of(population, labels)}
    return Samples(representative, kept.astype(np.float32), population, stored, _told(about, labels))


def _of(population: Population, labels: str) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays that are stored of a population; `labels` says where a user's own are from."""
    assert population.odd is not None
    return {
        "stream": population.stream.astype(np.int16),
        "reference": population.reference,
        "odd": population.odd,
        **({LABELS: np.array(labels)} if labels else {}),
    }


def _told(about: str, labels: str) -> str:
    return f"{about}; labels: {labels}" if labels else about


def packaged_pictures(size: int) -> Samples:
    """Return parts of the real pictures that come with scikit-image; other ones are held out."""
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("skimage", name="scikit-image")
    folder = Path(found.origin).parent / "data"
    ranges = np.stack([_part(folder / name, part, size) for name in _FOR_RANGES.split() for part in _PARTS])
    kept = np.stack([_part(folder / name, _PARTS[0], size + MARGIN) for name in _HELD_OUT.split()])
    return _pictures(
        ranges,
        kept,
        np.arange(len(kept)),
        f"pictures that come with scikit-image: {_FOR_RANGES}; held out: {_HELD_OUT} ({_BY})",
    )


def pictures_of(folder: Path, size: int, anomalous: Path | None = None) -> Samples:
    """Return the pictures of a folder and those below it, every third for holding out. Raises RepresentativeError.

    Held out too, and labelled so, are some of the folder `anomalous`.
    """
    paths = _paths(folder, LEAST_PICTURES, "diverse ones, of what the camera will see")
    odd, labels = None, ""
    if anomalous is not None:
        found = _paths(anomalous, 1, "of what is to be found")
        some = [found[index] for index in _spread(len(found), KEPT_PICTURES)]
        odd = np.stack([_part(path, _PARTS[0], size + MARGIN) for path in some])
        labels = _given(anomalous, len(odd), "pictures")
    thirds, others = paths[::3], [path for index, path in enumerate(paths) if index % 3]
    chosen = [others[index] for index in _spread(len(others), PICTURES)]
    held_out = [thirds[index] for index in _spread(len(thirds), KEPT_PICTURES)]
    return _pictures(
        np.stack([_part(path, _PARTS[0], size) for path in chosen]),
        np.stack([_part(path, _PARTS[0], size + MARGIN) for path in held_out]),
        np.zeros(len(held_out), np.int64),
        f"{len(chosen)} pictures of {folder.name}; {len(held_out)} others held out",
        odd,
        labels,
    )


def _paths(folder: Path, least: int, remedy: str) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if len(paths) < least:
        raise RepresentativeError(
            f"{folder}: expected at least {least} pictures ({_KINDS}), found {len(paths)}; add some: {remedy}"
        )
    return paths


def _spread(count: int, most: int) -> I64:
    """Return at most so many places, evenly spread over `count`, int64."""
    return np.arange(min(count, most)) * count // max(1, min(count, most))


def _part(path: Path, part: tuple[float, float, float], size: int) -> U8:
    """Return a square part of a picture's middle square, uint8 [size, size, 3]. Raises RepresentativeError."""
    picture = open_picture(path)
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    x, y, share = (round(side * one) for one in part)
    from PIL import Image  # noqa: PLC0415  only for pictures

    box = (left + x, top + y, left + x + share, top + y + share)
    return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR, box=box))


def open_picture(path: Path) -> Image:
    """Return a picture as RGB, turned as its EXIF orientation says. Raises RepresentativeError."""
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415  only for pictures

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MAX_PIXELS:
                raise RepresentativeError(
                    f"{path}: expected at most {MAX_PIXELS} pixels, found {opened.width} x {opened.height}; "
                    "scale it down"
                )
            return ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise RepresentativeError(f"{path}: expected a picture, found something else: {error}; take it out") from error


def _pictures(ranges: U8, kept: U8, stream: I64, about: str, anomalous: U8 | None = None, labels: str = "") -> Samples:
    """Return samples whose held-out inputs are made of `kept` pictures; `stream` int64 says to which each belongs.

    Anomalous ones are made of the pictures `anomalous`, else by letting a part of another one shine through.
    """
    size, streams = kept.shape[1] - MARGIN, np.unique(stream)
    each = HELD_OUT_PICTURES // len(streams)
    references, odd = each // 2, each // 4
    made: list[I16] = []
    for one in streams:
        own = np.flatnonzero(stream == one)
        some = variations(len(own), size, each, odd)
        some[:, 0] = own[some[:, 0]]
        if anomalous is not None:  # moved and with noise as the others are, and nothing shines through
            some[-odd:, 0] = len(kept) + np.arange(odd) % len(anomalous)
            some[-odd:, 4:] = -1
        elif len(kept) > 1:  # what shines through may be of any picture, but not of the same
            some[-odd:, 4] = (some[-odd:, 0] + 1 + some[-odd:, 4] % (len(kept) - 1)) % len(kept)
        made.append(some)
    place = np.tile(np.arange(each), len(streams))
    population = Population(np.repeat(streams, each), place < references, place >= each - odd)
    how = np.concatenate(made)
    kept = kept if anomalous is None else np.concatenate([kept, anomalous])
    stored: dict[str, npt.NDArray[Any]] = {"pictures": packed(kept), "made": how, **_of(population, labels)}
    return Samples(ranges, vary(kept, how), population, stored, _told(about, labels))
