from __future__ import annotations

import subprocess
import sys

import pytest

from converter.cli import main
from converter.recipes import RECIPES
from tests.converter.conftest import ROOT


def test_an_unknown_encoder_is_answered_with_those_there_are(capsys):
    assert main(["encoder", "sensor-smal"]) == 2
    assert capsys.readouterr().err == f"expected one of {', '.join(RECIPES)}, found 'sensor-smal'\n"


@pytest.mark.parametrize(
    "arguments", [[], ["decoder"], ["encoder"], ["pretrain"], ["pretrain", "--out", "x", "--seed", "y"]]
)
def test_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: redshank-convert" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["encoder sensor-small", "pretrain"])
def test_without_its_packages_it_names_the_one_missing_and_how_to_get_it(command, tmp_path):
    without = "import sys; sys.modules['torch'] = None; from converter.cli import main; sys.exit(main(sys.argv[1:]))"
    found = subprocess.run(
        [sys.executable, "-c", without, *command.split(), "--out", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 78
    assert found.stderr == "torch is not installed; pip install 'redshank[converter]' (Python 3.11)\n"
    assert not (tmp_path / "out").exists()
