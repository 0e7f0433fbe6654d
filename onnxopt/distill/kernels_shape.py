"""Kernels for shapes, and for operators that move, pick or repeat elements."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional

from onnxopt.distill.kernels import Call, Tensor, aligned, from_numpy, ints, kernel

_LAST = 1 << 62


@kernel("Constant")
def _constant(call: Call) -> Tensor:
    if "value" in call.attributes:
        return from_numpy(call.attr("value").numpy())
    for name, kind in _LITERALS.items():
        if name in call.attributes:
            return torch.tensor(call.attr(name), dtype=kind)
    raise call.refuse("it is neither a number nor a list of them")


_LITERALS = {
    "value_float": torch.float32,
    "value_floats": torch.float32,
    "value_int": torch.int64,
    "value_ints": torch.int64,
}


@kernel("ConstantOfShape")
def _constant_of_shape(call: Call, shape: Tensor) -> Tensor:
    value = call.attr("value")
    filled = torch.zeros(()) if value is None else from_numpy(value.numpy()).reshape(())
    return filled.expand(ints(shape)).clone()


@kernel("Shape")
def _shape(call: Call, x: Tensor) -> Tensor:
    # A slice clamps as the operator does, but for the default end.
    end = call.attr("end")
    return torch.tensor(list(x.shape)[call.attr("start", 0) : end], dtype=torch.int64)


@kernel("Size")
def _size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel())


@kernel("Range")
def _range(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@kernel("Reshape")
def _reshape(call: Call, x: Tensor, shape: Tensor | None = None) -> Tensor:
    sizes = ints(shape) if shape is not None else list(call.attr("shape", ()))
    if not call.attr("allowzero", 0):
        sizes = [x.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return x.reshape(sizes)


@kernel("Flatten")
def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.attr("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(x.shape[:axis].numel(), x.shape[axis:].numel())


@kernel("Transpose")
def _transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(list(call.attr("perm") or range(x.dim() - 1, -1, -1)))


@kernel("Squeeze")
def _squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints(axes) if axes is not None else list(call.attr("axes", ()))
    taken = {axis % x.dim() for axis in given} if given else None
    kept = [
        size
        for axis, size in enumerate(x.shape)
        if (axis not in taken if taken is not None else size != 1)
    ]
    return x.reshape(kept)


@kernel("Unsqueeze")
def _unsqueeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints(axes) if axes is not None else list(call.attr("axes"))
    rank = x.dim() + len(given)
    for axis in sorted(axis % rank for axis in given):
        x = x.unsqueeze(axis)
    return x


@kernel("Expand")
def _expand(call: Call, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(tuple(x.shape), tuple(ints(shape))))


@kernel("Tile")
def _tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats))


@kernel("Concat")
def _concat(call: Call, *inputs: Tensor) -> Tensor:
    return torch.cat(aligned(*inputs), dim=call.attr("axis", 1))


@kernel("Split")
def _split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Any:
    axis = call.attr("axis", 0)
    parts = ints(sizes) if sizes is not None else list(call.attr("split", ()))
    if not parts:
        count = call.attr("num_outputs", call.outputs)
        chunk = -(-x.shape[axis] // count)
        parts = [chunk] * (count - 1) + [x.shape[axis] - chunk * (count - 1)]
    return tuple(torch.split(x, parts, dim=axis))


@kernel("Slice")
def _slice(
    call: Call,
    x: Tensor,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    first = ints(starts) if starts is not None else list(call.attr("starts"))
    last = ints(ends) if ends is not None else list(call.attr("ends"))
    along = ints(axes) if axes is not None else list(call.attr("axes", range(len(first))))
    by = ints(steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, along, by, strict=True):
        kept = range(x.shape[axis])[
            slice(
                max(min(start, _LAST), -_LAST),
                # In Python -1 is the last element; below -size means before the first one.
                None if step < 0 and end < -x.shape[axis] else max(min(end, _LAST), -_LAST),
                step,
            )
        ]
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(kept.start, kept.stop, step),)]
        else:
            x = x.index_select(axis, torch.tensor(list(kept), dtype=torch.int64, device=x.device))
    return x


@kernel("Gather")
def _gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attr("axis", 0) % max(x.dim(), 1)
    wanted = indices.to(x.device, torch.int64)
    wanted = torch.where(wanted < 0, wanted + x.shape[axis], wanted)
    picked = x.index_select(axis, wanted.reshape(-1))
    return picked.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@kernel("GatherElements")
def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.attr("axis", 0)
    wanted = indices.to(x.device, torch.int64)
    return torch.gather(x, axis, torch.where(wanted < 0, wanted + x.shape[axis], wanted))


@kernel("GatherND")
def _gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    if call.attr("batch_dims", 0):
        raise call.refuse("it has batch dims")
    return x[tuple(indices.to(x.device, torch.int64).unbind(-1))]


@kernel("ScatterND")
def _scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call.text("reduction", "none") not in ("none", "add"):
        raise call.refuse("it reduces what falls on one place")
    where = tuple(indices.to(x.device, torch.int64).unbind(-1))
    return x.index_put(where, updates, accumulate=call.text("reduction", "none") == "add")


@kernel("ScatterElements")
def _scatter_elements(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    axis = call.attr("axis", 0)
    if call.text("reduction", "none") not in ("none", "add"):
        raise call.refuse("it reduces what falls on one place")
    where = indices.to(x.device, torch.int64)
    where = torch.where(where < 0, where + x.shape[axis], where)
    if call.text("reduction", "none") == "add":
        return x.scatter_add(axis, where, updates)
    return x.scatter(axis, where, updates)


@kernel("OneHot")
def _one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count, axis = ints(depth)[0], call.attr("axis", -1)
    indices, values = aligned(indices.to(torch.int64), values)
    wanted = torch.where(indices < 0, indices + count, indices)
    hot = wanted.unsqueeze(-1) == torch.arange(count, device=wanted.device)
    found = torch.where(hot, values[1], values[0])
    return found.movedim(-1, axis)


@kernel("NonZero")
def _non_zero(call: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).transpose(0, 1)


@kernel("Trilu")
def _trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = ints(k)[0] if k is not None else 0
    return torch.triu(x, diagonal) if call.attr("upper", 1) else torch.tril(x, diagonal)


@kernel("Pad")
def _pad(
    call: Call,
    x: Tensor,
    pads: Tensor | None = None,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor:
    amounts = ints(pads) if pads is not None else list(call.attr("pads", call.attr("paddings")))
    along = [axis % x.dim() for axis in ints(axes)] or list(range(x.dim()))
    mode = call.text("mode", "constant")
    if mode == "constant":
        filled = call.attr("value", 0.0) if value is None else value.item()
        flat = [0] * (2 * x.dim())
        for place, axis in enumerate(along):
            behind = 2 * (x.dim() - 1 - axis)
            flat[behind : behind + 2] = amounts[place], amounts[place + len(along)]
        return functional.pad(x, flat, value=filled)
    for place, axis in enumerate(along):
        x = _pad_along(x, axis, amounts[place], amounts[place + len(along)], mode)
    return x


def _pad_along(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """Pad by elements of the tensor itself: mirrored, the border's, or from the other end."""
    size = x.shape[axis]
    places = torch.arange(-before, size + after, device=x.device)
    if mode == "reflect":
        period = max(2 * (size - 1), 1)
        places = (places % period).sub(size - 1).abs().neg() + size - 1
    else:
        places = places % size if mode == "wrap" else places.clamp(0, size - 1)
    return x.index_select(axis, places)


@kernel("DepthToSpace")
def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.attr("blocksize")
    if call.text("mode", "DCR") == "DCR":
        x = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        x = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return x.reshape(n, c // (b * b), h * b, w * b)


@kernel("SpaceToDepth")
def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    b = call.attr("blocksize")
    x = x.reshape(n, c, h // b, b, w // b, b)
    depth_first = call.text("mode", "DCR") == "DCR"
    x = x.permute(0, 3, 5, 1, 2, 4) if depth_first else x.permute(0, 1, 3, 5, 2, 4)
    return x.reshape(n, c * b * b, h // b, w // b)
