"""Static quantization end to end on small models: what comes out, what is refused, what is kept."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from casefile import parse

import onnxopt
from onnxopt.api_quantize import QuantizeResult, quantize
from onnxopt.check.metric import Metric, metric
from onnxopt.cli.quantize import command as quantizing
from onnxopt.errors import BadInput
from onnxopt.quantize import samples, static
from onnxopt.quantize.costs import Costs
from onnxopt.quantize.records import QuantPlan

MODELS = Path(__file__).resolve().parents[2] / "models"
RESNET = MODELS / "cifar_resnet20.onnx"
RANDOM = np.random.default_rng(0)
LOOSE = 0.05
"""A network of random weights has random classes, and samples near every border."""


def weight(name: str, *shape: int, scale: float = 0.3) -> str:
    numbers = RANDOM.standard_normal(int(np.prod(shape))) * scale
    return (
        f"float[{','.join(map(str, shape))}] {name} = {{{','.join(f'{n:.4f}' for n in numbers)}}}"
    )


NET = f"""
g (float[N,8,6,6] x) => (float[N,4] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)}, {weight("b2", 8)},
  {weight("w3", 8, 4)}, {weight("b3", 4)}, int64[2] s = {{0, -1}}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] c = Conv(b, w2, b2)
   [sum] d = Add(b, c) [pool] e = GlobalAveragePool(d) [flat] f = Reshape(e, s)
   [out] y = Gemm(f, w3, b3) }}"""


CHAIN = f"""
g (float[N,8,6,6] x) => (float[N,8,6,6] y) <
  {weight("w1", 8, 8, 3, 3)}, {weight("b1", 8)}, {weight("w2", 8, 8, 1, 1)},
  {weight("w3", 8, 8, 1, 1)}, {weight("w4", 8, 8, 1, 1)}>
{{ [c1] a = Conv<pads = [1,1,1,1]>(x, w1, b1) [r1] b = Relu(a) [c2] c = Conv(b, w2)
   [r2] d = Relu(c) [c3] e = Conv(d, w3) [r3] f = Relu(e) [c4] y = Conv(f, w4) }}"""


@pytest.fixture(scope="module")
def net() -> onnx.ModelProto:
    return parse(NET)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return {"x": np.random.default_rng(1).standard_normal((40, 8, 6, 6)).astype(np.float32)}


@pytest.fixture(scope="module")
def made(net: onnx.ModelProto, data: dict[str, Any]) -> QuantizeResult:
    return quantize(net, data=data, max_drop=LOOSE, bench=False, threads=1)


def test_what_has_kernels_runs_in_integers_and_keeps_the_numbers(made: QuantizeResult) -> None:
    report = made.report
    assert (report.verdict, report.passed) == ("int8", True)
    kernels = {layer.op_type: layer.kernel for layer in report.layers}
    assert kernels["Conv"] == "QLinearConv"
    assert kernels["Gemm"] == "QGemm"
    assert kernels["Relu"] != "float"
    assert not report.not_integer
    assert report.sqnr_db is not None and report.sqnr_db > 25
    onnx.checker.check_model(ir.to_proto(made.model), full_check=True)


def test_float_weights_are_gone_from_the_result(made: QuantizeResult) -> None:
    floats = [
        value.name
        for value in made.model.graph.initializers.values()
        if value.dtype is ir.DataType.FLOAT and value.const_value.size > 8
    ]
    assert floats == []


def test_the_same_call_gives_the_same_bytes(
    made: QuantizeResult, net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    again = onnxopt.quantize(net, data=data, max_drop=LOOSE, bench=False, threads=1)
    first, second = (ir.to_proto(each.model) for each in (made, again))
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


def test_a_budget_of_nothing_is_missed_and_nothing_is_written(
    net: onnx.ModelProto, data: dict[str, Any], tmp_path: Path
) -> None:
    out = tmp_path / "out.onnx"
    asked: dict[str, Any] = {"metric": "sqnr", "max_drop": 1e-9, "bench": False, "threads": 1}
    result = quantize(net, data=data, output=out, **asked)
    assert (result.report.verdict, result.report.passed) == ("over budget", False)
    assert not out.exists()
    assert result.best is not None
    assert "QuantizeLinear" not in {node.op_type for node in result.model.graph}
    islands = result.report.islands
    assert [i.sqnr_db for i in islands] == sorted(i.sqnr_db for i in islands)
    quantize(net, data=data, output=out, keep_best=True, **asked)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(out).graph.node}


def test_the_node_that_ruins_the_output_goes_back_to_float(data: dict[str, Any]) -> None:
    # Between c1 and c2 one channel is so large that 8 bits have nothing left for the others.
    model = parse(CHAIN)
    for name, place, factor in (("w1", 0, 3e3), ("b1", 0, 3e3), ("w2", (slice(None), 0), 1 / 3e3)):
        tensor = next(each for each in model.graph.initializer if each.name == name)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[place] *= factor
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    free = quantize(model, data=data, metric="sqnr", max_drop=10, bench=False, threads=1)
    held = quantize(model, data=data, metric="sqnr", max_drop=0.01, bench=False, threads=1)
    assert free.report.sqnr_db is not None and free.report.sqnr_db < 20
    assert held.report.verdict == "int8"
    assert held.report.sqnr_db is not None and held.report.sqnr_db >= 20
    kernels = {layer.node: layer.kernel for layer in held.report.layers}
    assert (kernels["c2"], kernels["c4"]) == ("float", "QLinearConv")
    reasons = {layer.node: layer.reason for layer in held.report.layers}
    assert any("more accuracy than the budget" in reasons[name] for name in held.report.back)


def test_what_each_node_costs_is_measured_where_it_is_asked_for(
    net: onnx.ModelProto, made: QuantizeResult, data: dict[str, Any]
) -> None:
    asked = quantize(net, data=data, max_drop=LOOSE, bench=False, threads=1, sensitivity=True)
    assert made.report.islands == ()
    nodes = [name for island in asked.report.islands for name in island.nodes]
    assert {"c1", "c2", "out"} <= set(nodes)
    noise = [island.sqnr_db for island in asked.report.islands]
    assert noise == sorted(noise)
    assert asked.report.back == ()


def test_ranges_are_those_of_the_least_error_unless_others_are_asked_for(
    net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    ours, least, widest = (
        quantize(net, data=data, plan_only=True, threads=1, **keywords).plan.grids
        for keywords in ({}, {"method": "mse"}, {"method": "minmax"})
    )
    assert ours == least
    assert sum(grid.scale for grid in ours.values()) < sum(grid.scale for grid in widest.values())


def test_the_command_chooses_ranges_as_python_does() -> None:
    option = next(option for option in quantizing.params if option.name == "method")
    parameter = inspect.signature(quantize).parameters["method"]
    assert option.default == parameter.default == static.Settings().method


def test_an_edited_plan_is_carried_out_as_it_is(
    net: onnx.ModelProto, data: dict[str, Any], tmp_path: Path
) -> None:
    planned = quantize(net, data=data, plan_only=True)
    assert planned.report.verdict == "planned"
    text = planned.plan.to_json().replace(
        '"node": "out",\n      "op_type": "Gemm",\n      "quantize": true',
        '"node": "out",\n      "op_type": "Gemm",\n      "quantize": false',
    )
    path = tmp_path / "plan.json"
    path.write_text(text)
    result = quantize(net, data=data, plan=path, max_drop=LOOSE, bench=False, threads=1)
    kernels = {layer.node: layer.kernel for layer in result.report.layers}
    assert (kernels["out"], kernels["c1"]) == ("float", "QLinearConv")


def test_grids_of_a_plan_that_suit_other_data_are_told_of(
    net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    plan = quantize(net, data=data, plan_only=True, threads=1).plan
    doubled = {name: 2 * array for name, array in data.items()}

    def told(samples: dict[str, Any]) -> list[str]:
        found = quantize(net, data=samples, plan=plan, max_drop=LOOSE, bench=False, threads=1)
        return [note for note in found.report.notes if "not what this data asks for" in note]

    assert told(data) == []
    (note,) = told(doubled)
    assert "2.0 times" in note and "--plan-only" in note


def test_a_plan_for_another_model_is_refused(data: dict[str, Any], net: onnx.ModelProto) -> None:
    plan = QuantPlan.from_json(
        '{"target": "cpu", "grids": {}, "weight_bits": {}, "nodes": [{"node": "nobody",'
        ' "op_type": "Conv", "quantize": true, "reason": ""}]}'
    )
    with pytest.raises(BadInput, match="nobody"):
        quantize(net, data=data, plan=plan, bench=False)


def decided(
    monkeypatch: pytest.MonkeyPatch,
    net: onnx.ModelProto,
    data: dict[str, Any],
    speed: float,
    **integers: float,
) -> Any:
    """What comes of a race at this speed, where each node takes 2 s, and in integers 1 s or so."""

    def measured(model: ir.Model, plan: QuantPlan, *others: Any, **keywords: Any) -> Costs:
        names = [choice.node for choice in plan.nodes if choice.quantize]
        times = dict.fromkeys(names, integers.pop("others", 1.0)) | integers
        return Costs(dict.fromkeys(names, 2.0), times, {}, {})

    monkeypatch.setattr(static, "measured_costs", measured)
    fresh = onnxopt.optimize(net, bench=False, check=False)
    return static.quantize_static(
        fresh.model,
        samples.split(data, fresh.model),
        static.Settings(threads=1),
        race=lambda left, right, feeds: static.Speed(speed, speed > 1),
    ), fresh.model


def test_integers_that_do_not_pay_give_the_float_model(
    monkeypatch: pytest.MonkeyPatch, net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    outcome, fresh = decided(monkeypatch, net, data, 0.8)
    assert outcome.verdict == "float"
    assert "0.80x" in outcome.reason
    assert outcome.model is fresh


def test_where_no_node_pays_nothing_is_raced(
    monkeypatch: pytest.MonkeyPatch, net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    outcome, fresh = decided(monkeypatch, net, data, 1.5, others=3.0)
    assert outcome.verdict == "float"
    assert "node by node" in outcome.reason
    assert outcome.model is fresh


def test_a_node_that_is_faster_in_float_stays_so_and_says_it(
    monkeypatch: pytest.MonkeyPatch, net: onnx.ModelProto, data: dict[str, Any]
) -> None:
    outcome, _ = decided(monkeypatch, net, data, 1.5, out=4.0)
    choices = {choice.node: choice for choice in outcome.plan.nodes}
    assert outcome.verdict == "int8"
    assert (choices["c1"].quantize, choices["out"].quantize) == (True, False)
    assert "faster in float" in choices["out"].reason


def test_no_data_is_refused_and_noise_has_to_be_asked_for(net: onnx.ModelProto) -> None:
    with pytest.raises(BadInput, match="no data"):
        quantize(net)
    result = quantize(net, data="random", bench=False, metric="sqnr", max_drop=1, threads=1)
    assert any("noise" in note for note in result.report.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "toaster"}, "toaster"),
        ({"metric": "loudness"}, "loudness"),
        ({"metric": "top1"}, "labels"),
        ({"method": "guess"}, "guess"),
        ({"max_drop": -1}, "-1"),
        ({"metric": lambda outputs, feeds: float("nan")}, "NaN"),
        ({"metric": lambda outputs, feeds: 1 / 0}, "ZeroDivisionError"),
        ({"metric": "top1", "labels": [1, 2]}, "2 labels"),
        ({"data": {"x": np.zeros((0, 8, 6, 6), np.float32)}}, "no samples"),
        ({"data": {"z": np.zeros((1, 8, 6, 6), np.float32)}}, "no input 'z'"),
        ({"data": {"x": np.full((5, 8, 6, 6), np.nan, np.float32)}}, "'x'"),
    ],
    ids=str,
)
def test_what_can_not_be_used_is_named(
    net: onnx.ModelProto, data: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        quantize(net, **{"data": data, "bench": False, "threads": 1, **change})


def test_a_quantized_model_is_not_quantized_again(
    made: QuantizeResult, data: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="quantized already"):
        quantize(ir.to_proto(made.model), data=data)


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_other_floats_are_refused_by_name(dtype: str) -> None:
    text = f"g ({dtype}[N,4] x) => ({dtype}[N,4] y) <{dtype}[4,4] w> {{ y = MatMul(x, w) }}"
    model = parse(text)
    kind = onnx.TensorProto.FLOAT16 if dtype == "float16" else onnx.TensorProto.DOUBLE
    numpy_type = np.float16 if dtype == "float16" else np.float64
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=numpy_type), "w"))
    assert model.graph.initializer[-1].data_type == kind
    with pytest.raises(BadInput, match=dtype):
        quantize(model, data={"x": np.zeros((5, 4), numpy_type)})


def test_all_zero_data_goes_through(net: onnx.ModelProto) -> None:
    zeros = {"x": np.zeros((10, 8, 6, 6), np.float32)}
    result = quantize(net, data=zeros, bench=False, metric="cosine", max_drop=1, threads=1)
    assert result.report.verdict == "int8"


def test_each_fifth_run_is_kept_apart(net: onnx.ModelProto, data: dict[str, Any]) -> None:
    model = onnxopt.load(net)
    split = samples.split(data, model, labels=np.arange(40))
    assert len(list(split.calibration)) == 32
    assert split.labels is not None and split.labels.tolist() == [4, 9, 14, 19, 24, 29, 34, 39]
    np.testing.assert_array_equal(split.held[0]["x"], data["x"][4:5])


def test_blocks_of_runs_are_kept_apart_where_neighbours_may_be_alike(net: onnx.ModelProto) -> None:
    images = np.zeros((170, 8, 6, 6), np.float32)
    images[:, 0, 0, 0] = np.arange(170)
    split = samples.split({"x": images}, onnxopt.load(net), labels=np.arange(170), blocks=True)
    held = [int(feed["x"][0, 0, 0, 0]) for feed in split.held]
    assert held == [place for place in range(170) if place // 4 % 5 == 4]
    assert split.labels is not None and split.labels.tolist() == held
    assert "32 runs of 170 kept apart to measure on: in 8 blocks" in split.note
    used = sorted(held + [int(feed["x"][0, 0, 0, 0]) for feed in split.calibration])
    assert used == list(range(170))


def test_a_few_of_many_runs_are_spread_over_all_of_them() -> None:
    runs = [{"x": np.array(place)} for place in range(40)]
    assert [int(run["x"]) for run in samples.spread(runs, 5)] == [0, 8, 16, 24, 32]
    assert len(list(samples.spread(runs, 100))) == 40


def test_few_samples_tell_what_a_class_that_changes_costs() -> None:
    wanted = [{"y": np.array([[1.0, 0.0]])}, {"y": np.array([[1.0, 0.9]])}]
    found = [{"y": np.array([[1.0, 0.5]])}, {"y": np.array([[1.0, 0.9]])}]
    score = metric("agreement").score(wanted, found, [{}, {}])
    # Both leads lie within 1, and an error takes a quarter of that; two samples tell it badly.
    assert (score.candidate, score.drop) == (1.0, pytest.approx(0.25 * (1 + 0.5**0.5)))
    right = metric("top1", labels=[0, 1]).score(wanted, found, [{}, {}])
    assert (right.candidate, right.drop) == (0.5, pytest.approx(-0.25))
    assert right.within(0.0)


def test_one_right_answer_less_is_a_loss_however_few_the_samples() -> None:
    wanted = [{"y": np.array([[1.0, 0.0]])}] * 20
    found = [{"y": np.array([[1.0, 0.0]])}] * 19 + [{"y": np.array([[1.0, 2.0]])}]
    score = metric("top1", labels=[0] * 20).score(wanted, found, [{}] * 20)
    assert score.drop == pytest.approx(0.05)
    assert not score.within(0.005)


def test_margins_of_further_samples_count() -> None:
    sure, unsure = {"y": np.array([[9.0, 0.0]])}, {"y": np.array([[0.9, 0.0]])}
    found = {"y": np.array([[9.0, 0.3]])}
    alone = metric("agreement").score([sure], [found], [{}], [sure] * 40)
    more = metric("agreement").score([sure], [found], [{}], [unsure] * 40)
    assert more.drop == pytest.approx(10 * alone.drop)


def test_a_collapse_is_seen_whatever_the_margins_say() -> None:
    wanted = [{"y": np.array([[9.0, 0.0, 8.0]])}] * 50
    found = [{"y": np.array([[9.0, 9.9, 8.0]])}] * 50
    assert metric("agreement").score(wanted, found, [{}] * 50).drop == 1.0


def test_scores_of_classes_are_told_from_other_outputs() -> None:
    rows, one = [{"y": np.ones((1, 3))}], [{"y": np.ones((1, 1))}]
    assert Metric("auto").score(rows, rows, [{}]).metric == "agreement"
    assert Metric("auto").score(one, one, [{}]).metric == "sqnr"
    with pytest.raises(BadInput, match="no scores of classes"):
        Metric("agreement").score(one, one, [{}])


def test_a_real_network_keeps_its_classes() -> None:
    images = np.random.default_rng(2).standard_normal((25, 3, 32, 32)).astype(np.float32)
    result = quantize(RESNET, data={"input": images}, bench=False, metric="sqnr", max_drop=0.05)
    assert result.report.verdict == "int8"
    assert result.report.bytes is not None
    assert result.report.bytes < 0.45 * result.report.float_bytes


def test_products_inside_of_a_branch_stay_float_and_it_is_said_why() -> None:
    model = parse(
        f"""g (float[N,4] x, bool t) => (float[N,4] y) <{weight("w", 4, 4)}>
        {{ y = If(t) <then_branch = a () => (float[N,4] p) {{ p = MatMul(x, w) }},
           else_branch = b () => (float[N,4] q) {{ q = Neg(x) }}> }}"""
    )
    feeds = [{"x": np.ones((1, 4), np.float32), "t": np.array(True)}] * 6
    result = quantize(model, data=feeds, bench=False, threads=1)
    assert result.report.verdict == "float"
    assert "inside of If" in result.report.reason


def test_nodes_without_names_are_told_apart(data: dict[str, Any]) -> None:
    model = parse(NET)
    for node in model.graph.node:
        node.name = ""
    result = quantize(model, data=data, max_drop=LOOSE, bench=False, threads=1)
    assert result.report.verdict == "int8"
    assert [each.kernel for each in result.report.layers].count("QLinearConv") >= 2
