"""The dims of onnxruntime's own operators, of which ONNX's inference knows nothing."""

from __future__ import annotations

from onnxopt.passes.propagate import Dims, DimsRule, Place, Unknown


def _like_first(place: Place) -> list[Dims | None]:
    return [place.dims(0)]


def _normalized_sum(place: Place) -> list[Dims | None]:
    """The normalized sum, two statistics that only training has, and the sum itself."""
    return [place.dims(0), None, None, place.dims(0)]


def _multi_head(place: Place) -> list[Dims | None]:
    query, value = place.rank_known(0), place.rank_known(2)
    if len(query) != 3 or len(value) != 3:
        raise Unknown("packed")
    return [(*query[:2], value[2])]


def _grouped(place: Place) -> list[Dims | None]:
    query = place.rank_known(0)
    if place.dims(1) is None or len(query) != 3:
        raise Unknown("packed")
    return [query]


def _projected(place: Place) -> list[Dims | None]:
    x, weight = place.rank_known(0), place.rank_known(1)
    sizes = place.ints_attribute("qkv_hidden_sizes")
    last = weight[1]
    if sizes:
        return [(*x[:2], sizes[2])]
    if not isinstance(last, int):
        raise Unknown("weight")
    return [(*x[:2], last // 3)]


CONTRIB_DIMS_RULES: dict[str, DimsRule] = {
    **dict.fromkeys(
        (
            "BiasAdd",
            "BiasGelu",
            "DequantizeLinear",
            "FastGelu",
            "Gelu",
            "QuantizeLinear",
            "QuickGelu",
            "RotaryEmbedding",
        ),
        _like_first,
    ),
    "Attention": _projected,
    "GroupQueryAttention": _grouped,
    "MultiHeadAttention": _multi_head,
    "SkipLayerNormalization": _normalized_sum,
    "SkipSimplifiedLayerNormalization": _normalized_sum,
}
"""The rules by the name of the operator, all of the domain com.microsoft."""
