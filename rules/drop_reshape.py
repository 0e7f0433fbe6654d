"""Reshape, Flatten, Squeeze and Unsqueeze to the shape that is there."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values, dims


class DropReshape(Rule):
    """Leave a Reshape, Flatten, Squeeze or Unsqueeze out that gives the shape it gets.

    Needs: shapes that are provably equal, dynamic dims included; where all dims but one are, so is
    the last.
    """

    exactness = Exactness.EXACT
    example = Example("y = Flatten(x)  # x is [N, 10]", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.one_of("Reshape", "Flatten", "Squeeze", "Unsqueeze")(x, rest)

    def rewrite(self, op, hit):
        hit.match(dims.same_reshaped(hit.x, hit.root.output) or _is_flat(hit))
        return hit.x


def _is_flat(hit) -> bool:
    flattens = hit.root.is_op("Flatten") and hit.root.attr("axis") in (1, -1)
    return flattens and hit.x.rank == 2
