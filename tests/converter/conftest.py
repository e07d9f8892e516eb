"""Tests that need PyTorch are collected only where it is; elsewhere the end of the run says how to run them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

NEED_TORCH = ["test_build.py", "test_quantize.py", "pretrain/test_network.py", "pretrain/test_train.py"]
TORCH = importlib.util.find_spec("torch") is not None
ROOT = Path(__file__).parents[2]

collect_ignore = [] if TORCH else NEED_TORCH


@pytest.fixture(scope="session")
def convert():
    """Return a function that runs `redshank-convert` as a process and returns it, ended, with its output."""

    def run(*arguments, **environment):
        return subprocess.run(
            [sys.executable, "-m", "converter.cli", *map(str, arguments)],
            cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def pytest_terminal_summary(terminalreporter):
    if not TORCH:
        terminalreporter.section("left to another command")
        for name in NEED_TORCH:
            terminalreporter.line(f"tests/converter/{name}")
        terminalreporter.line(
            "These need PyTorch and the quantizer, in an environment of their own: make test-converter"
        )
