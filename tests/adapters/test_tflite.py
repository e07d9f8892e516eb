from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import Model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agent.adapters.tflite import TfliteEncoder, available_runtimes, load_encoder, seconds_per_window
from agent.bundle import Bundle, Quantization, find_bundle, read_model
from agent.errors import BundleError

SHIPPED = find_bundle("sensor-small")
(VARIANT,) = SHIPPED.manifest.variants
MODEL = read_model(SHIPPED, VARIANT)
FULLY_CONNECTED = 9  # its number in the TFLite schema

every_runtime = pytest.mark.parametrize("runtime", available_runtimes())


@pytest.fixture(scope="module")
def encoders():
    return {name: load_encoder(SHIPPED, name) for name in available_runtimes()}


def windows(count, seed=0):
    """Windows as streams give them, some values outside what int8 can hold."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (count, SHIPPED.manifest.length, 2)).astype(np.float32)


def bundle_of(folder, *, model=MODEL, variant=None, **manifest):
    """Return a bundle with the right digest for whatever model it holds."""
    changed = {"sha256": hashlib.sha256(model).hexdigest(), **(variant or {})}
    (folder / VARIANT.file).write_bytes(model)
    variants = [msgspec.structs.replace(VARIANT, **changed)]
    return Bundle(folder, msgspec.structs.replace(SHIPPED.manifest, variants=variants, **manifest))


def with_operator_version(version, operator=FULLY_CONNECTED):
    """Return the shipped model, its operator said to be of another version."""
    model = Model.GetRootAs(MODEL)
    codes = [model.OperatorCodes(index) for index in range(model.OperatorCodesLength())]
    (code,) = [one for one in codes if one.BuiltinCode() == operator]
    where = code._tab.Pos + code._tab.Offset(8)  # slot of `version`; stored, as it is not the default 1
    assert int.from_bytes(MODEL[where : where + 4], "little") == code.Version() != version
    return MODEL[:where] + version.to_bytes(4, "little") + MODEL[where + 4 :]


def test_every_runtime_that_there_is_for_this_python_is_here_to_be_tested():
    assert available_runtimes() == ["tflite-runtime", "ai-edge-litert"][sys.version_info >= (3, 12) :]


@every_runtime
def test_an_encoder_tells_what_it_is(encoders, runtime):
    encoder = encoders[runtime]
    assert re.fullmatch(rf"{runtime} \d+\.\d+\.\d+", encoder.runtime)
    assert (encoder.name, encoder.digest) == ("sensor-small", VARIANT.sha256)
    assert (encoder.length, encoder.dim) == (64, 32)
    assert (encoder.output_step, encoder.output_offset) == (VARIANT.output.scale, VARIANT.output.zero_point)


@every_runtime
def test_any_number_of_windows_is_encoded_as_one_by_one_bit_for_bit(encoders, runtime):
    encoder, given = encoders[runtime], windows(70)
    one_by_one = np.concatenate([encoder.encode(given[i : i + 1]) for i in range(70)])
    for count in range(71):
        found = encoder.encode(given[:count])
        assert (found.dtype, found.shape) == (np.float32, (count, 32))
        np.testing.assert_array_equal(found, one_by_one[:count])


@every_runtime
def test_what_was_encoded_before_leaves_no_trace(encoders, runtime):
    encoder, given = encoders[runtime], windows(40)
    expected = encoder.encode(given[:3])
    encoder.encode(windows(40, seed=1) * 10)
    np.testing.assert_array_equal(encoder.encode(given[:3]), expected)


@every_runtime
def test_neither_its_input_nor_an_earlier_answer_is_changed(encoders, runtime):
    encoder, given = encoders[runtime], windows(5)
    first, copy = encoder.encode(given), given.copy()
    kept = first.copy()
    encoder.encode(windows(5, seed=1))
    np.testing.assert_array_equal(given, copy)
    np.testing.assert_array_equal(first, kept)


@every_runtime
def test_embeddings_are_whole_steps_of_the_output(encoders, runtime):
    encoder = encoders[runtime]
    steps = encoder.encode(windows(50)) / encoder.output_step + encoder.output_offset
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
    assert steps.min() >= -128.001
    assert steps.max() <= 127.001
    assert len(np.unique(np.rint(steps))) > 20


@every_runtime
def test_different_windows_have_different_embeddings(encoders, runtime):
    found = encoders[runtime].encode(windows(50))
    assert len(np.unique(found, axis=0)) == 50


@every_runtime
def test_embeddings_are_those_of_the_network_before_it_was_quantized(encoders, runtime):
    vectors = np.load(SHIPPED.path / "vectors.npz")
    expected, found = vectors["embeddings"], encoders[runtime].encode(vectors["inputs"])
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    assert len(expected) > 100
    assert ((expected * found).sum(axis=1) / norms).min() > 0.99


@settings(max_examples=50)
@given(arrays(np.float32, (2, 64, 2), elements=st.floats(-100, 100, width=32)))
def test_all_runtimes_agree_within_one_step_of_the_output(encoders, given):
    found = [encoder.encode(given) for encoder in encoders.values()]
    assert np.abs(found[0] - found[-1]).max() <= 1.001 * VARIANT.output.scale


@every_runtime
def test_values_beyond_what_int8_can_hold_are_clipped(encoders, runtime):
    low = (-128 - VARIANT.input.zero_point) * VARIANT.input.scale
    high = (127 - VARIANT.input.zero_point) * VARIANT.input.scale
    given = windows(10) * 100
    encoder = encoders[runtime]
    np.testing.assert_array_equal(encoder.encode(given), encoder.encode(np.clip(given, low, high)))


@every_runtime
def test_a_named_runtime_is_taken_even_if_slower(runtime):
    assert load_encoder(SHIPPED, runtime).runtime.startswith(f"{runtime} ")


def test_threads_change_no_result(encoders):
    for runtime, encoder in encoders.items():
        given = windows(40)
        np.testing.assert_array_equal(
            load_encoder(SHIPPED, runtime, num_threads=2).encode(given), encoder.encode(given)
        )


SPOILED = {
    "truncated": MODEL[: len(MODEL) // 2],
    "random": np.random.default_rng(0).bytes(5000),
    "empty": b"",
    "text": b"version https://git-lfs.github.com/spec/v1\n",
}


@every_runtime
@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_spoiled_model_never_reaches_a_runtime(tmp_path, runtime, spoiled):
    bundle = bundle_of(tmp_path, model=SPOILED[spoiled], variant={"sha256": VARIANT.sha256})
    with pytest.raises(BundleError, match=rf"^{tmp_path}/{VARIANT.file}: expected sha256 .* found .* is corrupt"):
        load_encoder(bundle, runtime)


@every_runtime
@pytest.mark.parametrize("spoiled", ["random", "empty", "text"])
def test_what_is_no_model_is_an_error_that_names_the_file_whatever_its_digest(tmp_path, runtime, spoiled):
    with pytest.raises(
        BundleError, match=rf"^{tmp_path}/{VARIANT.file}: expected a TFLite model, found something else"
    ):
        load_encoder(bundle_of(tmp_path, model=SPOILED[spoiled]), runtime)


def test_a_model_that_the_runtime_finds_fault_with_is_an_error_that_names_file_and_runtime(tmp_path):
    with pytest.raises(
        BundleError, match=rf"^{tmp_path}/{VARIANT.file}: ai-edge-litert \S+ cannot load this model: \S"
    ):
        load_encoder(bundle_of(tmp_path, model=SPOILED["truncated"]), "ai-edge-litert")


@every_runtime
@pytest.mark.parametrize(
    "keys",
    [
        {"length": 32},
        {"features": ["value"]},
        {"dim": 16},
        {"variant": {"signatures": {"batch_1": 1, "batch_8": 9}}},
        {"variant": {"signatures": {"batch_1": 2, "batch_32": 32}}},
    ],
)
def test_a_manifest_of_another_shape_is_an_error_that_tells_both(tmp_path, runtime, keys):
    with pytest.raises(
        BundleError, match=rf"{VARIANT.file}: expected int8 \(.*\), found int8 \(.*, 64, 2\) to int8 .*"
    ):
        load_encoder(bundle_of(tmp_path, **keys), runtime)


@every_runtime
def test_a_signature_that_the_model_lacks_is_an_error_that_names_it(tmp_path, runtime):
    with pytest.raises(BundleError, match=rf"{VARIANT.file}: expected the signatures batch_7, found batch_1, "):
        load_encoder(bundle_of(tmp_path, variant={"signatures": {"batch_7": 7}}), runtime)


@every_runtime
def test_an_operator_too_new_for_the_runtime_is_named_with_its_version_and_the_remedy(tmp_path, runtime):
    with pytest.raises(BundleError) as caught:
        load_encoder(bundle_of(tmp_path, model=with_operator_version(99)), runtime)
    message = str(caught.value)
    assert message.startswith(
        f"{tmp_path}/{VARIANT.file}: the operator FULLY_CONNECTED version 99 is not in {runtime} "
    )
    assert "pip install 'redshank[litert]'" in message
    assert "\n" not in message


def test_the_first_error_is_told_where_no_runtime_can_load_a_model(tmp_path):
    with pytest.raises(BundleError, match=f"is not in {available_runtimes()[0]}"):
        load_encoder(bundle_of(tmp_path, model=with_operator_version(99)))


def test_where_no_runtime_is_installed_the_error_says_what_to_install(tmp_path):
    for name in ("tflite_runtime", "ai_edge_litert"):
        (tmp_path / f"{name}.py").write_text("raise ImportError\n")
    code = """
from agent.adapters.tflite import available_runtimes, load_encoder
from agent.bundle import find_bundle
from agent.errors import BundleError
print(available_runtimes())
for runtime in (None, "ai-edge-litert"):
    try:
        load_encoder(find_bundle("sensor-small"), runtime)
    except BundleError as error:
        print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert found.stdout.splitlines() == [
        "[]",
        "expected a TFLite runtime, found none; pip install ai-edge-litert",
        "expected the runtime ai-edge-litert, found none; pip install ai-edge-litert",
    ]


def test_input_is_quantized_with_the_manifests_scale(tmp_path):
    quantization = Quantization(2 * VARIANT.input.scale, VARIANT.input.zero_point)
    coarse = load_encoder(bundle_of(tmp_path, variant={"input": quantization}))
    given = windows(5)
    np.testing.assert_array_equal(coarse.encode(2 * given), load_encoder(SHIPPED).encode(given))


def test_an_encoder_is_made_for_one_runtime():
    encoder = TfliteEncoder(SHIPPED, VARIANT, available_runtimes()[0])
    assert encoder.runtime.startswith(available_runtimes()[0])


if len(available_runtimes()) > 1:  # elsewhere there is nothing to choose from

    def test_the_fastest_of_the_installed_runtimes_is_taken(encoders):
        fastest, slowest = sorted(encoders.values(), key=seconds_per_window)
        assert 2 * seconds_per_window(fastest) < seconds_per_window(slowest)  # far enough apart for the next line
        assert load_encoder(SHIPPED).runtime == fastest.runtime

    def test_a_model_too_new_for_one_runtime_runs_on_the_other(tmp_path):
        bundle = bundle_of(tmp_path, model=with_operator_version(12))
        with pytest.raises(BundleError, match="FULLY_CONNECTED version 12 is not in tflite-runtime"):
            load_encoder(bundle, "tflite-runtime")
        assert load_encoder(bundle).runtime.startswith("ai-edge-litert ")
