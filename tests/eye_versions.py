"""Small encoders of pictures, for tests that change one for another."""

from __future__ import annotations

import shutil
from pathlib import Path

from agent.bundle import load_bundle

EYES = Path(__file__).parent / "eyes"


def eye(name: str) -> Path:
    """Return the bundle of one of the two that lie in `eyes`, a zip: `first` or `second`."""
    return EYES / f"{name}.zip"


def put_eye(path: Path, name: str) -> Path:
    """Put one of them in the place of a zip that may be there, as a careful copy would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}")
    shutil.copyfile(eye(name), beside)
    beside.replace(path)
    return path


def eye_version(name: str) -> str:
    """Return the digest of the model of one of them, as messages tell it."""
    return load_bundle(eye(name)).manifest.variants[0].sha256[:12]
