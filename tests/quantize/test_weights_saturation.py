"""Weights never overflow the 16-bit sums of CPUs without VNNI, and lose no bit where none can.

A machine with VNNI adds in 32 bits, so onnxruntime may not show the overflow where this runs; what
`vpmaddubsw` computes is emulated in numpy instead.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from onnxopt.quantize.records import Grid, Range
from onnxopt.quantize.rounding import Bounds, compensated_codes
from onnxopt.quantize.saturation import (
    from_kernel_rows,
    kernel_order,
    kernel_rows,
    nearest_safe_codes,
    pair_limit,
    safe_scale,
    saturates,
    saturating_product,
    top_code,
)

OVERFLOWING = np.array([[1.0, 0.99, -0.2, 0.1], [1.0, -0.99, 0.5, 0.1]])
"""The first row has a pair of one sign that 8 bits can't hold, the second none."""

ROWS = arrays.arrays(
    np.float64,
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.floats(-3, 3, width=32),
)


def exact_product(activations: Any, rows: Any) -> Any:
    return activations.astype(np.int64) @ rows.astype(np.int64).T


def worst_activations(rows: Any, top: int) -> Any:
    """For each row the activations that push its sums furthest, up and down."""
    return np.concatenate([np.where(rows > 0, top, 0), np.where(rows < 0, top, 0)]).astype(np.uint8)


@given(ROWS, st.sampled_from([255, 200, 127]), st.sampled_from([127, 63]))
def test_no_activation_overflows_safe_codes(rows: Any, top: int, limit: int) -> None:
    scale = safe_scale(rows, top=top, limit=limit)
    codes = nearest_safe_codes(rows, scale, top=top, limit=limit)
    activations = worst_activations(codes, top)
    assert not saturates(codes, top).any()
    assert (saturating_product(activations, codes) == exact_product(activations, codes)).all()


@given(ROWS, st.integers(0, 5))
def test_compensated_codes_do_not_overflow_either(rows: Any, seed: int) -> None:
    inputs = np.random.default_rng(seed).standard_normal((20, rows.shape[1]))
    scale = safe_scale(rows)
    codes = compensated_codes(
        rows[None], scale[None], (inputs.T @ inputs)[None], bounds=Bounds(top=255)
    )[0]
    activations = worst_activations(codes, 255)
    assert (saturating_product(activations, codes) == exact_product(activations, codes)).all()


def test_plain_8_bits_go_wrong_where_ours_are_right() -> None:
    activations = np.full((1, 4), 255, np.uint8)
    plain_scale = safe_scale(OVERFLOWING, top=None)
    plain = nearest_safe_codes(OVERFLOWING, plain_scale, top=None)
    assert saturates(plain).tolist() == [True, False]
    wanted = activations @ OVERFLOWING.T
    scale = safe_scale(OVERFLOWING)
    ours = saturating_product(activations, nearest_safe_codes(OVERFLOWING, scale)) * scale
    theirs = saturating_product(activations, plain) * plain_scale
    assert np.abs(ours - wanted).max() < 0.01 * np.abs(wanted).max()
    assert np.abs(theirs - wanted).max() > 0.3 * np.abs(wanted).max()


def test_a_row_without_such_a_pair_keeps_8_bits() -> None:
    scale = safe_scale(OVERFLOWING)
    assert scale[1] == np.float32(1.0 / 127)
    assert scale[0] == pytest.approx(1.99 / 128)


def test_two_codes_that_are_both_rounded_up_are_held_to_the_limit() -> None:
    rows = np.array([[64.5, 63.6]])
    codes = nearest_safe_codes(rows, np.ones(1, np.float32))
    assert codes.tolist() == [[64, 64]]
    assert nearest_safe_codes(rows + [[0.1, 0]], np.ones(1, np.float32)).tolist() == [[64, 64]]


def test_only_the_first_of_an_odd_row_stands_alone_at_the_end() -> None:
    codes = np.array([[1, 1, 100, -100, 127]], np.int8)
    assert not saturates(codes).any()
    assert saturates(np.array([[1, 100, 100, 127, 127, 127]], np.int8)).all()


@pytest.mark.parametrize(("top", "limit"), [(255, 128), (127, 258), (1, 32767)])
def test_the_limit_is_the_largest_sum_that_fits(top: int, limit: int) -> None:
    assert pair_limit(top) == limit
    assert top * limit <= 32767 < top * (limit + 1)


def test_the_top_code_is_what_the_range_reaches_on_the_grid() -> None:
    grid = Grid(0.1, 10)
    assert top_code(grid) == 255
    assert top_code(grid, Range(-1, 5)) == 60
    assert top_code(grid, Range(-1, 99)) == 255
    assert top_code(Grid(0.1, 0, "int8"), Range(-1, 5)) == 255


def test_rows_run_as_the_kernel_does() -> None:
    conv = np.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    rows = kernel_rows(conv, "Conv", 0)
    assert rows[0].tolist() == [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]
    assert (conv.reshape(2, -1)[:, kernel_order(conv.shape, "Conv", 0)] == rows).all()
    matrix = np.arange(6).reshape(2, 3)
    assert kernel_rows(matrix, "MatMul", 1).tolist() == [[0, 3], [1, 4], [2, 5]]
    for weight, op_type, axis in ((conv, "Conv", 0), (matrix, "Gemm", 0), (matrix, "MatMul", 1)):
        back = from_kernel_rows(kernel_rows(weight, op_type, axis), weight.shape, op_type, axis)
        assert (back == weight).all()


def test_rows_of_zeros_and_of_hardly_anything_get_a_scale_that_divides() -> None:
    scale = safe_scale(np.array([[0.0, 0.0], [1e-45, 0.0]]))
    assert scale.tolist() == [1.0, 1.0]
