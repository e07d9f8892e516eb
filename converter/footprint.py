"""Prints the resident memory, in bytes, that loading and running a model adds: a process of its own."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np

from agent.adapters.tflite import TfliteModel, available_runtimes
from agent.bundle import load_bundle


def resident_bytes() -> int:
    """Return this process's resident memory, in bytes (Linux: proc(5), statm)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure the variant that the arguments name: bundle, file, runtime."""
    folder, file, runtime = sys.argv[1:]
    bundle = load_bundle(Path(folder))
    (variant,) = (one for one in bundle.manifest.variants if one.file == file)
    available_runtimes()  # imports them
    before = resident_bytes()
    model = TfliteModel(bundle, variant, runtime)
    for batch in model.batches:
        model.run(np.zeros((batch, *model.shape), np.float32))
    sys.stdout.write(f"{max(0, resident_bytes() - before)}\n")


if __name__ == "__main__":
    main()
