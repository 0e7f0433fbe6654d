"""What a rule reads of a constant."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.rewrite.hit import Operand


def constant(array: np.ndarray) -> Operand:
    value = ir.Value(name="c", const_value=ir.tensor(array))
    ir.Graph([], [], nodes=[], initializers=[value])
    return Operand(value)


@pytest.mark.parametrize(
    ("array", "number"),
    [
        (np.full((2, 3), 2.5), 2.5),
        (np.array([7]), 7.0),
        (np.array([[True, True]]), 1.0),
        (np.array([1.0, 2.0, 1.0]), None),
        (np.array([np.nan, np.nan]), None),
        (np.zeros((0, 3)), None),
        (np.array([0.0, -0.0, 0.0]), None),
        (np.array(["a", "a"], dtype=object), None),
    ],
)
def test_the_number_a_constant_is_filled_with(array: np.ndarray, number: float | None) -> None:
    assert constant(array).filled == number


def test_the_sign_of_zero_counts() -> None:
    assert str(constant(np.array([-0.0, -0.0])).filled) == "-0.0"
    assert str(constant(np.array([0.0])).filled) == "0.0"
