from __future__ import annotations

import numpy as np

from converter.archive import write_npz


def test_numpy_reads_what_was_written(tmp_path):
    arrays = {"inputs": np.arange(6, dtype=np.float32).reshape(2, 3), "body.0.bias": np.array([True, False])}
    write_npz(tmp_path / "x.npz", **arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert set(found.files) == set(arrays)
        for name, array in arrays.items():
            assert found[name].dtype == array.dtype
            np.testing.assert_array_equal(found[name], array)


def test_the_same_arrays_give_the_same_bytes_at_any_time(tmp_path, monkeypatch):
    write_npz(tmp_path / "now.npz", x=np.ones(3))
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_npz(tmp_path / "later.npz", x=np.ones(3))
    assert (tmp_path / "now.npz").read_bytes() == (tmp_path / "later.npz").read_bytes()
