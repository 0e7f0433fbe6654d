"""What can't be pruned stays, with a reason; what can't be removed is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from pruning import drawn, holds, prunable, some_of

import onnxopt
from onnxopt.errors import BadInput
from onnxopt.prune.apply import remove
from onnxopt.prune.explain import explain
from onnxopt.prune.groups import find_groups

CHAIN = """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
    a = Conv(x, w1)
    y = Conv(a, w2)
}"""


def _chain(size: int = 4, **others):
    return drawn(CHAIN, **({"w1": (size, 3, 1, 1), "w2": (2, size, 1, 1)} | others))


def test_a_model_whose_nodes_have_no_names_is_pruned_on_data() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Relu(a)
            y = Conv(b, w2)
        }""",
        w1=(16, 3, 1, 1), w2=(2, 16, 1, 1),
    )  # fmt: skip
    for node in model.graph:
        node.name = ""
    data = {"x": np.random.default_rng(0).normal(size=(10, 3, 4, 4)).astype(np.float32)}
    found = onnxopt.prune(model, data=data, ratio=0.5, bench=False, threads=1)
    assert found.model.graph.initializers["w1"].shape == [8, 3, 1, 1]


def test_a_layer_of_one_channel_keeps_it() -> None:
    model = _chain(1)
    groups = find_groups(model)
    assert not prunable(groups)
    assert remove(model, groups, {}).graph.num_nodes() == 2


def test_weights_of_zero_are_weights() -> None:
    model = _chain(w1=np.zeros((4, 3, 1, 1), np.float32))
    holds(model, some_of(find_groups(model)))


def test_a_dynamic_channel_dim_freezes_what_meets_it() -> None:
    model = drawn(
        """g (float[N,3,4,4] x, float[N,C,4,4] z) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Add(a, z)
            y = Conv(b, w2)
        }""",
        w1=(4, 3, 1, 1), w2=(2, 4, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert not prunable(groups)
    frozen = {group.size: group.frozen for group in groups}
    assert (
        frozen[4] == "Add 'add1' brings them together with an axis of unknown size; --dim fixes one"
    )


def test_members_of_different_sizes_freeze_each_other() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = Conv(x, w2)
            c = Add(a, b)
            y = Conv(c, w3)
        }""",
        w1=(4, 3, 1, 1), w2=(5, 3, 1, 1), w3=(2, 4, 1, 1),
    )  # fmt: skip
    groups = find_groups(model)
    assert not prunable(groups)
    reason = "Add 'add2' brings together axes of different sizes: 4 and 5"
    assert {group.frozen for group in groups if group.size in (4, 5)} == {reason}


def test_a_weight_that_a_caller_may_override_stays() -> None:
    model = _chain()
    model.graph.inputs.append(model.graph.initializers["w1"])
    groups = find_groups(model)
    assert not prunable(groups)
    assert any("freezing the inputs makes it a constant" in group.frozen for group in groups)


def test_an_operator_that_nothing_is_known_of() -> None:
    model = drawn(
        """g (float[N,3,4,4] x) => (float[N,2,4,4] y) {
            a = Conv(x, w1)
            b = com.example.Strange(a)
            y = Conv(b, w2)
        }""",
        w1=(4, 3, 1, 1), w2=(2, 4, 1, 1),
    )  # fmt: skip
    reasons = {group.frozen for group in find_groups(model)}
    assert any(reason.startswith("Strange 'strange1' needs all of them") for reason in reasons)


def test_a_model_output_in_the_middle_stays() -> None:
    model = drawn(CHAIN.replace("y) {", "y, float[N,4,4,4] a) {"), w1=(4, 3, 1, 1), w2=(2, 4, 1, 1))
    groups = find_groups(model)
    assert not prunable(groups)
    assert "they are the model's output 'a'" in {group.frozen for group in groups}


@pytest.mark.parametrize(
    ("removal", "said"),
    [
        ({"nothing": (0,)}, "there is no group 'nothing'"),
        ({"conv0": (0, 1, 2, 3)}, "0 of the 4 channels"),
        ({"conv0": (4,)}, "has channels 0 to 3"),
        ({"conv0": (1, 1)}, "each to be removed once"),
        ({"conv1": (0,)}, "can't be pruned: they are the model's output 'y'"),
    ],
)
def test_a_removal_that_can_not_be(removal: dict[str, tuple[int, ...]], said: str) -> None:
    model = _chain()
    with pytest.raises(BadInput, match=said):
        remove(model, find_groups(model), removal)


def test_removing_leaves_the_model_as_it_was() -> None:
    model = _chain()
    before = [str(value.const_value.shape) for value in model.graph.initializers.values()]
    remove(model, find_groups(model), {"conv0": (1,)})
    assert [str(v.const_value.shape) for v in model.graph.initializers.values()] == before


def test_the_interface_and_its_dynamic_dims_stay() -> None:
    pruned = holds(_chain(), {"conv0": (0, 2)})
    (x,), (y,) = pruned.graph.inputs, pruned.graph.outputs
    assert (str(x.shape), str(y.shape)) == ("[N,3,4,4]", "[N,2,4,4]")


def test_explain_says_what_is_left_and_why() -> None:
    model = _chain()
    found = explain(model, find_groups(model), {"conv0": 12.0, "conv1": 8.0})
    assert found.prunable_share == 1.0
    row = next(row for row in found.rows if not row.frozen)
    assert (row.group, row.size, row.macs, row.parameters) == ("conv0", 4, 20.0, 20)
    every = explain(_chain(1), find_groups(_chain(1)), {"conv0": 1.0, "conv1": 3.0})
    assert every.prunable_share == 0.0
    assert every.unreached[0] == ("conv1", 0.75, ("they are the model's output 'y'",))
