from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxopt import io
from onnxopt.bench import timing, trial
from onnxopt.bench.timing import bench
from onnxopt.errors import BadInput, BadModel
from onnxopt.report.record import to_json
from onnxopt.runtime.sessions import Signature

MODELS = Path(__file__).resolve().parents[2] / "models"
FEED = {"x": np.zeros(1, np.float32)}


class Machine:
    """Time that passes only where a model runs, so that a test says the same on every machine.

    `work` are the seconds of a call by file name. Each session is off by `session_noise` for its
    life, each call by `call_noise`, and `slow` slows all down for a while now and then.
    """

    def __init__(self, *, session_noise: float = 0.0, call_noise: float = 0.0, seed: int = 0):
        self.now = 0.0
        self.work: dict[str, float] = {}
        self.session_noise = session_noise
        self.call_noise = call_noise
        self.slow = False
        self.random = np.random.default_rng(seed)
        self.opened: list[str] = []
        self.alive = 0
        self.most_alive = 0

    def perf_counter(self) -> float:
        return self.now

    def process_time(self) -> float:
        return 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def open(self, path: Path, **options: Any) -> FakeSession:
        self.now += 0.02
        self.opened.append(path.name)
        return FakeSession(self, self.work[path.name])

    def run(self, seconds: float) -> None:
        disturbed = 1.5 if self.slow and self.now % 2.0 < 0.7 else 1.0
        self.now += seconds * disturbed * float(np.exp(self.random.normal(0, self.call_noise)))


class FakeSession:
    inputs = (Signature("x", "tensor(float)", (1,)),)
    providers = ("CPUExecutionProvider",)
    fallen_back: tuple[str, ...] = ()

    def __init__(self, machine: Machine, seconds: float) -> None:
        self.machine = machine
        self.seconds = seconds * float(np.exp(machine.random.normal(0, machine.session_noise)))
        machine.alive += 1
        machine.most_alive = max(machine.alive, machine.most_alive)

    def __del__(self) -> None:
        self.machine.alive -= 1

    def run(self, feed: Mapping[str, Any]) -> list[Any]:
        self.machine.run(self.seconds)
        return []


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """Makes a machine and the paths of files that take the given milliseconds on it."""

    def make(*milliseconds: float, **noise: Any) -> tuple[Machine, list[Path]]:
        machine = Machine(**noise)
        paths = [tmp_path / f"{index}.onnx" for index in range(len(milliseconds))]
        for path, time in zip(paths, milliseconds, strict=True):
            path.write_bytes((MODELS / "digits_mlp.onnx").read_bytes())
            machine.work[path.name] = time / 1e3
        monkeypatch.setattr(timing, "time", machine)
        monkeypatch.setattr(trial, "time", machine)
        monkeypatch.setattr(trial.Session, "open", machine.open)
        return machine, paths

    return make


def test_the_same_work_is_no_change_however_noisy_the_machine(machines: Any) -> None:
    verdicts = []
    for seed in range(20):
        machine, paths = machines(5.0, 5.0, session_noise=0.1, call_noise=0.2, seed=seed)
        machine.slow = seed % 2 == 0
        verdicts.append(bench(paths, feeds=[FEED], seconds=10).comparisons[0].verdict)
    assert verdicts.count("no measurable change") >= 19


def test_a_tenth_more_speed_is_seen_through_noise(machines: Any) -> None:
    for seed in range(5):
        machine, paths = machines(5.5, 5.0, session_noise=0.03, call_noise=0.1, seed=seed)
        machine.slow = True
        found = bench(paths, feeds=[FEED], seconds=20).comparisons[0]
        assert found.verdict == "faster"
        assert found.speedup.median == pytest.approx(1.1, rel=0.03)


def test_twice_the_work_is_slower_and_is_seen_early(machines: Any) -> None:
    _, paths = machines(5.0, 10.0, session_noise=0.03, call_noise=0.1)
    found = bench(paths, feeds=[FEED], seconds=60)
    assert found.comparisons[0].verdict == "slower"
    assert found.comparisons[0].speedup.median == pytest.approx(0.5, rel=0.05)
    assert found.seconds < 10


def test_the_reference_runs_against_itself_in_every_round(machines: Any) -> None:
    machine, paths = machines(5.0, 4.0, 3.0, session_noise=0.2)
    found = bench(paths, feeds=[FEED], seconds=5)
    rounds = [machine.opened[at : at + 4] for at in range(0, len(machine.opened), 4)]
    assert all(sorted(names) == ["0.onnx", "0.onnx", "1.onnx", "2.onnx"] for names in rounds)
    assert len(rounds) == found.rounds
    assert len({tuple(names) for names in rounds}) >= 4, "the order has to change"


def test_only_one_session_lives_at_a_time(machines: Any) -> None:
    machine, paths = machines(5.0, 4.0)
    bench(paths, feeds=[FEED], seconds=2)
    assert machine.most_alive == 1


def test_the_noise_of_sessions_widens_the_floor(machines: Any) -> None:
    _, quiet = machines(5.0)
    calm = bench(quiet, feeds=[FEED], seconds=5).noise_floor
    _, loud = machines(5.0, session_noise=0.3)
    assert bench(loud, feeds=[FEED], seconds=5).noise_floor > 1.1 > calm


def test_timing_ends_near_the_time_it_is_given(machines: Any) -> None:
    machine, paths = machines(50.0, 50.0, session_noise=0.2)
    bench(paths, feeds=[FEED], seconds=12)
    assert 9 < machine.now <= 12


def test_a_model_too_slow_for_the_time_gets_no_verdict_and_a_word(machines: Any) -> None:
    _, paths = machines(30_000.0, 5.0)
    found = bench(paths, feeds=[FEED], seconds=5)
    assert found.comparisons[0].verdict == "no measurable change"
    assert "1 of the 4 rounds" in found.notes[0]


def test_the_calls_of_a_block_are_the_same_for_every_side(machines: Any) -> None:
    _, paths = machines(5.0, 0.5)
    found = bench(paths, feeds=[FEED], seconds=5)
    assert {side.calls for side in found.sides} == {found.calls_per_block * found.rounds}


def test_a_disturbed_warm_up_does_not_make_the_blocks_short(machines: Any) -> None:
    machine, paths = machines(1.0)
    delays = iter([0.0, 3.0, 0.0, 3.0])
    machine.run = lambda seconds: setattr(machine, "now", machine.now + seconds + next(delays, 0.0))
    assert bench(paths, feeds=[FEED], seconds=20).calls_per_block == 60


def test_a_call_over_several_feeds_counts_as_their_mean(machines: Any) -> None:
    _, paths = machines(5.0)
    found = bench(paths, feeds=[FEED] * 4, seconds=5)
    assert found.feeds == 4
    assert found.sides[0].median.median == pytest.approx(5.0)


def test_endless_data_is_cut_short(machines: Any) -> None:
    _, paths = machines(5.0)
    assert bench(paths, feeds=iter(lambda: FEED, None), seconds=5).feeds == 8


def test_one_model_alone_is_timed_against_itself(machines: Any) -> None:
    _, paths = machines(5.0)
    found = bench(paths, feeds=[FEED], seconds=5)
    assert (found.comparisons, found.itself.median) == ((), 1.0)


def test_progress_is_told_a_growing_share(machines: Any) -> None:
    shares: list[float] = []
    _, paths = machines(5.0, 5.5, session_noise=0.2)
    bench(paths, feeds=[FEED], seconds=5, progress=lambda share, doing: shares.append(share))
    assert shares == sorted(shares)
    assert 0 <= shares[0] < 0.1 < 0.8 < shares[-1] <= 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"models": []}, "no model"),
        ({"seconds": 0}, "time to take"),
        ({"names": ["a", "b"]}, "names"),
        ({"feeds": []}, "no feed"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: dict[str, Any], words: str) -> None:
    given = {"models": [MODELS / "digits_mlp.onnx"], "feeds": [FEED]} | arguments
    with pytest.raises(BadInput, match=words):
        bench(**given)


def test_a_file_that_is_not_there_is_said_at_once(machines: Any) -> None:
    machine, paths = machines(5.0)
    with pytest.raises(BadModel, match="missing"):
        bench([*paths, Path("missing.onnx")], feeds=[FEED])
    assert not machine.opened


def test_a_feed_that_lacks_an_input_is_named(machines: Any) -> None:
    _, paths = machines(5.0)
    with pytest.raises(BadInput, match="do not have the input 'x'"):
        bench(paths, feeds=[{"y": FEED["x"]}])


def test_models_with_other_inputs_are_not_compared() -> None:
    with pytest.raises(BadInput, match="does not have the inputs of the reference"):
        bench(
            [MODELS / "digits_mlp.onnx", MODELS / "mnist_cntk.onnx"],
            feeds=[{"X": np.zeros((1, 64), np.float32)}],
            threads=1,
        )


def test_a_real_model_in_every_form_it_comes_in() -> None:
    path = MODELS / "digits_mlp.onnx"
    loaded = io.load(path)
    forms = [path, path.read_bytes(), loaded, io.to_proto(loaded)]
    found = bench(forms, threads=1, seconds=0.5, peak_memory=True)
    assert [side.name for side in found.sides] == [str(path), "model 2", "model 3", "model 4"]
    assert found.sides[0].file_bytes == path.stat().st_size
    for side in found.sides:
        assert 0 < side.median.low <= side.median.median <= side.p95_ms
        assert side.create_ms > 0
        assert side.peak_bytes is not None
        assert side.peak_bytes > 0
    assert found.providers == ("CPUExecutionProvider",)
    assert json.loads(to_json(found))["rounds"] == found.rounds
