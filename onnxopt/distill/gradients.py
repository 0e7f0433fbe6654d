"""First-order loss changes: for each weight its gradient times itself, sample by sample.

A model that already answers as its teacher does sits at the least of the distillation loss, where
the gradient is zero. So the loss of an answer drawn from the teacher's is taken: a class drawn from
its probabilities, or its numbers with random signs. The mean over samples of the square of what a
channel's weights sum up to is then the second-order change of the distillation loss (Fisher's
information, the Gauss-Newton matrix), as in Theis et al., arXiv 1801.05787.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from onnxopt.check.inputs import Feed
from onnxopt.distill.door import device_of
from onnxopt.distill.kernels import Tensor
from onnxopt.distill.losses import Pair, logits
from onnxopt.distill.match import match
from onnxopt.distill.module import GraphModule
from onnxopt.distill.settings import Settings
from onnxopt.distill.teacher import Teacher
from onnxopt.errors import BadInput

Array = np.ndarray[Any, np.dtype[Any]]


def gradients(
    model: ir.Model,
    teacher: ir.Model,
    feeds: Iterable[Feed],
    *,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 0,
) -> Iterator[Mapping[str, Array]]:
    """For each feed, by name of a weight, its gradient times the weight, in the weight's shape.

    The change of loss that removing a channel brings is about half the mean over feeds of the
    square of the sum over the channel's elements; so feeds are best of one sample each.

    Args:
        model: The model whose weights are meant; it is not changed.
        teacher: What its answers are measured against; the model itself before any change.
        feeds: Real inputs, used one after the other.
        seed: Seed of what is drawn from the teacher's answers.
        device: Where to compute.
        threads: Threads of onnxruntime, for the teacher.

    Returns:
        float64 arrays. Codes of quantized weights count as the numbers they stand for.

    Raises:
        BadInput: The models do not match, there are no feeds, or a gradient is not finite.
        Untaught: The model uses operators that have no kernel.
    """
    random = np.random.default_rng(seed)
    module: GraphModule | None = None
    for feed in feeds:
        if module is None:
            found = match(teacher, model, Settings(), feed)
            names = [pair.student for pair in found.pairs]
            module = GraphModule(model, names, train=True, device=device_of(device))
            guide = Teacher(
                teacher,
                [pair.teacher for pair in found.pairs],
                found.inputs,
                device=module.device,
                threads=threads,
            )
        answers, wanted = guide.answers(feed), module(module.tensors(feed))
        module.zero_grad(set_to_none=True)
        losses = [
            _drawn_loss(wanted[pair.student], answers[pair.teacher], pair, random)
            for pair in found.pairs
        ]
        torch.stack(losses).sum().backward()
        yield dict(_products(module))
    if module is None:
        raise BadInput("there are no samples to take gradients on", hint="give some with --data")


def _drawn_loss(
    student: Tensor, teacher: Tensor, pair: Pair, random: np.random.Generator
) -> Tensor:
    if pair.kind != "kl":
        signs = torch.from_numpy(random.choice([-1.0, 1.0], tuple(student.shape)))
        return (student * signs.to(student)).sum() / student.numel() ** 0.5
    ours = torch.log_softmax(logits(student, pair.student_scale), pair.axis)
    theirs = torch.softmax(logits(teacher, pair.teacher_scale), pair.axis)
    limits = theirs.movedim(pair.axis, -1).double().cumsum(-1)
    limits = limits / limits[..., -1:]
    level = torch.from_numpy(random.random((*limits.shape[:-1], 1))).to(limits)
    drawn = torch.searchsorted(limits, level).clamp_max(limits.shape[-1] - 1)
    return -ours.movedim(pair.axis, -1).gather(-1, drawn).sum()


def _products(module: GraphModule) -> Iterator[tuple[str, Array]]:
    for weight, parameter in zip(module.weights, module.parameters(), strict=True):
        if parameter.grad is None:
            yield weight.name, np.zeros(tuple(parameter.shape))
            continue
        product = (parameter.grad.double() * parameter.detach().double()).cpu().numpy()
        if not np.isfinite(product).all():
            raise BadInput(
                f"the gradient of {weight.name!r} is not finite",
                hint="look for NaN or infinity in the model's weights and outputs",
            )
        yield weight.name, product
