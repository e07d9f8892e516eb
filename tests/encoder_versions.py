"""Versions of the shipped encoder of readings, for tests that replace one by another."""

from __future__ import annotations

import hashlib
import importlib
import json
from functools import cache
from pathlib import Path

import numpy as np

from agent.adapters.tflite import available_runtimes
from agent.bundle import ENCODERS

SHIPPED = ENCODERS / "sensor-small"
MODEL = "sensor-small.int8.tflite"
# LiteRT looks through a file first, and tflite-runtime ends the process.
DEADLY_ENDS = "its process ended with -" if "tflite-runtime" in available_runtimes() else "cannot load this model"
GOOD, BAD = 3, 0x55  # what some bytes of the weights are changed by: a little, or beyond recognition


def make_version(path: Path, change: int = 0) -> Path:
    """Write a bundle like the shipped one to a folder that may be there; its model is changed, and its digests right.

    Files are written beside and renamed, the manifest last, as a careful copy would.
    """
    path.mkdir(parents=True, exist_ok=True)
    model = bytearray((SHIPPED / MODEL).read_bytes())
    begin, end = _weights(bytes(model))
    for place in range(begin, end, 4):
        model[place] ^= change
    manifest = json.loads((SHIPPED / "manifest.json").read_bytes())
    manifest["variants"][0]["sha256"] = hashlib.sha256(model).hexdigest()
    files = {one.name: one.read_bytes() for one in SHIPPED.iterdir() if one.is_file()}
    files |= {MODEL: bytes(model), "manifest.json": json.dumps(manifest).encode()}
    for name in sorted(files, key=lambda name: (name == "manifest.json", name)):
        beside = path / f".{name}"
        beside.write_bytes(files[name])
        beside.replace(path / name)
    return path


def make_deadly(path: Path) -> Path:
    """Write a bundle whose digests are right, and whose model ends the process that loads it (DEADLY_ENDS)."""
    make_version(path)
    seal(path, MODEL, b"\xff\xff\xff\xffTFL3" + bytes(1000))  # its first table is said to lie 4 GB further on
    return path


def seal(path: Path, name: str, content: bytes) -> None:
    """Put other content into a file of a bundle's folder, and its digest into the manifest."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_bytes())
    digest = hashlib.sha256(content).hexdigest()
    if name == MODEL:
        manifest["variants"][0]["sha256"] = digest
    else:
        manifest["files"][name] = digest
    (path / "manifest.json").write_text(json.dumps(manifest))


@cache
def _weights(model: bytes) -> tuple[int, int]:
    """Return where the largest constant of a model lies in its file."""
    module = importlib.import_module(f"{available_runtimes()[0].replace('-', '_')}.interpreter")
    interpreter = module.Interpreter(model_content=model)
    interpreter.allocate_tensors()
    found = []
    for one in interpreter.get_tensor_details():
        if one["dtype"] is np.int8:
            try:
                content = interpreter.get_tensor(one["index"]).tobytes()
            except ValueError:  # no constant: LiteRT keeps nothing of what lies between two delegated operators
                continue
            found.append((len(content), model.find(content), one["name"]))
    size, begin, _ = max(one for one in found if one[1] > 0)
    return begin, begin + size


def version_in(path: Path) -> str:
    """Return the digest of the model of a bundle's folder, as messages tell it."""
    return json.loads((path / "manifest.json").read_bytes())["variants"][0]["sha256"][:12]
