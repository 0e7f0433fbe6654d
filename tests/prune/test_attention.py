"""Heads and their width, through what exporters write and through attention in one operator."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import drawn, holds, prunable, some_of

from onnxopt.prune.groups import find_groups

WEIGHTS = {
    "wq": (16, 24), "wk": (16, 24), "wv": (16, 24), "wo": (24, 16),
    "bq": 24, "bk": 24, "bv": 24, "scale": np.float32(0.35),
}  # fmt: skip
CORE = """
    qt = Transpose<perm=[0,2,1,3]>(qh)
    kt = Transpose<perm=[0,2,3,1]>(kh)
    vt = Transpose<perm=[0,2,1,3]>(vh)
    qs = Mul(qt, scale)
    a = MatMul(qs, kt)
    p = Softmax<axis=-1>(a)
    c = MatMul(p, vt)
    ct = Transpose<perm=[0,2,1,3]>(c)
"""
PROJECTIONS = """
    q0 = MatMul(x, wq)  q = Add(q0, bq)
    k0 = MatMul(x, wk)  k = Add(k0, bk)
    v0 = MatMul(x, wv)  v = Add(v0, bv)
"""


def _kinds(groups) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for group in prunable(groups).values():
        found.setdefault(group.kind, []).append(group.size)
    return {kind: sorted(sizes) for kind, sizes in sorted(found.items())}


@pytest.mark.parametrize("target", [[0, 0, 3, 8], [0, -1, 3, 8], [0, 0, 3, -1], [0, 0, -1, 8]])
def test_heads_through_constant_shapes(target: list[int]) -> None:
    model = drawn(
        f"""g (float[N,T,16] x) => (float[N,T,16] y) {{
            {PROJECTIONS}
            qh = Reshape(q, apart)  kh = Reshape(k, apart)  vh = Reshape(v, apart)
            {CORE}
            m = Reshape(ct, together)
            y = MatMul(m, wo)
        }}""",
        **WEIGHTS, apart=np.array(target), together=np.array([0, 0, 24]),
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [8, 8], "heads": [3]}
    for name in prunable(groups):
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_heads_through_computed_shapes() -> None:
    model = drawn(
        f"""g (float[N,T,16] x) => (float[N,T,16] y) {{
            {PROJECTIONS}
            size = Shape(x)
            n = Gather(size, nought)  t = Gather(size, one)
            nn = Unsqueeze(n, nought1)  tt = Unsqueeze(t, nought1)
            apart = Concat<axis=0>(nn, tt, three, eight)
            qh = Reshape(q, apart)  kh = Reshape(k, apart)  vh = Reshape(v, apart)
            {CORE}
            size2 = Shape(ct)
            n2 = Slice(size2, nought1, two1)
            together = Concat<axis=0>(n2, all)
            m = Reshape(ct, together)
            y = MatMul(m, wo)
        }}""",
        **WEIGHTS, nought=np.int64(0), one=np.int64(1), nought1=np.array([0]), two1=np.array([2]),
        three=np.array([3]), eight=np.array([8]), all=np.array([24]),
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [8, 8], "heads": [3]}
    for name in prunable(groups):
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_a_scale_computed_from_the_width_keeps_the_width() -> None:
    model = drawn(
        f"""g (float[N,T,16] x) => (float[N,T,16] y) {{
            {PROJECTIONS}
            qh = Reshape(q, apart)  kh = Reshape(k, apart)  vh = Reshape(v, apart)
            {CORE.replace("(qt, scale)", "(qt, measured)")}
            size = Shape<start=3>(qh)
            f = Cast<to=1>(size)
            root = Sqrt(f)
            measured = Reciprocal(root)
            m = Reshape(ct, together)
            y = MatMul(m, wo)
        }}""",
        **WEIGHTS, apart=np.array([0, 0, 3, 8]), together=np.array([0, 0, 24]),
    )  # fmt: skip
    del model.graph.initializers["scale"]
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [8], "heads": [3]}
    assert any(
        g.frozen.startswith("Sqrt ") and "computes with their number" in g.frozen for g in groups
    )
    holds(model, some_of(groups))


def test_queries_keys_and_values_from_one_matrix() -> None:
    model = drawn(
        f"""g (float[N,T,16] x) => (float[N,T,16] y) {{
            a0 = MatMul(x, w)
            a1 = Reshape(a0, apart)
            a2 = Transpose<perm=[2,0,3,1,4]>(a1)
            qt = Gather<axis=0>(a2, nought)
            k0 = Gather<axis=0>(a2, one)
            vt = Gather<axis=0>(a2, two)
            kt = Transpose<perm=[0,1,3,2]>(k0)
            {CORE[CORE.index("qs =") :]}
            m = Reshape(ct, together)
            y = MatMul(m, wo)
        }}""",
        w=(16, 72), wo=(24, 16), scale=np.float32(0.35), apart=np.array([0, 0, 3, 3, 8]),
        together=np.array([0, 0, 24]), nought=np.int64(0), one=np.int64(1), two=np.int64(2),
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [8], "heads": [3]}
    assert not any(group.kind == "parts" for group in groups)
    holds(model, some_of(groups))


def test_repeated_keys_of_grouped_queries() -> None:
    model = drawn(
        """g (float[N,T,16] x) => (float[N,T,16] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            qh = Reshape(q, qs)  kh = Reshape(k, ks)  vh = Reshape(v, ks)
            qt = Transpose<perm=[0,2,1,3]>(qh)
            kt = Transpose<perm=[0,2,1,3]>(kh)
            vt = Transpose<perm=[0,2,1,3]>(vh)
            k5 = Unsqueeze(kt, two)  v5 = Unsqueeze(vt, two)
            k6 = Expand(k5, times)  v6 = Expand(v5, times)
            k7 = Reshape(k6, flat)  v7 = Reshape(v6, flat)
            k8 = Transpose<perm=[0,1,3,2]>(k7)
            a = MatMul(qt, k8)
            p = Softmax<axis=-1>(a)
            c = MatMul(p, v7)
            ct = Transpose<perm=[0,2,1,3]>(c)
            m = Reshape(ct, together)
            y = MatMul(m, wo)
        }""",
        wq=(16, 24), wk=(16, 8), wv=(16, 8), wo=(24, 16), two=np.array([2]),
        qs=np.array([0, 0, 6, 4]), ks=np.array([0, 0, 2, 4]), times=np.array([1, 1, 3, 1, 1]),
        flat=np.array([0, 6, -1, 4]), together=np.array([0, 0, 24]),
    )  # fmt: skip
    groups = find_groups(model)
    sizes = sorted(group.size for group in prunable(groups).values())
    assert sizes == [2, 3, 4, 4]
    for name in prunable(groups):
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_rotated_halves_go_in_pairs() -> None:
    model = drawn(
        """g (float[N,2,5,6] k, float[N,5,16] x) => (float[N,2,5,5] y) {
            q = MatMul(x, wq)
            qh = Reshape(q, apart)
            qt = Transpose<perm=[0,2,1,3]>(qh)
            low = Slice(qt, nought, three, last)
            high = Slice(qt, three, end, last)
            minus = Neg(high)
            turned = Concat<axis=-1>(minus, low)
            u = Mul(qt, cos)
            w = Mul(turned, sin)
            r = Add(u, w)
            kh = MatMul(k, wk)
            kt = Transpose<perm=[0,1,3,2]>(kh)
            y = MatMul(r, kt)
        }""",
        wq=(16, 12), wk=(6, 6), apart=np.array([0, 0, 2, 6]), cos=(5, 6), sin=(5, 6),
        nought=np.array([0]), three=np.array([3]), end=np.array([2**63 - 1]), last=np.array([-1]),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert group.size == 3 and group.kind == "head width"
    assert (1, 4) in group.carriers[-1].positions
    holds(model, {group.name: (0, 2)})


def test_multi_head_attention() -> None:
    model = drawn(
        """g (float[N,5,16] x) => (float[N,5,16] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            c = com.microsoft.MultiHeadAttention<num_heads=3>(q, k, v, bias)
            y = MatMul(c, wo)
        }""",
        wq=(16, 24), wk=(16, 24), wv=(16, 12), wo=(12, 16), bias=60,
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [4, 8], "heads": [3]}
    for name in prunable(groups):
        holds(model, {name: (1,)})
    pruned = holds(model, some_of(groups))
    assert pruned.graph[3].attributes["scale"].as_float() == pytest.approx(8**-0.5)


def test_projected_attention() -> None:
    model = drawn(
        """g (float[N,5,6] x0) => (float[N,5,16] y) {
            x = MatMul(x0, w0)
            c = com.microsoft.Attention<num_heads=3, qkv_hidden_sizes=[24,24,12]>(x, w, b)
            y = MatMul(c, wo)
        }""",
        w0=(6, 16), w=(16, 60), b=60, wo=(12, 16),
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [4, 8], "heads": [3], "hidden": [16]}
    for name in prunable(groups):
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_grouped_query_attention() -> None:
    model = drawn(
        """g (float[1,5,16] x, int32[1] last, int32 total) => (float[1,5,16] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            c, pk, pv = com.microsoft.GroupQueryAttention<num_heads=6, kv_num_heads=2>
                (q, k, v, , , last, total)
            y = MatMul(c, wo)
        }""",
        wq=(16, 48), wk=(16, 16), wv=(16, 16), wo=(48, 16),
    )  # fmt: skip
    groups = find_groups(model)
    sizes = sorted(group.size for group in prunable(groups).values())
    assert sizes == [2, 3, 8, 8]
    feeds = {
        "x": np.random.default_rng(0).standard_normal((1, 5, 16)).astype(np.float32),
        "last": np.array([4], np.int32), "total": np.array(5, np.int32),
    }  # fmt: skip
    heads = next(group for group in prunable(groups).values() if group.size == 2)
    holds(model, {heads.name: (0,)}, feeds)
    repeats = next(group for group in prunable(groups).values() if group.size == 3)
    holds(model, {repeats.name: (0, 2)}, feeds)


@pytest.mark.parametrize("apart", [True, False])
def test_standard_attention(apart: bool) -> None:
    split = """
        qh = Reshape(q, six)  kh = Reshape(k, two)  vh = Reshape(v, two)
        qt = Transpose<perm=[0,2,1,3]>(qh)
        kt = Transpose<perm=[0,2,1,3]>(kh)
        vt = Transpose<perm=[0,2,1,3]>(vh)
        ct = Attention(qt, kt, vt)
        ch = Transpose<perm=[0,2,1,3]>(ct)
        c = Reshape(ch, together)
    """
    merged = "c = Attention<q_num_heads=6, kv_num_heads=2>(q, k, v)"
    model = drawn(
        f"""g (float[N,5,16] x) => (float[N,5,16] y) {{
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            {split if apart else merged}
            y = MatMul(c, wo)
        }}""",
        opset=23, wq=(16, 24), wk=(16, 8), wv=(16, 8), wo=(24, 16),
        six=np.array([0, 0, 6, 4]), two=np.array([0, 0, 2, 4]), together=np.array([0, 0, 24]),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [2, 3, 4, 4]
    for name in prunable(groups):
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_rotary_embedding() -> None:
    model = drawn(
        """g (float[N,5,16] x, int64[N,5] at) => (float[N,5,16] y) {
            q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)
            qr = com.microsoft.RotaryEmbedding<num_heads=2>(q, at, cos, sin)
            kr = com.microsoft.RotaryEmbedding<num_heads=2>(k, at, cos, sin)
            c = com.microsoft.MultiHeadAttention<num_heads=2>(qr, kr, v)
            y = MatMul(c, wo)
        }""",
        wq=(16, 32), wk=(16, 32), wv=(16, 32), wo=(32, 16), cos=(9, 8), sin=(9, 8),
    )  # fmt: skip
    groups = find_groups(model)
    assert _kinds(groups) == {"head width": [8, 16], "heads": [2]}
    for name in prunable(groups):
        holds(model, {name: (1, *((5,) if "width" in name else ()))})
