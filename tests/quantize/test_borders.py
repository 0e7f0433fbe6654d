"""What belongs to a border between floats and integers, and what it takes an element."""

from __future__ import annotations

import pytest
from casefile import parse

from onnxopt.quantize.borders import Rate, border_rates
from onnxopt.runtime.profile import NodeTime

GRAPH = """
g (float[1,8,100,100] x) => (float[1,8,100,100] y) <float s = {1}, uint8 z = {0}>
{ [r1] a = ReorderOutput(x) [q] b = QuantizeLinear(a, s, z) [t1] c = Transpose(b)
  [c1] d = QLinearConv(c) [t2] e = Transpose(d) [c2] f = QLinearConv(e)
  [t3] g = Transpose(f) [dq] h = DequantizeLinear(g, s, z) [r2] i = ReorderInput(h)
  [c3] j = Conv(i) [r3] y = ReorderOutput(j) }
"""
SIZE = 80_000
SECONDS = {"r1": 1, "q": 2, "t1": 4, "c1": 99, "t2": 50, "c2": 99, "t3": 8, "dq": 16, "r2": 32}


def times(elements: int = SIZE) -> list[NodeTime]:
    kinds = {node.name: node.op_type for node in parse(GRAPH).graph.node}
    found = {**SECONDS, "c3": 99, "r3": 70}
    return [NodeTime(name, kinds[name], float(s), elements) for name, s in found.items()]


def test_each_change_of_layout_counts_for_the_border_it_stands_at() -> None:
    found = border_rates(parse(GRAPH).graph, times())
    assert found == {
        "QuantizeLinear": Rate(pytest.approx(2 / SIZE), pytest.approx(7 / SIZE)),
        "DequantizeLinear": Rate(pytest.approx(16 / SIZE), pytest.approx(56 / SIZE)),
    }


def test_borders_of_a_few_elements_say_nothing() -> None:
    assert border_rates(parse(GRAPH).graph, times(elements=100)) == {}
