"""Which modes fit a model, the likeliest first."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import onnx_ir as ir

from onnxopt.quantize.dynamic import dynamic_choices
from onnxopt.quantize.sites import sites

_SHARE = 0.2
"""Products with a smaller share of the weights are not what takes the time."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A mode, and why it does not fit; empty where it does.

    `last_resort` says that it is worth its time only where what went before did not pay.
    """

    mode: str
    refusal: str = ""
    last_resort: bool = False


def fitting(model: ir.Model, *, has_data: bool) -> tuple[Fit, ...]:
    """The modes that could make the model faster on a CPU, with what speaks against them.

    Networks of products (transformers, recurrences) are best coded as they run, those of
    convolutions with ranges from data.
    """
    weights: Counter[str] = Counter()
    for site in sites(model):
        if site.kind != "table":
            weights[site.kind] += site.size
    products = weights["product"] + weights["recurrence"]
    everything = max(products + weights["convolution"], 1)
    able = any(choice.quantize for choice in dynamic_choices(model))
    dynamic = Fit("dynamic", "" if able else "no product has a weight that is large enough")
    if able and products / everything < _SHARE:
        dynamic = Fit("dynamic", "convolutions do the work, and it leaves them as they are")
    first_dynamic = products >= weights["convolution"]
    few = weights["convolution"] / everything < _SHARE
    static = Fit(
        "static", "" if has_data else "it needs samples of real inputs", first_dynamic and few
    )
    return (dynamic, static) if first_dynamic else (static, dynamic)
