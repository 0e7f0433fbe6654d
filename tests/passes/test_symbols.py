"""The algebra of dims: equal expressions are one object's worth, others stay apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.passes.symbols import (
    Names,
    exact_quotient,
    is_natural,
    is_positive,
    never_equal,
    product,
    symbol,
)

N, H = symbol("n"), symbol("h")


def test_sums_and_products_have_one_normal_form() -> None:
    assert (N + H) * 2 == 2 * H + N * 2
    assert N + 1 - N == 1
    assert N * H - H * N == 0
    assert str(2 * N * H - 3) == "2*h*n - 3"


def test_what_is_known_of_signs() -> None:
    delta = symbol("delta", natural=False)
    assert is_natural(N * H + 2) and is_positive(N + 1)
    assert not is_positive(N) and not is_natural(delta) and not is_natural(N - 1)
    assert never_equal(N, -1) and never_equal(N + 1, N) and not never_equal(N, H)


def test_only_divisions_without_a_rest_are_exact() -> None:
    assert exact_quotient(6 * N * H, 3 * H) == 2 * N
    assert exact_quotient(6 * N + 3, 3) == 2 * N + 1
    assert exact_quotient(5 * N, 2) is None
    assert exact_quotient(N + H, N) is None
    assert exact_quotient(7, 0) is None


def test_one_operation_on_equal_operands_is_one_number() -> None:
    names = Names()
    assert names.floor_divide(N + 1, 2) == names.floor_divide(1 + N, 2)
    assert names.floor_divide(N + 1, 2) != names.floor_divide(N, 2)
    assert names.fresh() != names.fresh()
    long = product(symbol(f"a_rather_long_name_{index}") for index in range(4))
    assert names.floor_divide(long, 7) == names.floor_divide(long, 7)


def test_broadcasting_forgets_order_and_repetition() -> None:
    names = Names()
    assert names.broadcast(1, N) == N and names.broadcast(N, 4) == 4
    joined = names.broadcast(N, H)
    assert joined == names.broadcast(H, N) == names.broadcast(joined, N)


def test_a_dim_capped_by_a_table_is_the_dim_itself_once_it_broadcasts() -> None:
    names = Names()
    assert names.broadcast(names.least(512, N), N) == N
    assert names.broadcast(names.least(1, N), N) != N


TWO_OPERANDS: list[tuple[Callable[[Names, Any, Any], Any], Callable[[int, int], int]]] = [
    (lambda names, a, b: a + b, lambda a, b: a + b),
    (lambda names, a, b: a * b, lambda a, b: a * b),
    (lambda names, a, b: a - b, lambda a, b: a - b),
    (Names.least, min),
    (Names.greatest, max),
]


@given(st.data())
def test_expressions_mean_what_the_numbers_do(data: st.DataObject) -> None:
    names, values = Names(), {"a": 0, "b": 0}
    pool: list[tuple[Any, Callable[[dict[str, int]], int]]] = [
        (symbol("a"), lambda at: at["a"]),
        (symbol("b"), lambda at: at["b"]),
        (2, lambda at: 2),
        (-3, lambda at: -3),
    ]
    for _ in range(data.draw(st.integers(1, 6))):
        symbolic, plain = data.draw(st.sampled_from(TWO_OPERANDS))
        left, right = (data.draw(st.sampled_from(pool)) for _ in range(2))
        made = symbolic(names, left[0], right[0])
        pool.append((made, lambda at, f=plain, p=left[1], q=right[1]: f(p(at), q(at))))
    for (one, meant), (other, also) in itertools.combinations(pool, 2):
        for values["a"], values["b"] in itertools.product((0, 1, 2, 7), repeat=2):
            if one == other:
                assert meant(values) == also(values)
            if never_equal(one, other):
                assert meant(values) != also(values)
            if is_natural(one):
                assert meant(values) >= 0


@pytest.mark.parametrize("divisor", [1, 2, 3, 5])
def test_floor_division_splits_off_whole_multiples(divisor: int) -> None:
    names = Names()
    found = names.floor_divide(divisor * N + H + divisor * 3 + 1, divisor)
    assert found == N + 3 + names.floor_divide(H + 1, divisor)
