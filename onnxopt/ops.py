"""What is true of ONNX operators, as tables, and which values are constants.

A fact about an operator is a row here and nowhere else. The tables name operators of the standard
domain; `is_standard` tells whether a node is one.
"""

from __future__ import annotations

import onnx_ir as ir

COMMUTATIVE = frozenset(
    {
        "Add",
        "And",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Equal",
        "Max",
        "Mean",
        "Min",
        "Mul",
        "Or",
        "Sum",
        "Xor",
    }
)
"""The order of the inputs does not matter."""

RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
"""Two runs on the same inputs may differ."""

TRAINING = frozenset({"Adagrad", "Adam", "Gradient", "Momentum"})
"""Operators of the training domains: they keep or change state between runs."""

CONTROL_FLOW = frozenset({"If", "Loop", "Scan", "SequenceMap"})
"""Their attributes hold graphs."""

QUANTIZING = frozenset({"DequantizeLinear", "DynamicQuantizeLinear", "QuantizeLinear"})
"""They say where a tensor changes its precision; a weight behind one stays as it is stored."""

SHAPE_ONLY = frozenset({"Shape", "Size"})
"""They read the shape of their input and never its elements."""

SHAPE_MOVING = frozenset(
    {
        "Expand",
        "Flatten",
        "Identity",
        "Reshape",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    }
)
"""They give the elements of their first input in another shape or order."""

ELEMENTWISE_UNARY = frozenset(
    {
        "Abs",
        "Acos",
        "Acosh",
        "Asin",
        "Asinh",
        "Atan",
        "Atanh",
        "BitwiseNot",
        "Cast",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Cosh",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "Identity",
        "IsInf",
        "IsNaN",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Not",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Shrink",
        "Sigmoid",
        "Sign",
        "Sin",
        "Sinh",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tan",
        "Tanh",
        "ThresholdedRelu",
    }
)
"""Each element of the output depends on the same element of the first input (and on scalars)."""

ELEMENTWISE_BINARY = frozenset(
    {
        "Add",
        "And",
        "BitShift",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Div",
        "Equal",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Mod",
        "Mul",
        "Or",
        "PRelu",
        "Pow",
        "Sub",
        "Xor",
    }
)
"""Two inputs, broadcast against each other, element by element."""

ELEMENTWISE_VARIADIC = frozenset({"Max", "Mean", "Min", "Sum", "Where"})
"""Any number of inputs (three for Where), broadcast, element by element."""

ASKING = frozenset({"Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual"})
"""They give true or false for what is not."""

TYPE_KEEPING = (
    (ELEMENTWISE_UNARY - ASKING - {"Cast"})
    | (ELEMENTWISE_BINARY - ASKING)
    | (ELEMENTWISE_VARIADIC - {"Where"})
    | SHAPE_MOVING
    | {
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "Conv",
        "ConvTranspose",
        "CumSum",
        "DepthToSpace",
        "Dropout",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LRN",
        "LayerNormalization",
        "LogSoftmax",
        "MatMul",
        "MaxPool",
        "Pad",
        "ReduceMax",
        "ReduceMean",
        "ReduceSum",
        "Resize",
        "Slice",
        "Softmax",
        "SpaceToDepth",
        "Split",
        "Tile",
    }
)
"""The first output has the element type of the first input."""

STANDARD_DOMAINS = frozenset({"", "ai.onnx"})

PURE_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
"""Operators of other domains are custom, and not known to give the same outputs twice."""

_CONSTANT_MARK = "onnxopt.constant"

_GRAPH, _GRAPHS = ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS


def is_standard(node: ir.Node, *op_types: str) -> bool:
    """Whether the node is an operator of the standard domain, and one of `op_types` if any."""
    return node.domain in STANDARD_DOMAINS and (not op_types or node.op_type in op_types)


def is_pure(node: ir.Node) -> bool:
    """Whether the node's outputs depend on nothing but its inputs and attributes.

    Custom domains and local functions are not known to be pure. A node that holds graphs is pure
    if all the nodes in them are.
    """
    if node.domain not in PURE_DOMAINS or node.op_type in RANDOM:
        return False
    if _trains(node):
        return False
    return all(is_pure(inner) for graph in subgraphs(node) for inner in graph)


def subgraphs(node: ir.Node) -> tuple[ir.Graph, ...]:
    """The graphs that the node's attributes hold directly, in the order of the attributes."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.data.values():
        if attribute.type is _GRAPH and not attribute.is_ref():
            found.append(attribute.as_graph())
        elif attribute.type is _GRAPHS and not attribute.is_ref():
            found.extend(attribute.as_graphs())
    return tuple(found)


def tensor_of(attribute: ir.Attr | None) -> ir.TensorProtocol | None:
    """The tensor that an attribute holds; None if it holds none or refers to a function's."""
    if attribute is None or attribute.type is not ir.AttributeType.TENSOR or attribute.is_ref():
        return None
    # Attr.as_tensor tests the tensor against a protocol, which takes longer than all the rest.
    tensor: ir.TensorProtocol = attribute.value
    return tensor


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor that `value` always holds, or None.

    An initializer is constant unless a caller may override it: one that is also a graph input
    counts only after `mark_constants`. The output of a Constant node is constant in every form of
    its attribute but the sparse one.
    """
    if value is None:
        return None
    producer = value.producer()
    if producer is not None:
        return _constant_node_tensor(producer)
    if not value.is_initializer():
        return None
    if value.is_graph_input() and not value.meta.get(_CONSTANT_MARK, False):
        return None
    return value.const_value


def is_constant(value: ir.Value | None) -> bool:
    """Whether `constant(value)` gives a tensor."""
    return constant(value) is not None


def store_constant(value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Write over what a constant holds; an initializer stays one, and a Constant node too."""
    producer = value.producer()
    if producer is not None:
        producer.attributes.clear()
        producer.attributes["value"] = ir.AttrTensor("value", tensor)
    value.const_value = tensor
    value.shape = ir.Shape(tensor.shape.numpy())


def mark_constants(model: ir.Model) -> None:
    """Let initializers that are also graph inputs count as constants where no caller may override.

    Below IR version 4 the format asked for every initializer to be listed as an input, and
    onnxruntime treats them as constants there. The mark survives `ir.Model.clone`.
    """
    if model.ir_version is None or model.ir_version >= 4:
        return
    for value in model.graph.inputs:
        if value.is_initializer():
            value.meta[_CONSTANT_MARK] = True


def _trains(node: ir.Node) -> bool:
    """Whether the node is a Dropout or BatchNormalization that runs (or may run) as in training."""
    if node.op_type == "BatchNormalization":
        mode = node.attributes.get("training_mode")
        outputs = [value for value in node.outputs if value.name]
        return (mode is not None and (mode.is_ref() or mode.as_int() != 0)) or len(outputs) > 1
    if node.op_type == "Dropout":
        flag = node.inputs[2] if len(node.inputs) > 2 else None
        tensor = constant(flag)
        return flag is not None and (tensor is None or bool(tensor.numpy()))
    return False


def _constant_node_tensor(node: ir.Node) -> ir.TensorProtocol | None:
    if node.op_type != "Constant" or node.domain not in STANDARD_DOMAINS:
        return None
    if len(node.attributes) != 1:
        return None
    attribute = next(iter(node.attributes.values()))
    if attribute.is_ref():
        return None
    output = node.outputs[0]
    if output.const_value is None:
        output.const_value = _attribute_tensor(attribute, output.name)
    return output.const_value


def _attribute_tensor(attribute: ir.Attr, name: str | None) -> ir.TensorProtocol | None:
    if attribute.name == "value":
        return tensor_of(attribute)
    if attribute.name == "value_int":
        return ir.tensor(attribute.as_int(), dtype=ir.DataType.INT64, name=name)
    if attribute.name == "value_ints":
        return ir.tensor(list(attribute.as_ints()), dtype=ir.DataType.INT64, name=name)
    if attribute.name == "value_float":
        return ir.tensor(attribute.as_float(), dtype=ir.DataType.FLOAT, name=name)
    if attribute.name == "value_floats":
        return ir.tensor(list(attribute.as_floats()), dtype=ir.DataType.FLOAT, name=name)
    if attribute.name == "value_string":
        return _string_tensor([attribute.value], (), name)
    if attribute.name == "value_strings":
        return _string_tensor(list(attribute.value), (len(attribute.value),), name)
    return None


def _string_tensor(
    texts: list[str | bytes], shape: tuple[int, ...], name: str | None
) -> ir.StringTensor:
    data = [text.encode() if isinstance(text, str) else text for text in texts]
    return ir.StringTensor(data, shape=ir.Shape(shape), name=name)
