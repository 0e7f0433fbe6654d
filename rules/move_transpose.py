"""Transpositions moved past other operators until they meet and vanish."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, axes
from onnxopt.rewrite.region import Region
from onnxopt.rewrite.relayout import Relayout


class MoveTranspose(Rule):
    """Run a part of the graph in the layout around it, where that leaves fewer transpositions.

    Looks at all nodes that a Transpose reaches through operators that don't care for the order of
    axes (elementwise ones, Concat, Split, Pad, Slice, Softmax, reductions, Resize, MatMul along
    the last axis, …), and moves those whose move saves the most. It does nothing where as many
    transpositions would be left, or where they would move more elements.
    Source: the layout conversions of tf2onnx and paddle2onnx.
    """

    exactness = Exactness.CLOSE
    example = Example(
        "y = Transpose(Relu(Transpose(x, perm=[0, 2, 3, 1])), perm=[0, 3, 1, 2])", "y = Relu(x)"
    )

    def pattern(self, op, x: Value):
        return op.Transpose(x)

    def rewrite(self, op, hit):
        perm = axes.transposition(hit.root) or ()
        hit.match(perm and not hit.x.is_const)
        plans = []
        for value, layout in ((hit.root.output, perm), (hit.x, axes.inverse(perm))):
            plan = Relayout.best(op, Region.grow(value, layout, hit.root.node.graph))
            if plan is None:
                continue
            plans.append(plan)
            result = plan.replacements()
            if plan.added <= plan.removed():
                return result
        hit.match(plans)
        return hit.require(False, "fewer transpositions would move more elements")
