"""What each channel of each group is worth, by one of several measures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import BadInput, MissingExtra
from onnxopt.prune.costs import prunable
from onnxopt.prune.fit import Order, Part, damped, ordered
from onnxopt.prune.products import Product, Weights
from onnxopt.prune.records import Group, Slot
from onnxopt.quantize.covariance import Covariance

Array = np.ndarray[Any, np.dtype[Any]]
Gradients = Callable[[ir.Model, Sequence[str]], Mapping[str, Array]]
"""Gives the mean gradient of a distillation loss with respect to the named constants."""

METHODS = (
    "reconstruction",
    "activation",
    "magnitude",
    "magnitude-l1",
    "batchnorm",
    "fpgm",
    "taylor",
    "random",
)
WITH_DATA = frozenset({"reconstruction", "activation", "taylor"})
_LARGE = 128
_STEP = 8
"""Of large groups so many channels go before the rest is weighed anew."""


def known_method(method: str, *, data: bool) -> str:
    """The method, if there is one of that name and what it needs is there.

    Raises BadInput otherwise.
    """
    if method not in METHODS:
        raise BadInput(f"there is no score {method!r}", hint=f"choose from {', '.join(METHODS)}")
    if method in WITH_DATA and not data:
        raise BadInput(
            f"the score {method!r} needs samples of real inputs, and there is no data",
            hint="give some with --data, or choose --score magnitude",
        )
    return method


def orders(
    model: ir.Model,
    groups: Sequence[Group],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    *,
    method: str = "reconstruction",
    seed: int = 0,
    gradients: Gradients | None = None,
) -> dict[str, Order]:
    """The order in which the channels of each prunable group go, least worth first, by group name.

    `losses` add up the scores of the channels that are gone. For "reconstruction" that is the share
    of the output's variance that is lost after a refit; other scores are as `scores` gives them.
    Where no product reads a group, "reconstruction" and "activation" fall back to magnitudes.

    Args:
        model: The model that the groups were found in.
        groups: Its groups.
        products: Its products, see products.products.
        moments: Moments of what they read, by node name; only scores with data need them.
        method: One of METHODS.
        seed: Of "random".
        gradients: For "taylor".

    Raises:
        BadInput: The score can't be had for this model; MissingExtra where it needs torch.
    """
    found = {}
    values = {} if method == "reconstruction" else scores(
        model, groups, products, moments, method=method, seed=seed, gradients=gradients
    )  # fmt: skip
    for group in prunable(groups):
        if method == "reconstruction":
            parts = list(_parts(group, model, products, moments))
            if parts:
                found[group.name] = ordered(parts, group.size, step=_step(group))
                continue
            values[group.name] = _magnitude(_Constants(model), group, 2)
        found[group.name] = _ascending(values[group.name])
    return found


def scores(
    model: ir.Model,
    groups: Sequence[Group],
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
    *,
    method: str = "magnitude",
    seed: int = 0,
    gradients: Gradients | None = None,
) -> dict[str, Array]:
    """The score of each channel, float64 [size] by name of each prunable group.

    magnitude, magnitude-l1: root mean square, or mean absolute value, of all weights of a channel.
    batchnorm: the size of its normalization's scale (Liu et al., 2017).
    fpgm: mean distance of its filter to the others of the group (He et al., 2019).
    activation: how far its part of the outputs reaches: the norm of the weights that read it times
    the root mean square of what they read (Sun et al., 2023).
    taylor: how much the loss changes to first order without it (Molchanov et al., 2019).
    reconstruction: what is lost when it goes at its turn, see `orders`.
    random: a number between 0 and 1.

    Raises as `orders` does.
    """
    if method == "reconstruction":
        found = orders(model, groups, products, moments)
        return {name: _unsorted(order) for name, order in found.items()}
    constants = _Constants(model)
    random = np.random.default_rng(seed)
    result = {}
    slopes = _slopes(model, groups, gradients) if method == "taylor" else {}
    for group in prunable(groups):
        if method == "random":
            result[group.name] = random.random(group.size)
        elif method == "fpgm":
            result[group.name] = _distances(constants, group)
        elif method == "batchnorm":
            result[group.name] = _scales(model, constants, group)
        elif method == "taylor":
            result[group.name] = _first_order(constants, group, slopes)
        elif method == "activation":
            result[group.name] = _reach(model, constants, group, products, moments)
        else:
            power = 1 if method == "magnitude-l1" else 2
            result[group.name] = _magnitude(constants, group, power)
    if method == "batchnorm" and all(np.isnan(found).all() for found in result.values()):
        raise BadInput(
            "no group has a BatchNormalization to take scores from",
            hint="choose --score magnitude, or reconstruction with --data",
        )
    return {
        name: np.nan_to_num(np.asarray(array, np.float64), nan=np.inf)
        for name, array in result.items()
    }


class _Constants:
    """The constants of a model, seen channel by channel."""

    def __init__(self, model: ir.Model) -> None:
        values = {v.name: v for node in model.graph for v in node.inputs if v is not None}
        self._values = {name: v for name, v in values.items() if ops.is_constant(v)}

    def channels(self, slot: Slot) -> Array | None:
        """The elements of each channel, float64 [size, n]; None where they are no floats."""
        value = self._values.get(slot.value)
        tensor = ops.constant(value)
        if tensor is None or not tensor.dtype.is_floating_point():
            return None
        moved = np.moveaxis(tensor.numpy(), slot.axis, 0).astype(np.float64)
        rows = [moved[list(at)].reshape(-1) for at in slot.positions]
        return np.stack(rows) if len({row.size for row in rows}) == 1 else None


def _parts(
    group: Group,
    model: ir.Model,
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
) -> Iterator[Part]:
    weights = Weights(model)
    for reader in group.readers:
        product, covariance = products.get(reader.node), moments.get(reader.node)
        if product is None or covariance is None or group.name not in product.columns:
            continue
        columns = product.columns[group.name]
        if len(set(map(len, columns))) == 1:
            moment = damped(covariance, centred=product.bias is not None)
            yield Part(weights.rows(product), moment, columns)


def _step(group: Group) -> int:
    return _STEP if group.size >= _LARGE else 1


def _ascending(values: Array) -> Order:
    order = np.argsort(values, kind="stable")
    finite = np.where(np.isfinite(values), values, 0)
    return Order(tuple(order.tolist()), np.concatenate([[0.0], np.cumsum(finite[order])]))


def _unsorted(order: Order) -> Array:
    found = np.zeros(len(order.channels))
    found[list(order.channels)] = np.diff(order.losses)
    return found


def _weights_of(group: Group) -> Iterable[Slot]:
    written = [writer.weight for writer in group.writers]
    read = [reader.weight for reader in group.readers]
    return [*written, *read] or group.slots


def _magnitude(constants: _Constants, group: Group, power: int) -> Array:
    total, count = np.zeros(group.size), 0
    for slot in _weights_of(group):
        rows = constants.channels(slot)
        if rows is not None:
            total += (np.abs(rows) ** power).sum(axis=1)
            count += rows.shape[1]
    return np.asarray((total / max(count, 1)) ** (1 / power))


def _distances(constants: _Constants, group: Group) -> Array:
    found = [constants.channels(writer.weight) for writer in group.writers]
    filters = [rows for rows in found if rows is not None]
    if not filters:
        return np.full(group.size, np.nan)
    rows = np.concatenate(filters, axis=1)
    squares = np.square(rows).sum(axis=1)
    distances = np.sqrt((squares[:, None] + squares - 2 * rows @ rows.T).clip(0))
    return np.asarray(distances.mean(axis=1))


def _scales(model: ir.Model, constants: _Constants, group: Group) -> Array:
    norms = {
        str(node.inputs[1].name)
        for node in model.graph
        if ops.is_standard(node, "BatchNormalization") and node.inputs[1] is not None
    }
    found = [constants.channels(slot) for slot in group.slots if slot.value in norms]
    rows = [np.abs(each) for each in found if each is not None]
    if not rows:
        return np.full(group.size, np.nan)
    return np.asarray(np.concatenate(rows, axis=1).mean(axis=1))


def _reach(
    model: ir.Model,
    constants: _Constants,
    group: Group,
    products: Mapping[str, Product],
    moments: Mapping[str, Covariance],
) -> Array:
    weights = Weights(model)
    total = np.zeros(group.size)
    for reader in group.readers:
        product, covariance = products.get(reader.node), moments.get(reader.node)
        if product is not None and covariance is not None:
            power = np.diagonal(covariance.second, axis1=1, axis2=2)
            columns = (np.square(weights.rows(product)).sum(axis=1) * power).sum(axis=0)
            total += [columns[list(at)].sum() for at in product.columns[group.name]]
    return np.sqrt(total) if total.any() else _magnitude(constants, group, 2)


def _slopes(
    model: ir.Model, groups: Sequence[Group], gradients: Gradients | None
) -> Mapping[str, Array]:
    if gradients is None:
        raise MissingExtra(
            "the score 'taylor' needs gradients, which come from torch",
            hint="pip install onnxopt[distill], or choose --score reconstruction",
        )
    names = sorted({slot.value for group in prunable(groups) for slot in _weights_of(group)})
    return gradients(model, names)


def _first_order(constants: _Constants, group: Group, slopes: Mapping[str, Array]) -> Array:
    total = np.zeros(group.size)
    for slot in _weights_of(group):
        rows, slope = constants.channels(slot), slopes.get(slot.value)
        if rows is not None and slope is not None:
            moved = np.moveaxis(np.asarray(slope, np.float64), slot.axis, 0)
            along = np.stack([moved[list(at)].reshape(-1) for at in slot.positions])
            total += (rows * along).sum(axis=1)
    return np.abs(total)
