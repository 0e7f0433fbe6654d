"""AdamW whose rate is a share of each weight's own size, so that one number suits all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from onnxopt.distill.centres import Centre
from onnxopt.distill.kernels import Tensor

_LEAST = 0.1
"""What is smaller than this share of the others still moves as if it were of this share."""


class Steps:
    """Steps of AdamW (arXiv 1711.05101) over weights in units of their own size.

    A normalization that was folded into a convolution leaves it channels of very different sizes;
    so those of kernels have a unit each, other weights one for the whole tensor. Where the inputs
    of a product lie around a centre, weights move as if that were zero, and the bias follows.
    """

    def __init__(
        self, weights: Sequence[Tensor], rate: float, centres: Sequence[Centre] = ()
    ) -> None:
        self._weights = list(weights)
        self._centres = list(centres)
        self._units = _units(self._weights)
        self._moves = [torch.zeros_like(weight) for weight in self._weights]
        self._optimizer = torch.optim.AdamW(
            self._moves, lr=rate, betas=(0.9, 0.99), weight_decay=0.0, foreach=True
        )

    def take(self, rate: float) -> None:
        """Move the weights by their gradients, at this rate."""
        self._optimizer.param_groups[0]["lr"] = rate
        with torch.no_grad():
            slopes = [weight.grad for weight in self._weights]
            for centre in self._centres:
                slope, bias_slope = slopes[centre.weight], slopes[centre.bias]
                if slope is not None and bias_slope is not None:
                    slopes[centre.weight] = centre.apart(slope, bias_slope)
            for move, slope, unit in zip(self._moves, slopes, self._units, strict=True):
                move.zero_()
                move.grad = None if slope is None else slope * unit
            self._optimizer.step()
            moves = [move * unit for move, unit in zip(self._moves, self._units, strict=True)]
            for centre in self._centres:
                moves[centre.bias] += centre.follow(moves[centre.weight])
            for weight, move in zip(self._weights, moves, strict=True):
                weight.add_(move)

    def state(self) -> dict[str, Any]:
        """What `restore` goes on from."""
        return dict(self._optimizer.state_dict())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the training would have that gave this state."""
        self._optimizer.load_state_dict(dict(state))


def _units(weights: Sequence[Tensor]) -> list[Tensor]:
    """The size of each weight, or of each of its channels, as tensors to multiply with."""
    with torch.no_grad():
        sizes = [weight.square().mean().sqrt() for weight in weights]
        known = [float(size) for size in sizes if size > 0]
        least = _LEAST * (sorted(known)[len(known) // 2] if known else 1.0)
        return [
            _unit(weight, size.clamp_min(least))
            for weight, size in zip(weights, sizes, strict=True)
        ]


def _unit(weight: Tensor, size: Tensor) -> Tensor:
    if weight.dim() < 3:
        return size
    channels = weight.square().mean(tuple(range(1, weight.dim())), keepdim=True).sqrt()
    return torch.maximum(channels, _LEAST * size)
