"""Shape and Size of what has the shape of something earlier."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, ops


class FoldShapeReader(Rule):
    """Read the shape where it comes from, before the operators that keep it.

    So a tensor need not live on for its shape, and equal Shapes become one. Elementwise functions
    of one tensor keep its shape always; of several, and any other operator, where that is proven.
    """

    exactness = Exactness.EXACT
    example = Example("y = Shape(Relu(Cast(x)))", "y = Shape(x)")

    def pattern(self, op, x: Value):
        return op.one_of("Shape", "Size")(x).named("reader")

    def rewrite(self, op, hit):
        source = hit.x
        while (before := _before(hit.root, source)) is not None:
            source = before
        hit.match(source != hit.x)
        return op.node(hit.reader.op_type, [source], like=hit.reader)


def _before(root, x):
    """An input of what makes x that has x's shape, or None."""
    node = x.producer
    if node is None or node.node.graph is not root.node.graph or not node.is_op():
        return None
    candidates = [each for each in node.inputs if each is not None and not each.is_const]
    if node.is_op(*ops.ELEMENTWISE_UNARY):
        return candidates[0] if candidates and candidates[0] == node.input(0) else None
    return next((each for each in candidates if each.same_shape(x)), None)
