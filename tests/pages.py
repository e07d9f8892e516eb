"""Files and commands that a page shows, as it shows them."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import runpy
import shlex
from pathlib import Path

PROGRAMS = {"redshank": "agent.cli", "redshank-convert": "converter.cli"}
OWN = Path(__file__).parents[1] / "docs" / "own-encoder.md"


def files_of(page):
    """Return the files of a page, by name: each the block behind a line that begins with its name."""
    return dict(re.findall(r"^`([\w.]+)`[^\n]*:\n\n```\w+\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL))


def commands_of(page):
    """Return the lines of each block of commands of a page, each as a list of words."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    return [[shlex.split(line) for line in block.splitlines()] for block in blocks]


def run(words, folder):
    """Run a command of a page in a folder, in this process; return what it prints. AssertionError if it fails."""
    program, *arguments = words
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        if program == "python":
            runpy.run_path(*arguments)
        else:
            code = importlib.import_module(PROGRAMS[program]).main(arguments)
            assert code == 0, (words, code, printed.getvalue())
    return printed.getvalue()
