"""Branches that squeeze an axis, or leave it, where only one of the two can go on."""

from onnxopt_rules._ranks import Ranks

from onnxopt.rewrite import Exactness, Example, NodeView, Operand, Rule, Value, forms


class FoldSqueezeBranch(Rule):
    """Take the branch of an If outright where the rank that the other gives makes a reader fail.

    PyTorch's scripted exporter writes a squeeze of a dynamic axis as: if the axis has size one,
    squeeze it, else leave it. A recurrent layer or a convolution behind it then settles which it
    must be. Needs: branches that squeeze, unsqueeze or pass one and the same tensor.
    """

    exactness = Exactness.EXACT
    example = Example("y = LSTM(If(c, Squeeze(x, [3]), x), ...)", "y = LSTM(Squeeze(x, [3]), ...)")

    def pattern(self, op, condition: Value):
        return op.If(condition)

    def rewrite(self, op, hit):
        hit.match(len(hit.root.outputs) == 1)
        branches = [_branch(hit, name) for name in ("then_branch", "else_branch")]
        (x, *_), (same, *_) = branches
        hit.match(x == same and x.rank is not None)
        going = [each for each in branches if not Ranks(hit.root).fails(x.rank + each[2])]
        hit.match(len(going) == 1)
        _, node, _ = going[0]
        if node.is_op("Identity"):
            return x
        return forms.with_axes(op, node.op_type, x, node.axes())


def _branch(hit, name: str):
    """What the branch reads, its one node, and by how much that changes the rank."""
    graph = hit.root.attr(name)
    nodes = [NodeView(each) for each in graph if each.op_type != "Constant"]
    hit.match(len(nodes) == 1 and nodes[0].is_op("Identity", "Squeeze", "Unsqueeze"))
    node = nodes[0]
    hit.match(node.output == Operand(graph.outputs[0]))
    if node.is_op("Identity"):
        return node.input(0), node, 0
    axes = node.axes() or []
    hit.match(axes)
    return node.input(0), node, len(axes) if node.is_op("Unsqueeze") else -len(axes)
