"""Steps of a training: each weight, and each channel of a kernel, moves by a share of its size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from onnxopt.distill.steps import Steps


def _moved(weight: Any, rate: float, *, times: int = 1) -> Any:
    tensor = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    steps = Steps([tensor], rate)
    for _ in range(times):
        tensor.grad = torch.ones_like(tensor)
        steps.take(rate)
    return tensor.detach().numpy() - weight


def test_a_weight_moves_by_the_rate_times_its_size() -> None:
    weight = np.array([[3.0, -3.0], [3.0, 3.0]])
    np.testing.assert_allclose(_moved(weight, 0.01), np.full((2, 2), -0.03), rtol=1e-4)


def test_each_channel_of_a_kernel_moves_by_its_own_size() -> None:
    kernel = np.ones((3, 2, 3, 3)) * np.array([1.0, 0.2, 0.0])[:, None, None, None]
    moved = _moved(kernel, 0.01)[:, 0, 0, 0]
    least = 0.1 * float(np.sqrt(np.square(kernel).mean()))
    np.testing.assert_allclose(moved, [-0.01, -0.002, -0.01 * least], rtol=1e-3)


def test_the_steps_are_those_of_adam() -> None:
    weight = np.array([1.0, -1.0, 1.0])
    other = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    adam = torch.optim.AdamW([other], lr=0.05, betas=(0.9, 0.99), weight_decay=0.0)
    ours = torch.tensor(weight, dtype=torch.float32, requires_grad=True)
    steps = Steps([ours], 0.05)
    for number in range(5):
        for tensor in (other, ours):
            tensor.grad = torch.tensor([1.0, -2.0, 0.5 * number])
        adam.step()
        steps.take(0.05)
    np.testing.assert_allclose(ours.detach().numpy(), other.detach().numpy(), rtol=1e-5)


def test_steps_go_on_from_their_state() -> None:
    whole = _moved(np.array([2.0, 1.0]), 0.1, times=4)
    first = torch.tensor([2.0, 1.0], requires_grad=True)
    half = Steps([first], 0.1)
    for steps in (half, Steps([first], 0.1)):
        if steps is not half:
            steps.restore(half.state())
        for _ in range(2):
            first.grad = torch.ones_like(first)
            steps.take(0.1)
    np.testing.assert_allclose(first.detach().numpy() - [2.0, 1.0], whole, rtol=1e-5)


def test_a_weight_without_a_gradient_stays() -> None:
    tensor = torch.ones(3, requires_grad=True)
    Steps([tensor], 0.1).take(0.1)
    assert tensor.detach().numpy() == pytest.approx([1, 1, 1])
