"""What is quantized: refuses models that there is nothing to quantize in, and names nodes."""

from __future__ import annotations

import onnx_ir as ir

from onnxopt import ops
from onnxopt.errors import BadInput

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def refuse(model: ir.Model) -> None:
    """Raise BadInput for a model that there is nothing to quantize in, saying why."""
    nodes = list(model.graph.all_nodes())
    products = [node for node in nodes if ops.is_standard(node, *PRODUCTS)]
    weights = [value for node in products for value in node.inputs[1:2] if value is not None]
    made = [value.producer() for value in weights]
    done = [node for node in made if node is not None and node.op_type == "DequantizeLinear"]
    integer = [node for node in nodes if node.op_type.startswith(("QLinear", "QGemm"))]
    if (done or integer) and len(done) == len(weights):
        raise BadInput("the model is quantized already", hint="quantize the float model")
    types = {value.dtype for value in weights if value.dtype is not None}
    if types and ir.DataType.FLOAT not in types:
        name = sorted(dtype.name.lower() for dtype in types)[0]
        raise BadInput(
            f"the model computes in {name}, and only float32 can be quantized",
            hint="export it in float32",
        )


def name_nodes(model: ir.Model) -> None:
    """Give each node of the main graph a name of its own: plans go by names."""
    known: set[str] = set()
    for place, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{place}"
        while name in known:
            name = f"{name}_{place}"
        known.add(name)
        node.name = name
