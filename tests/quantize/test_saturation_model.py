"""A model built to overflow 16 bits is right with onnxruntime's optimizations on and off.

This machine's CPU may have VNNI, which adds in 32 bits; an emulated one without it is asked where
QEMU is installed. The same sums are emulated in numpy wherever the tests run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from no_vnni import EMULATOR, both_ways, emulated
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

import onnxopt
from onnxopt.quantize.saturation import is_depthwise, kernel_order, saturating_product

needs_emulator = pytest.mark.skipif(
    EMULATOR is None, reason="qemu-x86_64 is not installed: no CPU without VNNI to ask"
)
CHANNELS = 16


def overflowing() -> onnx.ModelProto:
    """Three convolutions, one of them depthwise, of large weights of one sign."""
    random = np.random.default_rng(0)
    weights = {
        "w1": 1 - 0.2 * random.random((CHANNELS, CHANNELS, 3, 3)),
        "w2": 1 - 0.2 * random.random((CHANNELS, 1, 3, 3)),
        "w3": 1 - 0.2 * random.random((CHANNELS, CHANNELS, 1, 1)),
    }
    weights["w3"][: CHANNELS // 2] *= -1
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "first"),
        helper.make_node("Conv", ["a", "w2"], ["b"], "second", group=CHANNELS),
        helper.make_node("Conv", ["b", "w3"], ["y"], "third"),
    ]
    graph = helper.make_graph(
        nodes,
        "overflowing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS, 4, 4])],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8)


def bright(count: int, seed: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(seed)
    shape = (1, CHANNELS, 8, 8)
    return [{"x": 1 - 0.5 * random.random(shape, dtype=np.float32)} for _ in range(count)]


class Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._feeds = iter(bright(10, 1))

    def get_next(self) -> Any:
        return next(self._feeds, None)


def rival(folder: Path) -> bytes:
    """What onnxruntime's quantizer makes of it with 8-bit weights, its default."""
    onnx.save(overflowing(), folder / "float.onnx")
    quantize_static(
        folder / "float.onnx",
        folder / "rival.onnx",
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
    )
    return (folder / "rival.onnx").read_bytes()


def ours() -> bytes:
    made = onnxopt.quantize(overflowing(), data=bright(10, 1), bench=False, threads=1)
    assert made.report.verdict == "int8"
    return onnxopt.io.to_proto(made.model).SerializeToString()


def ratio_db(found: Any, wanted: Any) -> float:
    noise = np.square(np.float64(found) - wanted).sum()
    return float(10 * np.log10(np.square(np.float64(wanted)).sum() / noise))


@needs_emulator
def test_the_rivals_file_is_wrong_on_a_cpu_without_vnni_and_ours_is_right(tmp_path: Path) -> None:
    feeds = bright(4, 2)
    wanted = both_ways(overflowing().SerializeToString(), feeds)["on"]
    theirs = emulated(rival(tmp_path), feeds, tmp_path)
    found = emulated(ours(), feeds, tmp_path)
    assert ratio_db(theirs["off"], wanted) > 30 > 10 > ratio_db(theirs["on"], wanted)
    assert ratio_db(found["off"], wanted) > 30
    assert abs(ratio_db(found["on"], wanted) - ratio_db(found["off"], wanted)) < 1


def test_ours_is_right_with_optimizations_on_and_off_on_this_machine() -> None:
    feeds = bright(4, 2)
    wanted = both_ways(overflowing().SerializeToString(), feeds)["on"]
    found = both_ways(ours(), feeds)
    assert ratio_db(found["on"], wanted) > 30
    assert abs(ratio_db(found["on"], wanted) - ratio_db(found["off"], wanted)) < 1


def single(weight: Any, group: int = 1) -> bytes:
    """QLinearConv of codes, on scales that show its sum in units of 2**8."""
    shape = [1, group * weight.shape[1], *weight.shape[2:]]
    inputs = ["x", "one", "zero", "w", "one", "none", "step", "zero"]
    constants = {
        "w": weight, "one": np.float32(1), "zero": np.uint8(0), "none": np.int8(0),
        "step": np.float32(256),
    }  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("QLinearConv", inputs, ["y"], group=group)],
        "single",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


PAIRS = ((2, 3), (1, 2), (0, 15), (14, 15))
"""Places in a row of the kernel: the first and the last are pairs of the rule."""


def codes_at(kernel: int) -> tuple[Any, Any]:
    """Weights whose channel i has codes at `PAIRS[i]` only, and images that are bright just there.

    int8 [C, C, kernel, kernel] and uint8 [pairs, C, kernel, kernel].
    """
    shape = (CHANNELS, CHANNELS, kernel, kernel)
    weight, images = np.zeros(shape, np.int8), np.zeros((len(PAIRS), *shape[1:]), np.uint8)
    order = kernel_order(shape, "Conv", 0)
    for channel, pair in enumerate(PAIRS):
        weight[channel].reshape(-1)[order[list(pair)]] = 127
        images[channel].reshape(-1)[order[list(pair)]] = 255
    return weight, images


@needs_emulator
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_pairs_of_a_convolution_are_those_of_the_rule(kernel: int, tmp_path: Path) -> None:
    weight, images = codes_at(kernel)
    order = kernel_order(weight.shape, "Conv", 0)
    told = saturating_product(
        images.reshape(len(PAIRS), -1)[:, order], weight.reshape(CHANNELS, -1)[:, order]
    )
    found = emulated(single(weight), [{"x": image[None]} for image in images], tmp_path)
    for case in range(len(PAIRS)):
        assert (told[case, case] == 32767) == (case in (0, 3))
        assert found["on"][case].reshape(-1)[case] == np.rint(told[case, case] / 256)


@needs_emulator
@pytest.mark.parametrize(
    ("outputs", "group"), [(CHANNELS, CHANNELS), (2 * CHANNELS, CHANNELS), (CHANNELS, 1)]
)
def test_one_channel_in_is_added_in_32_bits_where_one_goes_out(
    outputs: int, group: int, tmp_path: Path
) -> None:
    weight = np.zeros((outputs, 1, 3, 3), np.int8)
    weight[:, 0, 0, :2] = 127
    image = np.full((1, group, 3, 3), 250, np.uint8)
    found = emulated(single(weight, group), [{"x": image}], tmp_path)["on"]
    exact = 2 * 127 * 250
    told = exact if is_depthwise(weight.shape, group) else min(exact, 32767)
    assert (found == np.rint(told / 256)).all()


def test_only_as_many_channels_out_as_in_make_a_convolution_depthwise() -> None:
    assert is_depthwise((16, 1, 3, 3), 16)
    assert not is_depthwise((32, 1, 3, 3), 16)
    assert not is_depthwise((16, 1, 3, 3), 1)
    assert not is_depthwise((16, 2, 3, 3), 8)
