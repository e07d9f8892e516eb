"""Each gate fails on a bundle that was spoiled for it, and passes on one that was not."""

from __future__ import annotations

import functools
import json
import shutil

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from agent.bundle import load_bundle
from converter.build import About, build
from converter.gates import GATES, GateError, with_bounds
from converter.quantize import FloatModel
from converter.ranking import Population
from converter.recipes import RECIPES, SCALED, SENSOR
from converter.representative import generated_windows
from converter.sources import SourceError
from converter.verify import verify

pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
RUNTIMES = ["tflite-runtime", "ai-edge-litert"]
RANKING = [name for name in GATES if name.startswith(("cosine", "overlap", "spearman", "tail", "auroc"))]
ANYTHING = {name: msgspec.structs.replace(gate, bound=-9e9 if gate.at_least else 9e9) for name, gate in GATES.items()}


def about(name="spoiled", precisions=("int8",), batches=(1, 8, 32)):
    return About(name, "sensor", (64, 2), SENSOR, ("embedding",), SCALED, "none", "a test", precisions, batches)


@pytest.fixture(scope="module")
def samples():
    return generated_windows(64)


@pytest.fixture(scope="module")
def network():
    return RECIPES["sensor-small"].network((64, 2), None)


@pytest.fixture(scope="module", autouse=True)
def converted_once():
    """Convert a network once, however many bundles are made of it; test_quantize.py shows that each time is alike."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FloatModel, "of_network", functools.cache(FloatModel.of_network))
        yield


@pytest.fixture(scope="module")
def of_narrow_ranges(samples, network, tmp_path_factory):
    """Return the shipped encoder, its int8 ranges taken from windows in which nothing happens."""
    calm = msgspec.structs.replace(samples, representative=samples.representative * np.float32(0.03))
    return build(about(), network, calm, tmp_path_factory.mktemp("narrow") / "bundle", ANYTHING).bundle


@pytest.fixture(scope="module")
def honest(samples, network, tmp_path_factory):
    return build(about("honest"), network, samples, tmp_path_factory.mktemp("honest") / "bundle", GATES).bundle


def failed(bundle, gates=GATES, *, timed=False):
    """Return the figures that fail on any runtime."""
    return {
        result.gate.figure
        for verdict in verify(bundle, gates, timed=timed)
        for result in verdict.results
        if not result.passes
    }


def test_nothing_fails_where_nothing_was_spoiled(honest):
    assert failed(honest) == set()


def test_ranges_of_calm_data_fail_every_gate_of_the_ranking(of_narrow_ranges):
    assert failed(of_narrow_ranges) >= set(RANKING)


class Wide(nn.Module):
    """Too many weights for what it does: 9 MB."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(128, 17000), nn.Linear(17000, 8)

    def forward(self, windows):
        return self.last(torch.relu(self.first(windows.flatten(1))))


class Broad(nn.Module):
    """Few weights, and activations of 6 MB each."""

    def forward(self, windows):
        large = windows.reshape(-1, 1, 16, 8).repeat(1, 64, 8, 24)
        return torch.relu(large).mean(dim=(2, 3))[:, :16] + windows.flatten(1)[:, :16]


class Slow(nn.Module):
    """Few weights, used 75 million times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(2)])

    def forward(self, windows):
        large = windows.reshape(-1, 1, 16, 8).repeat(1, 16, 8, 16)
        return self.layers(large).mean(dim=(2, 3)) + windows.flatten(1)[:, :16]


@pytest.fixture
def made(samples, tmp_path):
    """Return a function that makes a float32 bundle of a network, whatever its gates say."""
    few = samples.population.stream < 2
    population = Population(*(getattr(samples.population, name)[few] for name in ("stream", "reference", "odd")))
    some = msgspec.structs.replace(
        samples,
        representative=samples.representative[:32],  # a float32 model takes no ranges
        inputs=samples.inputs[few],
        population=population,
        stored={name: array[few] for name, array in samples.stored.items()},
    )
    return lambda network: (
        build(about(precisions=("float32",), batches=(1,)), network.eval(), some, tmp_path / "made", ANYTHING).bundle
    )


BOUNDS = ["size_mb=1", "memory_mb=9", "ms_1=0.8", "ms_32=25"]  # what the shipped encoder keeps easily


@pytest.mark.parametrize(
    ("network_of", "figures"), [(Wide, {"size_mb"}), (Broad, {"memory_mb"}), (Slow, {"ms_1", "ms_32"})]
)
def test_a_model_that_asks_too_much_fails_the_gate_that_says_so(made, network_of, figures):
    assert figures <= failed(made(network_of()), with_bounds(BOUNDS), timed=True)


def test_the_shipped_encoder_keeps_the_same_bounds(honest):
    assert failed(honest, with_bounds(BOUNDS), timed=True) == set()


def test_where_full_int8_costs_ranking_what_is_less_lossy_is_taken_and_explained(samples, network, tmp_path):
    calm = msgspec.structs.replace(samples, representative=samples.representative * np.float32(0.03))
    built = build(about(), network, calm, tmp_path / "bundle", GATES)
    variants = built.bundle.manifest.variants
    assert variants[0].precision == "int8-dynamic"
    assert "int8" not in {variant.precision for variant in variants}
    assert {runtime for variant in variants for runtime in variant.runtimes} == set(RUNTIMES)
    assert any("int8 is not for tflite-runtime: embedding cosine_mean" in choice for choice in built.choices)
    assert built.choices[-1].startswith(f"{variants[-1].precision} is kept for ")
    assert built.uncovered
    told = json.loads((built.bundle.path / "report.json").read_text())
    assert told["choices"] == built.choices
    assert told["ranges_not_covered"] == built.uncovered
    assert not (built.bundle.path / "spoiled.int8.tflite").exists()
    assert not any(one.failures for one in verify(load_bundle(built.bundle.path), GATES, timed=False))


def test_nothing_is_written_and_nothing_replaced_where_nothing_passes(samples, network, honest, tmp_path):
    out = tmp_path / "bundle"
    shutil.copytree(honest.path, out)
    kept = load_bundle(out)
    impossible = with_bounds(["overlap=1.5"])
    with pytest.raises(GateError, match="nothing passes the gates on ai-edge-litert, tflite-runtime, so nothing was"):
        build(about(), network, samples, out, impossible)
    assert load_bundle(out) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_folder_that_holds_something_else_is_left_alone(samples, network, tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("Dear")
    with pytest.raises(FileExistsError, match="expected a new folder or that of an earlier bundle"):
        build(about(), network, samples, tmp_path / "letters", GATES)
    assert (tmp_path / "letters" / "dear.txt").read_text() == "Dear"


def test_a_bundle_with_the_users_own_notes_and_another_manifest_are_left_alone(samples, network, honest, tmp_path):
    notes = tmp_path / "notes"
    shutil.copytree(honest.path, notes)
    (notes / "notes.txt").write_text("mine")
    site = tmp_path / "site"
    site.mkdir()
    (site / "manifest.json").write_text('{"name": "a web page"}')
    for place in (notes, site):
        with pytest.raises(FileExistsError, match="choose another with --out"):
            build(about(), network, samples, place, GATES)
    assert (notes / "notes.txt").read_text() == "mine"
    assert (site / "manifest.json").exists()


class Flat(nn.Module):
    def forward(self, windows):
        return windows.flatten(1).sum(dim=1)


def test_an_output_that_cannot_be_proven_is_refused(samples, tmp_path):
    with pytest.raises(SourceError, match=r"expected outputs \[batch, dim\] or .*, found \[360\]"):
        build(about(), Flat(), samples, tmp_path / "flat", GATES)


@pytest.mark.parametrize("name", ["../x", "a/b", "", "-x"])
def test_a_name_that_is_no_file_name_is_refused_before_anything_is_done(samples, network, tmp_path, name):
    with pytest.raises(SourceError, match="expected a name of letters"):
        build(about(name), network, samples, tmp_path / "out", GATES)
