"""Zeros in weights that stay in place: any share of a layer's weights, or two of every four.

Shapes, names and work stay as they are, so only a runtime with kernels for sparse weights gains
speed; onnxruntime's CPU provider has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.errors import BadInput
from onnxopt.prune.matrices import Matrix
from onnxopt.prune.obs import output_errors, refitted, swept

Array = np.ndarray[Any, np.dtype[Any]]

TWO_OF_FOUR = "2:4"
SCORES = ("reconstruction", "magnitude")
_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Pattern:
    """Where zeros may be: `share` of a layer's weights, or with `fours` two of every four inputs.

    The four are neighbouring input channels at one place of the kernel, as TensorRT's sparse
    kernels read them: along K of a Gemm or MatMul and C of a Conv.
    """

    share: float
    fours: bool = False

    @classmethod
    def of(cls, given: float | str) -> Pattern:
        """The pattern that `0.5`, "0.5", "50%" or "2:4" stands for.

        Raises BadInput for anything else, and for a share that is not between 0 and 1.
        """
        text = str(given).strip()
        if text == TWO_OF_FOUR:
            return cls(0.5, True)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            raise BadInput(
                f"there is no sparsity pattern {text!r}", hint="give a share such as 0.5, or 2:4"
            ) from None
        if not 0 < share < 1:
            raise BadInput(
                f"the share of zeros can't be {text}", hint="give one between 0 and 1, or 2:4"
            )
        return cls(share)

    def refusal(self, matrix: Matrix) -> str:
        """Why this weight stays dense; empty where it need not."""
        if matrix.depthwise:
            return "it is depthwise: its few weights all count, and no kernel skips them"
        if self.fours and matrix.channels % 4:
            what = "input channels" if matrix.op == "Conv" else "inputs"
            return f"its {matrix.channels} {what} are no multiple of 4"
        return ""

    def mask(self, rows: Array, costs: Array, *, window: int) -> Array:
        """Which weights stay: bool, of the shape of both arguments [groups, rows, columns].

        `costs` say what the loss of each weight costs. Weights of 0 go first, and all of them.
        """
        if not self.fours:
            count = round(self.share * costs.size)
            order = np.argsort(np.where(rows == 0, -1.0, costs), axis=None, kind="stable")
            mask = np.ones(costs.size, bool)
            mask[order[:count]] = False
            return np.asarray(mask.reshape(rows.shape) & (rows != 0))
        order = fours(rows.shape[2], window)
        mask = np.empty(rows.shape, bool)
        mask[..., order] = _two_of_four(costs[..., order])
        return np.asarray(mask & (rows != 0))


def fours(columns: int, window: int) -> Array:
    """The columns in an order in which each four are neighbouring channels at one place."""
    return np.asarray(np.arange(columns).reshape(-1, window).T.reshape(-1))


def sparse(
    rows: Array,
    second: Array | None,
    pattern: Pattern,
    *,
    window: int = 1,
    score: str = "reconstruction",
    refit: bool = True,
) -> Array:
    """Rows with zeros after a pattern, float64 [groups, rows, columns].

    Args:
        rows: The weights, float64 of that shape; those that are 0 stay so.
        second: Moments of the inputs, positive definite: float64 [groups, columns, columns]. None
            where nothing is known of them: then the smallest weights go.
        pattern: Where zeros may be.
        window: Columns of an input channel.
        score: "reconstruction" (what the loss of a weight costs when the others make up for it) or
            "magnitude".
        refit: Let the weights that stay make up for those that go.
    """
    sizes = pattern.mask(rows, np.abs(rows), window=window)
    if second is None:
        return np.where(sizes, rows, 0.0)
    masks = [sizes]
    if score == "reconstruction":
        power = np.diagonal(second, axis1=1, axis2=2)[:, None, :]
        masks.append(pattern.mask(rows, rows**2 * power, window=window))
        masks.append(_swept(rows, second, pattern, window) != 0)
    found = [refitted(rows, rows, mask, second) for mask in masks]
    best = _best(rows, second, found, by_row=pattern.fours)
    return best if refit else np.where(best != 0, rows, 0.0)


def _best(rows: Array, second: Array, found: list[Array], *, by_row: bool) -> Array:
    """What has the smallest error at the outputs: for each row, or for all of them."""
    errors = np.stack([output_errors(rows, each, second) for each in found])
    if not by_row:
        return found[int(errors.sum(axis=(1, 2)).argmin())]
    chosen = errors.argmin(axis=0)[..., None]
    return np.asarray(np.choose(chosen, found) if len(found) > 1 else found[0])


def _swept(rows: Array, second: Array, pattern: Pattern, window: int) -> Array:
    order = fours(rows.shape[2], window)
    alive = rows[..., order] != 0
    moved = second[:, order][:, :, order]

    def stays(block: Array, worth: Array, start: int) -> Array:
        left = np.where(alive[..., start : start + block.shape[2]], block, 0.0)
        return pattern.mask(left, left**2 / worth[:, None], window=1)

    found = np.empty_like(rows)
    found[..., order] = swept(rows[..., order], moved, stays, block=4 if pattern.fours else _BLOCK)
    return found


def _two_of_four(costs: Array) -> Array:
    blocks = costs.reshape(*costs.shape[:-1], -1, 4)
    place = np.argsort(np.argsort(-blocks, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray((place < 2).reshape(costs.shape))
