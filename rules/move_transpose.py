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
        graph = hit.root.node.graph
        starts = ((hit.root.output, perm), (hit.x, axes.inverse(perm)))
        regions = [Region.grow(value, layout, graph) for value, layout in starts]
        plans = [plan for region in regions if (plan := Relayout.best(op, region)) is not None]
        hit.match(plans)
        results = [(plan, plan.replacements()) for plan in plans]
        good = [result for plan, result in results if plan.added <= plan.removed()]
        hit.require(good, "fewer transpositions would move more elements")
        return good[0]
