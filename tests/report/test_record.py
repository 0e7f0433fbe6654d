"""A report adds up its steps, and comes out as JSON that any reader takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import report_samples as samples

from onnxopt.config import Level
from onnxopt.passes.base import Step
from onnxopt.report.record import Fired, RefusalGroup, Versions, plain


def _reject(word: str) -> None:
    raise AssertionError(f"{word} is not JSON")


def test_what_fired_is_added_up_over_steps_and_sorted() -> None:
    again = Step("rewrite", True, {"drop_cast": 40})
    report = samples.report(steps=(*samples.report().steps, again))
    assert report.fired == (
        Fired("rewrite", "drop_cast", 42),
        Fired("rewrite", "fuse_gelu", 40),
        Fired("fold", "Expand", 38),
    )


def test_an_undone_step_fired_nothing() -> None:
    undone = Step("rewrite", True, {"drop_cast": 40}, verdict="undone", reason="a dim changed")
    report = samples.report(steps=(undone,))
    assert report.fired == ()
    assert report.undone == (undone,)


def test_refusals_are_grouped_by_reason_and_a_node_counts_once() -> None:
    first = samples.refusals("too big", "a", "b")
    second = (*samples.refusals("too big", "a"), *samples.refusals("random", "c"))
    steps = (Step("rewrite", False, refusals=first), Step("rewrite", False, refusals=second))
    assert samples.report(steps=steps).refusals == (
        RefusalGroup("fuse_gelu", "too big", ("a", "b")),
        RefusalGroup("fuse_gelu", "random", ("c",)),
    )


def test_a_report_without_proof_has_not_failed() -> None:
    assert samples.report(parity=None).passed
    assert not samples.report(parity=samples.DIFFERS).passed


def test_json_is_strict_and_complete() -> None:
    report = samples.report(parity=samples.DIFFERS, timing=samples.timing())
    read = json.loads(report.to_json(), parse_constant=_reject)
    assert read["parity"]["outputs"][0]["worst"] == "inf"
    assert read["steps"][1]["hits"] == {"drop_cast": 2, "fuse_gelu": 40}
    assert read["options"]["level"] == "close"
    assert read["timing"]["comparisons"][0]["verdict"] == "faster"
    assert read["before"]["nodes"] == 233


def test_values_that_json_does_not_have() -> None:
    assert plain(math.nan) == "nan"
    assert plain(np.float32(0.5)) == 0.5
    assert plain(np.int64(3)) == 3
    assert plain(Path("a/b")) == "a/b"
    assert plain({"b": 1, "a": (Level.EXACT,)}) == {"a": ["exact"], "b": 1}
    assert list(plain({"b": 1, "a": 2})) == ["a", "b"]


def test_versions_name_what_is_installed() -> None:
    here = Versions.here("cpu")
    assert here.onnx.count(".") >= 1
    assert here.provider == "cpu"
    assert here.cpu
