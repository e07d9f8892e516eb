from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile

import msgspec
import numpy as np
import pytest
from ai_edge_litert.schema_py_generated import Model
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agent.adapters import tflite
from agent.adapters.tflite import (
    TfliteEncoder,
    TfliteModel,
    available_runtimes,
    candidates,
    load_encoder,
    seconds_per_window,
)
from agent.bundle import Bundle, Quantization, Tensor, find_bundle, read_model
from agent.errors import BundleError

SHIPPED = find_bundle("sensor-small")
(VARIANT,) = SHIPPED.manifest.variants
(OUTPUT,) = VARIANT.outputs
MODEL = read_model(SHIPPED, VARIANT)
PICTURES = find_bundle("efficientnet-lite0")
FULLY_CONNECTED = 9  # its number in the TFLite schema

every_runtime = pytest.mark.parametrize("runtime", available_runtimes())


@pytest.fixture(scope="module")
def encoders():
    return {name: load_encoder(SHIPPED, name) for name in available_runtimes()}


def windows(count, seed=0):
    """Windows as streams give them, some values outside what int8 can hold."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (count, SHIPPED.manifest.input.shape[0], 2)).astype(np.float32)


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
    assert (encoder.output_step, encoder.output_offset) == (OUTPUT.scale, OUTPUT.zero_point)


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
    expected = vectors["rows.embedding"].astype(np.float32)
    found = encoders[runtime].encode(vectors["inputs"].astype(np.float32))
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(found, axis=1)
    assert len(expected) > 100
    cosine = (expected * found).sum(axis=1) / norms
    assert np.quantile(cosine, 0.01) > 0.99
    assert np.abs(found - expected).mean() < 0.005 * np.ptp(expected)  # cosines say little of embeddings near 0


@settings(max_examples=50)
@given(arrays(np.float32, (2, 64, 2), elements=st.floats(-100, 100, width=32)))
def test_runtimes_never_differ_by_more_than_a_few_steps_of_the_output(encoders, given):
    found = [encoder.encode(given) for encoder in encoders.values()]
    assert np.abs(found[0] - found[-1]).max() <= 4.001 * OUTPUT.scale  # of 2.7 million windows, two differed by 3


def test_all_runtimes_agree_within_one_step_of_the_output_but_for_a_few_values(encoders):
    found = [encoder.encode(windows(5000)) for encoder in encoders.values()]
    steps = np.rint(np.abs(found[0] - found[-1]) / OUTPUT.scale)
    assert (steps > 0).mean() < 0.05
    assert (steps > 1).mean() < 0.001


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
        {"input": Tensor("windows", [32, 2])},
        {"input": Tensor("windows", [64, 1])},
        {"outputs": [Tensor("embedding", [16])]},
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


@every_runtime
@pytest.mark.parametrize("variant", PICTURES.manifest.variants, ids=lambda variant: variant.precision)
def test_pictures_become_maps_whatever_the_variant_and_the_type_of_the_input(runtime, variant):
    model = TfliteModel(PICTURES, variant, runtime)
    pictures = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    found = model.run(pictures)
    assert [(one.dtype, one.shape) for one in found] == [
        (np.float32, (2, 14, 14, 112)),
        (np.float32, (2, 7, 7, 192)),
    ]
    for a, b in zip(found, model.run(pictures.astype(np.float32)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(found[1][0], found[1][1])


def test_variants_of_one_bundle_say_nearly_the_same():
    pictures = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    loaded = [TfliteModel(PICTURES, variant, "ai-edge-litert") for variant in PICTURES.manifest.variants]
    for a, b in zip(*(model.run(pictures) for model in loaded), strict=True):
        assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.97


@every_runtime
def test_any_number_of_pictures_becomes_maps_as_one_by_one(runtime):
    model = TfliteModel(PICTURES, PICTURES.manifest.variants[0], runtime)
    pictures = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    assert [one.shape for one in model.run(pictures[:0])] == [(0, 14, 14, 112), (0, 7, 7, 192)]
    one_by_one = [model.run(pictures[i : i + 1]) for i in range(3)]
    for whole, parts in zip(model.run(pictures), zip(*one_by_one, strict=True), strict=True):
        np.testing.assert_array_equal(whole, np.concatenate(parts))


@every_runtime
@pytest.mark.parametrize("variant", PICTURES.manifest.variants, ids=lambda variant: variant.precision)
def test_maps_are_whole_steps_only_where_the_model_is_all_int8(runtime, variant):
    model = TfliteModel(PICTURES, variant, runtime)
    assert model.quantized is (variant.precision == "int8")
    found = model.run(np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), dtype=np.uint8))
    for output, grid in zip(found, variant.outputs, strict=True):
        steps = output / grid.scale
        assert bool(np.abs(steps - np.rint(steps)).max() < 1e-3) is model.quantized


@pytest.mark.parametrize("runtime", [None, *available_runtimes()])
def test_an_encoder_of_pictures_is_refused_for_a_stream_of_readings(runtime):
    with pytest.raises(BundleError) as caught:
        load_encoder(PICTURES, runtime)
    assert str(caught.value) == (
        f"{PICTURES.path}: expected an encoder of sensor windows with one embedding, found kind 'image' with "
        "block_10 [14, 14, 112], block_14 [7, 7, 192]; choose another encoder for this stream"
    )


@pytest.mark.parametrize("outputs", [2 * [Tensor("embedding", [32])], [Tensor("embedding", [8, 4])]])
def test_a_sensor_encoder_of_several_embeddings_or_of_maps_is_refused_for_a_stream(tmp_path, outputs):
    with pytest.raises(BundleError, match=r"with one embedding, found kind 'sensor' with embedding \["):
        load_encoder(bundle_of(tmp_path, outputs=outputs))


@every_runtime
@pytest.mark.parametrize("top", ["", "sensor-small/"])
def test_an_encoder_is_loaded_from_a_zip_as_from_its_folder(encoders, tmp_path, monkeypatch, runtime, top):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in SHIPPED.path.iterdir():
            archive.write(file, f"{top}{file.name}")
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder(find_bundle("./x.zip"), runtime)
    assert (encoder.name, encoder.digest) == ("sensor-small", VARIANT.sha256)
    np.testing.assert_array_equal(encoder.encode(windows(40)), encoders[runtime].encode(windows(40)))


@every_runtime
def test_a_variant_runs_only_where_it_was_proven_unless_both_are_named(tmp_path, runtime):
    bundle = bundle_of(tmp_path, variant={"runtimes": [runtime]})
    assert candidates(bundle) == [(runtime, *bundle.manifest.variants)]
    assert load_encoder(bundle).runtime.startswith(f"{runtime} ")
    for other in {*available_runtimes()} - {runtime}:
        with pytest.raises(
            BundleError, match=f"expected a variant for {other}, found variants for {runtime}; pip install"
        ):
            load_encoder(bundle, other)
        assert load_encoder(bundle, other, VARIANT.file).runtime.startswith(f"{other} ")


def test_a_bundle_for_none_of_the_installed_runtimes_is_an_error_that_says_for_which_it_is(tmp_path):
    with pytest.raises(BundleError, match="found variants for microcontroller; pip install one of these"):
        load_encoder(bundle_of(tmp_path, variant={"runtimes": ["microcontroller"]}))


def named(pairs):
    return [(runtime, variant.precision) for runtime, variant in pairs]


def test_every_variant_may_run_on_every_runtime_it_was_proven_on_and_each_can_be_named():
    assert named(candidates(PICTURES)) == [
        (runtime, precision) for runtime in available_runtimes() for precision in ("int8", "int8-weights")
    ]
    second = PICTURES.manifest.variants[1].file
    assert named(candidates(PICTURES, file=second)) == [(one, "int8-weights") for one in available_runtimes()]
    for runtime in available_runtimes():
        assert named(candidates(PICTURES, runtime)) == [(runtime, "int8"), (runtime, "int8-weights")]
        assert named(candidates(PICTURES, runtime, second)) == [(runtime, "int8-weights")]
    assert candidates(PICTURES, "microcontroller") == candidates(PICTURES, file="no.tflite") == []


def two_variants(folder, model=MODEL, **second):
    """Return a bundle with a second variant beside the shipped one, of the same model with some bytes behind it."""
    (folder / VARIANT.file).write_bytes(MODEL)
    content = model + bytes(16)
    (folder / "other.tflite").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    other = msgspec.structs.replace(VARIANT, file="other.tflite", sha256=digest, **second)
    return Bundle(folder, msgspec.structs.replace(SHIPPED.manifest, variants=[VARIANT, other]))


@every_runtime
def test_a_named_variant_is_taken_even_if_slower(tmp_path, runtime):
    bundle = two_variants(tmp_path)
    for variant in bundle.manifest.variants:
        found = load_encoder(bundle, runtime, variant.file)
        assert (found.file, found.digest) == (variant.file, variant.sha256)
        assert found.runtime.startswith(f"{runtime} ")
        assert load_encoder(bundle, file=variant.file).file == variant.file


def test_only_what_was_proven_here_is_timed_and_the_fastest_of_it_is_taken(tmp_path, monkeypatch):
    last = available_runtimes()[-1]
    bundle = two_variants(tmp_path, runtimes=[last, "microcontroller"])
    timed = []

    def seconds(encoder):
        timed.append((encoder.runtime.split()[0], encoder.file))
        return 1.0 / len(timed)  # the last of them is the fastest

    monkeypatch.setattr(tflite, "seconds_per_window", seconds)
    assert load_encoder(bundle).file == "other.tflite"
    assert timed == [(runtime, VARIANT.file) for runtime in available_runtimes()] + [(last, "other.tflite")]


def test_nothing_is_timed_where_there_is_nothing_to_choose(tmp_path, monkeypatch):
    monkeypatch.setattr(tflite, "seconds_per_window", None)
    bundle = two_variants(tmp_path, runtimes=["microcontroller"])
    runtime = available_runtimes()[0]
    assert load_encoder(bundle, runtime).file == VARIANT.file
    assert load_encoder(bundle, runtime, "other.tflite").file == "other.tflite"


def test_a_variant_that_cannot_be_loaded_leaves_the_choice_to_the_others(tmp_path):
    bundle = two_variants(tmp_path, with_operator_version(99))
    assert load_encoder(bundle).file == VARIANT.file
    with pytest.raises(
        BundleError, match=rf"^{tmp_path}/other\.tflite: the operator FULLY_CONNECTED version 99 is not"
    ):
        load_encoder(bundle, file="other.tflite")
