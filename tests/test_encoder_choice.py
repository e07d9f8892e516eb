from __future__ import annotations

import logging
from contextlib import closing

import msgspec
import pytest

from agent import encoder_choice
from agent.adapters.store import Store
from agent.adapters.tflite import available_runtimes, installed_runtimes
from agent.app import load_encoders
from agent.bundle import find_bundle
from agent.config import load_configuration
from agent.encoder_choice import (
    Choice,
    Measured,
    best,
    choice_of,
    chosen,
    read_choices,
    this_machine,
    write_choices,
)
from agent.encoder_trial import CallCost, Trial, Tried, cores

BUNDLE = find_bundle("sensor-small")
(VARIANT,) = BUNDLE.manifest.variants
DIGESTS = [VARIANT.sha256]
RUNTIMES = installed_runtimes()


def trial(ms, threads=1, *, batch=32, runtime=RUNTIMES[-1], error=None):
    tried = None if error else Tried(runtime, 1, "", [CallCost(1, 9, 1.0, 1.0, 1.0), CallCost(batch, 9, ms, ms, ms)])
    return Trial(VARIANT.file, VARIANT.sha256, "int8", runtime.split()[0], threads, tried, error)


def a_choice(**changed):
    whole = Choice("sensor-small", DIGESTS, VARIANT.file, RUNTIMES[0], cores(), 0.1)
    return msgspec.structs.replace(whole, **changed)


def measured(choice, **changed):
    return msgspec.structs.replace(Measured(1, this_machine(), RUNTIMES, [choice]), **changed)


def test_the_fastest_is_best_and_a_second_core_has_to_pay():
    fast, slow, broken = trial(1.0), trial(2.0), trial(0.1, error="it ended")
    assert best([slow, fast, broken]) is fast
    assert best([broken]) is None
    assert best([fast, barely := trial(0.75, threads=2)]) is fast
    assert best([barely, fast, pays := trial(0.7, threads=2)]) is pays
    assert best([pays, fast, trial(0.51, threads=4)]) is pays


def test_a_choice_is_what_was_tried():
    assert choice_of(BUNDLE, trial(3.2, threads=2)) == Choice(
        "sensor-small", DIGESTS, VARIANT.file, RUNTIMES[-1], 2, 0.1
    )


def test_what_is_written_is_read_and_others_that_hold_are_kept(tmp_path, monkeypatch):
    assert read_choices(tmp_path) is None
    first, other = a_choice(), a_choice(bundle="other")
    path = write_choices(tmp_path, [first, other])
    assert read_choices(tmp_path) == Measured(1, this_machine(), RUNTIMES, [first, other])
    assert path.stat().st_mode & 0o777 == 0o644
    newer = a_choice(ms=0.05)
    write_choices(tmp_path, [newer])
    assert read_choices(tmp_path).choices == [other, newer]
    monkeypatch.setattr(encoder_choice, "this_machine", lambda: "another")
    write_choices(tmp_path, [first])
    assert read_choices(tmp_path) == Measured(1, "another", RUNTIMES, [first])
    assert [one.name for one in tmp_path.iterdir()] == ["encoders.json"]


def test_nothing_is_left_and_nothing_lost_where_it_cannot_be_written(tmp_path, monkeypatch):
    write_choices(tmp_path, [a_choice()])

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(encoder_choice.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_choices(tmp_path, [a_choice(ms=1.0)])
    assert [one.name for one in tmp_path.iterdir()] == ["encoders.json"]
    assert read_choices(tmp_path).choices == [a_choice()]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "Input data was truncated"),
        (b'{"schema": 1}', "missing required field"),
        (b"\xff\xfe", "malformed"),
        (msgspec.json.encode(Measured(2, "", [], [])), "of schema 2"),
    ],
)
def test_a_file_that_cannot_be_understood_is_not_heeded(content, says, tmp_path, caplog):
    (tmp_path / "encoders.json").write_bytes(content)
    assert read_choices(tmp_path) is None
    assert says in caplog.text
    assert "is not heeded" in caplog.text


def test_a_file_that_cannot_be_read_is_not_heeded(tmp_path, caplog):
    (tmp_path / "encoders.json").mkdir()
    assert read_choices(tmp_path) is None
    assert "Is a directory" in caplog.text


def test_a_choice_that_holds_is_heeded_without_a_word(caplog):
    assert chosen(measured(a_choice()), BUNDLE) == a_choice()
    assert chosen(None, BUNDLE) is None
    assert chosen(measured(a_choice(bundle="other")), BUNDLE) is None
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("changed", "whole", "says"),
    [
        ({}, {"machine": "an abacus"}, "of another machine (an abacus; this is "),
        ({}, {"runtimes": ["ai-edge-litert 0.1"]}, "of other runtimes (ai-edge-litert 0.1; here are "),
        ({"variants": ["0" * 64]}, {}, "of another version of the bundle"),
        ({"file": "other.tflite"}, {}, "of what cannot be here: other.tflite on "),
        ({"runtime": "ai-edge-litert 0.1"}, {}, "of what cannot be here: "),
        ({"threads": cores() + 1}, {}, f"with {cores() + 1} threads"),
        ({"threads": 0}, {}, "with 0 threads"),
    ],
)
def test_a_choice_that_no_longer_holds_is_not_heeded_and_told(changed, whole, says, caplog):
    with caplog.at_level(logging.WARNING):
        assert chosen(measured(a_choice(**changed), **whole), BUNDLE) is None
    (record,) = caplog.records
    assert record.message.startswith("what was measured for encoder sensor-small is not heeded: it is ")
    assert says in record.message


def test_a_machine_is_told_by_its_model_or_else_its_processor(tmp_path):
    (tmp_path / "model").write_bytes(b"Raspberry Pi 4 Model B Rev 1.2\0")
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nprocessor\t: 1\n")
    assert ", Raspberry Pi 4 Model B Rev 1.2, " in this_machine(tmp_path / "model", tmp_path / "cpuinfo")
    assert ", Some CPU @ 2 GHz, " in this_machine(tmp_path / "none", tmp_path / "cpuinfo")
    assert ", unknown processor, " in this_machine(tmp_path / "none", tmp_path / "none")


@pytest.fixture
def configuration(tmp_path):
    path = tmp_path / "redshank.yaml"
    path.write_text("streams:\n  - {name: pump, topic: plant/pump, kind: sensor}\n")
    return load_configuration(path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_agent_loads_what_was_measured_and_keeps_it_when_the_file_no_longer_holds(
    configuration, tmp_path, runtime, caplog
):
    write_choices(tmp_path, [a_choice(runtime=runtime)])
    with closing(Store(tmp_path)) as store:
        (loaded,) = load_encoders(configuration, store).values()
        assert loaded.runtime == runtime
        write_choices(tmp_path, [a_choice(runtime=runtime, variants=["0" * 64])])
        (loaded,) = load_encoders(configuration, store).values()
    assert loaded.runtime == runtime
    assert "of another version of the bundle" in caplog.text
    assert runtime.split()[0] in available_runtimes()
