from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent import encoder_trial
from agent.adapters.tflite import available_runtimes, installed_runtimes
from agent.bundle import Bundle, find_bundle
from agent.encoder_trial import Ask, attempt, combinations, cores, in_process, trials
from agent.errors import BundleError

BUNDLE = find_bundle("sensor-small")
(VARIANT,) = BUNDLE.manifest.variants
RUNTIME = available_runtimes()[-1]


def test_a_real_encoder_is_tried_in_a_process_of_its_own():
    found = in_process(BUNDLE, VARIANT, RUNTIME, seconds=0.02)
    assert found.runtime in installed_runtimes()
    assert 0.1e6 < found.memory_bytes < 100e6
    assert [one.batch for one in found.calls] == [1, 32]
    for one in found.calls:
        assert one.calls >= 1
        assert 0 < one.low_ms <= one.median_ms <= one.high_ms


def test_that_process_finds_our_modules_where_we_found_them(tmp_path):
    """As in Debian's package, whose program alone knows where they are."""
    root = str(Path(encoder_trial.__file__).parents[1])
    program = f"""
import sys
sys.path.insert(0, {root!r})
from agent.bundle import find_bundle
from agent.encoder_trial import in_process
bundle = find_bundle("sensor-small")
print(in_process(bundle, bundle.manifest.variants[0], {RUNTIME!r}).runtime)
"""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", program], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() in installed_runtimes()


def test_calls_are_timed_for_as_long_as_was_asked_and_at_least_once():
    short = attempt(Ask(str(BUNDLE.path), VARIANT.file, RUNTIME, 1, 0.0))
    assert [one.calls for one in short.calls] == [1, 1]
    longer = attempt(Ask(str(BUNDLE.path), VARIANT.file, RUNTIME, 1, 0.3))
    assert longer.calls[0].calls > 5


def test_every_runtime_and_number_of_threads_is_tried():
    found = [(runtime, variant.file, threads) for runtime, variant, threads in combinations(BUNDLE, [1, 2])]
    assert found == [(runtime, VARIANT.file, threads) for runtime in available_runtimes() for threads in (1, 2)]
    assert cores() >= 1


class Meter:
    source = "a meter"

    def __init__(self, joules):
        self.each, self.samples = joules, 0

    def begin(self):
        self.samples = 0

    def sample(self):
        self.samples += 1

    def joules(self):
        if self.each is None:
            raise OSError("it went away")
        return self.each * self.samples


@pytest.mark.parametrize(("joules", "expected"), [(0.002, 2.0), (None, None)])
def test_energy_is_told_for_each_call_as_long_as_there_is_something_that_tells(joules, expected, monkeypatch):
    monkeypatch.setattr(encoder_trial, "find_meter", lambda: (Meter(joules), "a meter"))
    found = attempt(Ask(str(BUNDLE.path), VARIANT.file, RUNTIME, 1, 0.01))
    assert found.energy == "a meter"
    assert [one.energy_mj for one in found.calls] == [expected and pytest.approx(expected)] * 2


@pytest.fixture
def pretend(tmp_path, monkeypatch):
    """Return a function that puts a shell command in the place of Python."""

    def make(command):
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{command}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return make


def test_what_cannot_be_loaded_is_told_by_its_process(tmp_path):
    shutil.copytree(BUNDLE.path, tmp_path, dirs_exist_ok=True)
    (tmp_path / VARIANT.file).write_bytes(b"of another content")
    with pytest.raises(BundleError, match=r"its process ended with 1: .*expected sha256 .* is corrupt"):
        in_process(Bundle(tmp_path, BUNDLE.manifest), VARIANT, RUNTIME)


def test_a_process_that_ends_is_told_and_the_next_is_tried(pretend):
    pretend(f'test -e $0.once && exec {sys.executable} "$@"; touch $0.once; kill -9 $$')
    first, second = trials(BUNDLE, [1, 1], 0.0) if len(available_runtimes()) == 1 else list(trials(BUNDLE, [1], 0.0))
    assert first.tried is None
    assert first.error.endswith("its process ended with -9: without a word")
    assert (second.error, second.tried.runtime.split()[0]) == (None, second.runtime)


def test_a_process_that_cannot_begin_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    with pytest.raises(BundleError, match=r"expected a process to try it in, found none \(No such file"):
        in_process(BUNDLE, VARIANT, RUNTIME)


def test_a_process_that_never_answers_is_given_up(pretend, monkeypatch):
    monkeypatch.setattr(encoder_trial, "_PATIENCE_S", 0.2)
    pretend("exec sleep 600")
    with pytest.raises(BundleError, match="expected an answer within 0 s, found none"):
        in_process(BUNDLE, VARIANT, RUNTIME)


def test_a_variant_that_is_not_in_the_bundle_is_named():
    with pytest.raises(BundleError, match=r"expected the variant other\.tflite, found none of that name"):
        attempt(Ask(str(BUNDLE.path), "other.tflite", RUNTIME, 1, 0.0))
