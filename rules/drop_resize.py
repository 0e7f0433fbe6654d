"""Resize and Upsample to the size that is there."""

from onnxopt.rewrite import Exactness, Example, Rule, Value, Values


class DropResize(Rule):
    """Leave a Resize or Upsample out whose scales are all one, or whose sizes are its input's.

    Interpolation then meets every element again; a crop (tf_crop_and_resize) need not.
    """

    exactness = Exactness.CLOSE
    example = Example("y = Resize(x, scales=[1, 1, 1, 1])", "y = x")

    def pattern(self, op, x: Value, rest: Values):
        return op.one_of("Resize", "Upsample")(x, rest)

    def rewrite(self, op, hit):
        hit.match(hit.root.attr("coordinate_transformation_mode") != "tf_crop_and_resize")
        hit.match(_scales_by_one(hit.root) or _keeps_sizes(hit))
        return hit.x


def _scales_by_one(node) -> bool:
    if node.has("scales"):
        return all(scale == 1 for scale in node.attr("scales"))
    scales = node.input(2 if node.is_op("Resize") and node.opset >= 11 else 1)
    return scales is not None and bool(scales.size) and scales.is_const and scales.filled == 1


def _keeps_sizes(hit) -> bool:
    return hit.root.input(3) is not None and hit.x.same_shape(hit.root.output)
