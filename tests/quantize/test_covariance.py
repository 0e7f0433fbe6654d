"""Vectors that products read, and their moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.errors import BadInput
from onnxopt.quantize import covariance
from onnxopt.quantize.covariance import Covariance, covariances, each_covariance, refusal
from onnxopt.quantize.observe import Observer
from onnxopt.quantize.patches import drawn, vectors_of
from onnxopt.runtime.sessions import evaluate

RANDOM = np.random.default_rng(0)


def floats(name: str, *shape: int) -> str:
    numbers = ",".join(f"{n:.3f}" for n in RANDOM.standard_normal(int(np.prod(shape))))
    return f"float[{','.join(map(str, shape))}] {name} = {{{numbers}}}"


def load(text: str) -> ir.Model:
    return ir.from_proto(parse(text))


def sample(*shape: int) -> dict[str, Any]:
    return {"x": RANDOM.standard_normal(shape).astype(np.float32)}


CONVOLUTIONS = {
    "plain": ((4, 3, 3, 3), "", (2, 3, 6, 7)),
    "pointwise": ((4, 3, 1, 1), "", (2, 3, 5, 5)),
    "depthwise": ((6, 1, 3, 3), "group = 3, pads = [1,1,1,1]", (1, 3, 5, 5)),
    "grouped": ((4, 2, 3, 3), "group = 2", (1, 4, 5, 6)),
    "strided and dilated": ((2, 2, 2, 3), "strides = [2,1], dilations = [2,2]", (1, 2, 8, 9)),
    "uneven padding": ((2, 2, 3, 3), "pads = [0,1,2,0]", (1, 2, 5, 5)),
    "same upper": ((2, 2, 4, 3), 'auto_pad = "SAME_UPPER", strides = [2,2]', (1, 2, 7, 6)),
    "same lower": ((2, 2, 4, 3), 'auto_pad = "SAME_LOWER"', (1, 2, 7, 6)),
    "valid": ((2, 2, 3, 3), 'auto_pad = "VALID"', (1, 2, 5, 5)),
    "one axis": ((4, 3, 5), "pads = [2,2]", (2, 3, 9)),
    "three axes": ((2, 1, 2, 2, 2), "", (1, 1, 3, 4, 3)),
}


@pytest.mark.parametrize("situation", CONVOLUTIONS)
def test_a_weight_times_its_patches_is_the_convolution(situation: str) -> None:
    shape, attributes, image = CONVOLUTIONS[situation]
    dims = ",".join("NCHWD"[: len(image)])
    model = load(
        f"""g (float[{dims}] x) => (float[P{dims[1:].replace(",", ",Q")}] y)
    <{floats("w", *shape)}> {{ y = Conv<{attributes}>(x, w) }}""".replace("<>", "")
    )
    feed = sample(*image)
    expected = evaluate(ir.to_proto(model), feed)["y"]
    found = vectors_of(model.graph[0])
    assert not isinstance(found, str)
    vectors = found[1].vectors(feed["x"], 10**6, 1)
    weight = model.graph.initializers["w"].const_value.numpy()  # type: ignore[union-attr]
    rows = weight.reshape(len(vectors), -1, vectors.shape[2])
    product = np.einsum("gpd,gmd->pgm", vectors, rows).reshape(image[0], -1, shape[0])
    np.testing.assert_allclose(
        product.transpose(0, 2, 1).reshape(expected.shape), expected, rtol=1e-4, atol=1e-4
    )


PRODUCTS = {
    "MatMul": ("MatMul(x, w)", (3, 4), (2, 5, 3), lambda x: x.reshape(-1, 3)),
    "MatMul with its weight on the left": ("MatMul(w, x)", (4, 3), (3, 5), lambda x: x.T),
    "Gemm": ("Gemm(x, w)", (3, 4), (5, 3), lambda x: x),
    "Gemm, both transposed": ("Gemm<transA = 1, transB = 1>(x, w)", (4, 3), (3, 5), np.transpose),
}


@pytest.mark.parametrize("situation", PRODUCTS)
def test_moments_of_rows(situation: str) -> None:
    call, weight, shape, rows_of = PRODUCTS[situation]
    dims = ",".join("ABC"[: len(shape)])
    model = load(
        f"g (float[{dims}] x) => (float[{dims.lower()}] y) <{floats('w', *weight)}> "
        f"{{ [n] y = {call} }}"
    )
    feeds = [sample(*shape), sample(*shape)]
    found = covariances(model, feeds, ["n"], threads=1)["n"]
    rows = np.concatenate([rows_of(feed["x"]) for feed in feeds]).astype(np.float64)
    np.testing.assert_allclose(found.second[0], rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.mean[0], rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        found.centred[0], np.cov(rows, rowvar=False, bias=True), rtol=1e-4, atol=1e-5
    )
    assert found.count == len(rows)


TWO = f"""g (float[N,3,H,W] x) => (float[N,2,H,W] y, float[N,2,H,W] z)
<{floats("v", 2, 3, 1, 1)}, {floats("w", 2, 3, 1, 1)}, {floats("u", 2, 2, 1, 1)}>
{{ [a] y = Conv(x, v) [b] c = Conv(x, w) [d] z = Conv(c, u) }}"""


def test_nodes_that_read_the_same_share_their_moments() -> None:
    found = covariances(load(TWO), [sample(2, 3, 4, 4)], ["a", "b", "d"], threads=1)
    assert list(found) == ["a", "b", "d"]
    assert found["a"].second is found["b"].second
    assert found["d"].second.shape == (1, 2, 2)


def test_large_matrices_are_added_up_group_by_group(monkeypatch: Any) -> None:
    observed: list[list[str]] = []
    true_init = Observer.__init__

    def recording(self: Observer, found: Any, names: Any, **options: Any) -> None:
        observed.append(list(names))
        true_init(self, found, names, **options)

    monkeypatch.setattr(covariance, "Observer", type("O", (Observer,), {"__init__": recording}))
    feeds = [sample(2, 3, 4, 4), sample(1, 3, 5, 5)]
    whole = covariances(load(TWO), feeds, ["a", "d"], threads=1)
    parts = dict(each_covariance(load(TWO), iter(feeds), ["a", "d"], matrix_bytes=80, threads=1))
    assert observed == [["x", "c"], ["x"], ["c"]]
    for name, each in parts.items():
        np.testing.assert_array_equal(each.second, whole[name].second)


def test_few_patches_stand_for_all() -> None:
    model, feeds = load(TWO), [sample(1, 3, 40, 40)]
    some = covariances(model, feeds, ["a"], patches=800, threads=1)["a"]
    whole = covariances(model, feeds, ["a"], patches=10**6, threads=1)["a"]
    assert (some.count, whole.count) == (800, 1600)
    np.testing.assert_allclose(some.second, whole.second, atol=0.15)
    again = covariances(model, feeds, ["a"], patches=800, threads=1)["a"]
    np.testing.assert_array_equal(some.second, again.second)


def test_drawn_indices_are_different_ones_in_order() -> None:
    indices = drawn(1000, 100, 1)
    assert len(set(indices.tolist())) == 100
    assert (np.diff(indices) > 0).all()
    assert not np.array_equal(indices, drawn(1000, 100, 2))


REFUSED = f"""g (float[N,3] x) => (float[N,3] y, float[N,4] z, float[2,N,2] u)
<{floats("w", 3, 4)}, {floats("v", 2, 3, 2)}>
{{ [relu] y = Relu(x) [product] t = Transpose(x) [computed] q = MatMul(x, t)
   [fine] z = MatMul(x, w) [batched] u = MatMul(x, v) }}"""


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ("relu", "Relu is no product"),
        ("computed", "its weight is computed"),
        ("batched", "its weight is no matrix"),
        ("nowhere", "no such node"),
    ],
)
def test_a_node_without_moments_is_refused_with_the_reason(node: str, why: str) -> None:
    model = load(REFUSED)
    with pytest.raises(BadInput, match=why):
        covariances(model, [sample(2, 3)], ["fine", node], threads=1)
    for each in model.graph:
        assert (refusal(each) == "") == (each.name == "fine")


def test_no_data_is_an_error() -> None:
    with pytest.raises(BadInput, match="no sample"):
        covariances(load(TWO), [], ["a"], threads=1)


def test_few_vectors_count_for_little_off_the_diagonal() -> None:
    second = np.array([[[4.0, 2.0], [2.0, 1.0]]])
    few, many = (Covariance(second, np.zeros((1, 2)), count) for count in (2, 2_000_000))
    np.testing.assert_allclose(few.shrunk(second), [[[4, 1], [1, 1]]])
    np.testing.assert_allclose(many.shrunk(second), second, rtol=1e-5)
    assert second[0, 0, 1] == 2
