"""Casts of Casts."""

from onnx_ir import DataType

from onnxopt.rewrite import Attr, Exactness, Example, Rule, Value

# Significant bits and the largest exponent: what fits into both is kept to the bit.
_FLOATS = {
    DataType.BFLOAT16: (8, 128),
    DataType.FLOAT16: (11, 16),
    DataType.FLOAT: (24, 128),
    DataType.DOUBLE: (53, 1024),
}
# Bits for the magnitude, and whether there are negative numbers.
_INTEGERS = {
    DataType.BOOL: (1, False),
    DataType.UINT8: (8, False),
    DataType.UINT16: (16, False),
    DataType.UINT32: (32, False),
    DataType.UINT64: (64, False),
    DataType.INT8: (7, True),
    DataType.INT16: (15, True),
    DataType.INT32: (31, True),
    DataType.INT64: (63, True),
}


class FoldCastChain(Rule):
    """One Cast for two in a row, none where the second undoes the first.

    Needs: the first loses nothing (float16 to float32, int32 to int64, bool to anything), or both
    only cut high bits off integers. int64 to int32 and back is no such pair.
    """

    exactness = Exactness.EXACT
    example = Example("y = Cast(Cast(x, to=double), to=float)  # x is float", "y = x")

    def pattern(self, op, x: Value, first: Attr, second: Attr):
        return op.Cast(op.Cast(x, to=first).shared().named("inner"), to=second).named("outer")

    def rewrite(self, op, hit):
        source, middle, target = hit.x.dtype, DataType(hit.first), DataType(hit.second)
        hit.match(_is_detour(source, middle, target) or _only_cuts(source, middle, target))
        if target == source:
            return hit.x
        hit.match(hit.inner.output.has_one_reader)
        return op.Cast(hit.x, to=target, like=hit.outer)


def _fits(source, target) -> bool:
    """Whether every number of `source` is one of `target`."""
    if source in _FLOATS and target in _FLOATS:
        (bits, exponent), (room, reach) = _FLOATS[source], _FLOATS[target]
        return bits <= room and exponent <= reach
    if source not in _INTEGERS:
        return False
    bits, signed = _INTEGERS[source]
    if target in _FLOATS:
        room, reach = _FLOATS[target]
        return bits <= room and bits < reach
    return target in _INTEGERS and bits <= _INTEGERS[target][0] and signed <= _INTEGERS[target][1]


def _is_detour(source, middle, target) -> bool:
    if not _fits(source, middle):
        return False
    if target in _FLOATS or target == DataType.BOOL:
        return True
    # From float to integer, what lies out of range is the kernel's choice.
    return target in _INTEGERS and (middle in _INTEGERS or _fits(source, target))


def _only_cuts(source, middle, target):
    if DataType.BOOL in (middle, target) or not {source, middle, target} <= set(_INTEGERS):
        return False
    return target.bitwidth <= middle.bitwidth
