"""Codes that make up for each other are never worse than the nearest, and mostly much better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxopt.quantize.rounding import Bounds, compensated_codes, output_error
from onnxopt.quantize.saturation import nearest_safe_codes, safe_scale


def problem(groups: int, channels: int, size: int, seed: int = 0) -> tuple[Any, Any, Any]:
    """Weights, scales and second moments of inputs that hang together."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((groups, channels, size)).astype(np.float32)
    mixed = random.standard_normal((groups, 4 * size, max(2, size // 3)))
    inputs = mixed @ random.standard_normal((groups, mixed.shape[2], size)) + 0.5
    scale = safe_scale(rows.reshape(-1, size), top=None).reshape(groups, channels)
    return rows, scale, inputs.swapaxes(1, 2) @ inputs / (4 * size)


def nearest(rows: Any, scale: Any, top: int | None = None) -> Any:
    flat = nearest_safe_codes(rows.reshape(-1, rows.shape[-1]), scale.reshape(-1), top=top)
    return flat.reshape(rows.shape)


@pytest.mark.parametrize("shape", [(1, 6, 24), (1, 3, 150), (5, 1, 9), (2, 4, 18), (1, 2, 1)])
def test_no_channel_is_worse_than_rounded_to_nearest(shape: tuple[int, int, int]) -> None:
    for seed in range(4):
        rows, scale, second = problem(*shape, seed=seed)
        codes = compensated_codes(rows, scale, second)
        found = output_error(rows, codes, scale, second)
        assert (found <= output_error(rows, nearest(rows, scale), scale, second)).all()


@pytest.mark.parametrize("shape", [(1, 6, 96), (6, 1, 25)])
def test_inputs_that_hang_together_lose_most_of_the_error(shape: tuple[int, int, int]) -> None:
    rows, scale, second = problem(*shape)
    found = output_error(rows, compensated_codes(rows, scale, second), scale, second)
    plain = output_error(rows, nearest(rows, scale), scale, second)
    assert found.sum() < 0.3 * plain.sum()


def test_inputs_that_know_nothing_of_each_other_are_rounded_to_nearest() -> None:
    rows, scale, _ = problem(1, 4, 12)
    codes = compensated_codes(rows, scale, np.eye(12)[None])
    assert (codes == nearest(rows, scale)).all()


def test_groups_do_not_touch_each_other() -> None:
    rows, scale, second = problem(3, 2, 10)
    together = compensated_codes(rows, scale, second)
    alone = compensated_codes(rows[1:2], scale[1:2], second[1:2])
    # The order of the columns is the groups' common one, so only the error is the same in kind.
    assert output_error(rows[1:2], alone, scale[1:2], second[1:2]).sum() == pytest.approx(
        output_error(rows[1:2], together[1:2], scale[1:2], second[1:2]).sum(), rel=0.5
    )


def test_codes_stay_in_their_bits() -> None:
    rows, scale, second = problem(1, 4, 20)
    codes = compensated_codes(rows, scale * 2, second, bounds=Bounds(limit=63))
    assert np.abs(codes).max() <= 63


@pytest.mark.parametrize("second", [np.zeros((1, 6, 6)), np.full((1, 6, 6), np.nan)])
def test_moments_that_say_nothing_leave_the_nearest(second: Any) -> None:
    rows, scale, _ = problem(1, 3, 6)
    assert (compensated_codes(rows, scale, second) == nearest(rows, scale)).all()


def test_a_channel_that_is_never_fed_does_not_stop_the_others() -> None:
    rows, scale, second = problem(2, 2, 8)
    second[0] = 0
    codes = compensated_codes(rows, scale, second)
    assert (codes[0] == nearest(rows, scale)[0]).all()
    assert np.abs(codes[1]).max() > 0


def test_the_same_numbers_give_the_same_codes() -> None:
    rows, scale, second = problem(1, 5, 70)
    first = compensated_codes(rows, scale, second)
    assert first.tobytes() == compensated_codes(rows, scale, second).tobytes()
