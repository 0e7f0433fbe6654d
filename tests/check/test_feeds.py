"""Feeds made up from a signature and a graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxopt.check.feeds import Synthetic, synthesize
from onnxopt.errors import BadInput, RuntimeFailed


def model(inputs: str, body: str = "", more: str = "") -> ir.Model:
    body = body or "y = Constant<value_float = 1.0>()"
    return ir.from_onnx_text(
        f'<ir_version: 10, opset_import: ["" : 17]> g ({inputs}) => (float[] y) {more} {{ {body} }}'
    )


def made(inputs: str, body: str = "", more: str = "", refuse=lambda feed: False, **options):
    """The feeds that a runtime which refuses some would see."""

    def run(feed):
        if refuse(feed):
            raise RuntimeFailed("no such size")

    synthetic = synthesize(model(inputs, body, more), **options)
    return [feed for feed, _ in synthetic.resolve(run)]


def shapes(feeds, name="x"):
    return [feed[name].shape for feed in feeds]


def test_the_same_seed_gives_the_same_feeds_and_another_others():
    first, second, other = (made("float[n, 4] x", seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(first, second, strict=True))
    assert not np.array_equal(first[0]["x"], other[0]["x"])


def test_fixed_shapes_are_kept_and_values_vary():
    feeds = made("float[2, 3] x")
    assert shapes(feeds) == [(2, 3)] * 2
    assert not np.array_equal(feeds[0]["x"], feeds[1]["x"])


def test_dynamic_dims_take_several_sizes_one_and_odd_ones_too():
    feeds = made("float[batch, time, 8] x")
    batches, times = zip(*[shape[:2] for shape in shapes(feeds)], strict=True)
    assert {1, 3} <= set(batches)
    assert 1 in times
    assert any(size % 2 and size > 1 for size in times)
    assert len(set(times)) >= 3


def test_dims_of_one_name_have_one_size_in_every_input():
    feeds = made("int64[batch, seq] x, int64[batch, seq] attention_mask, float[seq, 2] z")
    for feed in feeds:
        assert feed["x"].shape == feed["attention_mask"].shape
        assert feed["z"].shape[0] == feed["x"].shape[1]


def test_dims_without_a_name_share_the_batch_also_in_a_recurrent_state():
    feeds = made("float[?, 16] x, float[2, ?, 8] state")
    assert all(feed["x"].shape[0] == feed["state"].shape[1] for feed in feeds)


def test_pictures_are_tried_with_unequal_sides():
    feeds = made("float[batch, 3, height, width] x")
    assert any(shape[2] != shape[3] for shape in shapes(feeds))


def test_a_sum_of_dims_is_their_sum():
    text = model("float[b, past] x, float[b, seq] z, int64[b, both] mask")
    text.graph.inputs[2].shape = ir.Shape(["b", "past + seq"])
    for feed, _ in synthesize(text).resolve(lambda feed: None):
        assert feed["mask"].shape[1] == feed["x"].shape[1] + feed["z"].shape[1]


def test_a_total_length_is_past_and_present():
    feeds = made("float[b, past_length] x, int64[b, length] z, int64[b, total_length] mask")
    for feed in feeds:
        assert feed["mask"].shape[1] == feed["x"].shape[1] + feed["z"].shape[1]


def test_sizes_the_model_refuses_are_left_out_and_counted():
    synthetic = synthesize(model("float[n, time] x"))

    def run(feed):
        if feed["x"].shape[1] % 32:
            raise RuntimeFailed("not a multiple of 32")

    feeds = [feed for feed, _ in synthetic.resolve(run)]
    assert len(feeds) == synthetic.wanted
    assert all(shape[1] % 32 == 0 for shape in shapes(feeds))
    assert synthetic.skipped > 0


def test_unlikely_sizes_are_found_when_likely_ones_do_not_run():
    feeds = made("float[n, time] x", refuse=lambda feed: feed["x"].shape[1] != 512)
    assert {shape[1] for shape in shapes(feeds)} == {512}


def test_sizes_that_a_tracer_wrote_into_the_graph_are_tried():
    body = """
        s = Constant<value_ints = [1, 27, 8]>()
        r = Reshape(x, s)
        y = ReduceSum<keepdims = 0>(r)
    """
    feeds = made(
        "float[batch, time, 8] x", body, refuse=lambda feed: feed["x"].shape[:2] != (1, 27)
    )
    assert shapes(feeds)[0] == (1, 27, 8)


def test_sizes_that_a_tracer_wrote_are_tried_together():
    body = """
        s = Constant<value_ints = [3, 7, 8]>()
        r = Reshape(x, s)
        t = Constant<value_ints = [3, 11, 8]>()
        q = Reshape(x2, t)
        y = ReduceSum<keepdims = 0>(q)
    """
    feeds = made(
        "float[batch, time, 8] x, float[batch, width, 8] x2",
        body,
        refuse=lambda feed: feed["x"].shape[:2] != (3, 7) or feed["x2"].shape[:2] != (3, 11),
    )
    assert shapes(feeds)[0] == (3, 7, 8)


def test_when_nothing_runs_the_first_reason_is_given():
    with pytest.raises(BadInput, match="no such size") as caught:
        made("float[n] x", refuse=lambda feed: True)
    assert "--data" in caught.value.hint


def test_the_graph_names_the_size_of_a_nameless_axis():
    feeds = made("float[?, ?, ?, ?] x, float[4, 5, 3, 3] w", "y = Conv(x, w)")
    assert {shape[1] for shape in shapes(feeds)} == {5}


def test_the_graph_names_the_rank_of_a_shapeless_input():
    text = model("float[1] x, float[4, 5, 3, 3] w", "y = Conv(x, w)")
    text.graph.inputs[0].shape = None
    feeds = [feed for feed, _ in synthesize(text).resolve(lambda feed: None)]
    assert {feed["x"].ndim for feed in feeds} == {4}


def test_sizes_the_user_chose_are_kept():
    feeds = made("float[batch, seq] x", dims={"batch": 4}, input_shapes={"x": (4, 9)})
    assert set(shapes(feeds)) == {(4, 9)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dims": {"time": 3}}, "no input has a dim called 'time'"),
        ({"dims": {"batch": 0}}, "can't be 0"),
        ({"input_shapes": {"z": (1,)}}, "no input 'z'"),
        ({"input_shapes": {"x": (1, 2)}}, "wrong rank"),
        ({"input_shapes": {"x": (1, 4, 8)}}, "does not fit"),
        ({"input_shapes": {"x": (1, 3, -1)}}, "not positive"),
        ({"dims": {"batch": 2}, "input_shapes": {"x": (1, 3, 8)}}, "to be 2 and"),
    ],
)
def test_sizes_that_contradict_are_refused(options, message):
    with pytest.raises(BadInput, match=message):
        made("float[batch, 3, seq] x", **options)


def test_initializers_that_may_be_overridden_are_not_fed():
    assert list(made("float[1] x, float[1] w", more="<float[1] w = {1}>")[0]) == ["x"]


def test_an_input_of_a_type_that_can_not_be_made_asks_for_data():
    text = model("float[1] x")
    text.graph.inputs[0].type = None
    with pytest.raises(BadInput, match="'x'") as caught:
        synthesize(text)
    assert "--data" in caught.value.hint


def test_nothing_runs_before_the_feeds_are_looked_at():
    broken = model("float[1] x", "y = Unheard(x)")
    synthetic = synthesize(broken)
    assert not synthetic.resolved
    with pytest.raises(RuntimeFailed):
        list(synthetic)


def test_feeds_are_found_with_a_session_of_their_own():
    synthetic = synthesize(model("float[n, 3] x", "y = ReduceSum(x)"), count=2)
    assert isinstance(synthetic, Synthetic)
    assert len(list(synthetic)) == len(synthetic) == 2


TABLE = "<float[7, 2] table = {1,2,3,4,5,6,7,8,9,10,11,12,13,14}>"


def test_indexes_are_within_range():
    for feed in made("int64[n, 99] x", "y = Gather(table, x)", TABLE):
        assert feed["x"].min() >= 0
        assert feed["x"].max() < 7


def test_numbers_compared_with_constants_take_them_and_others():
    body = "k = Constant<value_int = 16000>()  e = Equal(x, k)  y = Cast<to = 1>(e)"
    values = {int(feed["x"]) for feed in made("int64 x", body)}
    assert values == {16000, 8000}


@pytest.mark.parametrize("dtype", ["int64", "float", "bool"])
def test_masks_start_with_ones_and_some_end_with_zeros(dtype):
    feeds = made(f"{dtype}[batch, seq] attention_mask")
    rows = [row for feed in feeds for row in feed["attention_mask"].astype(int)]
    assert all(row[0] == 1 and set(row) <= {0, 1} for row in rows)
    assert all((np.diff(row) <= 0).all() for row in rows)
    assert any(row[-1] == 0 for row in rows)


def test_positions_count_up():
    feeds = made("int64[batch, seq] position_ids")
    assert all((np.diff(feed["position_ids"]) == 1).all() for feed in feeds)


def test_segments_are_zero_or_one():
    for feed in made("int64[batch, seq] token_type_ids"):
        assert set(np.unique(feed["token_type_ids"])) <= {0, 1}


def test_lengths_fit_and_descend():
    for feed in made("float[batch, time, 4] x, int64[batch] lengths"):
        lengths = feed["lengths"]
        assert lengths[0] == feed["x"].shape[1]
        assert (lengths >= 1).all()
        assert (np.diff(lengths) <= 0).all()


def test_states_begin_with_nothing_and_stay_small():
    feeds = made("float[n, 4] x, float[2, n, 8] state")
    assert not feeds[0]["state"].any()
    assert 0 < np.abs(feeds[1]["state"]).max() < 1


def test_pictures_of_bytes_use_the_whole_range():
    pixels = made("uint8[1, 3, 32, 32] x")[0]["x"]
    assert pixels.dtype == np.uint8
    assert pixels.max() > 150


def test_floats_hold_zeros_and_negatives():
    values = np.concatenate([feed["x"].ravel() for feed in made("float[500] x")])
    assert (values == 0).any()
    assert (values < 0).any()
    assert np.isfinite(values).all()


def test_one_boolean_takes_both_values_and_an_array_is_never_all_false():
    assert {bool(feed["x"]) for feed in made("bool x")} == {True, False}
    assert all(feed["x"].any() for feed in made("bool[2] x", count=8))


def test_strings_are_words():
    feed = made("string[5] x")[0]
    assert feed["x"].dtype == object
    assert all(isinstance(word, str) for word in feed["x"])


def test_a_sequence_is_a_list_and_an_optional_is_there_and_not():
    assert [type(feed["x"]) for feed in made("seq(float[2]) x")] == [list, list]
    assert [feed["x"] is None for feed in made("optional(float[2]) x")] == [False, True]


@pytest.mark.parametrize(
    "dtype", ["bfloat16", "float16", "double", "int8", "uint4", "float8e4m3fn"]
)
def test_every_element_type_can_be_made(dtype):
    (spec,) = model(f"{dtype}[3] x").graph.inputs
    assert made(f"{dtype}[3] x")[0]["x"].dtype == spec.dtype.numpy()


def test_the_turn_of_a_trip_count_varies():
    body = "a = ConstantOfShape(x)  y = ReduceSum(a)"
    assert len({feed["x"].tobytes() for feed in made("int64[1] x", body)}) == 2
