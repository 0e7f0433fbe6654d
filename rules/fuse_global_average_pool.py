"""GlobalAveragePool from a mean over all image axes."""

from onnxopt.rewrite import Const, Example, Exactness, Rule, Value


class FuseGlobalAveragePool(Rule):
    """One GlobalAveragePool for a ReduceMean over every axis but the first two, dims kept.

    onnxruntime has a fast kernel for it in its blocked layout. Where the dims are not kept the
    ReduceMean stays: the pool would need a Reshape behind it.
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
        return op.GlobalAveragePool(hit.x)
