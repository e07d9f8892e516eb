"""Builds bundles: network and samples in; models, vectors, proof and manifest out. Nothing is written unproven."""

from __future__ import annotations

import copy
import hashlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import torch
from torch.nn import functional as nnf
from torch.overrides import TorchFunctionMode
from tqdm import tqdm

from agent.adapters.tflite import available_runtimes, in_order
from agent.bundle import MANIFEST, SCHEMA_VERSION, VECTORS, Bundle, Manifest, Quantization, Tensor, Variant, load_bundle
from agent.core.types import F32
from agent.encoder_proof import positions_of, rows_of
from agent.signing import SIGNATURE
from converter.archive import write_npz
from converter.gates import Gate, GateError
from converter.network_files import NetworkFile
from converter.quantize import AS_GIVEN, PRECISIONS, FloatModel, Ranges, quiet, uncovered
from converter.representative import Samples
from converter.sources import SourceError
from converter.tflite_file import TfliteFile
from converter.vectors import LABELS, HeldOut, labels_of
from converter.verify import Verdict, as_json, judge, report

PROVENANCE: Final = "PROVENANCE.md"
REPORT: Final = "report.json"
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*")
_PROBED: Final = 48  # held-out inputs whose ranges are compared with the representative ones
_FLOAT_BATCH: Final = 16  # inputs at most in one call of the float network
_FLOAT_VALUES: Final = 200_000  # of them in double precision: what its layers make of more leaves the cache


class About(msgspec.Struct, frozen=True):
    """What a bundle says of itself, besides what is found out by building it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    preprocessing: str
    licence: str
    provenance: str
    precisions: tuple[str, ...]
    batches: tuple[int, ...]


class Built(msgspec.Struct, frozen=True):
    """A bundle and why it holds what it holds: a sentence for each choice, a phrase for each range not covered."""

    bundle: Bundle
    choices: list[str]
    uncovered: list[str]


def build(about: About, network: Any, samples: Samples, out: Path, gates: dict[str, Gate]) -> Built:
    """Write the bundle of a PyTorch network or a TfliteFile into `out`, a new folder or that of an earlier bundle.

    The same network and samples give the same bytes. Raises GateError if no variant passes on some runtime, and what
    the parts raise; then `out` is as it was.
    """
    check_place(out)
    if not _NAME.fullmatch(about.name):
        raise SourceError(f"expected a name of letters, digits, '.', '_' and '-', found {about.name!r}; give --name")
    with (
        tempfile.TemporaryDirectory() as folder,
        tqdm(total=4 + len(about.precisions), desc=about.name, unit="step", bar_format=_BAR) as bar,
    ):
        built = _Draft(about, network, samples, Path(folder), bar).complete(gates)
        put_bundle(out, Path(folder))
    return Built(load_bundle(out), built.choices, built.uncovered)


_BAR: Final = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed} {postfix}"


class _Draft:
    """A bundle being made in a folder of its own."""

    def __init__(self, about: About, network: Any, samples: Samples, folder: Path, bar: Any) -> None:
        self._about, self._samples, self._folder, self._bar = about, samples, folder, bar
        self._step("float embeddings")
        given = isinstance(network, TfliteFile)
        outputs = network.run(samples.inputs) if given else float_outputs(network, samples.inputs)
        if len(outputs) != len(about.outputs):
            raise SourceError(f"expected {len(about.outputs)} outputs, found {len(outputs)}; name each of them")
        for one in outputs:
            if one.ndim not in {2, 4} or len(one) != len(samples.inputs):
                raise SourceError(
                    f"expected outputs [batch, dim] or [batch, rows, columns, dim], found {list(one.shape)} for "
                    f"{len(samples.inputs)} inputs; reshape it in the network"
                )
        self._outputs = [Tensor(name, list(one.shape[1:])) for name, one in zip(about.outputs, outputs, strict=True)]
        positions = positions_of(len(samples.inputs))
        half = {name: one.astype(np.float16) for name, one in rows_of(outputs, positions).items()}
        rows = {name: one.astype(np.float32) for name, one in half.items()}  # as they will be read
        self._held_out = HeldOut(samples.inputs, samples.population, positions, rows, labels_of(samples.stored))
        self._input_grid = network.input if given else None
        own = network.outputs if given else [None] * len(outputs)
        self._grids = [grid or _grid(one) for grid, one in zip(own, outputs, strict=True)]
        self._step("conversion")
        shape, batches = about.shape, about.batches
        self._model = (
            FloatModel(network.content, shape, batches) if given else FloatModel.of_network(network, shape, batches)
        )
        self._step("ranges")
        self._ranges: Ranges = {}
        self._uncovered: list[str] = []
        if AS_GIVEN not in about.precisions:
            probed = samples.inputs[:: len(samples.inputs) // _PROBED or 1]
            self._ranges = self._model.ranges(samples.representative)
            self._uncovered = uncovered(self._ranges, self._model.ranges(probed))
        write_npz(folder / VECTORS, **samples.stored, **{f"rows.{name}": one for name, one in half.items()})
        (folder / PROVENANCE).write_text(
            f"# {about.name}\n\n{about.provenance}\n\nLicence: {about.licence}.\n\n"
            f"Ranges of int8 and held-out inputs: {samples.about}.\n"
        )

    def _step(self, what: str) -> None:
        self._bar.set_postfix_str(what)
        self._bar.update()

    def complete(self, gates: dict[str, Gate]) -> Built:
        """Quantize, prove, choose; write manifest and report."""
        runtimes = available_runtimes()
        kept: list[Variant] = []
        verdicts: list[Verdict] = []
        choices: list[str] = []
        uncovered_runtimes = set(runtimes)
        wanted, spare = _in_turn(self._about.precisions)
        for precision in wanted + spare:
            if precision in spare and not uncovered_runtimes:
                break
            self._step(precision)
            variant, found = self._prove(precision, runtimes, gates)
            verdicts += found
            passing = [name for name, one in zip(runtimes, found, strict=True) if one.passes]
            choices += [
                f"{precision} is not for {name}: {'; '.join(one.failures)}"
                for name, one in zip(runtimes, found, strict=True)
                if not one.passes
            ]
            if passing:
                kept.append(msgspec.structs.replace(variant, runtimes=passing))
                uncovered_runtimes -= set(passing)
                choices.append(f"{precision} is kept for {', '.join(passing)}")
            else:
                (self._folder / variant.file).unlink()
        if uncovered_runtimes and (not kept or AS_GIVEN not in wanted):
            left = ", ".join(sorted(uncovered_runtimes))
            raise GateError(
                f"{self._about.name}: nothing passes the gates on {left}, so nothing was "
                f"written: {' / '.join(choices)}; give more diverse representative data, or other bounds with --gate"
            )
        manifest = self._manifest(kept)
        (self._folder / MANIFEST).write_bytes(as_json(manifest))
        bundle = Bundle(self._folder, manifest)
        told = report(bundle, verdicts)
        if LABELS not in self._samples.stored:  # PROVENANCE.md tells of those that are made
            del told["labels"]
        told |= {"choices": choices, "ranges_not_covered": self._uncovered}
        (self._folder / REPORT).write_bytes(as_json(told))
        return Built(bundle, choices, self._uncovered)

    def _prove(self, precision: str, runtimes: list[str], gates: dict[str, Gate]) -> tuple[Variant, list[Verdict]]:
        """Write a variant's model and judge it on every runtime that is installed here."""
        content = self._model.quantized(precision, self._ranges)
        file = f"{self._about.name}.{precision}.tflite"
        (self._folder / file).write_bytes(content)
        given, made = (
            _quantization(content, self._model.batches[0]) if precision == "int8" else (self._input_grid, self._grids)
        )
        variant = Variant(
            file=file,
            sha256=hashlib.sha256(content).hexdigest(),
            precision=precision,
            runtimes=runtimes,
            input=given,
            outputs=made,
            signatures={f"batch_{batch}": batch for batch in self._model.batches},
        )
        bundle = Bundle(self._folder, self._manifest([variant]))
        return variant, [judge(bundle, variant, name, self._held_out, gates, timed=False) for name in runtimes]

    def _manifest(self, variants: list[Variant]) -> Manifest:
        about = self._about
        files = {name: hashlib.sha256((self._folder / name).read_bytes()).hexdigest() for name in (VECTORS, PROVENANCE)}
        return Manifest(
            schema=SCHEMA_VERSION,
            name=about.name,
            kind=about.kind,
            input=Tensor("pictures" if about.kind == "image" else "windows", list(about.shape)),
            features=list(about.features),
            outputs=self._outputs,
            preprocessing=about.preprocessing,
            licence=about.licence,
            files=files,
            variants=variants,
        )


def _in_turn(precisions: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the precisions that are wanted, in order, and those that are tried where none of them passes."""
    if AS_GIVEN in precisions:
        return [AS_GIVEN], []
    wanted = sorted(set(precisions), key=PRECISIONS.index)
    return wanted, [one for one in PRECISIONS[PRECISIONS.index(wanted[0]) :] if one not in wanted]


def float_outputs(network: Any, inputs: Any) -> list[F32]:
    """Return the outputs of a PyTorch network, float32 [n, ...] each, computed in double precision.

    Single precision, in which networks of files are computed, differs from processor to processor.
    """
    single = isinstance(network, NetworkFile)  # it may hold types that are written down
    exact = network if single else copy.deepcopy(network).double().eval()  # a traced network forgets its mode in a copy
    few = _FLOAT_BATCH if single else max(1, min(_FLOAT_BATCH, _FLOAT_VALUES // max(1, np.asarray(inputs[:1]).size)))
    batch = (network.batch if single else None) or few
    made: list[list[F32]] = []
    with torch.no_grad(), quiet(), _DepthwiseByShifts():
        for start in range(0, len(inputs), batch):
            some = np.asarray(inputs[start : start + batch], np.float32 if single else np.float64)
            padded = np.concatenate([some, np.zeros((batch - len(some), *some.shape[1:]), some.dtype)])
            given = torch.from_numpy(padded if single and network.batch else some)
            try:
                found = exact(given)
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise SourceError(
                    f"the network cannot take inputs of {list(given.shape)}: {first}; "
                    + (_OF_FILES if single else _OF_MODULES)
                ) from error
            tensors = found if isinstance(found, tuple | list) else (found,)
            if not all(isinstance(one, torch.Tensor) for one in tensors):
                raise SourceError(f"expected a tensor or a tuple of tensors from the network, found {type(found)}")
            made.append([one[: len(some)].float().numpy() for one in tensors])
    return [np.concatenate(parts) for parts in zip(*made, strict=True)]


_OF_FILES: Final = "check --output, or export it with the batch left open"
_OF_MODULES: Final = "check --input-shape, and make tensors with the type of the input, here in double precision"


class _DepthwiseByShifts(TorchFunctionMode):
    """Computes depthwise convolutions as sums of shifted products: ten times faster in double precision."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take the place of conv2d where every channel is a group of its own and there is no dilation."""
        if func is nnf.conv2d:
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            given: dict[str, Any] = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}
            given |= dict(zip(names, args, strict=False)) | (kwargs or {})
            pictures, weight = given["input"], given["weight"]
            if (
                given["groups"] == pictures.shape[1] == weight.shape[0] > 1
                and _pair(given["dilation"]) == (1, 1)
                and not isinstance(given["padding"], str)
            ):
                return _by_shifts(pictures, weight, given["bias"], _pair(given["stride"]), _pair(given["padding"]))
        return func(*args, **(kwargs or {}))


def _by_shifts(pictures: Any, weight: Any, bias: Any, stride: tuple[int, int], padding: tuple[int, int]) -> Any:
    (high, wide), (down, right) = weight.shape[2:], stride
    padded = nnf.pad(pictures, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (padded.shape[2] - high) // down + 1, (padded.shape[3] - wide) // right + 1
    out = torch.zeros(*pictures.shape[:2], rows, columns, dtype=pictures.dtype)
    for i in range(high):
        for j in range(wide):
            part = padded[:, :, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * right + 1 : right]
            out.addcmul_(part, weight[None, :, 0, i, j, None, None])
    return out if bias is None else out + bias[None, :, None, None]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


def _grid(output: F32) -> Quantization:
    """Return the int8 grid that holds an output's values: what embeddings are kept on where the model is not int8."""
    low, high = min(float(output.min()), 0.0), max(float(output.max()), 0.0)
    scale = float(np.float32((high - low) / 255 or 1.0))
    return Quantization(scale, int(np.clip(round(-128 - low / scale), -128, 127)))


def _quantization(content: bytes, batch: int) -> tuple[Quantization, list[Quantization]]:
    """Return the quantization of a full int8 model's input and outputs."""
    from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415  comes with the converter

    runner = Interpreter(model_content=content).get_signature_runner(f"batch_{batch}")
    outputs = runner.get_output_details()
    (given,) = runner.get_input_details().values()
    details = [given, *(outputs[name] for name in in_order(outputs))]
    made = [Quantization(float(d["quantization"][0]), int(d["quantization"][1])) for d in details]
    return made[0], made[1:]


def check_place(out: Path) -> None:
    """Raise FileExistsError unless a bundle may be put there: nothing is there, or a bundle and nothing else."""
    if not out.exists():
        return
    there = {path.name for path in out.iterdir()} if out.is_dir() else {out.name}
    try:
        manifest = msgspec.json.decode((out / MANIFEST).read_bytes(), type=dict[str, Any])
        own = {MANIFEST, REPORT, SIGNATURE, *manifest["files"], *(one["file"] for one in manifest["variants"])}
    except (OSError, msgspec.DecodeError, KeyError, TypeError):
        own = set()
    if there - own:
        raise FileExistsError(
            f"{out}: expected a new folder or that of an earlier bundle, found something else: "
            f"{', '.join(sorted(there - own)[:3])}; choose another with --out"
        )


def put_bundle(out: Path, folder: Path) -> None:
    """Put the new bundle in the place of what was there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        new.mkdir()  # with the rights that the user's folders have, unlike a temporary one
        for path in folder.iterdir():
            shutil.copyfile(path, new / path.name)
        if out.exists():
            out.rename(old)
        try:
            new.rename(out)
        except OSError:
            if old.exists():
                old.rename(out)
            raise
