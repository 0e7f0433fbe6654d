"""Initial states of recurrent operators that are zero anyway."""

from onnxopt.rewrite import Exactness, Example, Rule, Values

_KEEPS_ZEROS = (
    "Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
)  # fmt: skip


class DropZeroState(Rule):
    """Leave the initial state of an LSTM, GRU or RNN out where it holds nothing but zeros.

    PyTorch's exporters make the zeros at run time, from the batch size. Needs: zeros by
    construction, however they are shaped. Source: ONNX operators LSTM, GRU, RNN (a state that is
    left out is zero).
    """

    exactness = Exactness.EXACT
    example = Example("y = LSTM(x, w, r, b, , ConstantOfShape(s))", "y = LSTM(x, w, r, b)")

    def pattern(self, op, operands: Values):
        return op.one_of("LSTM", "GRU", "RNN")(operands).named("layer").shared()

    def rewrite(self, op, hit):
        kept = [
            None if index in (5, 6) and operand is not None and _is_zero(operand) else operand
            for index, operand in enumerate(hit.operands)
        ]
        hit.match(kept != hit.operands)
        old = hit.layer.outputs
        new = op.node(hit.layer.op_type, kept, outputs=len(old), like=hit.layer)
        pairs = zip(old, new if len(old) > 1 else [new], strict=True)
        return {was: now for was, now in pairs if was.readers or was.is_graph_output}


def _is_zero(operand, depth: int = 8) -> bool:
    if operand.is_const:
        return operand.filled == 0
    node = operand.producer
    if node is None or depth == 0:
        return False
    if node.is_op("ConstantOfShape"):
        value = node.attr("value")
        return value is None or not value.numpy().any()
    # Of a Concat all inputs are data, of the others the first.
    data = node.inputs if node.is_op("Concat") else node.inputs[:1]
    return node.is_op(*_KEEPS_ZEROS) and all(_is_zero(each, depth - 1) for each in data)
