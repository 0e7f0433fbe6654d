"""What the steps of quantization hand to each other: ranges, and a plan that a user can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxopt.errors import BadInput


@dataclass(frozen=True, slots=True)
class Range:
    """The smallest and the largest number that a tensor takes."""

    low: float
    high: float

    @property
    def span(self) -> float:
        """How far it is from one end to the other."""
        return self.high - self.low

    def __or__(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


@dataclass(frozen=True, slots=True)
class Grid:
    """The numbers that codes stand for: (code − zero_point) · scale, in `dtype` codes."""

    scale: float
    zero_point: int
    dtype: str = "uint8"

    @property
    def reach(self) -> Range:
        """The smallest and the largest number that a code stands for."""
        least, most = _LIMITS[self.dtype]
        return Range(
            (least - self.zero_point) * self.scale,
            (most - self.zero_point) * self.scale,
        )


_LIMITS = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535)}


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether a node is quantized, and why (not), as a sentence."""

    node: str
    op_type: str
    quantize: bool
    reason: str


@dataclass(frozen=True, slots=True)
class QuantPlan:
    """Which nodes run in integers on `target`, and the grid of each activation, by value name.

    `mode` is the one that the plan is for (see quantize.modes); only "static" has grids.
    """

    target: str
    nodes: tuple[Choice, ...]
    grids: Mapping[str, Grid]
    weight_bits: Mapping[str, int] = field(default_factory=dict)
    mode: str = "static"

    def to_json(self) -> str:
        """The plan as a JSON document that a user may edit and hand back."""
        return json.dumps(
            {
                "mode": self.mode,
                "target": self.target,
                "nodes": [
                    {
                        "node": choice.node,
                        "op_type": choice.op_type,
                        "quantize": choice.quantize,
                        "reason": choice.reason,
                    }
                    for choice in self.nodes
                ],
                "grids": {
                    name: {
                        "scale": grid.scale,
                        "zero_point": grid.zero_point,
                        "dtype": grid.dtype,
                    }
                    for name, grid in sorted(self.grids.items())
                },
                "weight_bits": dict(sorted(self.weight_bits.items())),
            },
            indent=2,
        )

    @classmethod
    def from_json(cls, text: str) -> QuantPlan:
        """Read a plan back. Raises BadInput, saying where, for anything it can't be."""
        try:
            data: Any = json.loads(text)
            return cls(
                target=str(data["target"]),
                nodes=tuple(_choice(item) for item in data["nodes"]),
                grids={name: _grid(name, item) for name, item in data["grids"].items()},
                weight_bits={name: int(bits) for name, bits in data["weight_bits"].items()},
                mode=str(data.get("mode", "static")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"the plan can't be read: {type(error).__name__}: {error}",
                hint="start from what --plan-only writes",
            ) from error


def _choice(item: Mapping[str, Any]) -> Choice:
    quantize = item["quantize"]
    if not isinstance(quantize, bool):
        raise ValueError(f"quantize of {item['node']!r} is {quantize!r}, not true or false")
    return Choice(str(item["node"]), str(item["op_type"]), quantize, str(item["reason"]))


def _grid(name: str, item: Mapping[str, Any]) -> Grid:
    scale, zero_point = float(item["scale"]), int(item["zero_point"])
    low, high = _LIMITS[item["dtype"]]
    if not (0 < scale < float("inf") and low <= zero_point <= high):
        raise ValueError(f"the grid of {name!r} has scale {scale} and zero point {zero_point}")
    return Grid(scale, zero_point, item["dtype"])
