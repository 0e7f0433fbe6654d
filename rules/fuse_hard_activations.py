"""HardSigmoid and HardSwish from shifts, clips and quotients."""

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


def _bounds(hit):
    """Lower and upper bound of the Clip, from attributes or inputs; Unmatched if not both known."""
    clip = hit.clip
    low = hit.low.scalar if hit.low is not None else clip.attr("min")
    high = hit.high.scalar if hit.high is not None else clip.attr("max")
    hit.match(low is not None and high is not None)
    return low, high


class FuseHardSigmoid(Rule):
    """One HardSigmoid for Clip(x + shift, 0, top) / top.

    The quotient may be a Div or a Mul. Source: ONNX operator HardSigmoid; MobileNetV3 from PyTorch.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Div(Clip(Add(x, 3), 0, 6), 6)", "y = HardSigmoid(x, alpha=1/6, beta=0.5)"
    )

    def pattern(
        self, op, x: Value, shift: Const, low: Const | None, high: Const | None, top: Const
    ):
        clipped = op.Clip(op.Add(x, shift), low, high).named("clip")
        return op.either(op.Div(clipped, top).named("div"), op.Mul(clipped, top).named("mul"))

    def rewrite(self, op, hit):
        low, high = _bounds(hit)
        shift, top = hit.shift.scalar, hit.top.scalar
        hit.match(None not in (shift, top) and low == 0 and high > 0 and hit.x.rank is not None)
        hit.match(top != 0 and hit.shift.rank <= hit.x.rank and hit.top.rank <= hit.x.rank)
        alpha = 1 / top if hit.div is not None else top
        hit.require(
            abs(alpha * high - 1) < 1e-5, "the upper bound is not what the quotient makes one"
        )
        return op.HardSigmoid(hit.x, alpha=alpha, beta=shift * alpha)


class FuseHardSwish(Rule):
    """One HardSwish for x · HardSigmoid(x) with alpha 1/6 and beta 1/2.

    Also where the quotient by six comes last: x · Clip(x + 3, 0, 6) / 6.
    Source: ONNX operator HardSwish-14; MobileNetV3 from PyTorch, Paddle and TensorFlow.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Mul(x, HardSigmoid(x, alpha=1/6, beta=0.5))", "y = HardSwish(x)")
    opsets = (14, None)

    def pattern(self, op, x: Value, low: Const | None, high: Const | None):
        clipped = op.Clip(op.Add(x, 3.0), low, high).named("clip")
        product = op.Mul(x, clipped)
        return op.either(
            op.Div(product, 6.0),
            op.Mul(product, 1 / 6),
            op.Mul(x, op.HardSigmoid(x).named("gate")),
            op.Mul(x, op.either(op.Div(clipped, 6.0), op.Mul(clipped, 1 / 6))),
        )

    def rewrite(self, op, hit):
        if hit.gate is not None:
            alpha, beta = hit.gate.attr("alpha"), hit.gate.attr("beta")
            hit.match(abs(alpha - 1 / 6) < 1e-5 and abs(beta - 0.5) < 1e-5)
        else:
            hit.match(_bounds(hit) == (0, 6))
        hit.match(hit.root.output.same_shape(hit.x))
        return op.HardSwish(hit.x)
