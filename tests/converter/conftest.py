"""Tests that need PyTorch are collected only where it is; elsewhere the end of the run says how to run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

# Read when numpy and torch are loaded, here and in what is started from here. Where something else is busy too, threads
# that wait for one another take ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import msgspec
import numpy as np
import pytest

from agent.bundle import MANIFEST, find_bundle, load_bundle

NEED_TORCH = [
    "test_build.py",
    "test_finetune.py",
    "test_network_files.py",
    "test_onnx_graph.py",
    "test_own_encoder.py",
    "test_page.py",
    "test_quantize.py",
    "test_representative.py",
    "test_sources.py",
    "test_spoiled.py",
    "test_tflite_file.py",
    *(f"pretrain/test_{name}.py" for name in ("batch", "network", "objective", "train")),
]
# What a user might bring, in mine.py.
MODULE = """
import torch

class Mine(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.dense = torch.nn.Linear(128, 16)

    def forward(self, windows):
        return self.dense(windows.flatten(1))

class Cumulative(torch.nn.Module):
    def forward(self, windows):
        return torch.cumprod(windows.flatten(1), 1)[:, :8]

def pictures():
    torch.manual_seed(2)
    return torch.nn.Sequential(Last(), torch.nn.Conv2d(3, 8, 8, stride=8), torch.nn.ReLU6(), First())

class Last(torch.nn.Module):
    def forward(self, x):
        return x.permute(0, 3, 1, 2) / 255

class First(torch.nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1)
"""
TORCH = importlib.util.find_spec("torch") is not None
ROOT = Path(__file__).parents[2]

collect_ignore = [] if TORCH else NEED_TORCH


@pytest.fixture(scope="session")
def convert():
    """Return a function that runs `redshank-convert` as a process and returns it, ended, with its output."""

    def run(*arguments, cwd=ROOT, **environment):
        return subprocess.run(
            [sys.executable, "-m", "converter.cli", *map(str, arguments)],
            cwd=cwd, env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.fixture
def copy_of(tmp_path):
    """Return a function that copies a bundle and lets its manifest, a dict, be changed on the way."""

    def make(name, change=lambda *_: None):
        source = find_bundle(str(name))
        folder = tmp_path / "copy"
        folder.mkdir()
        for path in source.path.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        manifest = msgspec.json.decode((folder / MANIFEST).read_bytes())
        change(manifest, folder)
        (folder / MANIFEST).write_bytes(msgspec.json.encode(manifest))
        return load_bundle(folder)

    return make


@pytest.fixture
def beside(tmp_path, monkeypatch):
    """Return the folder in which one is, with a user's own modules."""
    (tmp_path / "mine.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def streams_of(count, streams=3, dim=16, seed=0):
    """Return rows of several streams, float32 [streams * count, dim], and which stream each belongs to."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 5, (streams, 1, dim))
    rows = centres + rng.normal(0, 1, (streams, count, dim)) * rng.uniform(0.2, 2, dim)
    return rows.reshape(-1, dim).astype(np.float32), np.repeat(np.arange(streams), count)


def pytest_terminal_summary(terminalreporter):
    if not TORCH:
        terminalreporter.section("left to another command")
        for name in NEED_TORCH:
            terminalreporter.line(f"tests/converter/{name}")
        terminalreporter.line(
            "These need PyTorch and the quantizer, in an environment of their own: make test-converter"
        )
