"""Moves what makes an activation hard to code into the weights of the products that read it.

All channels of an activation share one grid: a few that reach far leave the others a handful of
codes. Divided by a factor each, and the weights of the products multiplied by it, they compute the
same, and the grid is finer (SmoothQuant, Xiao et al., arXiv 2211.10438). The factors go into the
LayerNormalization or the product with constants that made the activation, where nothing else reads
it. Behind other operators, and where a residual branch reads it too, they are a node more: it
takes about a hundredth of the product's time, where a product in float takes two to three times
its own.

How far the range is evened out is chosen for each activation, from the noise that coding it and
the weights is going to cause.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.check.inputs import Feed
from onnxopt.quantize.draft import Draft, drop_unread, graph_of
from onnxopt.quantize.observe import Observer, activations
from onnxopt.quantize.row_codes import product_rows
from onnxopt.quantize.saturation import safe_scale
from onnxopt.quantize.sites import Site, is_transposed, sites
from onnxopt.quantize.spool import numbered
from onnxopt.rewrite.hit import NodeView

Array = np.ndarray[Any, np.dtype[Any]]
Factors = Mapping[str, Array]
"""What each channel of a value is divided by, float64 [channels], by the value's name."""

STRENGTHS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the differences between channels that go into the weights."""
MOST = 64.0
"""No channel is scaled by more, up or down, than this."""
LEAST_GAIN = 1.26
"""So many times less noise (1 dB) a node more has to bring."""


@dataclass(slots=True)
class _Channels:
    """Extremes and the sum of squares of each channel: float64 [channels]."""

    low: Array
    high: Array
    squares: Array
    count: int = 0

    @classmethod
    def none(cls, channels: int) -> _Channels:
        return cls(np.zeros(channels), np.zeros(channels), np.zeros(channels))

    def add(self, rows: Array) -> None:
        self.low = np.minimum(self.low, rows.min(axis=0))
        self.high = np.maximum(self.high, rows.max(axis=0))
        self.squares += np.square(rows, dtype=np.float64).sum(axis=0)
        self.count += len(rows)

    @property
    def reach(self) -> Array:
        return np.maximum(-self.low, self.high)


def smoothing_factors(
    model: ir.Model, found: Sequence[Site], feeds: Iterable[Feed], *, threads: int = 0
) -> dict[str, Array]:
    """Factors for what the products read, where they bring enough; zero lies in every range.

    Args:
        model: The float model.
        found: Products of its main graph whose inputs are coded to 8 bits with one scale.
        feeds: The samples.
        threads: Threads of onnxruntime inside an operator, 0 for its own choice.

    Raises:
        BadInput: A value is not finite, or there is no data.
        RuntimeFailed: A feed does not run.
    """
    known = activations(model)
    readers: dict[str, list[Array]] = {}
    for site in found:
        source = site.node.inputs[0]
        if source is not None and source.name in known.values:
            readers.setdefault(source.name or "", []).append(product_rows(site))
    channels = {name: _Channels.none(rows[0].shape[1]) for name, rows in readers.items()}
    if not channels:
        return {}
    observer = Observer(known, known.choose(list(channels)), threads=threads)
    for number, feed in numbered(feeds):
        for name, array in observer.arrays(feed, number):
            if array.size:
                channels[name].add(array.reshape(-1, array.shape[-1]))
    chosen = {name: _factors(channels[name], rows) for name, rows in readers.items()}
    return {name: factors for name, factors in chosen.items() if factors is not None}


def _factors(channels: _Channels, weights: Sequence[Array]) -> Array | None:
    """The factors with the least noise; None where none have clearly less than there is."""
    reach = channels.reach
    weight = np.max([np.abs(rows).max(axis=0) for rows in weights], axis=0).astype(np.float64)
    alive = (reach > 0) & (weight > 0)
    if not alive.any():
        return None
    plain = _noise(channels, weights, np.ones(len(reach)))
    best, least = None, plain / LEAST_GAIN
    for strength in STRENGTHS:
        factors = np.ones(len(reach))
        factors[alive] = reach[alive] ** strength / weight[alive] ** (1 - strength)
        factors[alive] /= np.exp(np.log(factors[alive]).mean())
        factors = np.clip(factors, 1 / MOST, MOST)
        noise = _noise(channels, weights, factors)
        if noise < least:
            best, least = factors, noise
    return best


def _noise(channels: _Channels, weights: Sequence[Array], factors: Array) -> float:
    """What coding activations and weights will add to the products, over what they give."""
    span = (channels.high / factors).max() - (channels.low / factors).min()
    squares = channels.squares / max(channels.count, 1)
    total = 0.0
    for rows in weights:
        scaled = rows * factors.astype(rows.dtype)
        steps = safe_scale(scaled).astype(np.float64)
        coded = (span / 255) ** 2 * float(np.square(scaled, dtype=np.float64).sum())
        rounded = float(np.square(steps).sum() * (squares / factors**2).sum())
        given = float(np.square(rows, dtype=np.float64).sum(axis=0) @ squares)
        total += (coded + rounded) / max(given, 1e-30)
    return total


def smoothed(model: ir.Model, factors: Factors, chosen: Iterable[str]) -> ir.Model:
    """A copy in which what the chosen products read is divided, and their weights multiplied."""
    copy = model.clone()
    names = set(chosen)
    readers: dict[ir.Value, list[Site]] = {}
    for site in sites(copy):
        source = site.node.inputs[0] if site.kind == "product" else None
        if source is not None and site.name in names and source.name in factors:
            readers.setdefault(source, []).append(site)
    draft = Draft(copy)
    for source, products in readers.items():
        wanted = factors[source.name or ""]
        if not _absorb(draft, source, products, wanted):
            _divide(draft, source, products, wanted)
        for site in products:
            _multiply(draft, site, wanted)
    drop_unread(copy)
    return copy


def _divide(draft: Draft, source: ir.Value, products: Sequence[Site], factors: Array) -> None:
    first = products[0].node
    row = draft.constant(graph_of(first), f"{source.name}_factors", (1 / factors).astype("f4"))
    made = [(f"{source.name}_smooth", ir.DataType.FLOAT)]
    (divided,) = draft.node(first, "Mul", [source, row], made)
    divided.shape = source.shape
    for site in products:
        site.node.replace_input_with(0, divided)


def _absorb(draft: Draft, source: ir.Value, products: Sequence[Site], factors: Array) -> bool:
    """Divide the constants that the value was last multiplied with; False where there are none."""
    maker = source.producer()
    readers = {site.node for site in products}
    if maker is None or source.is_graph_output() or set(source.consumers()) != readers:
        return False
    slots = _row_slots(maker, len(factors))
    for slot in slots:
        row = ops.constant(maker.inputs[slot])
        assert row is not None
        scaled = (row.numpy() / factors).astype(np.float32)
        name = f"{maker.inputs[slot].name}_smooth"  # type: ignore[union-attr]
        maker.replace_input_with(slot, draft.constant(graph_of(maker), name, scaled))
    return bool(slots)


def _row_slots(maker: ir.Node, channels: int) -> tuple[int, ...]:
    """The inputs of a node that multiply its output channel by channel; none if there are none."""
    if ops.is_standard(maker, "LayerNormalization"):
        if NodeView(maker).attr("axis", -1) not in (-1,):
            return ()
        slots = tuple(i for i in (1, 2) if i < len(maker.inputs) and maker.inputs[i] is not None)
    elif ops.is_standard(maker, "Mul"):
        slots = tuple(i for i in (0, 1) if ops.is_constant(maker.inputs[i]))
    else:
        return ()
    rows = [ops.constant(maker.inputs[slot]) for slot in slots]
    fits = [row is not None and tuple(row.shape.numpy()) == (channels,) for row in rows]
    return slots if all(fits) else ()


def _multiply(draft: Draft, site: Site, factors: Array) -> None:
    tensor = ops.constant(site.weight)
    assert site.weight is not None and tensor is not None
    along = factors if is_transposed(site.node) else factors[:, None]
    scaled = (tensor.numpy() * along).astype(np.float32)
    home = graph_of(site.node)
    value = draft.constant(home, f"{site.weight.name}_smooth", scaled)
    site.node.replace_input_with(1, value)
