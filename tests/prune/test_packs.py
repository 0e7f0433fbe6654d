"""A rule pack brings its own operators, and may not contradict another."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pruning import drawn, holds, prunable

from onnxopt import registry
from onnxopt.errors import RuleError
from onnxopt.prune.groups import find_groups

FLOW = """
from onnxopt.rewrite import ChannelFlow, Flow

def _same(flow: Flow) -> None:
    flow.give(flow.all_of(0))

RECORD = ChannelFlow(("{op_type}",), _same, domain="{domain}")
"""


@pytest.fixture(autouse=True)
def _registry_as_it_was() -> Iterator[None]:
    yield
    registry.channel_flows.cache_clear()


def _pack(
    folder: Path, monkeypatch: pytest.MonkeyPatch, op_type: str, domain: str = "my.domain"
) -> None:
    (folder / "my_pruning_pack.py").write_text(FLOW.format(op_type=op_type, domain=domain))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "my_pruning_pack", raising=False)
    monkeypatch.setattr(registry, "packs", lambda: [registry.BUILTIN, "my_pruning_pack"])
    registry.channel_flows.cache_clear()


MODEL = """g (float[N,3] x) => (float[N,2] y) {
    a = MatMul(x, w1)
    b = com.microsoft.Mystery(a)
    c = Identity(b)
    y = MatMul(c, w2)
}"""


def test_an_operator_of_a_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = drawn(MODEL, w1=(3, 4), w2=(4, 2))
    assert not prunable(find_groups(model))
    _pack(tmp_path, monkeypatch, "Mystery", "com.microsoft")
    assert registry.channel_flows()["com.microsoft", "Mystery"].op_types == ("Mystery",)


def test_two_records_for_one_operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _pack(tmp_path, monkeypatch, "Conv", "")
    with pytest.raises(RuleError, match="two records say how Conv is pruned"):
        registry.channel_flows()


def test_the_built_in_flows_are_of_operators_that_exist() -> None:
    import onnx

    own = {name for domain, name in registry.channel_flows() if domain == ""}
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    assert own - known <= {"SimplifiedLayerNormalization", "Gelu"}


def test_a_look_up_in_the_middle_is_rewritten_once_for_all_that_share_it() -> None:
    import numpy as np

    model = drawn(
        """g (float[N,3] x) => (float[N,2] y) {
            a = MatMul(x, w1)
            b = MatMul(x, w2)
            c = Gather<axis=1>(a, order)
            d = Gather<axis=1>(b, order)
            e = MatMul(c, w3)
            f = MatMul(d, w4)
            y = Add(e, f)
        }""",
        w1=(3, 4), w2=(3, 4), w3=(4, 2), w4=(4, 2), order=np.array([3, 1, 0, 2]),
    )  # fmt: skip
    first, second = prunable(find_groups(model))
    holds(model, {first: (0,), second: (1, 2)})
