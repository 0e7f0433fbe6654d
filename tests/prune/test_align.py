"""Heads in bases in which the last channels hardly matter."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import drawn

from onnxopt.prune.align import align, bases
from onnxopt.prune.apply import remove
from onnxopt.prune.groups import find_groups
from onnxopt.prune.products import products
from onnxopt.prune.recover import absorb
from onnxopt.prune.trial import Trials
from onnxopt.quantize.covariance import covariances

ATTENTION = """g (float[N,T,16] x) => (float[N,T,16] y) {{
    e = MatMul(x, we)
    q0 = MatMul(e, wq)  q1 = Add(q0, bq)  q = {between}(q1)
    k0 = MatMul(e, wk)  k = Add(k0, bk)
    v0 = MatMul(e, wv)  v = Add(v0, bv)
    qh = Reshape(q, apart)  kh = Reshape(k, apart)  vh = Reshape(v, apart)
    qt = Transpose<perm=[0,2,1,3]>(qh)
    kt = Transpose<perm=[0,2,3,1]>(kh)
    vt = Transpose<perm=[0,2,1,3]>(vh)
    a = MatMul(qt, kt)
    p = Softmax<axis=-1>(a)
    c = MatMul(p, vt)
    ct = Transpose<perm=[0,2,1,3]>(c)
    m = Reshape(ct, together)
    y = MatMul(m, wo)
}}"""


def _attention(between: str = "Identity"):
    model = drawn(
        ATTENTION.format(between=between),
        we=(16, 16), wq=(16, 24), wk=(16, 24), wv=(16, 24), wo=(24, 16), bq=24, bk=24, bv=24,
        apart=np.array([0, 0, 3, 8]), together=np.array([0, 0, 24]),
    )  # fmt: skip
    groups = find_groups(model)
    random = np.random.default_rng(0)
    mixing = random.normal(size=(16, 16)) * np.geomspace(1, 0.05, 16)
    feeds = [{"x": (random.normal(size=(1, 9, 16)) @ mixing).astype(np.float32)} for _ in range(30)]
    found = products(model, groups)
    return model, groups, found, feeds, covariances(model, feeds, list(found), threads=1)


def _halved(model, groups, moments, kind: str):
    """The model with the last half of the channels of its heads gone."""
    removal = {g.name: (4, 5, 6, 7) for g in groups if g.kind == kind}
    assert len(removal) == 2
    ready = absorb(model, products(model, groups), moments, removal)
    return remove(ready, find_groups(ready), removal)


def test_turned_heads_give_the_same_and_lose_less() -> None:
    model, groups, found, feeds, moments = _attention()
    trials = Trials(model, feeds, threads=1)
    turned, fresh = align(
        model, groups, found, moments, lambda each: trials.divergence(each) < 1e-8
    )
    assert turned is not model
    assert trials.divergence(turned) < 1e-8
    plain = trials.divergence(_halved(model, groups, moments, "head width"))
    aligned = trials.divergence(_halved(turned, groups, fresh, "head width"))
    assert aligned < 0.5 * plain


def test_moments_are_turned_with_what_is_read() -> None:
    model, groups, found, feeds, moments = _attention()
    turned, fresh = align(model, groups, found, moments, lambda each: True)
    measured = covariances(turned, feeds, list(found), threads=1)
    for name, covariance in measured.items():
        scale = np.abs(covariance.second).max()
        assert np.allclose(covariance.second, fresh[name].second, atol=1e-4 * scale)
        assert np.allclose(covariance.mean, fresh[name].mean, atol=1e-4 * scale)


def test_what_does_not_hold_stays() -> None:
    # A Relu between the product and the scores sees other numbers in another basis.
    model, groups, found, feeds, moments = _attention("Relu")
    trials = Trials(model, feeds, threads=1)
    asked = []

    def holds(each) -> bool:
        asked.append(trials.divergence(each))
        return asked[-1] < 1e-8

    turned, _ = align(model, groups, found, moments, holds)
    assert len(asked) == 2 and max(asked) > 1e-4 > min(asked)
    assert trials.divergence(turned) < 1e-8


@pytest.mark.parametrize("rank", [8, 3])
def test_bases_make_both_sides_alike(rank: int) -> None:
    random = np.random.default_rng(1)
    first, second = (random.normal(size=(8, rank)) for _ in range(2))
    left, right = bases(first @ first.T, second @ second.T)
    assert np.allclose(left.T @ right, np.eye(8), atol=1e-6)
    one, other = left @ first @ first.T @ left.T, right @ second @ second.T @ right.T
    if rank == 8:
        assert np.allclose(one, np.diag(np.diag(one)), atol=1e-6 * one.max())
        assert np.allclose(one, other, atol=1e-6 * one.max())
    assert (np.diff(np.diag(one)[:rank]) <= 1e-6 * one.max()).all()
