"""A training: steps, looks at held samples, best weights, checkpoints, and what can go wrong."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxopt
from onnxopt import io
from onnxopt.distill.schedule import Clock, peak
from onnxopt.distill.settings import MOST_EPOCHS, Settings
from onnxopt.distill.train import Trainer
from onnxopt.errors import BadInput, OnnxoptError
from tests.distill.models import classifier, model, rows

F = np.float32


def _teach(teacher: Any, student: Any, data: Any = None, **options: Any) -> Any:
    options = {"epochs": 8, "batch": 16, "learning_rate": 1e-2, **options}
    return onnxopt.distill(teacher, student, data=rows() if data is None else data, **options)


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return classifier(16, seed=0), classifier(6, seed=1)


def test_the_student_comes_nearer_to_its_teacher(pair: tuple[Any, Any]) -> None:
    report = _teach(*pair, epochs=40).report
    assert report.best.held < 0.2 * report.curve[0].held
    assert report.after.candidate > report.before.candidate
    assert report.stopped == "done" and report.improved and report.passed


def test_neither_model_is_changed(pair: tuple[Any, Any]) -> None:
    before = [io.to_bytes(each) for each in pair]
    _teach(*pair)
    assert [io.to_bytes(each) for each in pair] == before


def test_the_seed_fixes_the_result(pair: tuple[Any, Any]) -> None:
    first, second = (io.to_bytes(_teach(*pair, augment="noise").model) for _ in range(2))
    assert first == second
    assert io.to_bytes(_teach(*pair, augment="noise", seed=1).model) != first


def test_steps_and_epochs_say_the_same_length(pair: tuple[Any, Any]) -> None:
    by_epochs = _teach(*pair, epochs=2)
    by_steps = _teach(*pair, epochs=None, steps=by_epochs.report.steps)
    assert io.to_bytes(by_epochs.model) == io.to_bytes(by_steps.model)


def test_a_length_in_minutes_ends(pair: tuple[Any, Any]) -> None:
    report = _teach(*pair, epochs=None, minutes=0.01).report
    assert report.stopped == "done" and report.steps > 0


def test_a_training_that_is_resumed_ends_as_one_that_was_not_interrupted(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    whole = _teach(*pair, augment="noise")
    path = tmp_path / "state"

    def stop(share: float, doing: str) -> None:
        if share > 0.3:
            signal.raise_signal(signal.SIGINT)

    partly = _teach(*pair, augment="noise", checkpoint=path, progress=stop)
    assert partly.report.stopped == "interrupted"
    assert partly.report.steps < whole.report.steps
    rest = _teach(*pair, augment="noise", checkpoint=path, resume=True)
    assert rest.report.steps == whole.report.steps
    assert io.to_bytes(rest.model) == io.to_bytes(whole.model)
    assert [p.held for p in rest.report.curve] == [p.held for p in whole.report.curve]


def test_an_interrupt_keeps_the_best_weights_and_the_handler(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)

    def stop(share: float, doing: str) -> None:
        if share > 0.6:
            signal.raise_signal(signal.SIGINT)

    result = _teach(*pair, progress=stop, output=tmp_path / "out.onnx")
    assert result.report.stopped == "interrupted" and result.report.improved
    assert io.to_bytes(io.load(tmp_path / "out.onnx")) == io.to_bytes(result.model)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_checkpoint_of_another_training_says_what_differs(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    path = tmp_path / "state"
    _teach(*pair, checkpoint=path)
    with pytest.raises(BadInput, match="it differs in learning rate"):
        _teach(*pair, checkpoint=path, resume=True, learning_rate=2e-2)
    with pytest.raises(BadInput, match="the student's weights"):
        _teach(pair[0], classifier(6, seed=9), checkpoint=path, resume=True)


def test_a_checkpoint_is_not_overwritten_by_accident(pair: tuple[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "state"
    _teach(*pair, checkpoint=path)
    with pytest.raises(BadInput, match="already"):
        _teach(*pair, checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_refused(pair: tuple[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"no pickle")
    with pytest.raises(BadInput, match="not a checkpoint"):
        _teach(*pair, checkpoint=path, resume=True)


def test_a_training_ends_early_where_nothing_gets_better(pair: tuple[Any, Any]) -> None:
    report = _teach(pair[0], pair[0], patience=2, average=False).report
    assert report.stopped == "early"
    assert len(report.curve) == 3


def test_a_student_that_nothing_betters_is_kept_as_it_is(pair: tuple[Any, Any]) -> None:
    result = _teach(pair[0], pair[0])
    assert not result.report.improved
    assert io.to_bytes(result.model) == io.to_bytes(pair[0])


def _spoiling(after: int) -> Any:
    calls = iter(range(10_000))

    def change(feed: Any, random: np.random.Generator) -> Any:
        return {k: v * F(np.nan) if next(calls) >= after else v for k, v in feed.items()}

    return change


def test_a_loss_that_becomes_nan_ends_the_training_with_the_best_weights(
    pair: tuple[Any, Any],
) -> None:
    result = _teach(*pair, augment=_spoiling(40))
    assert result.report.stopped == "diverged" and not result.report.passed
    assert result.report.improved
    weights = [np.asarray(v.const_value) for v in result.model.graph.initializers.values()]
    assert all(np.isfinite(weight).all() for weight in weights)


def test_a_loss_that_is_nan_before_anything_was_learned_is_an_error(
    pair: tuple[Any, Any], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="before anything was learned"):
        _teach(*pair, augment=_spoiling(0), output=tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_student_that_gives_nan_from_the_start_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(BadInput, match="not finite before"):
        _teach(pair[0], _with(pair[1], "w1", np.nan))


def _with(source: Any, name: str, number: float) -> Any:
    proto = io.to_proto(source)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            array = onnx.numpy_helper.to_array(tensor) + np.arange(tensor.dims[-1]) * F(number)
            tensor.raw_data = array.astype(F).tobytes()
    return io.load(proto)


def test_a_rate_that_leads_away_from_a_good_start_falls_and_the_best_weights_come_back() -> None:
    teacher = classifier(16, seed=0)
    student = _with(teacher, "b2", 0.05)
    report = _teach(teacher, student, learning_rate=0.3, epochs=20).report
    rates = [point.learning_rate for point in report.curve[1:]]
    assert min(rates[:10]) < 0.3 / 8
    assert report.improved


def test_the_rate_falls_where_a_student_that_was_fitted_well_gets_no_better(
    pair: tuple[Any, Any],
) -> None:
    every = [{"x": row[None]} for row in rows()["x"]]
    fitted = _teach(*pair, epochs=60, learning_rate=3e-2, held=every).model
    curve = _teach(pair[0], fitted, epochs=40, learning_rate=0.05).report.curve
    assert all(curve[0].held < point.held < 3 * curve[0].held for point in curve[1:4])
    assert curve[3].learning_rate > 0.04 and curve[4].learning_rate < 0.05 / 3
    assert curve[4].held < curve[3].held


def test_runs_that_the_caller_keeps_apart_choose_the_best_weights(pair: tuple[Any, Any]) -> None:
    apart = [{"x": row[None]} for row in rows(7, seed=3)["x"]]
    report = _teach(*pair, held=apart).report
    assert (report.training_samples, report.held_samples) == (120, 7)
    assert any("7 runs" in note for note in report.notes)


@pytest.mark.parametrize(
    ("samples", "hidden", "passes"), [(120, 6, MOST_EPOCHS), (4000, 60_000, 17)]
)
def test_without_a_length_there_is_as_much_training_as_a_fixed_amount_of_work(
    samples: int, hidden: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of a sample 2 * (8 + 3) * hidden operations.
    monkeypatch.setattr("onnxopt.distill.schedule.WORK", 9e10)
    steps = 10
    work = 2.0 * 11 * hidden * samples
    assert Clock.of(Settings(), steps, work).steps == passes * steps


def test_the_default_length_counts_the_work_of_the_student(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # 96 samples train, in 6 steps a pass; each is 2 * (8 + 3) * 6 operations.
    monkeypatch.setattr("onnxopt.distill.schedule.WORK", 10 * 96 * 132)
    assert _teach(*pair, epochs=None).report.steps == 60


def test_parts_of_the_photos_of_a_folder_are_learned(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for number in range(20):
        pixels = random.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        image.fromarray(pixels).resize((24, 20)).save(tmp_path / f"{number:02}.png")
    text = (
        "g (float[N,3,16,16] x) => (float[N,4] y) { c = Conv<strides = [2, 2]>(x, k, b)"
        " r = Relu(c) p = GlobalAveragePool(r) f = Flatten(p) y = Gemm(f, w, v) }"
    )
    weights = {
        "k": random.normal(size=(8, 3, 3, 3)).astype(F),
        "b": np.zeros(8, F),
        "w": random.normal(size=(8, 4)).astype(F),
        "v": np.zeros(4, F),
    }
    teacher = model(text, weights)
    student = model(text, {**weights, "w": weights["w"] * F(0.7)})
    report = _teach(
        teacher, student, tmp_path, preprocess="unit", epochs=20, batch=8, augment="crop"
    ).report
    assert (report.training_samples, report.held_samples) == (16, 4)
    assert report.best.held < 0.7 * report.curve[0].held


def test_no_data_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(BadInput, match="there is no data"):
        onnxopt.distill(*pair)


def test_data_that_does_not_fit_is_refused(pair: tuple[Any, Any]) -> None:
    with pytest.raises(BadInput, match=r"'x' has the shape|the input 'x' got"):
        _teach(*pair, data={"x": np.zeros((20, 5), F)})


def test_a_few_samples_serve_for_both(pair: tuple[Any, Any]) -> None:
    report = _teach(*pair, data=rows(4)).report
    assert report.training_samples == report.held_samples == 4
    assert any("too few" in note for note in report.notes)


def test_samples_beyond_what_memory_is_to_hold_give_the_same(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_memory = io.to_bytes(_teach(*pair).model)
    monkeypatch.setattr("onnxopt.distill.samples.IN_MEMORY", 600)
    assert io.to_bytes(_teach(*pair).model) == in_memory


def test_a_constant_that_is_not_there_can_not_be_left_as_it_is(pair: tuple[Any, Any]) -> None:
    with pytest.raises(BadInput, match="no constant 'nothing'"):
        _teach(*pair, freeze=["nothing"])


def test_a_student_of_a_fixed_batch_is_trained_run_by_run() -> None:
    teacher, student = (
        model(
            "g (float[1,4] x) => (float[1,3] y) { y = Gemm(x, w, b) }",
            {
                "w": np.random.default_rng(seed).normal(size=(4, 3)).astype(F),
                "b": np.zeros(3, F),
            },
        )
        for seed in (0, 1)
    )
    report = _teach(
        teacher, student, data=rows(40, inputs=4), epochs=6, batch=4, learning_rate=0.1
    ).report
    assert report.best.held < 0.3 * report.curve[0].held


def test_a_student_without_weights_is_refused(pair: tuple[Any, Any]) -> None:
    student = model(
        "g (float[n,8] x) => (float[n,3] y) { s = Constant<value = int64[1] {0}>()"
        " e = Constant<value = int64[1] {3}>() a = Constant<value = int64[1] {1}>()"
        " y = Slice(x, s, e, a) }",
        {},
    )
    with pytest.raises(BadInput, match="no weights to train"):
        _teach(pair[0], student)


def test_an_operator_without_a_kernel_is_named_before_any_training(
    pair: tuple[Any, Any],
) -> None:
    student = model(
        "g (float[n,8] x) => (float[n,3] y)"
        "{ h = Gemm(x, w)  r = Reshape(h, s)  d = Det(r)  t = Reshape(d, u)  y = Add(h, t) }",
        {
            "w": np.ones((8, 3), F),
            "s": np.array([-1, 1, 1], np.int64),
            "u": np.array([-1, 3], np.int64),
        },
    )
    with pytest.raises(OnnxoptError, match="no torch kernel for Det"):
        _teach(pair[0], student)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 1, "steps": 5}, "given twice"),
        ({"epochs": 0}, "length can't be 0"),
        ({"loss": "huber"}, "no loss 'huber'"),
        ({"temperature": 0.0}, "temperature can't be"),
        ({"learning_rate": -1.0}, "learning rate can't be"),
        ({"held": 1.0}, "kept apart can't be"),
        ({"device": "tpu"}, "no device 'tpu'"),
        ({"device": "cuda:99"}, "no device 'cuda:99'|sees no device 'cuda:99'"),
        ({"resume": True}, "nothing to resume"),
        ({"match": "all"}, "'all' is no match"),
        ({"augment": "swirl"}, "no variation 'swirl'"),
        ({"augment": "flip"}, "none of the inputs is a picture"),
    ],
)
def test_options_that_can_not_be_are_refused(
    pair: tuple[Any, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInput, match=message):
        _teach(*pair, **options)


@pytest.mark.parametrize(("after", "kept"), [((0.4, 0.6, 0.5), True), ((0.1, 1.3, 0.9), False)])
def test_a_gain_that_may_be_chance_is_not_kept(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, after: tuple[float, ...], kept: bool
) -> None:
    losses = iter([[1.0, 1.0, 1.0], list(after)])
    monkeypatch.setattr(Trainer, "_losses_with", lambda self, weights: next(losses))
    result = _teach(*pair)
    assert result.report.improved == kept
    assert any("may be chance" in note for note in result.report.notes) != kept
    assert (io.to_bytes(result.model) == io.to_bytes(pair[1])) != kept


def test_held_samples_are_weighed_one_by_one(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    measured = Trainer._losses_with

    def spied(self: Trainer, weights: Any) -> list[float]:
        seen.append(measured(self, weights))
        return seen[-1]

    monkeypatch.setattr(Trainer, "_losses_with", spied)
    report = _teach(*pair).report
    before, after = seen
    assert len(before) == len(after) == report.held_samples
    assert np.mean(before) == pytest.approx(report.curve[0].held, rel=1e-4)
    assert np.mean(after) == pytest.approx(report.best.held, rel=1e-4)


def test_the_learning_rate_follows_the_number_of_samples() -> None:
    assert peak(20) == peak(320) == 5e-4
    assert peak(320) < peak(1000) < peak(2000) < peak(2880) == pytest.approx(1.5e-3)
    assert peak(1_000_000) == 1.5e-3


def test_without_a_rate_it_is_that_for_the_samples(pair: tuple[Any, Any]) -> None:
    report = _teach(*pair, learning_rate=None).report
    assert max(point.learning_rate for point in report.curve) <= peak(report.training_samples)
    assert report.curve[1].learning_rate > 0.5 * peak(report.training_samples)
