"""Whatever is pruned from generated graphs, the oracle holds."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pruning import drawn, holds, prunable

from onnxopt.prune.groups import find_groups


@dataclass
class _Net:
    """A convolutional network being drawn: values of shape [N, channels, 4, 4]."""

    lines: list[str] = field(default_factory=list)
    weights: dict[str, object] = field(default_factory=dict)
    values: list[tuple[str, int]] = field(default_factory=lambda: [("x", 3)])

    def weight(self, *shape: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = shape
        return name

    def ints(self, *items: int) -> str:
        name = f"i{len(self.weights)}"
        self.weights[name] = np.array(items, np.int64)
        return name

    def add(self, text: str, channels: int) -> None:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {text}")
        self.values.append((name, channels))

    def conv(self, value: tuple[str, int], channels: int, groups: int = 1) -> None:
        name, size = value
        weight, bias = self.weight(channels, size // groups, 1, 1), self.weight(channels)
        self.add(f"Conv<group={groups}>({name}, {weight}, {bias})", channels)


def _grow(net: _Net, draw: st.DrawFn) -> None:
    """Add one operator to what is there."""
    value = draw(st.sampled_from(net.values[-3:]))
    name, size = value
    kind = draw(st.sampled_from(_KINDS))
    if kind == "conv":
        net.conv(value, draw(st.sampled_from([2, 4, 6, 8])))
    elif kind == "depthwise":
        net.conv(value, size * draw(st.sampled_from([1, 2])), size)
    elif kind == "grouped" and size % 2 == 0:
        net.conv(value, draw(st.sampled_from([2, 4, 6])), 2)
    elif kind == "unary":
        net.add(f"{draw(st.sampled_from(['Relu', 'Sigmoid', 'Neg']))}({name})", size)
    elif kind == "scale":
        net.add(f"Mul({name}, {net.weight(size, 1, 1)})", size)
    elif kind == "residual":
        net.conv(value, size)
        net.add(f"Add({net.values[-1][0]}, {name})", size)
    elif kind == "concat":
        other, more = draw(st.sampled_from(net.values[-3:]))
        net.add(f"Concat<axis=1>({name}, {other})", size + more)
    elif kind == "slice" and size > 2:
        cut = draw(st.integers(1, size - 1))
        bounds = ", ".join((net.ints(cut), net.ints(size), net.ints(1)))
        net.add(f"Slice({name}, {bounds})", size - cut)
    elif kind == "pad":
        net.add(f"Pad({name}, {net.ints(0, 1, 0, 0, 0, 2, 0, 0)})", size + 3)
    elif kind == "shuffle" and size % 2 == 0:
        _shuffle(net, value)
    elif kind == "gather":
        order = draw(st.permutations(range(size)))
        net.add(f"Gather<axis=1>({name}, {net.ints(*order)})", size)


def _shuffle(net: _Net, value: tuple[str, int]) -> None:
    name, size = value
    net.add(f"Reshape({name}, {net.ints(0, 2, size // 2, 4, 4)})", size)
    net.add(f"Transpose<perm=[0,2,1,3,4]>({net.values.pop()[0]})", size)
    net.add(f"Reshape({net.values.pop()[0]}, {net.ints(0, size, 4, 4)})", size)


_KINDS = (
    "conv", "depthwise", "grouped", "unary", "scale", "residual", "concat", "slice", "pad",
    "shuffle", "gather",
)  # fmt: skip


@st.composite
def _networks(draw: st.DrawFn) -> _Net:
    net = _Net()
    net.conv(net.values[0], draw(st.sampled_from([4, 6, 8])))
    for _ in range(draw(st.integers(2, 9))):
        _grow(net, draw)
    net.conv(net.values[-1], 2)
    return net


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(_networks(), st.integers(0, 2**16), st.sampled_from([0.1, 0.5, 0.9]))
def test_the_oracle_holds(net: _Net, seed: int, ratio: float) -> None:
    end = net.values[-1][0]
    text = "\n".join(net.lines)
    model = drawn(f"g (float[N,3,4,4] x) => (float[N,2,4,4] {end}) {{\n{text}\n}}", **net.weights)
    random = np.random.default_rng(seed)
    removal = {}
    for name, group in prunable(find_groups(model)).items():
        count = min(round(group.size * ratio), group.size - 1)
        taken = random.choice(group.size, count, replace=False)
        if count and random.random() < 0.8:
            removal[name] = tuple(sorted(int(index) for index in taken))
    if removal:
        pruned = holds(model, removal)
        left = {name: group.size for name, group in prunable(find_groups(pruned)).items()}
        once_more = {name: (0,) for name, size in left.items() if size > 1}
        if once_more:
            holds(pruned, once_more)
