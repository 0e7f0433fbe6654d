"""Zeros in weights: where they are, what they cost, what is left alone, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from pruning import as_nodes, drawn

import onnxopt
from onnxopt import io
from onnxopt.cli.main import run
from onnxopt.errors import BadInput
from onnxopt.prune.obs import refitted
from onnxopt.prune.sparsity import Pattern, sparse
from onnxopt.runtime.sessions import Session

NET = """g (float[N,8,6,6] x) => (float[N,12] y) {
    [stem] a = Conv<pads=[1,1,1,1]>(x, w0, b0)
    [deep] d = Conv<group=16, pads=[1,1,1,1]>(a, w1, b1)
    r = Relu(d)
    [point] c = Conv(r, w2, b2)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    [hidden] h = Gemm(f, w3, b3)
    q = Relu(h)
    [head] m = MatMul(q, w4)
    y = Add(m, b4)
}"""
MATRICES = {"w0": (16, 8, 3, 3), "w2": (24, 16, 1, 1), "w3": (24, 20), "w4": (20, 12)}


def _net() -> ir.Model:
    return drawn(
        NET, **MATRICES, w1=(16, 1, 3, 3), b0=16, b1=16, b2=24, b3=20, b4=12
    )  # fmt: skip


def _samples(count: int = 60, seed: int = 1) -> np.ndarray:
    """Pictures whose channels are mixtures of a few."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(8, 3))
    parts = random.normal(size=(count, 3, 6, 6)) + 0.5
    found = np.einsum("cm,nmhw->nchw", mixing, parts) + 0.2 * random.normal(size=(count, 8, 6, 6))
    return np.asarray(found, np.float32)


def _sparse(**asked: Any) -> onnxopt.SparsifyResult:
    return onnxopt.sparsify(_net(), threads=1, **asked)


def _weights(model: ir.Model) -> dict[str, np.ndarray]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in io.to_proto(model).graph.initializer}


def _noise(model: ir.Model) -> float:
    """Noise over signal on samples that nothing was fitted to."""
    feed = {"x": _samples(100, seed=7)}
    wanted, found = (
        Session.open(each, optimize=True, threads=1).run(feed)[0] for each in (_net(), model)
    )
    return float(np.square(found - wanted).sum() / np.square(wanted - wanted.mean(0)).sum())


def _fours(name: str, array: np.ndarray) -> np.ndarray:
    """The weights by fours along what is summed over: [..., 4]."""
    last = array.T if array.ndim == 2 else np.moveaxis(array, 1, -1)
    return np.ascontiguousarray(last).reshape(-1, 4)


def _moments(columns: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(3)
    rows = random.normal(size=(1, 5, columns))
    inputs = random.normal(size=(400, 6)) @ random.normal(size=(6, columns))
    inputs += 0.3 * random.normal(size=inputs.shape)
    inputs *= random.permutation(np.geomspace(0.3, 3, columns))
    return rows, (inputs.T @ inputs / 400)[None]


@pytest.mark.parametrize("data", [None, {"x": _samples()}])
def test_two_of_every_four_inputs_are_zero(data: dict[str, np.ndarray] | None) -> None:
    weights = _weights(_sparse(sparsity="2:4", data=data).model)
    for name in MATRICES:
        zeros = (_fours(name, weights[name]) == 0).sum(axis=1)
        assert (zeros == 2).all(), name


def test_weights_in_constant_nodes_become_sparse_as_others_do() -> None:
    model = as_nodes(io.to_proto(_net()))
    found = io.to_proto(onnxopt.sparsify(model, threads=1, sparsity="2:4").model)
    wanted = _weights(_sparse(sparsity="2:4").model)
    arrays = {
        node.output[0]: onnx.numpy_helper.to_array(node.attribute[0].t)
        for node in found.graph.node
        if node.op_type == "Constant"
    }
    for name in MATRICES:
        assert np.array_equal(arrays[name], wanted[name]), name


@pytest.mark.parametrize("data", [None, {"x": _samples()}])
def test_each_layer_gets_the_share_that_was_asked_for(data: dict[str, np.ndarray] | None) -> None:
    result = _sparse(sparsity=0.75, data=data)
    for name in MATRICES:
        assert np.isclose((_weights(result.model)[name] == 0).mean(), 0.75, atol=0.02), name
    assert not (_weights(result.model)["w1"] == 0).any()


def test_without_data_the_smallest_weights_go_and_the_others_stay() -> None:
    before, after = _weights(_net())["w2"], _weights(_sparse(sparsity=0.5).model)["w2"]
    kept = after != 0
    np.testing.assert_array_equal(after[kept], before[kept])
    assert np.abs(before[~kept]).max() <= np.abs(before[kept]).min()


@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
def test_recovery_halves_the_error_on_unseen_samples(sparsity: float | str) -> None:
    plain = _noise(_sparse(sparsity=sparsity).model)
    mended = _noise(_sparse(sparsity=sparsity, data={"x": _samples()}).model)
    assert mended < plain / 2


def test_reconstruction_chooses_better_weights_than_magnitude() -> None:
    rows, second = _moments(24)
    errors = [
        np.einsum("gok,gkl,gol->", rows - found, second, rows - found)
        for found in (
            sparse(rows, second, Pattern.of("2:4"), score=score)
            for score in ("reconstruction", "magnitude")
        )
    ]
    assert errors[0] < 0.9 * errors[1]


def test_the_refit_is_the_least_squares_one() -> None:
    rows, second = _moments(12)
    mask = np.random.default_rng(0).random(rows.shape) < 0.5
    found = refitted(rows, rows, mask, second)
    for row, kept, wanted in zip(found[0], mask[0], rows[0], strict=True):
        exact = np.linalg.solve(second[0][np.ix_(kept, kept)], second[0][kept] @ wanted)
        np.testing.assert_allclose(row[kept], exact, rtol=1e-3, atol=1e-4)
        assert not row[~kept].any()


def test_the_mean_of_the_outputs_stays() -> None:
    feed = {"x": _samples()}
    means = [
        Session.open(each, optimize=True, threads=1).run(feed)[0].mean(0)
        for each in (
            _net(),
            _sparse(sparsity=0.5, data={"x": _samples()}).model,
            _sparse(sparsity=0.5).model,
        )
    ]
    mended, plain = (np.abs(each - means[0]).mean() for each in means[1:])
    assert mended < plain / 4


def test_what_is_no_multiple_of_four_stays_dense() -> None:
    net = drawn(
        """g (float[N,6] x) => (float[N,8] y) {
            [odd] h = Gemm(x, w0, b0)
            r = Relu(h)
            [even] y = Gemm(r, w1, b1)
        }""",
        w0=(6, 8), b0=8, w1=(8, 8), b1=8,
    )  # fmt: skip
    result = onnxopt.sparsify(net, sparsity="2:4")
    odd, even = result.report.layers
    assert (odd.zeros, even.zeros) == (0, 32)
    assert odd.dense == "its 6 inputs are no multiple of 4"


def test_weights_of_zero_stay() -> None:
    net = _net()
    weight = net.graph.initializers["w2"]
    array = np.array(weight.const_value.numpy())
    array[::2] = 0
    weight.const_value = ir.tensor(array, name="w2")
    result = onnxopt.sparsify(net, sparsity=0.2, data={"x": _samples()}, threads=1)
    assert not _weights(result.model)["w2"][::2].any()


@pytest.mark.parametrize("data", [None, {"x": _samples().astype(np.float16)}])
def test_half_precision_stays_half_precision(data: dict[str, np.ndarray] | None) -> None:
    net = drawn(
        "g (float16[N,8,6,6] x) => (float16[N,4,6,6] y) { y = Conv(x, w, b) }",
        w=np.random.default_rng(0).normal(size=(4, 8, 1, 1)).astype(np.float16),
        b=np.ones(4, np.float16),
    )
    weight = _weights(onnxopt.sparsify(net, sparsity="2:4", data=data, threads=1).model)["w"]
    assert weight.dtype == np.float16
    assert ((_fours("w", weight) == 0).sum(axis=1) == 2).all()


def test_what_is_kept_by_name_stays_as_it_was() -> None:
    after = _weights(_sparse(sparsity=0.5, keep=["head", "w2"]).model)
    for name in ("w2", "w4"):
        np.testing.assert_array_equal(after[name], _weights(_net())[name])
    assert (after["w3"] == 0).any()


def test_the_names_of_nodes_stay() -> None:
    proto = io.to_proto(_net())
    for node in proto.graph.node:
        node.name = ""
    result = onnxopt.sparsify(proto, sparsity="2:4", data={"x": _samples()}, threads=1)
    wanted = onnxopt.optimize(proto, bench=False).proto
    found = io.to_proto(result.model)
    assert [node.name for node in found.graph.node] == [node.name for node in wanted.graph.node]
    assert ((_fours("w0", _weights(result.model)["w0"]) == 0).sum(axis=1) == 2).all()


def test_the_report_says_that_onnxruntime_gains_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    io.save(_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=_samples())
    code = run(
        ["sparsify", str(tmp_path / "net.onnx"), "--sparsity", "2:4", "--data",
         str(tmp_path / "data.npz"), "-o", str(tmp_path / "out.onnx"), "--threads", "1"]
    )  # fmt: skip
    printed = " ".join(capsys.readouterr().out.split())
    assert code == 0
    assert "CPU provider gains nothing" in printed
    assert "depthwise" in printed
    assert "zipped" in printed
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing asked": ({}, "nothing to do"),
    "a share of one": ({"sparsity": 1.0}, "can't be 1.0"),
    "a share of zero": ({"sparsity": 0}, "can't be 0"),
    "a share that is no number": ({"sparsity": "nan"}, "can't be nan"),
    "no such pattern": ({"sparsity": "1:4"}, "no sparsity pattern '1:4'"),
    "no such score": ({"sparsity": 0.5, "score": "taste"}, "no score 'taste'"),
    "recovery without data": ({"sparsity": 0.5, "recover": "least-squares"}, "there is no data"),
    "noise as data": ({"sparsity": 0.5, "data": "random"}, "noise says nothing"),
    "nothing of that name": ({"sparsity": 0.5, "keep": ["hair"]}, "'hair' to keep"),
    "everything kept": ({"sparsity": 0.5, "keep": ["*"]}, "has weights that can be changed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_is_refused(case: str) -> None:
    asked, word = REFUSED[case]
    with pytest.raises(BadInput, match=word.replace("(", r"\(")):
        _sparse(**asked)


def test_a_model_without_weights_is_refused() -> None:
    net = drawn("g (float[N,4] x) => (float[N,4] y) { y = Relu(x) }")
    with pytest.raises(BadInput, match="weights that can be changed"):
        onnxopt.sparsify(net, sparsity=0.5)
