"""GlobalAveragePool from a mean over all image axes."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseGlobalAveragePool(Rule):
    """One GlobalAveragePool for a ReduceMean over every axis but the first two, dims kept.

    onnxruntime has a fast kernel for it in its blocked layout. Where the dims are not kept the
    ReduceMean stays: the pool would need a Reshape behind it. So do the means of a layer or RMS
    normalization in pieces, which onnxruntime fuses.
    Source: ONNX operators ReduceMean and GlobalAveragePool; PyTorch's mean([2, 3], keepdim=True).
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = ReduceMean(x, axes=[2, 3], keepdims=1)", "y = GlobalAveragePool(x)"
    )  # fmt: skip

    def pattern(self, op, x: Value, a: Const | None):
        return op.ReduceMean(x, a, keepdims=1).named("mean")

    def rewrite(self, op, hit):
        hit.match(hit.x.rank in (3, 4, 5) and hit.x.dtype.is_floating_point())
        axes = hit.mean.axes()
        hit.match(axes is not None)
        hit.match(sorted(axis % hit.x.rank for axis in axes) == list(range(2, hit.x.rank)))
        hit.match(hit.x.rank > 3 or not _normalizes(hit))
        return op.GlobalAveragePool(hit.x)


def _normalizes(hit) -> bool:
    """Whether the mean is taken off its data, or is one of squares."""
    square = hit.x.producer
    if square is not None and square.is_op("Pow", "Mul"):
        return True
    return any(reader.is_op("Sub") for reader in hit.mean.output.readers)
