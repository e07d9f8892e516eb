"""Verification as a user runs it, with what the agent needs and nothing else."""

from __future__ import annotations

import hashlib
import json

import msgspec
import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import Model

from agent.adapters.tflite import available_runtimes
from agent.bundle import find_bundle, read_model
from converter.cli import main
from converter.gates import GATES, GateError, apply, with_bounds
from converter.verify import report, verify
from tests.converter.conftest import TORCH

FULLY_CONNECTED = 9
RANKING = ("cosine_mean", "cosine_p01", "overlap", "spearman_neighbours", "spearman_gaussian", "tail_shift")


def with_operator_version(content, version):
    """Return a model whose fully connected operator is said to be of another version."""
    model = Model.GetRootAs(content)
    (code,) = [one for one in map(model.OperatorCodes, range(model.OperatorCodesLength()))
               if one.BuiltinCode() == FULLY_CONNECTED]  # fmt: skip
    where = code._tab.Pos + code._tab.Offset(8)
    return content[:where] + version.to_bytes(4, "little") + content[where + 4 :]


# Where PyTorch is, test_build.py rebuilds the other one, and its report with it.
@pytest.fixture(scope="module", params=["sensor-small", *([] if TORCH else ["efficientnet-lite0"])])
def shipped(request):
    """Return a shipped bundle and the verdicts on it."""
    bundle = find_bundle(request.param)
    return bundle, list(verify(bundle, GATES, timed=False))


def test_what_ships_passes_on_every_runtime_that_is_installed_here(shipped):
    bundle, verdicts = shipped
    assert {one.runtime.split()[0] for one in verdicts} == set(available_runtimes())
    assert {one.file for one in verdicts} == {variant.file for variant in bundle.manifest.variants}
    assert [one.failures for one in verdicts] == [[]] * len(verdicts)


def test_the_shipped_report_says_what_is_found_here(shipped):
    bundle, verdicts = shipped
    written = json.loads((bundle.path / "report.json").read_text())
    for file, variant in report(bundle, verdicts)["variants"].items():
        for runtime, found in variant["runtimes"].items():
            expected = written["variants"][file]["runtimes"][runtime]
            assert found["passes"] is expected["passes"] is True
            for rows, figures in found["rows"].items():
                for figure, value in figures.items():
                    assert value == pytest.approx(expected["rows"][rows][figure], abs=0.02), (rows, figure)


def test_the_command_prints_every_gate_writes_the_report_and_ends_with_0(capsys, tmp_path):
    assert main(["verify", "sensor-small", "--report", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    for figure in GATES:
        assert f" {figure}" in out, figure
    assert f"{len(available_runtimes())} passed, 0 failed the gates" in out
    written = json.loads((tmp_path / "report.json").read_text())["variants"]["sensor-small.int8.tflite"]
    for runtime in written["runtimes"].values():
        assert {"ms_1", "ms_32", "memory_mb", "size_mb"} <= set(runtime)
        assert 0 < runtime["ms_1"] < runtime["ms_32"]


def impossible(figure):
    return f"{figure}={2.0 if GATES[figure].at_least else -2.0}"


def test_the_command_ends_with_1_when_gates_fail_and_names_each(capsys):
    assert main(["verify", "sensor-small", *(f"--gate={impossible(figure)}" for figure in GATES)]) == 1
    out = capsys.readouterr().out
    for figure in GATES:
        assert f"FAIL {'embedding ' if figure in RANKING or figure == 'auroc_loss' else ''}{figure} " in out
    assert f"0 passed, {len(available_runtimes())} failed the gates" in out


@pytest.fixture(scope="module")
def timed():
    """Return a verdict on what ships, with times and memory."""
    return next(iter(verify(find_bundle("sensor-small"), GATES, timed=True)))


@pytest.mark.parametrize("figure", GATES)
def test_one_gate_that_fails_is_enough_and_no_other_does(timed, figure):
    assert timed.passes
    results = apply(with_bounds([impossible(figure)]), timed.measured)
    failing = msgspec.structs.replace(timed, results=results)
    assert not failing.passes
    assert [one.gate.figure for one in failing.results if not one.passes] == [figure]


def test_one_runtime_can_be_asked_for(capsys):
    runtime = available_runtimes()[-1]
    assert main(["verify", "sensor-small", "--runtime", runtime]) == 0
    assert "1 passed, 0 failed" in capsys.readouterr().out
    assert main(["verify", "sensor-small", "--runtime", "tensorflow"]) == 78
    assert (
        "expected a variant for tensorflow, found variants for ai-edge-litert, tflite-runtime"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("bound", ["cosine=1", "overlap", "overlap=much", "=1"])
def test_a_gate_that_there_is_not_is_an_error_that_lists_those_there_are(bound):
    with pytest.raises(GateError, match=r"--gate: expected FIGURE=NUMBER with one of cosine_mean, .*, found"):
        with_bounds([bound])


def test_a_figure_that_is_no_number_passes_no_gate():
    assert not any(gate.passes(float("nan")) for gate in GATES.values())


def test_embeddings_of_another_network_fail_all_that_is_said_of_ranking(copy_of):
    def spoil(manifest, folder):
        with np.load(folder / "vectors.npz") as stored:
            made = {name: stored[name] for name in stored.files}
        made["rows.embedding"] = np.random.default_rng(0).permutation(made["rows.embedding"])
        np.savez(folder / "vectors.npz", **made)
        manifest["files"]["vectors.npz"] = hashlib.sha256((folder / "vectors.npz").read_bytes()).hexdigest()

    for verdict in verify(copy_of("sensor-small", spoil), GATES, timed=False):
        failed = {result.gate.figure for result in verdict.results if not result.passes}
        assert failed >= set(RANKING)


def test_an_operator_too_new_for_the_last_tflite_runtime_fails_its_gate_there(copy_of):
    def spoil(manifest, folder):
        (variant,) = manifest["variants"]
        content = with_operator_version((folder / variant["file"]).read_bytes(), 12)
        (folder / variant["file"]).write_bytes(content)
        variant["sha256"] = hashlib.sha256(content).hexdigest()

    verdicts = {one.runtime.split()[0]: one for one in verify(copy_of("sensor-small", spoil), GATES, timed=False)}
    assert verdicts["ai-edge-litert"].passes
    assert verdicts["ai-edge-litert"].oldest_runtime == "ai-edge-litert"
    if "tflite-runtime" in verdicts:
        failed = verdicts["tflite-runtime"]
        assert "FULLY_CONNECTED version 12 is not in tflite-runtime 2.14.0" in failed.failures[0]
        assert "operators_missing <= 0, found 1" in failed.failures


def test_a_file_that_was_changed_never_reaches_a_runtime(tmp_path, capsys):
    source = find_bundle("sensor-small")
    for path in source.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with (tmp_path / "vectors.npz").open("ab") as file:
        file.write(b"x")
    assert main(["verify", f"{tmp_path}"]) == 78
    assert "vectors.npz: expected sha256" in capsys.readouterr().err


def test_inspect_shows_manifest_operators_and_the_oldest_runtime(capsys):
    assert main(["inspect", "efficientnet-lite0"]) == 0
    out = capsys.readouterr().out
    bundle = find_bundle("efficientnet-lite0")
    for variant in bundle.manifest.variants:
        assert variant.sha256 in out
        assert len(read_model(bundle, variant)) > 2_000_000
    assert "DEPTHWISE_CONV_2D        version 1   x 15   since TensorFlow Lite 1.5.0" in out
    assert "what int8-weights asks for besides: DEQUANTIZE version 5, 2.7.0" in out
    assert out.count("oldest runtime: ") == 2


def test_a_bundle_that_there_is_not_is_an_error(capsys):
    assert main(["inspect", "nothing"]) == 78
    assert "installed: efficientnet-lite0, sensor-small" in capsys.readouterr().err
