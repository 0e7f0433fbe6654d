"""Where a quantized model is to run, and what that asks of its pairs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """How activations and biases are coded for a target, and where its pairs stand.

    `rules` is the target that the specs in rules/quantize_*.py know it by. `dtype` are the codes
    of activations: uint8 and uint16 have a zero point, int8 has none (it is symmetric). With
    `float_bias` a bias stays a float. With `inputs_only` pairs stand on what integer kernels read
    and not on what they write. `here` tells that onnxruntime's CPU provider runs it, so that it
    can be proved and timed. `why` says where the knowledge is from.
    """

    rules: str
    dtype: str
    why: str
    float_bias: bool = False
    inputs_only: bool = False
    here: bool = False


TARGETS = {
    "cpu": Target(
        "cpu",
        "uint8",
        "onnxruntime's x64 kernels multiply uint8 by int8; int8 activations are turned into uint8"
        " only where nothing branches. A bias of int32 keeps a product and its Add in one kernel",
        here=True,
    ),
    "openvino": Target(
        "openvino",
        "int8",
        "its CPU plugin turns pairs into FakeQuantize and runs int8 by int8; without zero points"
        " no sums have to be made up for",
    ),
    "tensorrt": Target(
        "tensorrt",
        "int8",
        "explicit quantization takes symmetric int8 only, wants biases in floats, and fuses a"
        " convolution with the sum behind it where only the shortcut has a pair",
        float_bias=True,
        inputs_only=True,
    ),
    "qnn": Target(
        "qnn", "uint8", "the HTP backend computes with asymmetric uint8 and biases of int32"
    ),
    "qnn16": Target(
        "qnn",
        "uint16",
        "the HTP backend also takes activations of 16 bits, for networks that lose too much at 8",
    ),
    "generic": Target(
        "generic",
        "uint8",
        "what most runtimes read: asymmetric uint8, weights of int8 by channel, biases of int32",
        here=True,
    ),
}
"""By the name that a user gives."""
