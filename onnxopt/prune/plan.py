"""Which channels go: a plan that a user can read, edit and hand back."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxopt.arguments import plan_text
from onnxopt.errors import BadInput
from onnxopt.prune.allocate import Allocation, Menu, Price, allocate
from onnxopt.prune.costs import prunable
from onnxopt.prune.fit import Order
from onnxopt.prune.measure import chosen
from onnxopt.prune.records import Group, Removal

TARGETS = ("macs", "params", "latency", "ratio", "threshold")
"""What a plan is made to reach: a share of the multiply-accumulates, parameters or milliseconds to
keep; a share of each group's channels to remove; a score below which channels are removed."""


@dataclass(frozen=True, slots=True)
class Target:
    """One of TARGETS and its value."""

    kind: str
    value: float

    @classmethod
    def of(cls, **given: float | None) -> Target:
        """The one target that is given. Raises BadInput for none, several, or a wrong value."""
        asked = {kind: value for kind, value in given.items() if value is not None}
        if len(asked) != 1:
            raise BadInput(
                f"there are {len(asked) or 'no'} targets where there must be one",
                hint="give one of --macs, --params, --latency, --ratio and --threshold",
            )
        ((kind, value),) = asked.items()
        upper = float("inf") if kind == "threshold" else 1.0
        if not 0 < value < upper:
            limits = "more than 0" if kind == "threshold" else "between 0 and 1"
            raise BadInput(f"--{kind} can't be {value:g}", hint=f"give a number {limits}")
        return cls(kind, float(value))


@dataclass(frozen=True, slots=True)
class PlannedGroup:
    """A group with the channels that go, and why none of them can where it is frozen."""

    name: str
    size: int
    kind: str
    remove: tuple[int, ...] = ()
    frozen: str = ""


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What to remove from a model. `score` and `target` say how it was chosen."""

    target: Target
    score: str
    groups: tuple[PlannedGroup, ...]

    @property
    def removal(self) -> dict[str, tuple[int, ...]]:
        """The channels to remove of each group that gives some."""
        return {group.name: group.remove for group in self.groups if group.remove}

    def to_json(self) -> str:
        """The plan as a JSON document that a user may edit and hand back."""
        rows = [
            {
                "name": group.name,
                "size": group.size,
                "kind": group.kind,
                "remove": list(group.remove),
                "frozen": group.frozen,
            }
            for group in self.groups
        ]
        head = {"target": {self.target.kind: self.target.value}, "score": self.score}
        lines = ",\n    ".join(json.dumps(row) for row in rows)
        return json.dumps(head)[:-1] + f', "groups": [\n    {lines}\n]}}'

    @classmethod
    def from_json(cls, text: str) -> PrunePlan:
        """Read a plan back. Raises BadInput, saying where, for anything it can't be."""
        try:
            data: Any = json.loads(text)
            ((kind, value),) = data["target"].items()
            groups = tuple(_planned(row) for row in data["groups"])
            if kind not in TARGETS:
                raise ValueError(f"there is no target {kind!r}")
            return cls(Target(kind, float(value)), str(data["score"]), groups)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"the plan can't be read: {type(error).__name__}: {error}",
                hint="start from what --plan-only writes",
            ) from error

    def fitting(self, groups: Sequence[Group]) -> PrunePlan:
        """The plan itself. Raises BadInput where it is one for another model."""
        here = {group.name: group.size for group in groups}
        there = {group.name: group.size for group in self.groups}
        wrong = [name for name, size in there.items() if here.get(name) != size]
        if wrong:
            name = wrong[0]
            found = f"{here[name]} channels" if name in here else "no such group"
            raise BadInput(
                f"the plan is for another model: it has {there[name]} channels in {name!r}, "
                f"and the model has {found}",
                hint="make one for this model with --plan-only",
            )
        return self


def _planned(row: Mapping[str, Any]) -> PlannedGroup:
    remove = row.get("remove", [])
    if not all(isinstance(index, int) and not isinstance(index, bool) for index in remove):
        raise ValueError(f"the channels to remove of {row['name']!r} are not whole numbers")
    return PlannedGroup(
        str(row["name"]),
        int(row["size"]),
        str(row.get("kind", "")),
        tuple(sorted(remove)),
        str(row.get("frozen", "")),
    )


def read_plan(plan: PrunePlan | str | os.PathLike[str] | None) -> PrunePlan | None:
    """The plan, read where it is a path. Raises BadInput for what is none."""
    if plan is None or isinstance(plan, PrunePlan):
        return plan
    return PrunePlan.from_json(plan_text(plan))


def planned(groups: Sequence[Group], removal: Removal, target: Target, score: str) -> PrunePlan:
    """A plan with a row for every group."""
    rows = tuple(
        PlannedGroup(g.name, g.size, g.kind, tuple(removal.get(g.name, ())), g.frozen)
        for g in groups
    )
    return PrunePlan(target, score, rows)


def choose(
    menus: Sequence[Menu],
    found: Mapping[str, Order],
    target: Target,
    price: Price,
    *,
    uniform: bool = False,
    frozen: str = "",
) -> dict[str, tuple[int, ...]]:
    """The channels to remove of each group, for a target.

    Raises BadInput, saying what is reachable and then `frozen`, where a share of the cost is out of
    reach.
    """
    if target.kind == "threshold":
        counts = {menu.group: _below(menu, found[menu.group], target.value) for menu in menus}
    elif target.kind == "ratio":
        counts = {menu.group: _share(menu, found[menu.group], target.value) for menu in menus}
    else:
        goal = target.value * price({})
        state = _evenly(menus, found, price, goal) if uniform else allocate(menus, price, goal)
        if state.cost > goal * (1 + 1e-9):
            raise BadInput(
                f"{target.kind} {target.value:g} is out of reach: with all that may be removed "
                f"{state.cost / price({}):.3f} is left{frozen}",
                hint="see `onnxopt prune --explain` for what is frozen; --max-ratio and a smaller "
                "--round let layers give more",
            )
        counts = state.removed
    return {name: chosen(found[name], count) for name, count in counts.items() if count}


def _below(menu: Menu, order: Order, threshold: float) -> int:
    scores = [
        later - earlier for earlier, later in zip(order.losses, order.losses[1:], strict=False)
    ]
    below = sum(score < threshold for score in scores)
    return max(count for count in menu.counts if count <= below)


def _share(menu: Menu, order: Order, ratio: float) -> int:
    return max(count for count in menu.counts if count <= ratio * len(order.channels) + 1e-9)


def _evenly(
    menus: Sequence[Menu], found: Mapping[str, Order], price: Price, goal: float
) -> Allocation:
    """The same share of every group, as small as the goal allows."""
    state = Allocation(cost=price({}))
    for percent in range(1, 100):
        removed = {menu.group: _share(menu, found[menu.group], percent / 100) for menu in menus}
        state = Allocation(
            {name: count for name, count in removed.items() if count}, price(removed)
        )
        if state.cost <= goal:
            break
    return state


def why_frozen(groups: Sequence[Group]) -> str:
    """The most frequent reasons of the groups that stay, as the end of a sentence."""
    counted = Counter(group.frozen for group in groups if group.frozen)
    shown = "; ".join(reason for reason, _ in counted.most_common(3))
    return f"; what stays: {shown}" if shown else ""


def nothing_left(groups: Sequence[Group], model: ir.Model) -> None:
    """Raise BadInput, with the reasons, where no group of the model may be pruned."""
    if prunable(groups):
        return
    reasons = list(dict.fromkeys(group.frozen for group in groups if group.frozen))
    shown = "; ".join(reasons[:3]) or "it has no layer with more than one channel"
    hint = "see `onnxopt prune --explain` for every group"
    if any(value.is_initializer() for value in model.graph.inputs):
        shown = "its weights are inputs as well, which a caller may override"
        hint = "make them constants with --freeze-inputs"
    raise BadInput(f"nothing can be pruned in this model: {shown}", hint=hint)
