"""Arrays from files: mapped where that is possible, never unpickled."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.check.arrays import read_npy, read_npz
from onnxopt.errors import BadInput

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_stored_members_stay_on_disk_and_compressed_ones_are_loaded(tmp_path):
    np.savez(tmp_path / "stored.npz", x=X, y=np.asfortranarray(X), n=np.int64(7))
    np.savez_compressed(tmp_path / "packed.npz", x=X)
    stored, packed = read_npz(tmp_path / "stored.npz"), read_npz(tmp_path / "packed.npz")
    assert isinstance(stored["x"], np.memmap)
    assert not isinstance(packed["x"], np.memmap)
    for array in (stored["x"], stored["y"], packed["x"]):
        assert np.array_equal(array, X)
    assert stored["n"] == 7


def test_empty_arrays_and_strings(tmp_path):
    np.savez(tmp_path / "a.npz", none=np.zeros((0, 3)), words=np.array(["a", "bc"]))
    arrays = read_npz(tmp_path / "a.npz")
    assert arrays["none"].shape == (0, 3)
    assert arrays["words"].tolist() == ["a", "bc"]


def test_an_npy_file_is_mapped(tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert isinstance(read_npy(tmp_path / "x.npy"), np.memmap)


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickled_objects_are_refused(tmp_path, name):
    save, read = (np.save, read_npy) if name.endswith("npy") else (np.savez, read_npz)
    save(tmp_path / name, np.array([{"a": 1}], object), allow_pickle=True)
    with pytest.raises(BadInput, match="pickled objects") as caught:
        read(tmp_path / name)
    assert "dtype U" in caught.value.hint


@pytest.mark.parametrize("keep", [0, 3, 60, 100, -20])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_a_truncated_file_is_told(tmp_path, name, keep):
    save, read = (np.save, read_npy) if name.endswith("npy") else (np.savez, read_npz)
    save(tmp_path / name, X)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[:keep])
    with pytest.raises(BadInput, match=name):
        read(tmp_path / name)


def test_an_npy_file_called_npz_is_told(tmp_path):
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(BadInput, match="not a zip archive"):
        read_npz(tmp_path / "x.npz")
