from __future__ import annotations

import re

import pytest

from agent.bundle import find_bundle
from converter.cli import main
from converter.gates import GATES, with_bounds
from converter.page import page
from converter.verify import verify

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def verdicts():
    return list(verify(find_bundle("sensor-small"), with_bounds(["overlap=1.5"]), timed=False))


def test_the_page_shows_every_gate_and_draws_float_against_quantized_scores(verdicts):
    made = page(find_bundle("sensor-small"), verdicts)
    assert made.count("<svg") == len(verdicts)
    for gate in GATES.values():
        if gate.figure not in {"ms_1", "ms_32", "memory_mb"}:  # these were not asked for
            assert gate.meaning.replace("'", "&#39;") in made
    assert "at least 1.5" in made
    assert re.search(r'<span class="fails">fails</span>', made)


def test_the_page_needs_nothing_from_elsewhere(verdicts):
    made = page(find_bundle("sensor-small"), verdicts)
    assert not re.search(r'(src|href)="(?!#)', made.replace("xlink:", ""))
    assert "<script" not in made


def test_what_a_bundle_says_of_itself_is_no_markup(copy_of, verdicts):
    bundle = copy_of("sensor-small", lambda manifest, _: manifest.update(licence="<script>alert(1)</script>"))
    made = page(bundle, verdicts)
    assert "<script" not in made
    assert "&lt;script&gt;" in made


def test_the_command_writes_it(tmp_path, capsys):
    assert main(["verify", "sensor-small", "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
    assert "passed" in capsys.readouterr().out
