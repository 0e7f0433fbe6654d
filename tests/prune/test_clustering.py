"""Palettes: how many values are left, what they cost, what zlib makes of them."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pruning import drawn

import onnxopt
from onnxopt import io
from onnxopt.errors import BadInput
from onnxopt.prune.clustering import clustered, nearest, palette
from onnxopt.prune.obs import output_errors

NET = """g (float[N,32] x) => (float[N,16] y) {
    [one] h = Gemm(x, w0, b0)
    r = Relu(h)
    [two] y = Gemm(r, w1, b1)
}"""


def _net() -> ir.Model:
    return drawn(NET, w0=(32, 64), b0=64, w1=(64, 16), b1=16)


def _weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in io.to_proto(model).graph.initializer}


def _samples() -> np.ndarray:
    random = np.random.default_rng(1)
    found = random.normal(size=(80, 5)) @ random.normal(size=(5, 32))
    return (found + 0.2 * random.normal(size=found.shape)).astype(np.float32)


@pytest.mark.parametrize("count", [2, 16])
@pytest.mark.parametrize("data", [None, {"x": _samples()}])
def test_a_tensor_takes_so_many_values(count: int, data: dict[str, np.ndarray] | None) -> None:
    result = onnxopt.sparsify(_net(), cluster=count, data=data, threads=1)
    for name in ("w0", "w1"):
        assert 2 <= len(np.unique(_weights(result.model)[name])) <= count
    assert all(layer.values <= count for layer in result.report.layers)


def test_few_values_zip_well_and_the_report_says_how_well(tmp_path: Path) -> None:
    report = onnxopt.sparsify(_net(), cluster=16, output=tmp_path / "out.onnx").report
    data = (tmp_path / "out.onnx").read_bytes()
    assert report.zipped_after == len(zlib.compress(data, 6))
    assert report.zipped_before is not None
    assert report.zipped_after < report.zipped_before / 3


def test_the_palette_of_clear_clusters_is_their_means() -> None:
    numbers = np.array([1.0, 1.1, 1.2, 5.0, 5.2, -3.0])
    np.testing.assert_allclose(palette(numbers, np.ones(6), 3), [-3, 1.1, 5.1])


def test_numbers_that_weigh_more_pull_the_values() -> None:
    numbers = np.array([1.0, 2.0, 10.0])
    np.testing.assert_allclose(palette(numbers, np.array([3.0, 1.0, 1.0]), 2), [1.25, 10])


def test_k_means_beats_evenly_spaced_values() -> None:
    numbers = np.random.default_rng(0).normal(size=4000)
    even = np.linspace(numbers.min(), numbers.max(), 16)
    errors = [
        np.square(numbers - nearest(numbers, values)).sum()
        for values in (palette(numbers, np.ones(4000), 16), even)
    ]
    assert errors[0] < 0.6 * errors[1]


def test_fewer_numbers_than_values_stay_as_they_are() -> None:
    rows = np.array([[[0.5, -1.0, 0.5]]])
    np.testing.assert_array_equal(clustered(rows, None, 4), rows)


def test_values_that_make_up_for_each_other_beat_the_nearest_ones() -> None:
    random = np.random.default_rng(0)
    rows, inputs = random.normal(size=(1, 8, 32)), _samples().astype(np.float64)
    second = (inputs.T @ inputs / len(inputs) + 0.01 * np.eye(32))[None]
    mended, plain = (clustered(rows, second, 4, refit=refit) for refit in (True, False))
    errors = [output_errors(rows, each, second).sum() for each in (mended, plain)]
    assert errors[0] < 0.7 * errors[1]


def test_zeros_of_sparse_weights_stay_and_count_as_a_value() -> None:
    result = onnxopt.sparsify(_net(), sparsity="2:4", cluster=8, data={"x": _samples()}, threads=1)
    for layer in result.report.layers:
        assert layer.zeros >= layer.size // 2
        assert layer.values <= 8


@pytest.mark.parametrize("count", [1, 0, -3, 100_000])
def test_palettes_that_make_no_sense_are_refused(count: int) -> None:
    with pytest.raises(BadInput, match="can't be clustered"):
        onnxopt.sparsify(_net(), cluster=count)
