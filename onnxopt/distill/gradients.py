"""First-order loss changes: for each weight its gradient times itself, sample by sample.

A model that already answers as its teacher does sits at the least of the distillation loss, where
the gradient is zero. So the loss of an answer drawn from the teacher's is taken: a class drawn from
its probabilities, or its numbers with random signs. The mean over samples of the square of what a
channel's weights sum up to is then the second-order change of the distillation loss (Fisher's
information, the Gauss-Newton matrix), as in Theis et al., arXiv 1801.05787.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from onnxopt.distill.weights import Weight
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
    course = _Course(model, teacher, device, threads)
    for feed in feeds:
        course.back(feed, lambda ours, theirs, pair: _drawn_loss(ours, theirs, pair, random))
        yield {
            weight.name: slope * parameter.detach().double().cpu().numpy()
            for weight, parameter, slope in course.slopes()
        }
    course.refuse_unused()


def slopes(
    teacher: ir.Model, feeds: Iterable[Feed], *, device: str = "cpu", threads: int = 0
) -> Callable[[ir.Model, Sequence[str]], Mapping[str, Array]]:
    """A function that gives the mean gradient of a loss by name of a weight.

    The loss is that of the teacher's likeliest class, or half the mean square of numbers: both have
    a slope where the model is its teacher. The function takes a model and the names that are wanted
    (weights that the model lacks are left out) and raises what `gradients` does.
    """

    def mean_gradients(model: ir.Model, names: Sequence[str]) -> Mapping[str, Array]:
        course, wanted, count = _Course(model, teacher, device, threads), set(names), 0
        total: dict[str, Array] = {}
        for feed in feeds:
            count += 1
            course.back(feed, _likeliest_loss)
            for weight, _, slope in course.slopes():
                if weight.name in wanted:
                    total[weight.name] = total.get(weight.name, 0.0) + slope
        course.refuse_unused()
        return {name: array / count for name, array in total.items()}

    return mean_gradients


class _Course:
    """A model and its teacher on one feed after the other, forwards and back."""

    def __init__(self, model: ir.Model, teacher: ir.Model, device: str, threads: int) -> None:
        self._models = model, teacher
        self._device, self._threads = device_of(device), threads
        self._ready: tuple[GraphModule, Teacher, Sequence[Pair]] | None = None

    def back(self, feed: Feed, loss: Callable[[Tensor, Tensor, Pair], Tensor]) -> None:
        """Run the feed, and the sum of the losses of its outputs back to the weights."""
        if self._ready is None:
            self._ready = self._matched(feed)
        module, guide, pairs = self._ready
        answers, found = guide.answers(feed), module(module.tensors(feed))
        module.zero_grad(set_to_none=True)
        losses = [loss(found[pair.student], answers[pair.teacher], pair) for pair in pairs]
        torch.stack(losses).sum().backward()

    def _matched(self, feed: Feed) -> tuple[GraphModule, Teacher, Sequence[Pair]]:
        model, teacher = self._models
        found = match(teacher, model, Settings(), feed)
        module = GraphModule(
            model, [pair.student for pair in found.pairs], train=True, device=self._device
        )
        names = [pair.teacher for pair in found.pairs]
        guide = Teacher(teacher, names, found.inputs, device=self._device, threads=self._threads)
        return module, guide, found.pairs

    def slopes(self) -> Iterator[tuple[Weight, Tensor, Array]]:
        """Each weight with its parameter and its gradient, float64."""
        assert self._ready is not None
        module = self._ready[0]
        for weight, parameter in zip(module.weights, module.parameters(), strict=True):
            slope = np.zeros(tuple(parameter.shape))
            if parameter.grad is not None:
                slope = parameter.grad.double().cpu().numpy()
            if not np.isfinite(slope).all():
                raise BadInput(
                    f"the gradient of {weight.name!r} is not finite",
                    hint="look for NaN or infinity in the model's weights and outputs",
                )
            yield weight, parameter, slope

    def refuse_unused(self) -> None:
        """Raise BadInput if there was no feed."""
        if self._ready is None:
            raise BadInput(
                "there are no samples to take gradients on", hint="give some with --data"
            )


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


def _likeliest_loss(student: Tensor, teacher: Tensor, pair: Pair) -> Tensor:
    if pair.kind != "kl":
        return student.square().mean() / 2
    ours = torch.log_softmax(logits(student, pair.student_scale), pair.axis)
    best = teacher.argmax(pair.axis, keepdim=True)
    return -ours.gather(pair.axis, best).mean()
