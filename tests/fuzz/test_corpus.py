"""Every target on its seeds, and on what fuzzing found and kept; `make fuzz` looks for more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_but_a_rejection_comes_of_rubbish(target):
    kept = [one.read_bytes() for one in sorted((CORPUS / target).glob("*"))]
    inputs = [*SEEDS[target](), *kept]
    assert inputs
    run = TARGETS[target]()
    for data in inputs:
        run(data)
