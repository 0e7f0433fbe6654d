"""Dropout at inference."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values


class DropDropout(Rule):
    """Leave a Dropout out that lets everything through.

    Needs: its mask is not read, and its training mode is off or left out (opset 12 on; before that
    the operator had none). Source: ONNX operators Dropout-7, Dropout-12.
    """

    exactness = Exactness.EXACT
    example = Example("y = Dropout(x, 0.5)", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.Dropout(x, rest)

    def rewrite(self, op, hit):
        training = hit.root.input(2)
        if training is not None:
            hit.require(
                training.is_const, "whether it is in training mode is known at run time only"
            )
            hit.require(not training.array.any(), "it is in training mode")
        return hit.x
