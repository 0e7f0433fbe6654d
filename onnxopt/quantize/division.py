"""Which nodes to run in integers so that time and error together are the least.

Each node costs what it takes in floats or in integers, each value that goes from the one side to
the other its border, and each node in integers its error at the price that is set for errors. The
cheapest division is a minimum cut, so that whole islands are taken or left with their borders.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.quantize.costs import Costs, has_weight
from onnxopt.quantize.mincut import ENDLESS, Cut
from onnxopt.quantize.plan import absorbed_output
from onnxopt.quantize.records import QuantPlan
from onnxopt.rewrite.specs import QuantSpec


@dataclass(frozen=True, slots=True)
class Division:
    """The nodes in integers by name, and the seconds a call that all chosen nodes take with it."""

    integers: frozenset[str]
    seconds: float


def divide(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    costs: Costs,
    errors: Mapping[str, float] | None = None,
    price: float = 0.0,
) -> Division:
    """The best division of the nodes that a plan quantizes.

    Args:
        model: The float model that the plan was made for.
        plan: Every node that may run in integers.
        specs: How each operator is quantized.
        costs: What nodes and borders take.
        errors: What each node in integers adds to the error at the outputs, by name.
        price: Seconds that a unit of error is worth.
    """
    return _Divider(model, plan, specs, costs).best(errors or {}, price)


def seconds_of(
    model: ir.Model,
    plan: QuantPlan,
    specs: Mapping[str, QuantSpec],
    costs: Costs,
    integers: frozenset[str],
) -> float:
    """What the nodes that a plan quantizes take together where only `integers` are so."""
    return _Divider(model, plan, specs, costs).seconds(integers)


class _Divider:
    def __init__(
        self, model: ir.Model, plan: QuantPlan, specs: Mapping[str, QuantSpec], costs: Costs
    ) -> None:
        self._costs = costs
        self._specs = specs
        names = {choice.node for choice in plan.nodes if choice.quantize}
        self._nodes = {node.name or "": node for node in model.graph if node.name in names}
        self._makers: dict[ir.Value, str] = {}
        for name, node in self._nodes.items():
            self._makers |= {absorbed_output(value): name for value in node.outputs if value.name}
        values = [*model.graph.inputs, *(v for node in model.graph for v in node.outputs)]
        self._values = [value for value in values if value.name in plan.grids]

    def best(self, errors: Mapping[str, float], price: float) -> Division:
        cut = Cut()
        things = {name: cut.add() for name in self._nodes}
        for name, thing in things.items():
            # What goes with the source runs in integers.
            cut.edge(cut.source, thing, self._costs.floats.get(name, 0.0))
            integer = self._costs.integers.get(name, 0.0) + price * errors.get(name, 0.0)
            cut.edge(thing, cut.sink, integer)
        for value in self._values:
            self._border(cut, things, value)
        for product, name in self._merged():
            cut.edge(things[product], things[name], self._costs.alone[name])
        taken = cut.solve()
        integers = frozenset(name for name, thing in things.items() if thing in taken)
        return Division(integers, self.seconds(integers))

    def _border(self, cut: Cut, things: Mapping[str, int], value: ir.Value) -> None:
        maker = self._makers.get(value)
        readers = [things[name] for name in self._readers(value)]
        name = value.name or ""
        if readers:
            wanted = cut.add()
            for reader in readers:
                cut.edge(reader, wanted, ENDLESS)
            start = cut.sink if maker is None else things[maker]
            cut.edge(wanted, start, self._costs.quantize.get(name, 0.0))
        if maker is None or self._writes_floats(maker):
            return
        cost = self._costs.dequantize.get(name, 0.0)
        if self._has_float_reader(value):
            cut.edge(things[maker], cut.sink, cost)
            return
        served = cut.add()
        for reader in readers:
            cut.edge(served, reader, ENDLESS)
        cut.edge(things[maker], served, cost)

    def seconds(self, integers: frozenset[str]) -> float:
        costs = self._costs
        total = sum(
            (costs.integers if name in integers else costs.floats).get(name, 0.0)
            for name in self._nodes
        )
        for value in self._values:
            maker, name = self._makers.get(value), value.name or ""
            readers = self._readers(value)
            if maker in integers:
                floats = self._has_float_reader(value) or not integers.issuperset(readers)
                if floats and not self._writes_floats(maker or ""):
                    total += costs.dequantize.get(name, 0.0)
            elif integers.intersection(readers):
                total += costs.quantize.get(name, 0.0)
        for product, name in self._merged():
            total += costs.alone[name] if product in integers and name not in integers else 0.0
        return total

    def _merged(self) -> list[tuple[str, str]]:
        """Products in floats and what they are merged with, that costs something without them."""
        found = []
        for name in self._costs.alone:
            node = self._nodes.get(name)
            values = () if node is None else node.inputs
            makers = [self._makers.get(value) for value in values if value is not None]
            products = [each for each in makers if each and has_weight(self._nodes[each])]
            found += [(product, name) for product in products[:1]]
        return found

    def _readers(self, value: ir.Value) -> list[str]:
        """The nodes of the plan that read the value."""
        names = dict.fromkeys(node.name or "" for node in value.consumers())
        return [name for name in names if name in self._nodes]

    def _has_float_reader(self, value: ir.Value) -> bool:
        """Whether something that stays float reads the value, or the model gives it out."""
        readers = {node.name or "" for node in value.consumers()}
        return value.is_graph_output() or not readers <= self._nodes.keys()

    def _writes_floats(self, maker: str) -> bool:
        """Whether the maker's integer kernel may write floats, so that leaving costs nothing."""
        return self._specs[self._nodes[maker].op_type].float_output
