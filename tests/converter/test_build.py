"""What ships is what the stored weights give."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from numpy.core._multiarray_umath import __cpu_dispatch__, __cpu_features__

from agent.adapters.tflite import available_runtimes, load_encoder
from agent.bundle import ENCODERS, load_bundle
from converter.build import build, cosine_to_float
from converter.recipes import RECIPES

# The frameworks warn of one another.
pytestmark = [pytest.mark.converter, pytest.mark.filterwarnings("ignore")]
SHIPPED = ENCODERS / "sensor-small"
# The code that an old processor would run, instead of what this one can.
OLD_PROCESSOR = {
    "NPY_DISABLE_CPU_FEATURES": " ".join(one for one in __cpu_dispatch__ if __cpu_features__[one]),
    "ATEN_CPU_CAPABILITY": "default",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
}


@pytest.mark.parametrize("environment", [{}, OLD_PROCESSOR], ids=["this processor", "an old processor"])
def test_the_shipped_bundle_is_rebuilt_byte_for_byte(convert, environment, tmp_path):
    out = tmp_path / "sensor-small"
    done = convert("encoder", "sensor-small", "--out", out, **environment)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {path.name for path in SHIPPED.iterdir()}
    for path in out.iterdir():
        assert path.read_bytes() == (SHIPPED / path.name).read_bytes(), path.name
    where, report = done.stdout.split(": ", 1)
    assert where == str(out)
    assert json.loads(report) == json.loads((SHIPPED / "report.json").read_text())


def test_other_weights_give_another_model_and_a_bundle_that_loads(tmp_path):
    recipe = RECIPES["sensor-small"]
    with np.load(recipe.weights) as stored:
        changed = {name: stored[name] * np.float32(1.1) for name in stored.files}
    np.savez(tmp_path / "weights.npz", **changed)
    other = type(recipe)(
        **{**{f: getattr(recipe, f) for f in recipe.__struct_fields__}, "weights": tmp_path / "weights.npz"}
    )
    bundle = build(other, tmp_path / "other")
    assert load_bundle(tmp_path / "other") == bundle
    (variant,) = bundle.manifest.variants
    assert variant.sha256 == hashlib.sha256((bundle.path / variant.file).read_bytes()).hexdigest()
    assert variant.sha256 != load_bundle(SHIPPED).manifest.variants[0].sha256


def test_both_runtimes_are_measured_against_the_float_network():
    bundle = load_bundle(SHIPPED)
    report = json.loads((SHIPPED / "report.json").read_text())
    assert set(report) == set(available_runtimes()) == {"tflite-runtime", "ai-edge-litert"}
    for runtime, figures in report.items():
        assert cosine_to_float(bundle, runtime) == figures["cosine"]
        assert figures["cosine"]["mean"] > 0.999
        assert figures["cosine"]["p01"] > 0.999


@pytest.mark.parametrize("runtime", ["tflite-runtime", "ai-edge-litert"])
def test_distances_to_the_nearest_come_in_the_order_of_the_float_network(runtime):
    with np.load(SHIPPED / "vectors.npz") as vectors:
        inputs, expected = vectors["inputs"], vectors["embeddings"]
    found = load_encoder(load_bundle(SHIPPED), runtime).encode(inputs)

    def ranks(embedded):
        distances = np.sort(np.linalg.norm(embedded[:, None] - embedded[None], axis=2), axis=1)
        return distances[:, 1:6].mean(axis=1).argsort().argsort()

    assert np.corrcoef(ranks(found), ranks(expected))[0, 1] > 0.99
