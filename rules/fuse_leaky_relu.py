"""LeakyRelu and Relu from maxima and slopes."""

import numpy as np

from onnxopt.rewrite import Const, Exactness, Example, Rule, Value


class FuseLeakyRelu(Rule):
    """One LeakyRelu for Max(x, alpha · x) with alpha between 0 and 1, or a PRelu of one slope.

    Source: ONNX operator LeakyRelu; TensorFlow and Keras exporters.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Max(x, Mul(x, 0.1))", "y = LeakyRelu(x, alpha=0.1)")

    def pattern(self, op, x: Value, alpha: Const):
        return op.either(
            op.Max(x, op.Mul(x, alpha)).named("max"),
            op.PRelu(x, alpha).named("prelu"),
        )

    def rewrite(self, op, hit):
        hit.match(hit.x.rank is not None and hit.x.dtype is not None)
        hit.match(hit.x.dtype.is_floating_point())
        slopes = hit.alpha.array.astype(np.float64)
        hit.match(slopes.size and (slopes == slopes.flat[0]).all())
        hit.match(hit.root.output.same_shape(hit.x))
        slope = float(slopes.flat[0])
        hit.match(hit.prelu is not None or 0 <= slope <= 1)
        return op.LeakyRelu(hit.x, alpha=slope)
