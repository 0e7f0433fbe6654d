"""Padding is cut off before anything is learned from samples."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from pruning import drawn

from onnxopt.prune.groups import find_groups
from onnxopt.prune.products import products
from onnxopt.prune.unpad import Unpadded
from onnxopt.quantize.covariance import covariances

MODEL = """g (int64[{dims}] ids, int64[{dims}] attention_mask) => (float[{dims},6] y) {{
    e = Gather(table, ids)
    h0 = MatMul(e, w1)
    h = Relu(h0)
    o = MatMul(h, w2)
    m = Cast<to=1>(attention_mask)
    axis = Constant<value = int64[1] {{-1}}>()
    u = Unsqueeze(m, axis)
    y = Mul(o, u)
}}"""


def _model(dims: str = "N,T") -> ir.Model:
    return drawn(MODEL.format(dims=dims), table=(20, 6), w1=(6, 8), w2=(8, 6))


def _padded(*lengths: int, total: int = 7):
    random = np.random.default_rng(0)
    seen = np.arange(total) < np.array(lengths)[:, None]
    ids = np.where(seen, random.integers(1, 20, seen.shape), 0)
    return {"ids": ids, "attention_mask": seen.astype(np.int64)}


def test_each_sentence_comes_alone_and_as_long_as_it_is() -> None:
    feed = _padded(3, 7, 5)
    found = list(Unpadded.of([feed], _model()))
    assert [each["ids"].shape for each in found] == [(1, 3), (1, 7), (1, 5)]
    assert all(each["attention_mask"].all() for each in found)
    assert np.array_equal(found[2]["ids"][0], feed["ids"][2, :5])


def test_padding_does_not_enter_the_moments() -> None:
    model = _model()
    found = products(model, find_groups(model))
    name = next(name for name, product in found.items() if product.source == "h")
    padded, bare = [_padded(3, 5, 2)], list(Unpadded.of([_padded(3, 5, 2)], model))
    (left,) = covariances(model, Unpadded.of(padded, model), [name], threads=1).values()
    (right,) = covariances(model, bare, [name], threads=1).values()
    (wrong,) = covariances(model, padded, [name], threads=1).values()
    assert left.count == right.count == 10 and wrong.count == 21
    assert np.allclose(left.second, right.second)
    assert not np.allclose(left.second, wrong.second, rtol=0.01)


def test_they_can_be_read_again() -> None:
    found = Unpadded.of([_padded(3, 5)], _model())
    assert len(list(found)) == len(list(found)) == 2


@pytest.mark.parametrize(
    ("feed", "dims"),
    [
        (_padded(7, 7), "N,T"),
        (_padded(3, 5), "N,7"),
        (_padded(3, 0), "N,T"),
        ({name: array[:, ::-1] for name, array in _padded(3, 5).items()}, "N,T"),
    ],
    ids=["no padding", "a fixed length", "an empty sentence", "padding in front"],
)
def test_what_can_not_be_cut_stays(feed, dims: str) -> None:
    (found,) = Unpadded.of([feed], _model(dims))
    assert found is feed
