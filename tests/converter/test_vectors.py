from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agent.bundle import VECTORS, find_bundle
from agent.encoder_proof import MARGIN, unpacked, vary
from agent.errors import BundleError
from converter.archive import write_npz
from converter.vectors import packed, read_vectors, variations

SIZE = 64


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).integers(0, 256, (4, SIZE + MARGIN, SIZE + MARGIN, 3), dtype=np.uint8)


@settings(max_examples=30)
@given(arrays(np.uint8, (2, 5, 4, 3), elements=st.integers(0, 255)))
def test_what_is_packed_is_unpacked_to_the_bit(given_pictures):
    np.testing.assert_array_equal(unpacked(packed(given_pictures)), given_pictures)


def test_inputs_are_made_again_exactly_and_differ_from_one_another(pictures):
    made = variations(4, SIZE, 40, 10)
    np.testing.assert_array_equal(made, variations(4, SIZE, 40, 10))
    inputs = vary(pictures, made)
    assert inputs.shape == (40, SIZE, SIZE, 3)
    np.testing.assert_array_equal(inputs, vary(pictures, made))
    assert len(np.unique(inputs.reshape(40, -1), axis=0)) == 40


def test_the_last_ones_hold_a_patch_of_another_picture(pictures):
    made = variations(4, SIZE, 40, 10)
    assert (made[:30, 4] < 0).all()
    assert (made[30:, 4] >= 0).all()
    assert (made[30:, 4] != made[30:, 0]).all()
    without = made.copy()
    without[:, 4] = -1
    changed = (vary(pictures, made) != vary(pictures, without)).any(axis=3)
    assert not changed[:30].any()
    for row, one in zip(made[30:], changed[30:], strict=True):
        side, top, left = row[5], row[7], row[8]
        assert one[top : top + side, left : left + side].mean() > 0.5
        assert one.sum() <= side * side


def test_a_normal_input_is_its_picture_moved_and_a_little_brighter_or_darker():
    grey = np.full((1, SIZE + MARGIN, SIZE + MARGIN, 3), 100, np.uint8)
    inputs = vary(grey, variations(1, SIZE, 20, 0))
    assert 85 <= inputs.min() < 95
    assert 105 < inputs.max() <= 115


@pytest.mark.parametrize("name", ["sensor-small", "efficientnet-lite0"])
def test_shipped_vectors_have_streams_references_and_anomalies(name):
    bundle = find_bundle(name)
    held_out = read_vectors(bundle)
    of = held_out.population
    assert held_out.inputs.shape[1:] == tuple(bundle.manifest.input.shape)
    for stream in np.unique(of.stream):
        here = of.stream == stream
        assert (of.reference & here).sum() >= 20
        assert (of.odd & here).sum() >= 10
        assert (~of.reference & ~of.odd & here).sum() >= 10
    assert not (of.reference & of.odd).any()
    assert all(np.isfinite(rows).all() and rows.std() > 0 for rows in held_out.rows.values())


def put(arrays_, manifest, folder):
    write_npz(folder / VECTORS, **arrays_)
    manifest["files"][VECTORS] = hashlib.sha256((folder / VECTORS).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "arrays_",
    [
        {"inputs": np.zeros((200, 64, 2), np.float16)},
        {
            "inputs": np.zeros((9, 64, 2), np.float16), "stream": np.zeros(9), "reference": np.ones(9, bool),
            "odd": np.zeros(9, bool), "rows.embedding": np.zeros((9, 32)),
        },
        {
            "inputs": np.zeros((99, 64, 2), np.float16), "stream": np.zeros(99), "reference": np.ones(99, bool),
            "odd": np.zeros(99, bool), "rows.embedding": np.zeros((98, 32)),
        },
        {
            "inputs": np.zeros((99, 64, 2), np.float16), "stream": np.zeros(99), "reference": np.ones(99, bool),
            "odd": np.zeros(99, bool),
        },
    ],
    ids=["no embeddings", "too few", "different numbers", "no rows"],
)  # fmt: skip
def test_vectors_that_prove_nothing_are_an_error(copy_of, arrays_):
    bundle = copy_of("sensor-small", lambda manifest, folder: put(arrays_, manifest, folder))
    with pytest.raises(BundleError, match=r"vectors\.npz: expected .* build the bundle again"):
        read_vectors(bundle)


def test_a_file_that_is_no_archive_is_an_error(copy_of):
    def spoil(manifest, folder):
        (folder / VECTORS).write_bytes(b"nothing")
        manifest["files"][VECTORS] = hashlib.sha256(b"nothing").hexdigest()

    with pytest.raises(BundleError, match=r"vectors\.npz: expected held-out inputs"):
        read_vectors(copy_of("sensor-small", spoil))
