"""The command `redshank-convert`. Exit codes: 0; 1 a gate failed, or a file; 2 usage; 78 bundle, network or package."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from agent.bundle import find_bundle
from agent.errors import RedshankError
from converter.gates import GATES, GateError, with_bounds
from converter.quantize import PRECISIONS

if TYPE_CHECKING:
    from converter.build import Built

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_CONFIGURATION: Final = 78
_EXTRAS: Final = ("onnx", "keras")  # of one source each, named after their package
_TOLD: Final = 3  # ranges not covered that are printed


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    top = argparse.ArgumentParser(
        prog="redshank-convert", description="Makes encoder bundles, and proves that they rank neighbours as before."
    )
    top.add_argument("--version", action="version", version=f"redshank-convert {version('redshank')}")
    commands = top.add_subparsers(dest="command", required=True)
    encoder = commands.add_parser("encoder", help="build the bundle of a known encoder")
    encoder.add_argument("name", help="one of the recipes; see docs/encoders.md")
    encoder.add_argument("--weights", type=Path, help="file with other weights: torch.save, .safetensors or .npz")
    encoder.add_argument("--input-size", type=int, metavar="PIXELS", help="side of the pictures it takes")
    own = _own_parsers(commands)
    for command in (encoder, *own):
        command.add_argument("--out", type=Path, help="folder to write; default: ./NAME")
        command.add_argument(
            "--representative", type=Path, metavar="PATH", help="folder of pictures, or a recording (.jsonl, .csv)"
        )
        command.add_argument(
            "--anomalous", type=Path, metavar="PATH", help="the same of what is anomalous: labels of your own"
        )
        command.add_argument("--config", type=Path, help="the configuration that the recordings belong to")
        command.add_argument("--stream", help="the stream that a CSV recording belongs to")
        command.add_argument(
            "--precision",
            action="append",
            choices=PRECISIONS,
            help="a variant that is wanted; may be given several times; default: the recipe's",
        )
    verify = commands.add_parser(
        "verify", help="compare a bundle with its float encoder on the runtimes installed here"
    )
    verify.add_argument("bundle", help="folder, zip, or the name of an installed one")
    verify.add_argument("--runtime", help="only this one")
    verify.add_argument("--report", type=Path, metavar="FILE.json", help="write all figures")
    verify.add_argument(
        "--html", type=Path, metavar="FILE.html", help="write a page with float against quantized scores"
    )
    for command in (encoder, *own, verify):
        command.add_argument(
            "--gate", action="append", default=[], metavar="FIGURE=NUMBER", help=f"another bound: {', '.join(GATES)}"
        )
    inspect = commands.add_parser("inspect", help="show manifest and operators, and the oldest runtime that has them")
    inspect.add_argument("bundle", help="folder, zip, or the name of an installed one")
    keygen = commands.add_parser("keygen", help="make a key pair (Ed25519) to sign bundles with")
    keygen.add_argument("key", type=Path, help="new file for the private key; the public one is printed")
    sign = commands.add_parser("sign", help="sign a bundle, so that agents with encoders.trusted_keys load it")
    sign.add_argument("bundle", type=Path, help="folder or zip; its files are checked first")
    sign.add_argument("--key", type=Path, required=True, help="the private key")
    train = commands.add_parser("pretrain", help="pretrain the sensor encoder on generated streams")
    train.add_argument("--out", type=Path, required=True, help="weights to write (.npz)")
    train.add_argument("--episodes", type=int, help="default: 1600000 on a GPU, 44000 (the reduced form) without one")
    train.add_argument("--reduced", action="store_true", help="the reduced form on a GPU too")
    train.add_argument("--device", choices=["cpu", "cuda"], help="default: the GPU where there is one")
    train.add_argument("--seed", type=int, default=1)
    train.add_argument("--held-out", type=int, default=300, help="streams to try the network on; default: 300")
    _finetune_parser(commands)
    return top


def _finetune_parser(commands: Any) -> None:
    tuned = commands.add_parser("finetune", help="adapt the sensor encoder to recorded normal data of your own streams")
    tuned.add_argument(
        "--recording",
        type=Path,
        required=True,
        metavar="FILE",
        help="of normal data: .jsonl of `redshank record`, .csv",
    )
    tuned.add_argument("--config", type=Path, required=True, help="the configuration that the recording belongs to")
    tuned.add_argument("--stream", help="only this one; the one that a CSV recording belongs to")
    tuned.add_argument("--time-column", default="time", metavar="NAME", help="of a CSV recording; default: time")
    tuned.add_argument("--out", type=Path, help="folder to write; default: ./sensor-small-tuned")
    tuned.add_argument("--name", help="the bundle's name; default: that of the folder")
    tuned.add_argument("--loss", choices=["episodes", "triplets"], help="default: what does better on the validation")
    tuned.add_argument("--steps", type=int, default=200, help="of each loss; default: 200")
    tuned.add_argument("--minutes", type=float, default=5.0, help="the losses end after 0.6 of them; default: 5")
    tuned.add_argument("--seed", type=int, default=1)
    tuned.add_argument(
        "--gate", action="append", default=[], metavar="FIGURE=NUMBER", help=f"another bound: {', '.join(GATES)}"
    )


def _own_parsers(commands: Any) -> list[argparse.ArgumentParser]:
    """Add the commands that build bundles of what the user brings; return them."""
    module = commands.add_parser("module", help="build the bundle of your own PyTorch module")
    module.add_argument("source", metavar="PACKAGE:CALLABLE", help="a module, or a function that makes one")
    module.add_argument(
        "--input-shape",
        required=True,
        type=_shape,
        help="of one input: LENGTH,2 for sensors, ROWS,COLUMNS,3 for pictures",
    )
    files = [commands.add_parser(name, help=f"build the bundle of {what}") for name, what in _FILES.items()]
    for file in files:
        file.add_argument("source", type=Path, metavar="FILE")
        file.add_argument(
            "--output",
            action="append",
            default=[],
            metavar="NAME",
            help="a tensor to take, of those within; may be given several times; default: what the network gives",
        )
        for option, what in (
            ("mean", "subtracted from pictures of 0 to 255"),
            ("deviation", "they are divided by then"),
        ):
            file.add_argument(f"--{option}", metavar="NUMBER[,NUMBER,NUMBER]", help=f"{what}; default: as they are")
    for command in (module, *files):
        command.add_argument("--name", help="the bundle's name; default: that of the source")
        command.add_argument("--licence", default="not stated", help="of the weights, for the manifest")
    return [module, *files]


def _shape(text: str) -> tuple[int, ...]:
    try:
        shape = tuple(int(one) for one in text.split(","))
    except ValueError:
        shape = ()
    *sides, features = shape or (0,)
    if len(sides) not in {1, 2} or min(shape) < 1 or features != len(shape) or sides[0] != sides[-1]:
        raise argparse.ArgumentTypeError(f"expected LENGTH,2 or ROWS,COLUMNS,3 of a square picture, found {text!r}")
    return shape


_FILES: Final = {
    "tflite": "a TFLite file",
    "program": "an exported PyTorch program (torch.export.save)",
    "onnx": "an ONNX file",
    "keras": "a file that Keras 3 can load (.keras, .h5)",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code."""
    options = parser().parse_args(arguments)
    try:
        code: int = _COMMANDS[options.command](options)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = f",{package}" if package in _EXTRAS else ""
        sys.stderr.write(f"{package} is not installed; pip install 'redshank[converter{extra}]' (Python 3.11)\n")
        return EXIT_CONFIGURATION
    except GateError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    except RedshankError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILED
    return code


def _encoder(options: argparse.Namespace) -> int:
    from converter.recipes import RECIPES  # noqa: PLC0415  with it

    recipe = RECIPES.get(options.name)
    if recipe is None:
        return _usage(f"expected one of {', '.join(RECIPES)}, found {options.name!r}")
    shape = recipe.shape
    if options.input_size is not None:
        if not recipe.sizes or options.input_size < 32 or options.input_size % recipe.sizes:  # noqa: PLR2004  a picture
            expected = (
                f"a multiple of {recipe.sizes} from 32 on" if recipe.sizes else f"none: {recipe.name} has its own"
            )
            return _usage(f"--input-size: expected {expected}, found {options.input_size}")
        shape = (options.input_size, options.input_size, 3)
    from converter.build import About, build  # noqa: PLC0415  heavy
    from converter.own import samples_of  # noqa: PLC0415  heavy

    gates = with_bounds(options.gate)
    weights = options.weights
    about = About(
        **{name: getattr(recipe, name) for name in About.__struct_fields__ if name not in {"precisions", "shape"}},
        shape=shape,
        precisions=tuple(options.precision or recipe.precisions),
    )
    if weights is not None:  # what is said of the recipe's own weights would be false of these
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        about = msgspec.structs.replace(
            about,
            licence="not stated",
            provenance=f"The network of {recipe.name} with the weights of {weights.name}, sha256 {digest}.",
        )
    network = recipe.network(shape, weights)
    built = build(about, network, samples_of(options, recipe.kind, shape), options.out or Path(recipe.name), gates)
    return _told(built)


def _own(options: argparse.Namespace) -> int:
    from converter.own import COMMANDS, build_own  # noqa: PLC0415  heavy

    gates = with_bounds(options.gate)
    return _told(build_own(COMMANDS[options.command](options), options, gates))


def _finetune(options: argparse.Namespace) -> int:
    from converter.finetune.command import finetune  # noqa: PLC0415  needs torch

    return _told(finetune(options, with_bounds(options.gate)))


def _told(built: Built) -> int:
    size = sum(path.stat().st_size for path in built.bundle.path.iterdir())
    for choice in built.choices:
        sys.stdout.write(f"{choice}\n")
    for phrase in built.uncovered[:_TOLD]:
        sys.stdout.write(f"range not covered by the representative data: {phrase}\n")
    if len(built.uncovered) > _TOLD:
        sys.stdout.write(f"... and {len(built.uncovered) - _TOLD} more, in report.json\n")
    sys.stdout.write(
        f"{built.bundle.path}: {size} bytes; `redshank-convert verify {built.bundle.path}` measures it here\n"
    )
    return 0


def _usage(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return EXIT_USAGE


def _verify(options: argparse.Namespace) -> int:
    from converter.verify import as_json, lines, report, verify  # noqa: PLC0415  the runtime is loaded only where needed

    gates = with_bounds(options.gate)
    bundle = _found(options.bundle)
    page: Any = None
    if options.html is not None:
        try:
            from converter.page import page  # noqa: PLC0415  needs the extra `report`
        except ModuleNotFoundError as error:
            sys.stderr.write(f"{error.name} is not installed; pip install 'redshank[report]'\n")
            return EXIT_CONFIGURATION
    verdicts = []
    for verdict in verify(bundle, gates, timed=True, runtime=options.runtime):
        verdicts.append(verdict)
        sys.stdout.write("".join(f"{line}\n" for line in lines(verdict)))
        sys.stdout.flush()
    if options.report is not None:
        options.report.write_bytes(as_json(report(bundle, verdicts)))
    if page is not None:
        options.html.write_text(page(bundle, verdicts))
    failed = [one for one in verdicts if not one.passes]
    sys.stdout.write(f"{bundle.manifest.name}: {len(verdicts) - len(failed)} passed, {len(failed)} failed the gates\n")
    return EXIT_FAILED if failed else 0


def _found(name: str) -> Any:
    """Return the bundle of that name or at that path: what exists here comes first."""
    return find_bundle(f"./{name}" if "/" not in name and Path(name).exists() else name)


def _inspect(options: argparse.Namespace) -> int:
    from agent.bundle import read_model  # noqa: PLC0415  as above
    from converter.operators import oldest_runtime, operators_of, required  # noqa: PLC0415  as above
    from converter.verify import as_json  # noqa: PLC0415  as above

    bundle = _found(options.bundle)
    sys.stdout.write(as_json(bundle.manifest).decode())
    for variant in bundle.manifest.variants:
        operators = operators_of(read_model(bundle, variant))
        sys.stdout.write(f"\n{variant.file} ({variant.precision}), for {', '.join(variant.runtimes)}\n")
        for one in operators:
            since = f"since TensorFlow Lite {one.release}" if one.release else "not in the table of releases"
            sys.stdout.write(f"  {one.name:<24} version {one.version:<3} x {one.count:<4} {since}\n")
        for one in required(variant.precision):
            sys.stdout.write(
                f"  what {variant.precision} asks for besides: {one.name} version {one.version}, {one.release}\n"
            )
        oldest = oldest_runtime([*operators, *required(variant.precision)])
        sys.stdout.write(f"  oldest runtime: {oldest}\n")
    return 0


def _keygen(options: argparse.Namespace) -> int:
    from agent.signing import generate_key  # noqa: PLC0415  needs the extra `signing`

    sys.stdout.write(f"{generate_key(options.key)}\n")
    return 0


def _sign(options: argparse.Namespace) -> int:
    from agent.bundle import sign_bundle  # noqa: PLC0415  with it

    sys.stdout.write(f"{options.bundle}: signed; {sign_bundle(options.bundle, options.key)} checks it\n")
    return 0


def _pretrain(options: argparse.Namespace) -> int:
    from converter.pretrain.train import EPISODES, pretrain  # noqa: PLC0415  needs torch

    episodes = EPISODES if options.reduced and options.episodes is None else options.episodes
    figures = pretrain(
        options.out, episodes=episodes, seed=options.seed, held_out=options.held_out, device=options.device
    )
    sys.stdout.write(json.dumps(figures) + "\n")
    return 0


_COMMANDS: Final = {
    "encoder": _encoder,
    "module": _own,
    **dict.fromkeys(_FILES, _own),
    "verify": _verify,
    "inspect": _inspect,
    "keygen": _keygen,
    "sign": _sign,
    "pretrain": _pretrain,
    "finetune": _finetune,
}

if __name__ == "__main__":
    sys.exit(main())
