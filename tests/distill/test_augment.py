"""Variations keep shapes and types, follow their seed, and are refused where they have no sense."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxopt.distill.augment import NAMES, augmenter, takes_parts, varied
from onnxopt.errors import BadInput

F = np.float32


def _pictures(count: int = 12, *, last: bool = False) -> dict[str, Any]:
    x = np.random.default_rng(0).normal(size=(count, 3, 12, 16)).astype(F)
    return {"x": np.moveaxis(x, 1, 3) if last else x}


def _varied(spec: Any, feed: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    change = augmenter(spec, feed)
    assert change is not None
    return dict(change(feed, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_variation_keeps_shape_and_type_and_changes_something(name: str, last: bool) -> None:
    feed = _pictures(last=last)
    varied = _varied(name, feed)["x"]
    assert varied.shape == feed["x"].shape and varied.dtype == F
    assert not np.array_equal(varied, feed["x"])


@pytest.mark.parametrize("name", NAMES)
def test_the_random_numbers_fix_a_variation(name: str) -> None:
    first, second, other = (_varied(name, _pictures(), seed)["x"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_flip_mirrors_columns() -> None:
    feed = _pictures(20)
    varied = _varied("flip", feed)["x"]
    for before, after in zip(feed["x"], varied, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[..., ::-1])


@pytest.mark.parametrize("name", ["crop", "shift"])
def test_an_even_picture_stays_even(name: str) -> None:
    varied = _varied(name, {"x": np.full((4, 3, 12, 16), 0.7, F)})["x"]
    np.testing.assert_allclose(varied, 0.7, rtol=1e-5)


def test_pictures_are_varied_by_default_and_rows_are_not() -> None:
    assert augmenter("auto", _pictures()) is not None
    assert augmenter("auto", {"x": np.zeros((4, 10), F)}) is None
    assert augmenter("none", _pictures()) is None


def test_rows_can_be_mixed() -> None:
    feed = {"x": np.random.default_rng(0).normal(size=(8, 5)).astype(F)}
    varied = _varied("mixup", feed)["x"]
    changed = (varied != feed["x"]).any(1)
    assert 0 < changed.sum() < 8


def test_whole_numbers_are_not_mixed() -> None:
    feed = {"ids": np.arange(12).reshape(4, 3)}
    np.testing.assert_array_equal(_varied("mixup", feed)["ids"], feed["ids"])


def test_a_function_of_the_users_own_is_called() -> None:
    feed = _pictures()
    varied = _varied(lambda given, random: {"x": given["x"].astype(np.float64) * 2}, feed)["x"]
    assert varied.dtype == F
    np.testing.assert_allclose(varied, feed["x"] * 2)


def test_a_function_that_loses_an_input_is_refused() -> None:
    with pytest.raises(BadInput, match="gave"):
        _varied(lambda given, random: {}, _pictures())


def test_unknown_variations_are_refused() -> None:
    with pytest.raises(BadInput, match="no variation 'swirl'"):
        augmenter("flip,swirl", _pictures())


def test_pictures_that_come_as_parts_are_not_cropped_again() -> None:
    feed = _pictures()
    change = augmenter("crop", feed, cropped=True)
    assert change is not None and takes_parts("crop") and takes_parts("auto")
    np.testing.assert_array_equal(change(feed, np.random.default_rng(0))["x"], feed["x"])
    assert not takes_parts("flip,mixup") and not takes_parts(change)


def test_a_model_of_one_picture_a_run_sees_pictures_mixed_too() -> None:
    feeds = [{"x": np.full((1, 3, 8, 8), shade, F)} for shade in range(6)]
    change = augmenter("cut", feeds[0])
    assert change is not None
    found = varied(feeds, change, np.random.default_rng(0))
    assert [feed["x"].shape for feed in found] == [(1, 3, 8, 8)] * 6
    assert any(len(np.unique(feed["x"])) == 2 for feed in found)


def test_pictures_of_several_sizes_are_varied_one_by_one() -> None:
    feeds = [{"x": np.full((1, 3, 8, width), 1.0, F)} for width in (8, 9)]
    change = augmenter("flip", feeds[0])
    assert change is not None
    found = varied(feeds, change, np.random.default_rng(0))
    assert [feed["x"].shape[-1] for feed in found] == [8, 9]


def test_a_rectangle_of_another_picture_takes_up_to_half() -> None:
    feed = {"x": np.broadcast_to(np.arange(40, dtype=F)[:, None, None, None], (40, 3, 20, 20))}
    found = _varied("cut", feed)["x"]
    own = (found == feed["x"]).mean((1, 2, 3))
    assert 0.4 < (own == 1).mean() < 0.75
    assert own.min() > 0.4
