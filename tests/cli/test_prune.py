"""`onnxopt prune`: targets, plans to read and hand back, what is won back, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from pruning import drawn

import onnxopt
from onnxopt import io
from onnxopt.bench.cost import cost_at
from onnxopt.runtime.sessions import Session

FAST = ("--no-bench", "--threads", "1")
NET = """g (float[N,3,8,8] x) => (float[N,10] y) {
    [stem] a0 = Conv<pads=[1,1,1,1]>(x, w0, b0)
    a = Relu(a0)
    [wide] c0 = Conv<pads=[1,1,1,1]>(a, w1, b1)
    c = Relu(c0)
    [narrow] d = Conv(c, w2, b2)
    s = Add(a, d)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    [head] y = Gemm(f, w3, b3)
}"""


def _redundant() -> io.ir.Model:
    """A network whose wide layer has every channel twice."""
    random = np.random.default_rng(0)
    half = random.normal(size=(16, 16, 3, 3)).astype(np.float32) * 0.2
    bias = random.normal(size=16).astype(np.float32)
    return drawn(
        NET, w0=(16, 3, 3, 3), b0=16, w1=np.concatenate([half, half]),
        b1=np.concatenate([bias, bias]), w2=(16, 32, 1, 1), b2=16, w3=(16, 10), b3=10,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(io.to_proto(_redundant()), "net.onnx")
    samples = np.random.default_rng(1).normal(size=(30, 3, 8, 8)).astype(np.float32)
    np.save("data.npy", samples)
    return tmp_path


def _outputs(path: str) -> np.ndarray:
    session = Session.open(path, optimize=True, threads=1)
    found: np.ndarray = session.run({"x": np.load("data.npy")})[0]
    return found


def _sizes(path: str) -> dict[str, int]:
    plan = json.loads(Path(path).read_text())
    return {group["name"]: group["size"] - len(group["remove"]) for group in plan["groups"]}


def test_channels_that_are_there_twice_cost_nothing(ran: Any) -> None:
    code, out, err = ran(
        "prune", "net.onnx", "-o", "out.onnx", "--data", "data.npy", "--macs", "0.6", *FAST
    )
    assert code == 0, err
    assert "Pruned." in out
    before, after = (cost_at(io.load(path)).macs or 0 for path in ("net.onnx", "out.onnx"))
    assert after <= 0.6 * before
    wanted = _outputs("net.onnx")
    noise = np.square(_outputs("out.onnx") - wanted).sum() / np.square(wanted).sum()
    assert noise < 0.02


def test_least_squares_beats_the_bias_and_that_beats_nothing(ran: Any) -> None:
    reports = {}
    for how in ("none", "bias", "least-squares"):
        code, out, err = ran(
            "prune", "net.onnx", "-o", "out.onnx", "--data", "data.npy", "--ratio", "0.5",
            "--recover", how, "--json", "--score", "random", "--overwrite", *FAST,
        )  # fmt: skip
        assert code == 0, err
        reports[how] = json.loads(out)["divergences"]
        assert np.isfinite(_outputs("out.onnx")).all()
    assert reports["bias"]["bias"] < 0.1 * reports["bias"]["removed"]
    assert reports["least-squares"]["in sequence"] < 0.5 * reports["bias"]["bias"]


def test_the_interface_stays(ran: Any) -> None:
    assert ran("prune", "net.onnx", "-o", "out.onnx", "--params", "0.7", *FAST)[0] == 0
    before, after = onnx.load("net.onnx").graph, onnx.load("out.onnx").graph
    assert list(before.input) == list(after.input)
    assert list(before.output) == list(after.output)


def test_a_plan_can_be_read_edited_and_handed_back(ran: Any) -> None:
    code, _, err = ran("prune", "net.onnx", "--ratio", "0.5", "--plan-only", "plan.json", *FAST)
    assert code == 0, err
    assert not Path("out.onnx").exists()
    plan = json.loads(Path("plan.json").read_text())
    row = next(group for group in plan["groups"] if group["size"] == 32)
    row["remove"] = [0, 5, 31]
    for other in plan["groups"]:
        if other is not row:
            other["remove"] = []
    Path("plan.json").write_text(json.dumps(plan))
    code, _, err = ran("prune", "net.onnx", "--plan", "plan.json", "-o", "out.onnx", *FAST)
    assert code == 0, err
    shapes = {t.name: tuple(t.dims) for t in onnx.load("out.onnx").graph.initializer}
    assert shapes["w1"] == (29, 16, 3, 3)
    assert shapes["w2"] == (16, 29, 1, 1)


def test_an_unreachable_target_says_what_stays(ran: Any) -> None:
    code, _, err = ran("prune", "net.onnx", "--macs", "0.01", "-o", "out.onnx", *FAST)
    assert code == 2
    assert "is left; what stays: they are the model's" in err


def test_weights_that_are_inputs_have_to_be_frozen_first(ran: Any) -> None:
    model = onnx.load("net.onnx")
    for tensor in model.graph.initializer:
        model.graph.input.append(
            onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        )
    onnx.save(model, "open.onnx")
    arguments = ("prune", "open.onnx", "--macs", "0.5", "-o", "out.onnx", *FAST)
    code, _, err = ran(*arguments)
    assert code == 2
    assert "--freeze-inputs" in err
    assert ran(*arguments, "--freeze-inputs")[0] == 0


def test_what_is_kept_is_kept(ran: Any) -> None:
    arguments = ("prune", "net.onnx", "--ratio", "0.5", "--plan-only", "plan.json", *FAST)
    assert ran(*arguments, "--keep", "wide")[0] == 0
    assert {32} < set(_sizes("plan.json").values())
    assert ran(*arguments)[0] == 0
    assert 32 not in _sizes("plan.json").values()


def test_a_layer_gives_no_more_than_its_share(ran: Any) -> None:
    code, _, err = ran(
        "prune", "net.onnx", "--ratio", "0.7", "--round", "4", "--plan-only", "plan.json",
        "--max-ratio", "0.9", "--max-ratio", "wide=0.25", *FAST,
    )  # fmt: skip
    assert code == 0, err
    assert 24 in _sizes("plan.json").values()


@pytest.mark.parametrize("score", ["magnitude", "magnitude-l1", "fpgm", "random"])
def test_scores_without_data(ran: Any, score: str) -> None:
    code, _, err = ran(
        "prune", "net.onnx", "-o", "out.onnx", "--macs", "0.7", "--score", score, *FAST
    )
    assert code == 0, err


@pytest.mark.parametrize("score", ["activation", "reconstruction"])
@pytest.mark.parametrize("normalize", ["measured", "global", "uniform"])
def test_scores_with_data(ran: Any, score: str, normalize: str) -> None:
    code, _, err = ran(
        "prune", "net.onnx", "-o", "out.onnx", "--macs", "0.7", "--score", score, "--data",
        "data.npy", "--normalize", normalize, *FAST,
    )  # fmt: skip
    assert code == 0, err


def test_a_threshold_takes_what_scores_less() -> None:
    plan = onnxopt.prune(
        "net.onnx", threshold=1e9, rounding=1, max_ratio=0.99, bench=False, plan_only=True
    ).plan
    assert all(len(group.remove) >= group.size // 2 for group in plan.groups if not group.frozen)
    plan = onnxopt.prune("net.onnx", threshold=1e-9, bench=False, plan_only=True).plan
    assert not plan.removal


def test_time_is_a_target_too(ran: Any) -> None:
    code, _, err = ran(
        "prune", "net.onnx", "--data", "data.npy", "--latency", "0.95", "--round", "1",
        "--plan-only", "plan.json", *FAST,
    )  # fmt: skip
    assert code == 0, err
    assert any(group["remove"] for group in json.loads(Path("plan.json").read_text())["groups"])


def test_time_can_not_be_measured_without_inputs(ran: Any) -> None:
    code, _, err = ran("prune", "net.onnx", "--latency", "0.9", "-o", "out.onnx", *FAST)
    assert code == 2
    assert "needs inputs to time" in err


def test_models_are_timed_on_made_up_inputs_without_data(ran: Any) -> None:
    code, out, err = ran("prune", "net.onnx", "--macs", "0.5", "-o", "out.onnx", "--threads", "1")
    assert code == 0, err
    assert "## Speed" in out


def test_the_scales_of_normalizations_are_looked_at_before_they_are_folded(ran: Any) -> None:
    random = np.random.default_rng(0)
    scale = random.normal(size=16).astype(np.float32)
    scale[:8] = 0.001
    model = drawn(
        """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {
            a = Conv(x, w1)
            n = BatchNormalization(a, s, b, m, v)
            r = Relu(n)
            y = Conv(r, w2)
        }""",
        w1=(16, 3, 1, 1), s=scale, b=16, m=16, v=np.ones(16, np.float32), w2=(4, 16, 1, 1),
    )  # fmt: skip
    onnx.save(io.to_proto(model), "norm.onnx")
    found = onnxopt.prune("norm.onnx", ratio=0.5, score="batchnorm", bench=False)
    assert next(iter(found.plan.removal.values())) == tuple(range(8))
    assert "BatchNormalization" not in {node.op_type for node in found.model.graph}


def test_the_same_options_give_the_same_bytes(ran: Any) -> None:
    for out in ("one.onnx", "two.onnx"):
        arguments = ("prune", "net.onnx", "-o", out, "--data", "data.npy", "--macs", "0.7")
        assert ran(*arguments, *FAST)[0] == 0
    assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()


def test_every_group_is_explained(ran: Any) -> None:
    code, out, err = ran("prune", "net.onnx", "--explain")
    assert code == 0, err
    assert "may be pruned" in out
    assert "they are the model's output 'y'" in out
    assert "100.0% of the multiply-accumulates can be pruned" in out


def test_a_model_without_products_has_nothing_to_prune(ran: Any) -> None:
    onnx.save(io.to_proto(drawn("g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }")), "act.onnx")
    code, out, err = ran("prune", "act.onnx", "--explain")
    assert code == 0, err
    assert "There is nothing to prune" in out
    assert "%" not in out


def test_a_budget_that_is_missed_writes_nothing(ran: Any) -> None:
    code, _, err = ran(
        "prune", "net.onnx", "-o", "out.onnx", "--data", "data.npy", "--macs", "0.2", "--recover",
        "none", "--metric", "sqnr", "--max-drop", "0", *FAST,
    )  # fmt: skip
    assert code == 1
    assert "the budget is missed" in err
    assert not Path("out.onnx").exists()


REFUSED = {
    "no target": ((), "there are no targets"),
    "two targets": (("--macs", "0.5", "--params", "0.5"), "there are 2 targets"),
    "a share of one": (("--macs", "1"), "--macs can't be 1"),
    "a share below zero": (("--ratio", "-0.1"), "--ratio can't be -0.1"),
    "out of reach": (("--macs", "0.001"), "is out of reach"),
    "no such score": (("--macs", "0.5", "--score", "taste"), "there is no score 'taste'"),
    "a score without data": (("--macs", "0.5", "--score", "activation"), "there is no data"),
    "a recovery without data": (("--macs", "0.5", "--recover", "bias"), "there is no data"),
    "noise as data": (("--macs", "0.5", "--data", "random"), "noise says nothing"),
    "nothing of that name to keep": (("--macs", "0.5", "--keep", "hair"), "called 'hair' to keep"),
    "everything kept": (("--macs", "0.5", "--keep", "*"), "nothing can be pruned"),
    "a cap of one": (("--macs", "0.5", "--max-ratio", "1"), "can't be 1"),
    "no plan there": (("--plan", "none.json"), "can't be read"),
    "a plan and a target": (("--plan", "good.json", "--macs", "0.5"), "has its own target"),
    "a plan that is no plan": (("--plan", "bad.json"), "the plan can't be read"),
    "a plan of another model": (("--plan", "other.json"), "for another model"),
    "a plan with a wrong channel": (("--plan", "wrong.json"), "has channels 0 to"),
    "NaN in the data": (("--macs", "0.5", "--data", "nan.npy"), "NaN"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_is_refused(ran: Any, case: str) -> None:
    _write_plans(ran)
    arguments, word = REFUSED[case]
    before = sorted(os.listdir())
    code, _, err = ran("prune", "net.onnx", "-o", "out.onnx", *arguments, *FAST)
    assert code == 2
    assert word in err
    assert "Traceback" not in err
    assert sorted(os.listdir()) == before


def _write_plans(ran: Any) -> None:
    ran("prune", "net.onnx", "--ratio", "0.5", "--plan-only", "good.json", *FAST)
    plan = json.loads(Path("good.json").read_text())
    Path("bad.json").write_text("{}")
    row = next(group for group in plan["groups"] if group["remove"])
    kept = row["remove"]
    row["remove"] = [row["size"]]
    Path("wrong.json").write_text(json.dumps(plan))
    row["remove"], row["size"] = kept, row["size"] + 1
    Path("other.json").write_text(json.dumps(plan))
    data = np.load("data.npy")
    data[:, 0, 0, 0] = np.nan
    np.save("nan.npy", data)
