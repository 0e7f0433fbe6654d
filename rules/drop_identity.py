"""Identity nodes."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class DropIdentity(Rule):
    """Read what an Identity reads.

    One that gives a graph output the name of an input or a constant stays: nothing else can.
    """

    exactness = Exactness.EXACT
    example = Example("y = Relu(Identity(x))", "y = Relu(x)")
    opsets = (1, None)

    def pattern(self, op, x: Value):
        return op.Identity(x)

    def rewrite(self, op, hit):
        y = hit.root.output
        hit.match(not y.is_graph_output or (hit.x.producer and not hit.x.is_graph_output))
        return hit.x
