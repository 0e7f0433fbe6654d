"""Two products with an activation in between: who follows, where errors lead, what is won."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from pruning import drawn

from onnxopt.prune.apply import remove
from onnxopt.prune.goals import Goal
from onnxopt.prune.groups import find_groups
from onnxopt.prune.pairs import Pair, follower
from onnxopt.prune.products import all_products, products
from onnxopt.prune.recover import absorb
from onnxopt.prune.sequence import refine
from onnxopt.prune.trial import Tap, Trials
from onnxopt.quantize.covariance import covariances

CONVS = """g (float[N,4,9,8] x) => (float[N,O,H,W] y) {{
    [first] a = Conv<pads=[1,1,1,1]>(x, w0, b0)
    {activation}
    [second] y = Conv<{attributes}>(r, w1, b1)
}}"""

ATTRIBUTES = {
    "plain": ("pads=[1,1,1,1]", (5, 6, 3, 3)),
    "strided": ("pads=[1,1,1,1], strides=[2,2]", (5, 6, 3, 3)),
    "strided without pads": ("strides=[3,2]", (5, 6, 2, 3)),
    "uneven pads": ("pads=[0,1,2,0]", (5, 6, 3, 3)),
    "auto pads": ('auto_pad="SAME_UPPER", strides=[2,3]', (5, 6, 3, 3)),
    "dilated": ("dilations=[2,1], pads=[2,1,2,1]", (5, 6, 3, 3)),
    "grouped": ("group=2, pads=[1,1,1,1]", (4, 3, 3, 3)),
    "depthwise": ("group=6, pads=[1,1,1,1]", (6, 1, 3, 3)),
    "pointwise": ("strides=[1,1]", (5, 6, 1, 1)),
}

ACTIVATIONS = {
    "relu": "r = Relu(a)",
    "sigmoid times itself": "s = Sigmoid(a) r = Mul(a, s)",
    "hard swish": "r = HardSwish(a)",
    "scaled": "two = Constant<value = float {2.0}>() d = Mul(a, two) r = Tanh(d)",
    "none": "r = Identity(a)",
}


def _convs(attributes: str, shape: tuple[int, ...], activation: str = "r = Relu(a)"):
    text = CONVS.format(attributes=attributes, activation=activation)
    return drawn(text, w0=(6, 4, 3, 3), b0=6, w1=shape, b1=shape[0])


def _pair(model):
    first, second = all_products(model, {})
    return first, second, Goal.of(second, model)


def _perturbed(model, at, width):
    """The outputs where one number of what the first product gives is moved."""
    copy = model.clone()
    weight = copy.graph.initializers["b0"]
    array = weight.const_value.numpy().copy()
    array[at] += width
    weight.const_value = ir.tensor(array)
    return copy


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_the_error_is_led_back_to_where_it_comes_from(name: str, activation: str) -> None:
    model = _convs(*ATTRIBUTES[name], ACTIVATIONS[activation])
    first, second, goal = _pair(model)
    # Where channels are not mixed, none can make up for another.
    assert (follower(first, [first, second], model) is second) == (name != "depthwise")
    random = np.random.default_rng(0)
    x = random.normal(size=(1, 4, 9, 8)).astype(np.float32)
    pair = Pair(model, first, second, goal, threads=1)
    found = Tap(model, pair.names, threads=1).run({"x": x})
    wanted = random.normal(size=found["y"].shape).astype(np.float32)
    back = pair.slope(found) * pair.back(wanted - found["y"], found["r"].shape)
    # A bias moves all places of a channel: the slope of the squared error in it is known.
    for channel in (0, 5):
        errors = []
        for width in (0.002, -0.002):
            moved = Tap(_perturbed(model, channel, width), ["y"], threads=1)
            errors.append(float(np.square(wanted - moved.run({"x": x})["y"], dtype=float).sum()))
        slope = (errors[0] - errors[1]) / 0.004
        assert slope == pytest.approx(-2 * back[0, channel].sum(), rel=0.05, abs=3)


@pytest.mark.parametrize(
    ("between", "why"),
    [
        ("r = Relu(a) z = Neg(a)", "an output shows it"),
        ("r = Relu(a) z = ReduceMax(r)", "another node reads it"),
        ("b = MaxPool<kernel_shape=[1,1]>(a) z = Neg(x) r = Relu(b)", "places are mixed"),
        ("z = Neg(x) c = Relu(a) r = Add(c, k)", "something else is added"),
    ],
)
def test_what_others_see_stays_as_it_is(between: str, why: str) -> None:
    text = f"""g (float[N,4,8,8] x, float[N,6,8,8] k) => (float[N,5,8,8] y, float z) {{
        [first] a = Conv(x, w0)
        {between}
        [second] y = Conv(r, w1)
    }}"""
    model = drawn(text, w0=(6, 4, 1, 1), w1=(5, 6, 1, 1))
    first, second = all_products(model, {})
    assert follower(first, [first, second], model) is None, why


def test_a_depthwise_layer_has_too_few_weights_to_be_moved() -> None:
    text = """g (float[N,6,8,8] x) => (float[N,5,8,8] y) {
        [first] a = Conv<group=6, pads=[1,1,1,1]>(x, w0)
        r = Relu(a)
        [second] y = Conv(r, w1)
    }"""
    model = drawn(text, w0=(6, 1, 3, 3), w1=(5, 6, 1, 1))
    first, second = all_products(model, {})
    assert follower(first, [first, second], model) is None


@pytest.mark.parametrize(("shape", "follows"), [((6, 1, 1), True), ((8, 8), False)])
def test_the_activation_between_two_products_changes_no_shape(shape, follows: bool) -> None:
    text = """g (float[N,4,8,8] x) => (float[N,5,P,P] y) {
        [first] a = Conv(x, w0)
        r = Mul(a, m)
        [second] y = Conv(r, w1)
    }"""
    model = drawn(text, w0=(6, 4, 8, 8), w1=(5, 6, 1, 1), m=shape)
    first, second = all_products(model, {})
    assert (follower(first, [first, second], model) is second) == follows


def test_what_a_body_sees_stays_as_it_is() -> None:
    text = """g (float[N,4,8,8] x, bool c) => (float[N,5,8,8] y, float[N,6,8,8] z) {
        [first] a = Conv(x, w0)
        r = Relu(a)
        [second] y = Conv(r, w1)
        z = If(c) <then_branch = t () => (float[N,6,8,8] u) { u = Neg(r) },
                   else_branch = e () => (float[N,6,8,8] v) { v = Abs(r) }>
    }"""
    model = drawn(text, w0=(6, 4, 1, 1), w1=(5, 6, 1, 1))
    first, second = all_products(model, {})
    assert follower(first, [first, second], model) is None


def _pruned(text: str, feeds, **weights):
    """The error on samples that were not fitted, without and with moves of pairs."""
    model = drawn(text, **weights)
    groups = find_groups(model)
    known = products(model, [group for group in groups if not group.frozen])
    group = next(group for group in groups if group.size == 16)
    removal = {group.name: tuple(range(0, 16, 2))}
    fit, unseen = feeds[:100], feeds[100:]
    moments = covariances(model, fit, list(known), threads=1)
    ready = remove(absorb(model, known, moments, removal), groups, removal)
    trials = Trials(model, unseen, threads=1)
    return [
        trials.divergence(
            refine(model, ready, known, groups, removal, fit, trials, threads=1, rounds=rounds)
        )
        for rounds in (0, 3)
    ]


RESIDUAL = """g (float[N,6,8,8] x) => (float[N,6,8,8] y) {
    [first] a = Conv<pads=[1,1,1,1]>(x, w0, b0)
    r = Relu(a)
    [second] b = Conv<pads=[1,1,1,1]>(r, w1, b1)
    s = Add(b, x)
    y = Relu(s)
}"""

FEED_FORWARD = """g (float[N,T,10] x) => (float[N,T,10] y) {
    [up] a = MatMul(x, w0)
    ab = Add(a, b0)
    s = Sigmoid(ab)
    r = Mul(ab, s)
    [down] b = MatMul(r, w1)
    bb = Add(b, b1)
    y = Add(bb, x)
}"""


def test_the_two_convolutions_of_a_block_make_up_for_more_than_each_alone() -> None:
    random = np.random.default_rng(4)
    feeds = [{"x": random.normal(size=(1, 6, 8, 8)).astype(np.float32)} for _ in range(130)]
    weights = {"w0": (16, 6, 3, 3), "b0": 16, "w1": (6, 16, 3, 3), "b1": 6}
    alone, jointly = _pruned(RESIDUAL, feeds, **weights)
    assert jointly < 0.8 * alone


def test_the_two_matrices_of_a_feed_forward_net_make_up_for_more_than_each_alone() -> None:
    random = np.random.default_rng(4)
    feeds = [
        {"x": random.normal(size=(1, 12 + number % 3, 10)).astype(np.float32)}
        for number in range(130)
    ]
    weights = {"w0": (10, 16), "b0": 16, "w1": (16, 10), "b1": 10}
    alone, jointly = _pruned(FEED_FORWARD, feeds, **weights)
    assert jointly < 0.8 * alone
