"""Bundles of encoders that the user brings: a module or a file, what the agent gives it, and what it gives back."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from converter import representative
from converter.brought import Scaling, check_outputs, kind_of, scaling_of
from converter.build import About, Built, build, float_outputs
from converter.gates import Gate
from converter.network_files import NetworkFile, read_keras, read_onnx, read_program
from converter.quantize import AS_GIVEN
from converter.recipes import AS_IS, PICTURE, SCALED, SENSOR
from converter.representative import Samples
from converter.sources import SourceError, of_callable
from converter.tflite_file import read_tflite


class Own(msgspec.Struct, frozen=True):
    """A network that the user brings: a PyTorch module or a TfliteFile, and what its bundle says of it.

    `outputs` names what it gives; none: found out by running it. `batches` are those of the signatures; none: those
    of its kind. `precisions` are wanted where the user names none.
    """

    network: Any
    shape: tuple[int, ...]
    name: str
    provenance: str
    outputs: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    precisions: tuple[str, ...] = ("int8",)


def build_own(own: Own, options: argparse.Namespace, gates: dict[str, Gate]) -> Built:
    """Write the bundle of what the user brings. Raises what `build` raises, and SourceError."""
    kind = kind_of(str(options.source), own.shape)
    samples = samples_of(options, kind, own.shape)
    names = own.outputs
    if not names:
        found = float_outputs(own.network, samples.inputs[:1])
        given = {f"output {index}": list(one.shape) for index, one in enumerate(found)}
        check_outputs(str(options.source), kind, given, 1)
        names = tuple(given)
    count = len(names)
    about = About(
        name=options.name or own.name,
        kind=kind,
        shape=own.shape,
        features=PICTURE if kind == "image" else SENSOR,
        outputs=tuple(f"output_{index}" for index in range(count)) if count > 1 else ("embedding",),
        preprocessing=AS_IS if kind == "image" else SCALED,
        licence=options.licence,
        provenance=own.provenance,
        precisions=tuple(options.precision or own.precisions),
        batches=own.batches or ((1,) if kind == "image" else (1, 8, 32)),
    )
    return build(about, own.network, samples, options.out or Path(about.name), gates)


def _module(options: argparse.Namespace) -> Own:
    name = options.source.partition(":")[2].lower()
    return Own(of_callable(options.source), options.input_shape, name, f"The user's own module, {options.source}.")


def _tflite(options: argparse.Namespace) -> Own:
    path: Path = options.source
    file = read_tflite(path, options.output, scaling_of(options.mean, options.deviation))
    if options.precision and file.precision == AS_GIVEN:
        raise SourceError(
            f"{path}: expected a float32 model with --precision {options.precision[0]}, found one that is quantized "
            "already; leave the option out, or give the model that it was made of"
        )
    return Own(
        file,
        file.shape,
        path.stem,
        f"{_file(options)} What is proven is that it runs alike on every runtime: it is compared with what it gives "
        "itself, as LiteRT computes it.",
        file.names,
        (file.batch,),
        (file.precision,),
    )


def _network_file(
    read: Callable[[Path, list[str], Scaling | None], NetworkFile],
) -> Callable[[argparse.Namespace], Own]:
    def own(options: argparse.Namespace) -> Own:
        path: Path = options.source
        network = read(path, options.output, scaling_of(options.mean, options.deviation))
        batches = () if network.batch is None else (network.batch,)
        return Own(network, network.shape, path.stem, _file(options), batches=batches)

    return own


def _file(options: argparse.Namespace) -> str:
    """Return a sentence that says which file a bundle is of."""
    path: Path = options.source
    chosen = f", its tensors {', '.join(options.output)}" if options.output else ""
    scaled = scaling_of(options.mean, options.deviation)
    how = f"; pictures less {list(scaled.mean)}, over {list(scaled.deviation)}" if scaled else ""
    return f"The user's own file {path.name}, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}{chosen}{how}."


def samples_of(options: argparse.Namespace, kind: str, shape: tuple[int, ...]) -> Samples:
    """Return what ranges are taken from and the proof is made with, as the options say. Raises what it raises."""
    given, anomalous = options.representative, options.anomalous
    for option, path in (("--representative", given), ("--anomalous", anomalous)):
        if path is not None:
            representative.check_kind(option, path, kind)
    if anomalous is not None and given is None:
        raise representative.RepresentativeError(
            f"{anomalous}: expected --representative PATH beside it with what is normal there, found none"
        )
    if kind == "image":
        if given is None:
            return representative.packaged_pictures(shape[0])
        return representative.pictures_of(given, shape[0], anomalous)
    if given is None:
        return representative.generated_windows(shape[0])
    if options.config is None:
        raise representative.RepresentativeError(
            f"{given}: expected --config FILE with the configuration that it was recorded with, found none"
        )
    return representative.recorded_windows(given, options.config, shape, options.stream, anomalous)


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], Own]]] = {
    "module": _module,
    "tflite": _tflite,
    "program": _network_file(read_program),
    "onnx": _network_file(read_onnx),
    "keras": _network_file(read_keras),
}
