"""Feeds from the user's files, functions and arrays."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.check.data import read_data
from onnxopt.errors import BadInput


def model(inputs: str) -> ir.Model:
    return ir.from_onnx_text(
        f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[1] y) '
        "{ y = Constant<value_float = 1.0>() }"
    )


ONE = model("float[n, 3] x")
SAMPLES = np.arange(15, dtype=np.float32).reshape(5, 3)


def rows(data, name="x"):
    return [feed[name].tolist() for feed in data]


@pytest.mark.parametrize(("batch", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (9, [5])])
def test_samples_lie_along_the_first_axis_and_batch_of_them_make_a_run(tmp_path, batch, sizes):
    np.savez(tmp_path / "d.npz", x=SAMPLES)
    feeds = list(read_data(tmp_path / "d.npz", ONE, batch))
    assert [len(feed["x"]) for feed in feeds] == sizes
    assert np.array_equal(np.concatenate([feed["x"] for feed in feeds]), SAMPLES)


def test_a_slash_in_a_name_may_be_written_out(tmp_path):
    slashed = ir.from_onnx_text(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[n] x) => (float[n] y) { y = Neg(x) }'
    )
    slashed.graph.inputs[0].name = "gpu_0/x"
    np.savez(tmp_path / "d.npz", gpu_0__SL__x=np.zeros(2, np.float32))
    assert [list(feed) for feed in read_data(tmp_path / "d.npz", slashed)] == [["gpu_0/x"]] * 2


def test_the_model_fixes_how_many_samples_make_a_run():
    feeds = list(read_data({"x": np.zeros((6, 3), np.float32)}, model("float[2, 3] x"), batch=1))
    assert [feed["x"].shape for feed in feeds] == [(2, 3)] * 3
    with pytest.raises(BadInput, match="5 samples for 'x' are no whole runs of 2"):
        list(read_data({"x": SAMPLES}, model("float[2, 3] x")))


def test_one_feed_exactly_as_the_model_takes_it():
    speech = model("float[n, time] x, float[2, n, 8] state, int64 sr")
    arrays = {
        "x": np.zeros((1, 512), np.float32),
        "state": np.zeros((2, 1, 8), np.float32),
        "sr": np.array(16000),
    }
    (feed,) = read_data(arrays, speech)
    assert {name: value.shape for name, value in feed.items()} == {
        "x": (1, 512), "state": (2, 1, 8), "sr": ()
    }  # fmt: skip


def test_what_fills_one_run_is_used_in_every_run():
    speech = model("float[n, time] x, float[2, n, 8] state, int64 sr")
    arrays = {
        "x": np.zeros((3, 512), np.float32),
        "state": np.zeros((2, 1, 8), np.float32),
        "sr": np.array(16000),
    }
    feeds = list(read_data(arrays, speech))
    assert len(feeds) == 3
    assert all(feed["state"].shape == (2, 1, 8) and feed["sr"] == 16000 for feed in feeds)


def test_a_vector_feeds_a_scalar_input():
    assert rows(read_data({"x": np.array([7, 8])}, model("int64 x"))) == [7, 8]


def test_rows_that_are_whole_inputs():
    stacked = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    feeds = list(read_data({"x": stacked}, model("float[2, 3] x")))
    assert [feed["x"].shape for feed in feeds] == [(2, 3)] * 4
    with pytest.raises(BadInput, match="whole input"):
        list(read_data({"x": stacked}, model("float[2, 3] x"), batch=2))


def test_a_single_sample_without_its_batch_axis(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES[0])
    assert rows(read_data(tmp_path / "x.npy", ONE)) == [[SAMPLES[0].tolist()]]


def test_an_npy_file_feeds_a_single_input(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES)
    data = read_data(tmp_path / "x.npy", ONE, 5)
    assert rows(data) == rows(data) == [SAMPLES.tolist()]
    with pytest.raises(BadInput, match="one array, and the model has 2 inputs"):
        read_data(tmp_path / "x.npy", model("float[n, 3] x, float[n] z"))


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for index in (2, 0, 1):
        np.save(tmp_path / f"part{index}.npy", SAMPLES[index : index + 1])
    (tmp_path / "notes.txt").write_text("not a sample")
    assert rows(read_data(tmp_path, ONE)) == [[SAMPLES[i].tolist()] for i in range(3)]


def test_an_empty_folder_says_so(tmp_path):
    with pytest.raises(BadInput, match=r"no .npz or .npy"):
        read_data(tmp_path, ONE)


def test_a_function_of_a_module_here_gives_feeds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "feeds_for_data_test.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for i in range(2):\n"
        "        yield {'x': np.full((1, 3), i, np.float32)}\n"
        "def one(): return {'x': 1}\n"
        "def numbers(): return [1]\n"
    )
    data = read_data("feeds_for_data_test:feeds", ONE)
    assert rows(data) == rows(data) == [[[0, 0, 0]], [[1, 1, 1]]]
    with pytest.raises(BadInput, match="gave a dict"):
        list(read_data("feeds_for_data_test:one", ONE))
    with pytest.raises(BadInput, match="feed 1 is a int"):
        list(read_data("feeds_for_data_test:numbers", ONE))
    with pytest.raises(BadInput, match="no function 'other'"):
        read_data("feeds_for_data_test:other", ONE)


@pytest.mark.parametrize("spec", ["no_such_module_here:feeds", "missing.npz", "missing"])
def test_data_that_is_not_there(spec):
    with pytest.raises(BadInput, match=r"can.t be imported|there is no data"):
        read_data(spec, ONE)


def test_feeds_of_ones_own_are_used_as_they_are_and_checked():
    good = {"x": SAMPLES[:2]}
    assert rows(read_data([good], ONE)) == [SAMPLES[:2].tolist()]
    assert rows(read_data(iter([good]), ONE)) == [SAMPLES[:2].tolist()]
    with pytest.raises(BadInput, match="feed 2: the input 'x' is missing"):
        list(read_data([good, {}], ONE))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": SAMPLES, "labels": np.zeros(5)}, "no input 'labels'"),
        ({"x": SAMPLES.astype(float)}, "'x' got float64"),
        ({"x": SAMPLES[:, :2]}, r"'x' got float32\[1, 2\]"),
        ({"x": SAMPLES.reshape(5, 3, 1, 1)}, "'x' has the shape"),
    ],
)
def test_arrays_that_do_not_fit(arrays, message):
    with pytest.raises(BadInput, match=message):
        list(read_data(arrays, ONE))


def test_inputs_with_different_numbers_of_samples():
    two = model("float[n, 3] x, float[n] z")
    with pytest.raises(BadInput, match="x: 5, z: 4"):
        list(read_data({"x": SAMPLES, "z": np.zeros(4, np.float32)}, two))


def test_a_batch_below_one():
    with pytest.raises(BadInput, match="can't be 0"):
        read_data({}, ONE, 0)


def test_strings_come_from_unicode_arrays(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.array(["ja", "nein"]))
    assert rows(read_data(tmp_path / "d.npz", model("string[n] x"))) == [["ja"], ["nein"]]


def test_large_npy_files_stay_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES)
    feed = next(iter(read_data(tmp_path / "x.npy", ONE)))
    assert isinstance(feed["x"].base, np.memmap) or isinstance(feed["x"], np.memmap)
