"""Ranges from data: every value, every kind of model, in bounded memory, kept when interrupted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from casefile import parse

from onnxopt.check.data import read_data
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.passes import shapes
from onnxopt.quantize.calibrate import collect
from onnxopt.quantize.observe import Observer, activations
from onnxopt.quantize.records import Range
from onnxopt.quantize.stacking import MOST
from onnxopt.runtime.sessions import Session

CHAIN = """
g (float[N,2] x) => (float[N,2] y) <float[2] w = {2.0, -3.0}>
{ a = Mul(x, w) b = Relu(a) c = Transpose(b) y = Transpose(c) }"""

METHODS = ("minmax", "average", "percentile", "entropy", "mse")


def load(text: str) -> ir.Model:
    return ir.from_proto(parse(text))


def rows(*numbers: tuple[float, ...]) -> list[dict[str, Any]]:
    return [{"x": np.array([row], np.float32)} for row in numbers]


def ranges(text: str, feeds: Any, threads: int = 1, **options: Any) -> dict[str, Range]:
    return collect(load(text), feeds, threads=threads, **options)


def test_every_value_between_nodes_has_its_range_and_weights_have_none() -> None:
    found = ranges(CHAIN, rows((1, 1), (-2, 4)))
    assert found == {
        "x": Range(-2, 4),
        "a": Range(-12, 2),
        "b": Range(0, 2),
        "c": Range(0, 2),
        "y": Range(0, 2),
    }


def test_the_average_is_over_the_extremes_of_each_sample() -> None:
    found = ranges(CHAIN, rows((1, 1), (-2, 4)), method="average")
    assert found["a"] == Range(-7.5, -1)
    assert found["b"] == Range(0, 1)


@pytest.mark.parametrize("method", METHODS)
def test_a_value_that_is_worked_out_has_the_range_of_one_that_is_observed(method: str) -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((50, 2)).astype(np.float32)} for _ in range(3)]
    together = ranges(CHAIN, feeds, method=method)
    for name in "bcy":
        assert ranges(CHAIN, feeds, method=method, tensors=[name])[name] == together[name]


def test_a_clip_with_computed_bounds_is_observed() -> None:
    text = """g (float[N] x, float high) => (float[N] y) <float low = {-1.0}>
    { a = Neg(x) y = Clip(a, low, high) }"""
    feed = {"x": np.array([-9, 5], np.float32), "high": np.float32(3)}
    assert ranges(text, [feed])["y"] == Range(-1, 3)


def test_a_clip_whose_bounds_are_attributes_is_worked_out() -> None:
    text = """g <opset_import> (float[N] x) => (float[N] y)
    { a = Neg(x) y = Clip<min = -1.0, max = 2.0>(a) }""".replace(" <opset_import>", "")
    model = load(text)
    model.graph.opset_imports[""] = 10
    found = collect(model, [{"x": np.array([-9, 5], np.float32)}], threads=1)
    assert found["y"] == Range(-1, 2)


def test_sizes_may_differ_from_sample_to_sample() -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((n, 2)).astype(np.float32)} for n in (3, 1, 17, 2)]
    whole = np.concatenate([feed["x"] for feed in feeds])
    assert ranges(CHAIN, feeds)["x"] == Range(float(whole.min()), float(whole.max()))


def test_values_that_bodies_capture_are_observed_and_those_inside_are_noted() -> None:
    text = """g (float[2] x, bool which) => (float[2] y)
    { a = Neg(x) y = If (which) <
        then_branch = t () => (float[2] p) { q = Exp(a) p = Neg(q) },
        else_branch = e () => (float[2] r) { r = Abs(a) }> }"""
    feed = {"x": np.array([1, -2], np.float32), "which": np.array(False)}
    assert ranges(text, [feed]) == {"x": Range(-2, 1), "a": Range(-1, 2), "y": Range(1, 2)}
    assert activations(load(text)).notes == (
        "3 values inside the bodies of If, Loop or Scan are not observed",
    )


@pytest.mark.parametrize("inferred", [False, True])
def test_a_loop_runs_with_the_types_that_the_model_declares(inferred: bool) -> None:
    text = """g (float[2] x, int64 trips) => (float[2] y) <bool go = {1}>
    { a = Neg(x) b = Loop (trips, go, a) <body = l (int64 i, bool c, float[2] s)
        => (bool d, float[2] t) { d = Identity(c) t = Add(s, x) }> y = Neg(b) }"""
    feed = {"x": np.array([1, -2], np.float32), "trips": np.array(2)}
    model = load(text)
    if inferred:
        shapes.infer(model)
    assert collect(model, [feed], threads=1)["y"] == Range(-1, 2)


def test_several_inputs_one_of_them_of_integers() -> None:
    text = """g (float[N] x, int64[M] i) => (float[M] y) { y = Gather(x, i) }"""
    feed = {"x": np.array([1, 5], np.float32), "i": np.array([0, 0])}
    assert ranges(text, [feed]) == {"x": Range(1, 5), "y": Range(1, 1)}


def test_what_is_computed_from_weights_alone_is_a_weight() -> None:
    text = """g (float[2] x) => (float[2] y) <float[2] w = {1.0, 2.0}>
    { v = Neg(w) y = Add(x, v) }"""
    assert set(ranges(text, [{"x": np.ones(2, np.float32)}])) == {"x", "y"}


def test_values_are_handed_out_in_parts_where_they_are_large(monkeypatch: Any) -> None:
    opened: list[int] = []
    true_open = Session.open.__func__  # type: ignore[attr-defined]

    def counting(model: Any, **options: Any) -> Session:
        opened.append(len(model.graph.outputs))
        return true_open(Session, model, **options)

    monkeypatch.setattr(Session, "open", counting)
    text = "g (float[N] x) => (float[N] y) { a = Neg(x) b = Exp(a) c = Abs(b) y = Neg(c) }"
    feeds = [{"x": np.linspace(0, 1, n).astype(np.float32)} for n in (100, 50, 200)]
    whole = ranges(text, feeds)
    assert len(opened) == 1
    opened.clear()
    assert ranges(text, feeds, budget_bytes=900) == whole
    # Two values of 100 elements fit, so there are two parts; one of 200, so there are four.
    assert len(opened) == 2 + 4


def test_sizes_that_no_shape_tells_are_counted_by_a_run() -> None:
    text = """g (float[N] x) => (float[M] y) { i = NonZero(x) j = Cast<to = 1>(i)
    k = Neg(j) l = Exp(k) s = Shape(l) t = Cast<to = 1>(s) m = Neg(t) y = Abs(m) }"""
    observer = Observer(activations(load(text)), ["k", "l"], threads=1, budget_bytes=100)
    feed = {"x": np.ones(20, np.float32)}
    assert [(name, array.shape) for name, array in observer.arrays(feed, 1)] == [
        ("k", (1, 20)),
        ("l", (1, 20)),
    ]


def test_a_stream_that_can_be_read_once_is_enough(tmp_path: Path) -> None:
    feeds = rows((1, 1), (-2, 4))
    assert ranges(CHAIN, iter(feeds)) == ranges(CHAIN, feeds)
    assert ranges(CHAIN, iter(feeds), cache=tmp_path) == ranges(CHAIN, feeds)


def test_data_on_disk_is_read_as_for_validate(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1, 2], [-5, 3]], np.float32))
    model = load(CHAIN)
    found = collect(model, read_data(tmp_path / "x.npy", model), threads=1)
    assert found["x"] == Range(-5, 3)


def test_the_model_stays_as_it_was() -> None:
    model = load(CHAIN)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    collect(model, rows((1, 2)), threads=1)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_sample(bad: float, threads: int) -> None:
    with pytest.raises(BadInput, match=r"'x' holds (NaN|an infinity) in sample 2"):
        ranges(CHAIN, rows((1, 1), (1, bad), (1, 1), (1, 1)), threads)


def test_an_overflow_inside_the_model_is_named() -> None:
    with pytest.raises(BadInput, match=r"'y' holds an infinity in sample 1"):
        ranges("g (float[N] x) => (float[N] y) { y = Exp(x) }", [{"x": np.float32([999])}])


@pytest.mark.parametrize("number", [0.0, 1e30, -1e30, 1e-42])
@pytest.mark.parametrize("method", METHODS)
def test_extreme_ranges_are_told_as_they_are(number: float, method: str) -> None:
    found = ranges("g (float[N] x) => (float[N] y) { y = Neg(x) }", [{"x": np.float32([number])}],
                   method=method)  # fmt: skip
    assert found["x"] == Range(np.float32(number), np.float32(number))


@pytest.mark.parametrize("feeds", [[], iter(())])
@pytest.mark.parametrize("cached", [True, False])
def test_no_data_is_an_error(feeds: Any, cached: bool, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no sample"):
        ranges(CHAIN, feeds, cache=tmp_path if cached else None)


def test_an_empty_batch_is_an_error_that_tells_which() -> None:
    with pytest.raises(BadInput, match="sample 2 is empty"):
        ranges(CHAIN, [*rows((1, 1)), {"x": np.zeros((0, 2), np.float32)}])


def test_a_value_that_is_empty_in_every_sample_has_no_range() -> None:
    text = """g (float[N] x, float[M] z) => (float[K] y, float[M] v)
    { y = Concat<axis = 0>(x, z) v = Neg(z) }"""
    feed = {"x": np.float32([1, 2]), "z": np.zeros(0, np.float32)}
    assert set(ranges(text, [feed], method="mse")) == {"x", "y"}


def test_data_that_does_not_fit_is_an_error_that_tells_what_does() -> None:
    with pytest.raises(BadInput, match="the input 'x' is missing"):
        ranges(CHAIN, [{}])
    with pytest.raises(RuntimeFailed, match="sample 1: "):
        ranges("g (float[N] x, float[M] z) => (float[K] y) { y = Add(x, z) }",
               [{"x": np.ones(2, np.float32), "z": np.ones(3, np.float32)}])  # fmt: skip


@pytest.mark.parametrize(("type_name", "word"), [("float16", "float16"), ("double", "double")])
def test_a_model_of_another_precision_is_refused(type_name: str, word: str) -> None:
    text = f"g ({type_name}[N] x) => ({type_name}[N] y) {{ y = Neg(x) }}"
    with pytest.raises(BadInput, match=f"computes in {word}"):
        ranges(text, [{"x": np.ones(1)}])


def test_a_name_that_is_nearly_right_is_guessed() -> None:
    text = "g (float[N] x) => (float[N] hidden) { hidden = Neg(x) }"
    with pytest.raises(BadInput, match="did you mean 'hidden'"):
        ranges(text, [], tensors=["hiden"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_ctrl_c_keeps_what_is_done(method: str, threads: int, tmp_path: Path) -> None:
    feeds = rows((1, 1), (-2, 4), (3, -7))
    seen: list[str] = []

    def interrupt(share: float, doing: str) -> None:
        seen.append(doing)
        if doing.endswith("3") and len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranges(CHAIN, feeds, threads, method=method, cache=tmp_path, progress=interrupt)
    found = ranges(CHAIN, feeds, threads, method=method, cache=tmp_path, progress=interrupt)
    assert seen[3:] == ["calibrating, sample 3"]
    assert found == ranges(CHAIN, feeds, method=method)


def test_an_interrupt_between_two_values_counts_no_sample_twice(
    tmp_path: Path, monkeypatch: Any
) -> None:
    feeds = rows((1, 1), (-2, 4), (3, -7))
    true_prepared = Observer.prepared

    def cut_short(values: Iterator[Any]) -> Iterator[Any]:
        yield next(values)
        raise KeyboardInterrupt

    def prepared(self: Observer, feeds: Any, first: int) -> Any:
        found = true_prepared(self, feeds, first)
        return replace(found, rows=lambda: cut_short(found.rows())) if first == 2 else found

    monkeypatch.setattr(Observer, "prepared", prepared)
    with pytest.raises(KeyboardInterrupt):
        ranges(CHAIN, feeds, method="average", cache=tmp_path)
    monkeypatch.undo()
    found = ranges(CHAIN, feeds, method="average", cache=tmp_path)
    assert found == ranges(CHAIN, feeds, method="average")


def test_ranges_are_found_again_by_content(tmp_path: Path, monkeypatch: Any) -> None:
    feeds = rows((1, 1), (-2, 4))
    first = ranges(CHAIN, feeds, method="mse", cache=tmp_path)
    assert len(list(tmp_path.glob("*.json"))) == 1
    monkeypatch.setattr(Observer, "prepared", lambda *_: pytest.fail("the model ran again"))
    assert ranges(CHAIN, feeds, method="mse", cache=tmp_path) == first
    # Every method reads the same tallies.
    assert ranges(CHAIN, iter(feeds), method="minmax", cache=tmp_path)["x"] == Range(-2, 4)


@pytest.mark.parametrize("changed", ["model", "data"])
def test_other_content_has_ranges_of_its_own(changed: str, tmp_path: Path) -> None:
    text, feeds = CHAIN, rows((1, 1))
    ranges(text, feeds, cache=tmp_path)
    if changed == "model":
        text = text.replace("2.0", "5.0")
    else:
        feeds = rows((2.5, 1))
    assert ranges(text, feeds, cache=tmp_path)["a"].high == 5.0
    assert len(list(tmp_path.glob("*.json"))) == 2


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"tensors": 3', "null"])
def test_a_damaged_cache_is_made_anew(damage: str, tmp_path: Path) -> None:
    first = ranges(CHAIN, rows((1, 1)), method="mse", cache=tmp_path)
    (file,) = tmp_path.glob("*.json")
    file.write_text(damage)
    assert ranges(CHAIN, rows((1, 1)), method="mse", cache=tmp_path) == first
    assert json.loads(file.read_text())["feeds"] == 1


def test_a_cache_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(BadInput, match="is a file"):
        ranges(CHAIN, rows((1, 1)), cache=tmp_path / "x")


def test_a_source_that_runs_dry_on_the_second_reading_is_told(tmp_path: Path) -> None:
    class Once:
        left = 1

        def __iter__(self) -> Iterator[Any]:
            feeds, self.left = rows((1, 1)) * self.left, 0
            return iter(feeds)

    with pytest.raises(BadInput, match="1 samples the first time and 0 the second"):
        ranges(CHAIN, Once(), cache=tmp_path)


def test_memory_holds_no_more_than_a_group_of_samples() -> None:
    alive: list[int] = []

    class Feed(dict[str, Any]):
        count = 0

        def __init__(self, *values: Any) -> None:
            super().__init__(*values)
            Feed.count += 1
            alive.append(Feed.count)

        def __del__(self) -> None:
            Feed.count -= 1

    ranges(CHAIN, (Feed(feed) for feed in rows(*[(i, 1) for i in range(60)])))
    assert max(alive) <= MOST + 1


def counted_runs(monkeypatch: Any) -> list[int]:
    """How many samples each run takes, one after the other."""
    seen: list[int] = []
    true_prepared = Observer.prepared

    def counting(self: Observer, feeds: Any, first: int) -> Any:
        seen.append(len(feeds))
        return true_prepared(self, feeds, first)

    monkeypatch.setattr(Observer, "prepared", counting)
    return seen


@pytest.mark.parametrize("method", METHODS)
def test_samples_run_together_where_that_changes_nothing(method: str, monkeypatch: Any) -> None:
    random = np.random.default_rng(0)
    feeds = [{"x": random.standard_normal((1, 2)).astype(np.float32)} for _ in range(40)]
    fixed = ranges(CHAIN.replace("[N,2]", "[1,2]"), feeds, method=method)
    seen = counted_runs(monkeypatch)
    assert ranges(CHAIN, feeds, method=method) == fixed
    # Two alone, the same two as one to compare, then groups.
    whole, rest = divmod(40 - 2, MOST)
    assert seen == [1, 1, 2, *[MOST] * whole, rest]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_runs_in_threads_find_the_same(method: str, budget: int) -> None:
    random = np.random.default_rng(0)
    feeds = [
        {"x": random.standard_normal((1 + i % 3 // 2, 2)).astype(np.float32)} for i in range(50)
    ]
    alone = ranges(CHAIN, feeds, method=method, budget_bytes=budget)
    assert ranges(CHAIN, feeds, 2, method=method, budget_bytes=budget) == alone


def test_samples_that_a_model_mixes_run_alone(monkeypatch: Any) -> None:
    text = """g (float[N,2] x) => (float[N,2] y) <int64[1] first = {0}>
    { m = ReduceMax<keepdims = 1>(x, first) y = Div(x, m) }"""
    seen = counted_runs(monkeypatch)
    found = ranges(text, rows((1, 1), (2, 4), (8, 8)))
    assert found["y"] == Range(1, 1)
    assert seen == [1, 1, 2, 1]


def test_groups_end_where_the_size_of_a_sample_changes(monkeypatch: Any) -> None:
    text = "g (float[N,M] x) => (float[N,M] y) { y = Neg(x) }"
    feeds = [{"x": np.full((1, 3 if i < 8 else 5), i, np.float32)} for i in range(15)]
    seen = counted_runs(monkeypatch)
    assert ranges(text, feeds)["x"] == Range(0, 14)
    assert seen == [1, 1, 2, 6, 7]


def test_the_sample_of_a_group_that_is_not_finite_is_named() -> None:
    bad = [(i, np.inf if i == 30 else 1) for i in range(40)]
    with pytest.raises(BadInput, match=r"'x' holds an infinity in sample 31"):
        ranges(CHAIN, rows(*bad))


def test_a_group_that_does_not_run_is_run_one_by_one(monkeypatch: Any) -> None:
    # There are two rows to add: a third sample has none.
    text = """g (float[N,2] x) => (float[K,2] y) <float[2,2] w = {1.0, 2.0, 1.0, 2.0},
    int64[1] zero = {0}> { n = Shape<end = 1>(x) r = Slice(w, zero, n) y = Add(x, r) }"""
    feeds = rows(*[(i, i) for i in range(6)])
    seen = counted_runs(monkeypatch)
    assert ranges(text, feeds)["y"] == Range(1, 7)
    assert seen == [1, 1, 2, 4, 1, 1, 1, 1]
    assert ranges(text, feeds, 2)["y"] == Range(1, 7)
