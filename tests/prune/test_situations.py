"""One test for each situation in which channels depend on each other."""

from __future__ import annotations

import numpy as np
from pruning import drawn, holds, prunable, shape_of, some_of

from onnxopt.passes import shapes
from onnxopt.prune.groups import find_groups
from onnxopt.prune.products import separate


def test_chain() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            n = BatchNormalization(a, s, t, m, v)
            r = Relu(n)
            y = Conv<pads=[1,1,1,1]>(r, w2, b2)
        }""",
        w1=(6, 3, 3, 3), b1=6, s=6, t=6, m=6, v=np.ones(6, np.float32), w2=(4, 6, 3, 3), b2=4,
    )  # fmt: skip
    groups = find_groups(model)
    free = prunable(groups)
    assert [(group.size, group.kind) for group in free.values()] == [(6, "channels")]
    frozen = [(group.size, group.frozen) for group in groups if group.frozen]
    assert frozen == [(3, "they are the model's input 'x'"), (4, "they are the model's output 'y'")]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [3, 3, 3, 3] and shape_of(pruned, "w2") == [4, 3, 3, 3]


def test_residual() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,2] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, w2)
            c = Conv<pads=[1,1,1,1]>(b, w3)
            s = Add(a, c)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4, b4)
        }""",
        w1=(8, 3, 3, 3), w2=(6, 8, 3, 3), w3=(8, 6, 3, 3), w4=(2, 8), b4=2,
    )  # fmt: skip
    groups = find_groups(model)
    assert {group.size for group in prunable(groups).values()} == {6, 8}
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [4, 3, 3, 3] and shape_of(pruned, "w4") == [2, 4]


def test_depthwise() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,4,4] y) {
            a = Conv(x, w1)
            b = Conv<group=8, pads=[1,1,1,1], strides=[2,2]>(a, w2, b2)
            c = Clip(b, low, high)
            y = Conv(c, w3)
        }""",
        w1=(8, 3, 1, 1), w2=(8, 1, 3, 3), b2=8, w3=(4, 8, 1, 1),
        low=np.float32(0), high=np.float32(6),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [8]
    pruned = holds(model, some_of(groups))
    assert pruned.graph[1].attributes["group"].as_int() == 4


def test_depthwise_with_a_multiplier() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            b = Conv<group=4, pads=[1,1,1,1]>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(4, 3, 1, 1), w2=(12, 1, 3, 3), b2=12, w3=(4, 12, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 4]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w2") == [2, 1, 3, 3]


def test_grouped() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            b = Conv<group=4, pads=[1,1,1,1]>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(12, 3, 1, 1), w2=(8, 3, 3, 3), b2=8, w3=(4, 8, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [2, 3, 4]
    pruned = holds(model, some_of(groups))
    assert pruned.graph[1].attributes["group"].as_int() == 2
    assert shape_of(pruned, "w2") == [2, 1, 3, 3]


def test_flatten_before_a_gemm() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,5] y) {
            a = Conv(x, w1)
            p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)
            f = Flatten(p)
            y = Gemm(f, w2, b2)
        }""",
        w1=(6, 3, 1, 1), w2=(24, 5), b2=5,
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [6]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w2") == [12, 5]


def test_squeeze_and_excite() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            p = GlobalAveragePool(a)
            s = Conv(p, w2, b2)
            r = Relu(s)
            e = Conv(r, w3, b3)
            g = HardSigmoid(e)
            m = Mul(a, g)
            y = Conv(m, w4)
        }""",
        w1=(8, 3, 3, 3), w2=(4, 8, 1, 1), b2=4, w3=(8, 4, 1, 1), b3=8, w4=(4, 8, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert {group.size for group in prunable(groups).values()} == {4, 8}
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w3") == [4, 2, 1, 1]


def test_concat() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            b = Conv(x, w2)
            c = Concat<axis=1>(a, b)
            n = BatchNormalization(c, s, t, m, v)
            y = Conv(n, w3)
        }""",
        w1=(5, 3, 1, 1), w2=(3, 3, 1, 1), s=8, t=8, m=8, v=np.ones(8, np.float32),
        w3=(4, 8, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 5]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "s") == [4]


def test_concat_of_what_was_concatenated() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Conv(a, w2)
            c = Concat<axis=1>(a, b)
            d = Conv(c, w3)
            e = Concat<axis=1>(c, d)
            y = Conv(e, w4)
        }""",
        w1=(4, 3, 1, 1), w2=(5, 4, 1, 1), w3=(6, 9, 1, 1), w4=(2, 15, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [4, 5, 6]
    holds(model, some_of(groups))


def test_split() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b, c = Split<axis=1>(a, sizes)
            d = Sigmoid(b)
            e = Conv(c, w2)
            f = Mul(d, e)
            y = Conv(f, w3)
        }""",
        w1=(8, 3, 1, 1), sizes=np.array([5, 3]), w2=(5, 3, 1, 1), w3=(2, 5, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 5]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [4, 3, 1, 1]


def test_split_into_equal_parts() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b, c = Split<axis=1, num_outputs=2>(a)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
        w1=(8, 3, 1, 1), w2=(2, 4, 1, 1), w3=(2, 4, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    names = [group.name for group in groups if group.size == 4 and not group.frozen]
    pruned = holds(model, {names[0]: (1, 2, 3), names[1]: (0,)})
    assert "num_outputs" not in pruned.graph[1].attributes


def test_split_before_sizes_were_an_input() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b, c = Split<axis=1, split=[5,3]>(a)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
        opset=11, w1=(8, 3, 1, 1), w2=(2, 5, 1, 1), w3=(2, 3, 1, 1),
    )  # fmt: skip
    pruned = holds(model, some_of(find_groups(model)))
    assert list(pruned.graph[1].attributes["split"].as_ints()) == [3, 1]


def test_slice() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Slice(a, one, last, axis)
            c = Slice(a, nought, minus, axis)
            d = Conv(b, w2)
            e = Conv(c, w3)
            y = Add(d, e)
        }""",
        w1=(8, 3, 1, 1), w2=(2, 7, 1, 1), w3=(2, 5, 1, 1), axis=np.array([1]),
        nought=np.array([0]), one=np.array([1]), last=np.array([2**63 - 1]), minus=np.array([-3]),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 4]
    single = next(group for group in groups if group.size == 1)
    assert single.frozen == "they can only go all at once"
    holds(model, some_of(groups))


def test_slice_of_every_second_channel_from_the_middle_stays() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Slice(a, three, last, axis, two)
            y = Conv(b, w2)
        }""",
        w1=(8, 3, 1, 1), w2=(2, 3, 1, 1), axis=np.array([1]),
        three=np.array([3]), last=np.array([8]), two=np.array([2]),
    )  # fmt: skip
    frozen = {group.size: group.frozen for group in find_groups(model) if group.frozen}
    assert frozen[8].startswith("Slice 'slice1' takes every second")


def test_slice_and_pad_shortcuts() -> None:
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,2] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1]>(c, w3)
            s = Slice(r, nought, last, axes, two)
            p = Pad(s, pads)
            e = Add(d, p)
            q = GlobalAveragePool(e)
            f = Flatten(q)
            y = Gemm<transB=1>(f, w4)
        }""",
        w1=(4, 3, 3, 3), w2=(6, 4, 3, 3), w3=(8, 6, 3, 3), w4=(2, 8),
        nought=np.array([0, 0]), last=np.array([99, 99]), axes=np.array([2, 3]),
        two=np.array([2, 2]), pads=np.array([0, 2, 0, 0, 0, 2, 0, 0]),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [4, 4, 6]
    removal = some_of(groups)
    pruned = holds(model, removal)
    assert shape_of(pruned, "w3") == [4, 3, 3, 3]


def test_channel_shuffle() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Reshape(a, apart)
            c = Transpose<perm=[0,2,1,3,4]>(b)
            d = Reshape(c, together)
            e = Conv<group=8, pads=[1,1,1,1]>(d, w2)
            y = Conv(e, w3)
        }""",
        w1=(8, 3, 1, 1), w2=(8, 1, 3, 3), w3=(2, 8, 1, 1),
        apart=np.array([0, 2, 4, 4, 4]), together=np.array([0, 8, 4, 4]),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [2, 4]
    holds(model, some_of(groups))


def test_channel_shuffle_by_a_look_up() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Gather<axis=1>(a, order)
            e = Conv<group=8, pads=[1,1,1,1]>(b, w2)
            s = Add(a, e)
            y = Conv(s, w3)
        }""",
        w1=(8, 3, 1, 1), w2=(8, 1, 3, 3), w3=(2, 8, 1, 1),
        order=np.array([4, 5, 6, 7, 0, 1, 2, -5]),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [4]
    holds(model, some_of(groups))


def test_grouped_after_a_shuffle() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            s = Conv(x, w0)
            a = Conv<group=2>(s, w1)
            b = Reshape(a, apart)
            c = Transpose<perm=[0,2,1,3,4]>(b)
            d = Reshape(c, together)
            e = Conv<group=2>(d, w2)
            y = Conv(e, w3)
        }""",
        w0=(4, 3, 1, 1), w1=(8, 2, 1, 1), w2=(4, 4, 1, 1), w3=(2, 4, 1, 1),
        apart=np.array([0, 2, 4, 4, 4]), together=np.array([0, 8, 4, 4]),
    )  # fmt: skip
    groups = find_groups(model)
    assert len(prunable(groups)) == 5
    for name, group in prunable(groups).items():
        assert group.size == 2
        holds(model, {name: (1,)})
    holds(model, some_of(groups))


def test_groups_that_do_not_line_up() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            s = Conv(x, w0)
            a = Conv<group=2>(s, w1)
            b = Conv(s, w2)
            c = Concat<axis=1>(a, b)
            d = Conv<group=2>(c, w3)
            e = Add(c, d)
            y = Conv(e, w4)
        }""",
        w0=(4, 3, 1, 1), w1=(8, 2, 1, 1), w2=(4, 4, 1, 1), w3=(12, 6, 1, 1), w4=(2, 12, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    free = prunable(groups)
    assert sum(group.size for group in free.values()) >= 4
    for name, group in free.items():
        for index in range(group.size):
            holds(model, {name: (index,)})
    holds(model, some_of(groups))


def test_conv_transpose() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,8,8] y) {
            a = Conv(x, w1)
            b = ConvTranspose<strides=[2,2]>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(6, 3, 1, 1), w2=(6, 4, 2, 2), b2=4, w3=(2, 4, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [4, 6]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w2") == [3, 2, 2, 2]


def test_grouped_conv_transpose() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,8,8] y) {
            a = Conv(x, w1)
            b = ConvTranspose<strides=[2,2], group=2>(a, w2, b2)
            y = Conv(b, w3)
        }""",
        w1=(6, 3, 1, 1), w2=(6, 4, 2, 2), b2=8, w3=(2, 8, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [2, 3, 4]
    for name in prunable(groups):
        holds(model, {name: (0,)})
    holds(model, some_of(groups))


def test_depth_to_space() -> None:
    for mode in ("DCR", "CRD"):
        model = drawn(
            f"""g (float[N,3,4,4] x) => (float[N,2,8,8] y) {{
                a = Conv(x, w1, b1)
                b = DepthToSpace<blocksize=2, mode="{mode}">(a)
                y = Conv(b, w2)
            }}""",
            w1=(12, 3, 1, 1), b1=12, w2=(2, 3, 1, 1),
        )  # fmt: skip
        groups = find_groups(model)
        assert [group.size for group in prunable(groups).values()] == [3]
        pruned = holds(model, some_of(groups))
        assert shape_of(pruned, "w1") == [4, 3, 1, 1]


def test_space_to_depth() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,2,2] y) {
            a = Conv(x, w1)
            b = SpaceToDepth<blocksize=2>(a)
            y = Conv(b, w2)
        }""",
        w1=(4, 3, 1, 1), w2=(2, 16, 1, 1),
    )  # fmt: skip
    pruned = holds(model, some_of(find_groups(model)))
    assert shape_of(pruned, "w2") == [2, 8, 1, 1]


def test_resize_to_sizes() -> None:
    model = drawn(
        """g (float[2,3,4,4] x) => (float[2,2,8,8] y) {
            a = Conv(x, w1)
            b = Resize<mode="nearest">(a, , , sizes)
            y = Conv(b, w2)
        }""",
        w1=(6, 3, 1, 1), w2=(2, 6, 1, 1), sizes=np.array([2, 6, 8, 8]),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [6]
    holds(model, some_of(groups))


def test_instance_normalization() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = InstanceNormalization(a, s, t)
            p = PRelu(b, slope)
            y = Conv(p, w2)
        }""",
        w1=(6, 3, 1, 1), s=6, t=6, slope=(6, 1, 1), w2=(2, 6, 1, 1),
    )  # fmt: skip
    pruned = holds(model, some_of(find_groups(model)))
    assert shape_of(pruned, "slope") == [3, 1, 1]


def test_group_normalization_loses_whole_groups() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = GroupNormalization<num_groups=4>(a, s, t)
            y = Conv(b, w2)
        }""",
        opset=21, w1=(12, 3, 1, 1), s=12, t=12, w2=(2, 12, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [4]
    assert any("averages over them" in group.frozen for group in groups)
    pruned = holds(model, some_of(groups))
    assert pruned.graph[1].attributes["num_groups"].as_int() == 2
    assert shape_of(pruned, "s") == [6]


def test_group_normalization_spelled_out() -> None:
    model = drawn(
        """g (float[N,3,H,W] x) => (float[N,2,H,W] y) {
            a = Conv(x, w1)
            size = Shape(a)
            b = Reshape(a, apart)
            c = InstanceNormalization(b, s, t)
            d = Reshape(c, size)
            e = Mul(d, scale)
            f = Add(e, shift)
            y = Conv(f, w2)
        }""",
        w1=(12, 3, 1, 1), s=4, t=4, apart=np.array([0, 4, -1]), w2=(2, 12, 1, 1),
        scale=(12, 1, 1), shift=(1, 12, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [4]
    pruned = holds(model, some_of(groups), {"x": np.ones((1, 3, 4, 5), np.float32)})
    assert shape_of(pruned, "scale") == [6, 1, 1]


def test_layer_normalization_stays() -> None:
    model = drawn(
        """g (float[N,5,6] x) => (float[N,5,2] y) {
            a = MatMul(x, w1)
            b = LayerNormalization(a, s, t)
            c = MatMul(b, w2)
            d = Relu(c)
            y = MatMul(d, w3)
        }""",
        w1=(6, 8), s=8, t=8, w2=(8, 10), w3=(10, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [10]
    frozen = {group.size: group.frozen for group in groups if group.frozen}
    assert frozen[8].startswith("LayerNormalization 'layernormalization1' averages over them")
    holds(model, some_of(groups))


def test_feed_forward_width() -> None:
    model = drawn(
        """g (float[N,T,6] x) => (float[N,T,6] y) {
            a = MatMul(x, w1)
            b = Add(b1, a)
            c = Gelu(b)
            d = MatMul(c, w2)
            e = Add(d, b2)
            y = Add(x, e)
        }""",
        w1=(6, 12), b1=12, w2=(12, 6), b2=6,
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert (group.size, group.kind) == (12, "hidden")
    assert group.writers[0].bias is not None and group.writers[0].bias.value == "b1"
    assert group.readers[0].weight.value == "w2"
    holds(model, some_of(groups))


def test_gated_feed_forward_through_one_matrix() -> None:
    model = drawn(
        """g (float[N,T,6] x) => (float[N,T,2] y) {
            a = MatMul(x, w1)
            b, c = Split<axis=-1, num_outputs=2>(a)
            s = Sigmoid(b)
            d = Mul(s, c)
            y = MatMul(d, w2)
        }""",
        w1=(6, 16), w2=(8, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [8]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "w1") == [6, 8]


def test_gemm_in_every_orientation() -> None:
    model = drawn(
        """g (float[5,N] x) => (float[N,2] y) {
            a = Gemm<transA=1>(x, w1, b1)
            b = Relu(a)
            c = Gemm<transB=1, alpha=0.5, beta=2.0>(b, w2, b2)
            y = Gemm(c, w3)
        }""",
        w1=(5, 8), b1=8, w2=(6, 8), b2=(1, 6), w3=(6, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [6, 8]
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "b2") == [1, 3]


def test_shared_initializer() -> None:
    model = drawn(
        """g (float[N,6] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            b = Add(a, bias)
            c = MatMul(x, w2)
            d = Add(c, bias)
            e = Relu(b)
            f = Tanh(d)
            h = MatMul(e, w3)
            i = MatMul(f, w3)
            y = Add(h, i)
        }""",
        w1=(6, 8), w2=(6, 8), bias=8, w3=(8, 2),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert {writer.weight.value for writer in group.writers} == {"w1", "w2"}
    holds(model, some_of(groups))


def test_embedding() -> None:
    model = drawn(
        """g (int64[N,T] ids) => (float[N,T,2] y) {
            a = Gather(table, ids)
            b = Add(a, place)
            y = MatMul(b, w1)
        }""",
        table=(10, 8), place=(1, 1, 8), w1=(8, 2),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert group.size == 8 and group.writers[0].weight.value == "table"
    rows = next(group for group in groups if group.size == 10)
    assert rows.frozen.startswith("Gather 'gather0' looks them up")
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "table") == [10, 4]


def test_tied_weights() -> None:
    model = drawn(
        """g (int64[N,T] ids) => (float[N,T,10] y) {
            a = Gather(table, ids)
            b = MatMul(a, w1)
            r = Relu(b)
            c = Transpose<perm=[1,0]>(table)
            y = MatMul(r, c)
        }""",
        table=(10, 8), w1=(8, 8),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert group.size == 8
    assert sorted((slot.value, slot.axis) for slot in group.slots) == [
        ("table", 1), ("w1", 0), ("w1", 1)
    ]  # fmt: skip
    holds(model, some_of(groups))


def test_recurrent_layers() -> None:
    for name, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        model = drawn(
            f"""g (float[T,N,5] x) => (float[T,N,2] y, float[2,N,6] z) {{
                a, h = {name}<hidden_size=8, direction="bidirectional">(x, w, r, b)
                p = Transpose<perm=[0,2,1,3]>(a)
                m = Reshape(p, shape)
                y = MatMul(m, w2)
                z = MatMul(h, w3)
            }}""",
            w=(2, gates * 8, 5), r=(2, gates * 8, 8), b=(2, 2 * gates * 8),
            shape=np.array([0, 0, 16]), w2=(16, 2), w3=(8, 6),
        )  # fmt: skip
        groups = find_groups(model)
        free = prunable(groups)
        assert [(group.size, group.kind) for group in free.values()] == [(8, "recurrent")], name
        pruned = holds(model, some_of(groups))
        assert pruned.graph[0].attributes["hidden_size"].as_int() == 4
        assert shape_of(pruned, "r") == [2, gates * 4, 4]


def test_quantized_weights_and_activations() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            w1 = DequantizeLinear<axis=0>(w1q, s1, z1)
            b1 = DequantizeLinear<axis=0>(b1q, bs)
            a = Conv(x, w1, b1)
            q = QuantizeLinear(a, scale, zero)
            d = DequantizeLinear(q, scale, zero)
            w2 = DequantizeLinear<axis=0>(w2q, s2, z2)
            y = Conv(d, w2)
        }""",
        w1q=np.arange(18, dtype=np.int8).reshape(6, 3, 1, 1),
        s1=np.linspace(0.1, 1, 6).astype(np.float32), z1=np.zeros(6, np.int8),
        b1q=np.arange(6, dtype=np.int32), bs=np.linspace(0.1, 1, 6).astype(np.float32),
        scale=np.float32(0.2), zero=np.uint8(7),
        w2q=np.arange(12, dtype=np.int8).reshape(2, 6, 1, 1),
        s2=np.ones(2, np.float32), z2=np.zeros(2, np.int8),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert group.writers[0].weight.value == "w1q" and group.readers[0].weight.value == "w2q"
    pruned = holds(model, some_of(groups))
    for name in ("s1", "z1", "b1q", "bs"):
        assert shape_of(pruned, name) == [3]


def test_weights_quantized_in_blocks() -> None:
    model = drawn(
        """g (float[N,8] x) => (float[N,8] y) {
            w1 = DequantizeLinear<axis=0, block_size=4>(w1q, s1)
            a = MatMul(x, w1)
            r = Relu(a)
            w2 = DequantizeLinear<axis=0, block_size=4>(w2q, s2)
            y = MatMul(r, w2)
        }""",
        opset=21,
        w1q=np.arange(64, dtype=np.int8).reshape(8, 8), s1=(2, 8),
        w2q=np.arange(64, dtype=np.int8).reshape(8, 8), s2=(2, 8),
    )  # fmt: skip
    groups = find_groups(model)
    (group,) = prunable(groups).values()
    assert group.size == 2 and group.slots[0].positions[1] == (4, 5, 6, 7)
    pruned = holds(model, some_of(groups))
    assert shape_of(pruned, "s2") == [1, 8]


def test_every_second_channel_goes_in_pairs() -> None:
    model = drawn(
        """g (float[N,8] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            even = Slice(a, nought, end, last, two)
            odd = Slice(a, one, end, last, two)
            b = Mul(even, odd)
            y = MatMul(b, w2)
        }""",
        w1=(8, 12), w2=(6, 2), nought=np.array([0]), one=np.array([1]), two=np.array([2]),
        end=np.array([2**63 - 1]), last=np.array([-1]),
    )  # fmt: skip
    groups = find_groups(model)
    assert [group.size for group in prunable(groups).values()] == [6]
    holds(model, {"matmul0": (0, 3)})


def test_einsum() -> None:
    model = drawn(
        """g (float[N,T,6] x) => (float[N,T,2] y) {
            a = Einsum<equation="bti,ihd->bhtd">(x, w1)
            r = Relu(a)
            y = Einsum<equation="bhtd,hdo->bto">(r, w2)
        }""",
        w1=(6, 3, 4), w2=(3, 4, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 4]
    holds(model, some_of(groups))


def test_tile() -> None:
    model = drawn(
        """g (float[N,6] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            t = Tile(a, times)
            y = MatMul(t, w2)
        }""",
        w1=(6, 4), w2=(12, 2), times=np.array([1, 3]),
    )  # fmt: skip
    groups = find_groups(model)
    assert sorted(group.size for group in prunable(groups).values()) == [3, 4]
    for name in prunable(groups):
        holds(model, {name: (0, 2)})
    holds(model, some_of(groups))


def test_where_and_expand() -> None:
    model = drawn(
        """g (float[N,6] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            e = Expand(b, shape)
            m = Greater(a, e)
            s = Where(m, a, e)
            y = MatMul(s, w2)
        }""",
        w1=(6, 4), b=(1, 1), w2=(4, 2), shape=np.array([1, 4]),
    )  # fmt: skip
    pruned = holds(model, some_of(find_groups(model)))
    assert shape_of(pruned, "w2") == [2, 2]


def test_softmax_over_channels_stays() -> None:
    model = drawn(
        """g (float[N,6] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            s = Softmax<axis=-1>(a)
            y = MatMul(s, w2)
        }""",
        w1=(6, 4), w2=(4, 2),
    )  # fmt: skip
    groups = find_groups(model)
    assert not prunable(groups)
    assert any(group.frozen.startswith("Softmax 'softmax1' computes along") for group in groups)


def test_zero_points_that_an_optimizer_has_merged() -> None:
    model = drawn(
        """g (float[N,3] x) => (float[N,2] y) {
            w1 = DequantizeLinear<axis=1>(w1q, s1, z)
            a = MatMul(x, w1)
            w2 = DequantizeLinear<axis=1>(w2q, s2, z)
            b = MatMul(a, w2)
            y = MatMul(b, w3)
        }""",
        w1q=np.arange(12, dtype=np.int8).reshape(3, 4), s1=4, z=np.zeros(4, np.int8),
        w2q=np.arange(16, dtype=np.int8).reshape(4, 4), s2=4, w3=(4, 2),
    )  # fmt: skip
    assert len(prunable(find_groups(model))) == 1
    separate(model)
    shapes.infer(model)
    groups = find_groups(model)
    assert len(prunable(groups)) == 2
    for name in prunable(groups):
        holds(model, {name: (1, 2)})
