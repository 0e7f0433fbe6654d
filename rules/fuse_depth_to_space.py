"""DepthToSpace and SpaceToDepth from two reshapes and a transpose."""

from onnxopt.rewrite import Exactness, Example, Rule, Value

_PERMS = {(0, 1, 4, 2, 5, 3): "CRD", (0, 3, 4, 1, 5, 2): "DCR"}


class FuseDepthToSpace(Rule):
    """One DepthToSpace for Reshape, Transpose, Reshape: a pixel shuffle written out.

    Both orders of the channels are known (CRD is PyTorch's, DCR TensorFlow's).
    Source: ONNX operator DepthToSpace-13.
    """

    exactness = Exactness.EXACT
    example = Example(
        "y = Reshape(Transpose(Reshape(x, [N,C,b,b,H,W]), perm=[0,1,4,2,5,3]), [N,C,H*b,W*b])",
        'y = DepthToSpace(x, blocksize=b, mode="CRD")',
    )
    opsets = (11, None)

    def pattern(self, op, x: Value, split: Value, merge: Value):
        turned = op.Transpose(op.Reshape(x, split).named("split")).named("turn")
        return op.Reshape(turned, merge)

    def rewrite(self, op, hit):
        mode = _PERMS.get(tuple(hit.turn.attr("perm") or ()))
        hit.match(mode is not None and hit.x.rank == 4)
        inner, outer = hit.split.output.shape, hit.root.output.shape
        hit.match(inner is not None and outer is not None and len(outer) == 4)
        channels, block, other = (inner[i] for i in ((1, 2, 3) if mode == "CRD" else (3, 1, 2)))
        hit.match(isinstance(block, int) and block == other and isinstance(channels, int))
        hit.match(hit.x.dim(1) == channels * block * block and outer[1] == channels)
        same = inner[0] == hit.x.shape[0] == outer[0] and inner[4:] == hit.x.shape[2:]
        hit.require(same and None not in inner, "the batch or the image size can't be followed")
        return op.DepthToSpace(hit.x, blocksize=block, mode=mode)


class FuseSpaceToDepth(Rule):
    """One SpaceToDepth for Reshape, Transpose, Reshape: a pixel unshuffle written out.

    Source: ONNX operator SpaceToDepth-13.
    """

    exactness = Exactness.EXACT
    example = Example(
        "y = Reshape(Transpose(Reshape(x, [N,C,H,b,W,b]), perm=[0,3,5,1,2,4]), [N,C*b*b,H,W])",
        "y = SpaceToDepth(x, blocksize=b)",
    )

    def pattern(self, op, x: Value, split: Value, merge: Value):
        turned = op.Transpose(op.Reshape(x, split).named("split"), perm=[0, 3, 5, 1, 2, 4])
        return op.Reshape(turned, merge)

    def rewrite(self, op, hit):
        inner, outer, shape = hit.split.output.shape, hit.root.output.shape, hit.x.static_shape
        hit.match(hit.x.rank == 4 and inner is not None and outer is not None and len(outer) == 4)
        block = inner[3]
        hit.match(isinstance(block, int) and block == inner[5] and block > 0)
        hit.require(shape is not None, "the image size is dynamic")
        batch, channels, height, width = shape
        wanted = (batch, channels, height // block, block, width // block, block)
        hit.match(inner == wanted and height % block == 0 and width % block == 0)
        hit.match(outer == (batch, channels * block**2, height // block, width // block))
        return op.SpaceToDepth(hit.x, blocksize=block)
