"""What pruning holds in memory is bounded by the graph and not by the number of samples."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from pruning import drawn

import onnxopt
from onnxopt.check.data import read_data
from onnxopt.prune import regression
from onnxopt.prune.regression import Vectors

FEW, MANY = 30, 240
SAMPLE_BYTES = 4 * 3 * 24 * 24
NET = """g (float[N,3,24,24] x) => (float[N,5] y) {
    a = Conv<strides=[2,2]>(x, w0, b0)
    r = Relu(a)
    c = Conv(r, w1, b1)
    s = Relu(c)
    p = GlobalAveragePool(s)
    f = Flatten(p)
    y = Gemm<transB=1>(f, w2, b2)
}"""


class Made:
    """So many samples, each made when it is asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for seed in range(self.count):
            random = np.random.default_rng(seed)
            yield {"x": random.normal(size=(1, 3, 24, 24)).astype(np.float32)}


def _peak(call: Callable[[], object]) -> int:
    tracemalloc.start(1)
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _fit(count: int) -> None:
    random = np.random.default_rng(0)
    vectors = Vectors((0.0, np.inf))
    for _ in range(count):
        read = random.normal(size=(1, 96, 40))
        vectors.add(read, read[0, :, :10], read[0, :, 10:20])
    vectors.fitted(np.zeros((1, 10, 40)), np.zeros(10))


def test_a_fit_holds_no_more_vectors_for_more_samples(monkeypatch) -> None:
    monkeypatch.setattr(regression, "BLOCK_BYTES", 1 << 18)
    _fit(FEW)
    few, many = (_peak(lambda count=count: _fit(count)) for count in (FEW, MANY))
    assert many < 1.1 * few


def test_blocks_of_vectors_give_the_fit_of_all_at_once(monkeypatch) -> None:
    def fitted(block: int, limits: tuple[float, float]) -> list[np.ndarray]:
        monkeypatch.setattr(regression, "BLOCK_BYTES", block)
        random = np.random.default_rng(1)
        vectors = Vectors(limits)
        for _ in range(30):
            read = random.normal(size=(2, 7, 5)) + 3
            vectors.add(read, random.normal(size=(7, 6)), random.normal(size=(7, 6)))
        start = random.normal(size=(2, 3, 5)), random.normal(size=6)
        return [np.asarray(each) for each in vectors.fitted(*start)]

    for limits in (regression.INFINITE, (0.0, 1.0)):
        for left, right in zip(fitted(1, limits), fitted(1 << 30, limits), strict=True):
            np.testing.assert_allclose(left, right, atol=1e-5)


@pytest.mark.parametrize("once", [False, True])
def test_pruning_holds_no_more_for_more_samples(monkeypatch, once) -> None:
    monkeypatch.setattr(regression, "BLOCK_BYTES", 1 << 16)
    shapes = {"w0": (16, 3, 3, 3), "b0": 16, "w1": (16, 16, 3, 3), "b1": 16, "w2": (5, 16)}
    model = drawn(NET, **shapes, b2=5)

    def prune(count: int) -> None:
        data = iter(Made(count)) if once else Made(count)
        onnxopt.prune(model, data=data, macs=0.75, keep=["conv2"], bench=False, threads=1)

    prune(20)
    few, many = (_peak(lambda count=count: prune(count)) for count in (FEW, MANY))
    # Where a run lies on disk takes some memory too, but none of what is in it.
    assert many - few < (MANY - FEW) * SAMPLE_BYTES / 2


def test_what_was_read_of_a_file_is_let_go(tmp_path: Path) -> None:
    maps = Path("/proc/self/smaps")
    if not maps.exists():
        pytest.skip("the system does not tell what of a file is in memory")
    path = tmp_path / "x.npy"
    np.save(path, np.ones((512, 3, 64, 64), np.float32))
    model = drawn("g (float[N,3,64,64] x) => (float[N,3,64,64] y) { y = Relu(x) }")
    resident = []
    for number, feed in enumerate(read_data(path, model)):
        assert feed["x"].sum() > 0
        if number % 32:
            continue
        lines = iter(maps.read_text().splitlines())
        assert any(line.endswith("x.npy") for line in lines)
        resident.append(next(int(line.split()[1]) for line in lines if line.startswith("Rss:")))
    # A system maps what lies around a page too.
    assert max(resident) * 1024 < path.stat().st_size / 4


def test_changes_to_a_mapped_array_of_the_user_stay(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 3, 4, 4), np.float32))
    array = np.load(tmp_path / "x.npy", mmap_mode="c")
    array[:] = 7
    model = drawn("g (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }")
    assert all((feed["x"] == 7).all() for feed in read_data({"x": array}, model))
    assert (array == 7).all()


def test_with_few_samples_none_are_left_to_choose_by() -> None:
    model = drawn(NET, w0=(16, 3, 3, 3), b0=16, w1=(16, 16, 3, 3), b1=16, w2=(5, 16), b2=5)
    found = onnxopt.prune(model, data=Made(5), macs=0.75, bench=False, threads=1)
    assert "in sequence" in found.report.divergences
