"""Two models on the same feeds: what passes, what does not, and what is said."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from onnxopt.check.parity import Parity, Reference, parity
from onnxopt.config import Exactness
from onnxopt.errors import BadInput, RuntimeFailed

EXACT, CLOSE = Exactness.EXACT, Exactness.CLOSE


def model(inputs: str, outputs: str, body: str, more: str = "", head: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17{head}]> g ({inputs}) => ({outputs}) {more} '
        f"{{ {body} }}"
    )


def unary(body: str, more: str = "") -> onnx.ModelProto:
    return model("float[n, 4] x", "float[n, 4] y", body, more)


def check(reference, candidate, feeds=None, exactness=CLOSE, **options) -> Parity:
    return Reference(reference, feeds, threads=1, **options).parity(candidate, exactness)


def scaled(by: float) -> onnx.ModelProto:
    return unary("y = Mul(x, s)", f"<float[1] s = {{{by}}}>")


def test_a_model_agrees_with_itself_to_the_bit():
    found = check(scaled(2), scaled(2), exactness=EXACT)
    assert found.passed
    assert found.deterministic
    assert (found.worst.max_abs, found.worst.sqnr_db) == (0.0, math.inf)
    assert found.runs == 3


@pytest.mark.parametrize("form", ["proto", "bytes", "path", "ir"])
def test_both_sides_come_in_any_form(form, tmp_path):
    proto = scaled(2)
    onnx.save(proto, tmp_path / "m.onnx")
    source = {
        "proto": proto,
        "bytes": proto.SerializeToString(),
        "path": tmp_path / "m.onnx",
        "ir": ir.serde.deserialize_model(proto),
    }[form]
    assert parity(source, source, threads=1).passed


def test_a_scale_off_by_a_thousandth_fails_and_the_numbers_say_how_far():
    found = check(scaled(2), scaled(2.002))
    assert not found.passed
    assert found.worst.name == "y"
    assert found.worst.worst > 10
    assert found.worst.sqnr_db == pytest.approx(60, abs=0.1)
    assert "times the tolerance" in found.worst.reason


def test_rounding_passes_as_close_and_not_as_exact():
    reference = unary("a = Mul(x, s)  y = Mul(a, s)", "<float[1] s = {1.1}>")
    candidate = scaled(1.21)
    assert check(reference, candidate).passed
    assert not check(reference, candidate, exactness=EXACT).passed


def test_every_output_is_compared():
    two = "float[n, 4] x", "float[n, 4] y, float[n, 4] z"
    found = check(model(*two, "y = Neg(x)  z = Abs(x)"), model(*two, "y = Neg(x)  z = Relu(x)"))
    assert [(out.name, out.passed) for out in found.outputs] == [("y", True), ("z", False)]


def test_outputs_are_matched_by_name():
    inputs = "float[n, 4] x"
    reference = model(inputs, "float[n, 4] y, float[n, 4] z", "y = Neg(x)  z = Abs(x)")
    swapped = model(inputs, "float[n, 4] z, float[n, 4] y", "y = Neg(x)  z = Abs(x)")
    assert check(reference, swapped).passed
    missing = check(reference, model(inputs, "float[n, 4] y", "y = Neg(x)"))
    assert not missing.passed
    assert missing.outputs[1].reason == "the candidate has no such output"
    extra = check(model(inputs, "float[n, 4] y", "y = Neg(x)"), swapped)
    assert extra.passed
    assert "further outputs: z" in extra.notes[0]


def test_a_renamed_input_does_not_pass():
    renamed = model("float[n, 4] u", "float[n, 4] y", "y = Neg(u)")
    found = check(unary("y = Neg(x)"), renamed)
    assert not found.passed
    assert "no input 'x'" in found.failure


def test_a_candidate_that_does_not_load_does_not_pass():
    found = check(unary("y = Neg(x)"), unary("y = Unheard(x)"))
    assert not found.passed
    assert "does not load" in found.failure
    assert not found.outputs[0].passed


def test_a_fixed_dim_where_the_reference_is_dynamic_does_not_pass():
    fixed = model("float[1, 4] x", "float[1, 4] y", "y = Neg(x)")
    found = check(unary("y = Neg(x)"), fixed)
    assert not found.passed
    assert "fails where the reference runs" in found.failure


def test_a_changed_type_does_not_pass():
    changed = model("float[n, 4] x", "double[n, 4] y", "y = Cast<to = 11>(x)")
    assert "float64, it was float32" in check(unary("y = Identity(x)"), changed).worst.reason


def test_sequences_maps_and_strings_are_compared():
    sequence = model("float[n, 4] x", "seq(float[m, 4]) y", "y = SequenceConstruct(x, x)")
    other = model("float[n, 4] x", "seq(float[m, 4]) y", "z = Neg(x) y = SequenceConstruct(x, z)")
    assert check(sequence, sequence, exactness=EXACT).passed
    assert "at [1]" in check(sequence, other).worst.reason
    words = model("string[n] x", "string[n] y", "y = Identity(x)")
    assert check(words, words).passed


def test_the_reference_is_run_once_a_feed():
    reference = Reference(scaled(2), threads=1)
    assert reference.parity(scaled(2)).passed
    kept = list(reference.runs)
    assert not reference.parity(scaled(3)).passed
    assert all(a[1] is b[1] for a, b in zip(kept, reference.runs, strict=True))


def test_outputs_that_do_not_fit_in_memory_are_made_again():
    feeds = [{"x": np.full((1, 4), i, np.float32)} for i in range(3)]
    reference = Reference(scaled(2), feeds, threads=1, keep_bytes=40)
    for _ in range(2):
        assert reference.parity(scaled(2)).runs == 3
        assert not reference.parity(scaled(3)).passed


def test_an_iterator_is_used_for_every_candidate_as_far_as_it_fits():
    feeds = [{"x": np.full((1, 4), i, np.float32)} for i in range(3)]
    whole = Reference(scaled(2), iter(feeds), threads=1)
    assert [whole.parity(scaled(2)).runs for _ in range(2)] == [3, 3]
    tight = Reference(scaled(2), iter(feeds), threads=1, keep_bytes=40)
    first, second = tight.parity(scaled(2)), tight.parity(scaled(2))
    assert (first.runs, second.runs) == (3, 1)
    assert "only the first candidate" in second.notes[0]


def test_feeds_are_checked_against_the_reference():
    with pytest.raises(BadInput, match=r"feed 2: the input 'x' got float64"):
        check(scaled(2), scaled(2), [{"x": np.zeros((1, 4), np.float32)}, {"x": np.zeros((1, 4))}])
    with pytest.raises(BadInput, match="no feed"):
        check(scaled(2), scaled(2), [])


def test_a_feed_the_reference_can_not_run_is_named():
    reshaped = model("float[n] x", "float[2, m] y", "y = Reshape(x, s)", "<int64[2] s = {2, -1}>")
    feeds = [{"x": np.zeros(n, np.float32)} for n in (4, 3)]
    with pytest.raises(RuntimeFailed, match="feed 2"):
        check(reshaped, reshaped, feeds)


def test_sizes_the_reference_refuses_are_skipped_and_counted():
    halves = model("float[n] x", "float[2, m] y", "y = Reshape(x, s)", "<int64[2] s = {2, -1}>")
    found = check(halves, halves)
    assert found.passed
    assert found.runs > 1
    assert found.skipped > 0


def test_a_reference_that_does_not_load_is_an_error():
    with pytest.raises(RuntimeFailed, match="can't load"):
        check(unary("y = Unheard(x)"), unary("y = Neg(x)"))


def test_random_outputs_are_recognised_and_only_types_and_shapes_compared():
    two = "float[n, 4] x", "float[n, 4] y, float[n, 4] z"
    reference = model(*two, "y = RandomNormalLike(x)  z = Neg(x)")
    found = check(reference, model(*two, "y = RandomUniformLike(x)  z = Neg(x)"))
    assert found.passed
    assert not found.deterministic
    assert "non-deterministic" in found.outputs[0].reason
    assert math.isnan(found.outputs[0].cosine)
    assert not check(reference, model(*two, "y = RandomNormalLike(x)  z = Abs(x)")).passed
    wrong = model(two[0], "float[4, n] y, float[n, 4] z", "a = Transpose(x)  z = Neg(x)"
                  "  y = RandomNormalLike(a)")  # fmt: skip
    assert "shape" in check(reference, wrong).outputs[0].reason


def test_an_output_that_is_always_nan_is_pointed_out():
    nothing = unary("a = Abs(x)  b = Neg(a)  c = Sub(b, one)  y = Sqrt(c)", "<float[1] one = {1}>")
    found = check(nothing, nothing)
    assert found.passed
    assert "'y' is NaN" in found.notes[0]


ROUND = "float[n, 64] x", "float[n, 64] y"


def test_a_flip_that_rounding_explains_passes_and_is_said():
    # x * 1.1 / 1.1 lands on the other side of a rounding boundary for some of the halves.
    body = "a = Mul(x, s)  b = Mul(a, t)  y = Round(b)"
    reference = model(*ROUND, body, "<float[1] s = {1.1}, float[1] t = {0.9090909}>")
    candidate = model(*ROUND, "y = Round(x)")
    halves = (np.arange(512, dtype=np.float32) + np.float32(0.5)).reshape(8, 64)
    found = check(reference, candidate, [{"x": halves}])
    assert found.worst.max_abs == 1.0
    assert found.passed
    assert "ill-conditioned" in found.worst.reason


def test_noise_does_not_excuse_a_fault_beside_the_flips():
    body = "a = Mul(x, s)  b = Mul(a, t)  y = Round(b)"
    reference = model(*ROUND, body, "<float[1] s = {1.1}, float[1] t = {0.9090909}>")
    for fault in ("c = Round(x)  y = Add(c, two)", "c = Mul(x, two)  y = Round(c)"):
        candidate = model(*ROUND, fault, "<float[1] two = {2}>")
        halves = (np.arange(512, dtype=np.float32) + np.float32(0.5)).reshape(8, 64)
        assert not check(reference, candidate, [{"x": halves}]).passed


def test_an_index_of_a_maximum_must_be_the_same_where_it_is_clear():
    reference = model("float[n, 9] x", "int64[n, 1] y", "y = ArgMax<axis = 1>(x)")
    candidate = model("float[n, 9] x", "int64[n, 1] y", "a = Neg(x)  y = ArgMax<axis = 1>(a)")
    assert check(reference, reference).passed
    assert not check(reference, candidate).passed


def test_float64_outputs_computed_in_float32_may_round_as_float32():
    signature = "float[n, 4] x", "double[n, 4] y"
    weights = "<float[1] s = {1.1}, float[1] t = {1.3}>"
    reference = model(*signature, "a = Mul(x, s)  b = Mul(a, t)  y = Cast<to = 11>(b)", weights)
    candidate = model(*signature, "a = Mul(x, t)  b = Mul(a, s)  y = Cast<to = 11>(b)", weights)
    assert check(reference, candidate).passed
    wrong = model(*signature, "a = Mul(x, s)  b = Mul(a, u)  y = Cast<to = 11>(b)",
                  "<float[1] s = {1.1}, float[1] u = {1.3013}>")  # fmt: skip
    assert not check(reference, wrong).passed


def test_overridable_initializers_may_be_fed():
    reference = model("float[n, 4] x, float[1] s", "float[n, 4] y", "y = Mul(x, s)",
                      "<float[1] s = {2}>")  # fmt: skip
    feeds = [{"x": np.ones((1, 4), np.float32), "s": np.float32([5])}]
    assert check(reference, reference, feeds).passed
    assert "no input 's'" in check(reference, scaled(2), feeds).failure
    assert check(reference, scaled(2)).passed


def test_an_optional_output_may_be_empty():
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (optional(float[2]) x) => (optional(float[2]) y) { y = Identity(x) }"""
    optional = onnx.parser.parse_model(text)
    assert check(optional, optional, exactness=EXACT).passed


def test_a_provider_onnxruntime_leaves_out_is_noted(monkeypatch):
    reference = Reference(scaled(2), threads=1)
    monkeypatch.setattr(Reference, "fallen_back", ("CUDAExecutionProvider",))
    assert "CUDAExecutionProvider was asked for" in reference.parity(scaled(2)).notes[0]
