"""The kernel for Attention, as opset 23 defines it."""

from __future__ import annotations

import math

import torch

from onnxopt.distill.kernels import Call, Tensor, kernel


@kernel("Attention")
def _attention(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    *others: Tensor | None,
) -> Tensor:
    if past_key is not None or past_value is not None or any(o is not None for o in others):
        raise call.refuse("it reads a cache")
    if call.outputs > 1:
        raise call.refuse("more than its first output is asked for")
    if call.attr("softcap", 0.0):
        raise call.refuse("its scores are capped")
    if max(call.attr("left_window_size", -1), call.attr("right_window_size", -1)) >= 0:
        raise call.refuse("it looks through a window")
    flat = query.dim() == 3
    heads, shared = call.attr("q_num_heads"), call.attr("kv_num_heads")
    if flat:
        query, key, value = (
            _split(each, count) for each, count in ((query, heads), (key, shared), (value, shared))
        )
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = (each.repeat_interleave(repeats, 1) for each in (key, value))
    scale = call.attr("scale")
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = _masked(call, query @ key.transpose(-1, -2) * scale, mask)
    # A row that may look at nothing gives zeros.
    blind = torch.isneginf(scores).all(-1, keepdim=True)
    result = torch.softmax(scores.masked_fill(blind, 0.0), -1).masked_fill(blind, 0.0) @ value
    return result.transpose(1, 2).flatten(2) if flat else result


def _split(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * size] as [batch, heads, length, size]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _masked(call: Call, scores: Tensor, mask: Tensor | None) -> Tensor:
    rows, columns = scores.shape[-2:]
    if call.attr("is_causal", 0):
        causal = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~causal, -math.inf)
    if mask is None:
        return scores
    if mask.dtype is torch.bool:
        return scores.masked_fill(~mask, -math.inf)
    return scores + mask
