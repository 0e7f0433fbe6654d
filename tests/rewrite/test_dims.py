"""What shapes with symbols prove, and what they must not."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxopt.rewrite import dims
from onnxopt.rewrite.hit import Operand


def operand(*sizes: int | str | None) -> Operand:
    shape = ir.Shape([ir.SymbolicDim(s) if not isinstance(s, int) else s for s in sizes])
    return Operand(ir.Value(name="x", shape=shape))


@pytest.mark.parametrize(
    ("shapes", "result"),
    [
        ([(2, 3), (3,)], (2, 3)),
        ([("N", 1), (4,)], ("N", 4)),
        ([("N", 3), ("N", 1)], ("N", 3)),
        ([("N",), (5,)], (5,)),
        ([("N",), ("M",)], (None,)),
        ([("N",), (None,)], (None,)),
        ([(1,), ()], (1,)),
        ([("N",), (0,)], (0,)),
        ([("N",), None], None),
    ],
)
def test_broadcast(shapes: list[dims.Dims | None], result: dims.Dims | None) -> None:
    assert dims.broadcast(*shapes) == result


@pytest.mark.parametrize(
    ("small", "large", "proven"),
    [
        (operand(), operand(None, "N"), True),
        (operand(1, 3), operand("N", 3), True),
        (operand("N"), operand(2, "N"), True),
        (operand("N"), operand(2, 4), True),
        (operand("N"), operand(1), False),
        (operand(4), operand("N"), False),
        (operand("M"), operand("N"), False),
        (operand(None), operand(None), False),
        (operand(1, 3), operand(3), False),
    ],
)
def test_stretches_to(small: Operand, large: Operand, proven: bool) -> None:
    assert dims.stretches_to(small, large) is proven


@pytest.mark.parametrize(
    ("source", "result", "proven"),
    [
        (operand("N", 3), operand("N", 3), True),
        (operand(None), operand(None), True),
        (operand("N", None), operand("N", None), True),
        (operand(None, None), operand(None, None), False),
        (operand("N", "M"), operand("M", "N"), False),
        (operand("N", 6), operand("N", 3, 2), False),
    ],
)
def test_one_open_dim_follows_from_the_others(
    source: Operand, result: Operand, proven: bool
) -> None:
    assert dims.same_reshaped(source, result) is proven


@pytest.mark.parametrize(
    ("source", "wanted", "target"),
    [
        ((2, 3), (6,), [6]),
        (("N", 3, 4), ("N", 12), [0, 12]),
        (("N", 3, 4), ("3*N", 4), [-1, 4]),
        (("N", "M"), ("N", 1, "M"), None),
        (("N", "M"), ("N", "M", 1), [0, 0, 1]),
        (("N", "M", 2), ("2*M", "N"), None),
        ((0, 3), (3, 0), None),
        (None, (3,), None),
        (("N",), (None,), [-1]),
    ],
)
def test_reshape_target(
    source: dims.Dims | None, wanted: dims.Dims | None, target: list[int] | None
) -> None:
    assert dims.reshape_target(source, wanted) == target


def test_a_dim_may_stay_open_beside_a_copied_one() -> None:
    assert dims.reshape_target(("N", 2, "S"), ("N", "2*S", 1)) is None
    assert dims.reshape_target(("N", 2, "S"), ("N", "2*S", 1), inferred=1) == [0, -1, 1]
    assert dims.reshape_target(("N", 2, "S"), ("N", "2*S", 1), inferred=0) is None


@pytest.mark.parametrize(
    ("larger", "smaller", "axes"),
    [
        ((1, "N", 1), ("N",), [0, 2]),
        ((1, 1, 3), (1, 3), [1]),
        (("N", 2), ("N",), None),
        ((1, "N"), ("M",), None),
        ((1, "N"), (None,), None),
        (("N",), ("N",), []),
    ],
)
def test_squeezed_axes(larger: dims.Dims, smaller: dims.Dims, axes: list[int] | None) -> None:
    assert dims.squeezed_axes(larger, smaller) == axes


def test_only_axes_of_one_may_move() -> None:
    assert dims.keeps_order([0, 2, 1], ("N", 1, 4))
    assert not dims.keeps_order([0, 2, 1], ("N", "M", 4))
    assert not dims.keeps_order([1, 0], None)


def test_another_operand_supplies_what_is_not_one() -> None:
    others = [operand("N", 1), operand(4)]
    assert dims.supplied(("N", 4), others)
    assert dims.supplied((1, 1, 4), others)
    assert not dims.supplied(("M", 4), others)
    assert not dims.supplied((4, 1), others)
