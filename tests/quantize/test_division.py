"""The division into integers and floats is the cheapest there is, and follows time and error."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt import registry
from onnxopt.passes import shapes
from onnxopt.quantize.costs import Costs, estimated_costs, measured_costs, mixed_names
from onnxopt.quantize.division import divide, seconds_of
from onnxopt.quantize.insert import insert
from onnxopt.quantize.mincut import ENDLESS, Cut
from onnxopt.quantize.plan import make_plan
from onnxopt.quantize.records import Range
from onnxopt.quantize.workshop import only

CHAIN = """
g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w>
{ [c1] a = Conv(x, w) [r1] b = Relu(a) [c2] c = Conv(b, w) [c3] d = Conv(c, w) [c4] y = Conv(d, w) }
"""
RESIDUAL = """
g (float[1,8,6,6] x) => (float[1,8,6,6] y) <float[8,8,1,1] w>
{ [c1] a = Conv(x, w) [c2] b = Conv(a, w) [s] y = Add(a, b) }
"""
SPECS = registry.quant_specs()


@pytest.fixture
def chain() -> ir.Model:
    text = CHAIN.replace("[8,8,1,1] w", "[8,8,1,1] w = {" + ",".join(["0.1"] * 64) + "}")
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    return model


def plan_of(model: ir.Model) -> Any:
    values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
    return make_plan(model, {v.name or "": Range(-1.0, 1.0) for v in values}, SPECS)


def costs(floats: list[float], integers: list[float], border: float) -> Costs:
    names = ["c1", "c2", "c3", "c4"]
    values = dict.fromkeys(["x", "b", "c", "d", "y"], border)
    return Costs(
        dict(zip(names, floats, strict=True)), dict(zip(names, integers, strict=True)),
        values, values,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_no_labelling_is_cheaper_than_the_cut(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = 6
    cost = random.integers(0, 9, (size + 2, size + 2)).astype(float)
    cut = Cut()
    things = [cut.add() for _ in range(size)]
    everything = [cut.source, cut.sink, *things]
    for start, end in itertools.permutations(everything, 2):
        cut.edge(start, end, cost[start, end])

    def total(taken: frozenset[int]) -> float:
        return sum(cost[a, b] for a in taken for b in everything if b not in taken)

    found = total(cut.solve())
    every = [
        frozenset([cut.source, *some])
        for count in range(size + 1)
        for some in itertools.combinations(things, count)
    ]
    assert found == pytest.approx(min(map(total, every)))


def test_an_endless_edge_is_never_cut() -> None:
    cut = Cut()
    first, second = cut.add(), cut.add()
    cut.edge(cut.source, first, 1.0)
    cut.edge(first, second, ENDLESS)
    cut.edge(second, cut.sink, 5.0)
    assert cut.solve() == {cut.source}


def test_an_island_is_left_where_its_borders_take_what_it_saves(chain: ir.Model) -> None:
    plan = plan_of(chain)
    slow = costs([5, 5, 5, 5], [9, 3, 9, 1], border=1.5)
    assert divide(chain, plan, SPECS, slow).integers == {"c4"}
    free = costs([5, 5, 5, 5], [9, 3, 9, 1], border=0.5)
    assert divide(chain, plan, SPECS, free).integers == {"c2", "c4"}


def test_a_node_that_loses_stays_inside_an_island_where_borders_would_take_more(
    chain: ir.Model,
) -> None:
    found = divide(chain, plan_of(chain), SPECS, costs([9, 9, 5, 9], [2, 2, 6, 2], border=1.0))
    assert found.integers == {"c1", "c2", "c3", "c4"}
    assert found.seconds == pytest.approx(12 + 2)


def test_the_cheapest_of_all_divisions_is_found(chain: ir.Model) -> None:
    plan, random = plan_of(chain), np.random.default_rng(0)
    names = ["c1", "c2", "c3", "c4"]
    for _ in range(20):
        each = costs(list(random.random(4)), list(random.random(4)), float(random.random() / 2))
        every = [
            seconds_of(chain, plan, SPECS, each, frozenset(some))
            for count in range(5)
            for some in itertools.combinations(names, count)
        ]
        assert divide(chain, plan, SPECS, each).seconds == pytest.approx(min(every))


def test_what_gives_much_error_for_little_time_goes_first(chain: ir.Model) -> None:
    plan = plan_of(chain)
    each = costs([9, 9, 9, 9], [1, 8, 1, 1], border=0.0)
    errors = {"c1": 4.0, "c2": 1.0, "c3": 1.0, "c4": 1.0}
    assert divide(chain, plan, SPECS, each, errors, 1.5).integers == {"c1", "c3", "c4"}
    assert divide(chain, plan, SPECS, each, errors, 3.0).integers == {"c3", "c4"}


def test_a_sum_in_floats_behind_integers_is_no_longer_free() -> None:
    model = ir.from_proto(parse(RESIDUAL.replace("w>", f"w = {{{','.join(['0.1'] * 64)}}}>")))
    shapes.infer(model)
    plan, values = plan_of(model), dict.fromkeys("xaby", 0.1)
    floats, integers = {"c1": 9.0, "c2": 9.0}, {"c1": 1.0, "c2": 1.0, "s": 2.0}
    merged = Costs(floats, integers, values, values)
    assert divide(model, plan, SPECS, merged).integers == {"c1", "c2"}
    costly = Costs(floats, integers, values, values, alone={"s": 3.0})
    assert divide(model, plan, SPECS, costly).integers == {"c1", "c2", "s"}
    without = seconds_of(model, plan, SPECS, costly, frozenset({"c1", "c2"}))
    assert without == pytest.approx(
        seconds_of(model, plan, SPECS, merged, frozenset({"c1", "c2"})) + 3.0
    )


def test_sums_and_borders_are_timed_in_a_model_that_has_them(chain: ir.Model) -> None:
    text = RESIDUAL.replace("w>", f"w = {{{','.join(['0.1'] * 64)}}}>").replace("6,6", "96,96")
    model = ir.from_proto(parse(text))
    shapes.infer(model)
    plan = plan_of(model)
    built = []
    for names in ({"c1", "c2", "s"}, mixed_names(model, plan)):
        built.append(model.clone())
        insert(built[-1], only(plan, model, names), SPECS)
    feed = {"x": np.zeros((1, 8, 96, 96), np.float32)}
    found = measured_costs(model, plan, built[0], [feed], mixed=built[1], threads=1)
    assert found.alone.keys() == {"s"}
    assert found.alone["s"] > 0
    assert found.dequantize["a"] > 0


def test_every_node_is_timed_with_what_it_is_merged_with(chain: ir.Model) -> None:
    plan = plan_of(chain)
    quantized = chain.clone()
    insert(quantized, plan, SPECS)
    feed = {"x": np.zeros((1, 8, 6, 6), np.float32)}
    found = measured_costs(chain, plan, quantized, [feed], threads=1)
    assert sorted(found.floats) == sorted(found.integers) == ["c1", "c2", "c3", "c4"]
    assert all(seconds > 0 for seconds in (*found.floats.values(), *found.integers.values()))
    assert found.measured
    assert sorted(found.quantize) == sorted(plan.grids)


def test_estimates_rank_nodes_by_their_work(chain: ir.Model) -> None:
    feed = {"x": np.zeros((1, 8, 6, 6), np.float32)}
    found = estimated_costs(chain, plan_of(chain), feed)
    assert not found.measured
    assert all(found.integers[name] < found.floats[name] for name in ("c1", "c2", "c3", "c4"))
