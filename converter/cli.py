"""The command `redshank-convert`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent.errors import RedshankError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit code: 0, 1 for a file, 2 for usage, 78 for a bundle or a missing package."""
    parser = argparse.ArgumentParser(prog="redshank-convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    encoder = commands.add_parser("encoder", help="build the bundle of a known encoder")
    encoder.add_argument("name")
    encoder.add_argument("--out", type=Path, help="folder to write; default: ./NAME")
    train = commands.add_parser("pretrain", help="pretrain the sensor encoder on generated streams")
    train.add_argument("--out", type=Path, required=True, help="weights to write (.npz)")
    train.add_argument("--episodes", type=int, default=28000)
    train.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    try:
        if options.command == "encoder":
            return _encoder(options.name, options.out or Path(options.name))
        from converter.pretrain.train import pretrain  # noqa: PLC0415  needs torch

        figures = pretrain(options.out, episodes=options.episodes, seed=options.seed)
        sys.stdout.write(json.dumps(figures) + "\n")
    except ModuleNotFoundError as error:
        sys.stderr.write(f"{error.name} is not installed; pip install 'redshank[converter]' (Python 3.11)\n")
        return 78
    except RedshankError as error:
        sys.stderr.write(f"{error}\n")
        return 78
    except OSError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _encoder(name: str, out: Path) -> int:
    from converter.build import build  # noqa: PLC0415  heavy
    from converter.recipes import RECIPES  # noqa: PLC0415  with it

    if name not in RECIPES:
        sys.stderr.write(f"expected one of {', '.join(RECIPES)}, found {name!r}\n")
        return 2
    bundle = build(RECIPES[name], out)
    sys.stdout.write(f"{bundle.path}: {(bundle.path / 'report.json').read_text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
