"""Opens a figure, or says what is missing: matplotlib comes with the extra `bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agent.errors import RedshankError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # told apart by all


class MissingPackageError(RedshankError):
    """A package of the extra `bench` is not installed."""


def missing_package(error: ImportError, what: str) -> MissingPackageError:
    """Return the one sentence that helps."""
    return MissingPackageError(f"{what} needs {error.name}, which is not installed: pip install 'redshank[bench]'")


def pyplot() -> Any:
    """Return matplotlib.pyplot that draws into files. Raises MissingPackageError."""
    try:
        import matplotlib as mpl  # noqa: PLC0415  only plots need it
    except ImportError as error:
        raise missing_package(error, "--plots") from error
    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    plt.rcParams.update({"font.size": 9, "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False})
    return plt


def save(figure: Any, folder: Path, name: str) -> None:
    """Write NAME.png and NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"{name}.{suffix}", dpi=150, bbox_inches="tight")
