"""How far a student's values are from its teacher's, as one number to make small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as functional

from onnxopt.check.softness import temperature
from onnxopt.distill.kernels import Tensor
from onnxopt.distill.teacher import Targets

Kind: TypeAlias = Literal["kl", "mse", "cosine"]
Scale: TypeAlias = Literal["scores", "probabilities", "logarithms"]

Array = np.ndarray[Any, np.dtype[Any]]

_TINY = 1e-7
_NUMBERS = 200_000
"""Of the scores of a batch, to tell how soft they are."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A value of the teacher and the student's that is to follow it.

    `axis` is that of the classes, for "kl"; the scales say what the numbers are there. `inner`
    pairs are not outputs.
    """

    teacher: str
    student: str
    kind: Kind
    axis: int = -1
    teacher_scale: Scale = "scores"
    student_scale: Scale = "scores"
    inner: bool = False


def loss_of(
    pairs: Sequence[Pair],
    student: Targets,
    teacher: Targets,
    *,
    temperature: float,
    inner_weight: float,
) -> Tensor:
    """The mean loss of the outputs, plus `inner_weight` times that of the inner pairs."""
    outputs: list[Tensor] = []
    inner: list[Tensor] = []
    for pair in pairs:
        found = _LOSSES[pair.kind](student[pair.student], teacher[pair.teacher], pair, temperature)
        (inner if pair.inner else outputs).append(found)
    total = _mean(outputs) if outputs else inner[0].new_zeros(())
    return total + inner_weight * _mean(inner) if inner and inner_weight else total


def _mean(losses: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(losses)).mean()


def _kl(student: Tensor, teacher: Tensor, pair: Pair, temperature: float) -> Tensor:
    """Kullback and Leibler's divergence of softened classes, times the temperature squared.

    Hinton et al., Distilling the Knowledge in a Neural Network, arXiv 1503.02531.
    """
    ours = torch.log_softmax(logits(student, pair.student_scale) / temperature, pair.axis)
    theirs = torch.log_softmax(logits(teacher, pair.teacher_scale) / temperature, pair.axis)
    apart = (theirs.exp() * (theirs - ours)).sum(pair.axis)
    return apart.mean() * temperature**2


def softening(pairs: Sequence[Pair], answers: Sequence[Targets]) -> float:
    """The temperature that suits the teacher's answers of the first pair of classes; else 1."""
    for pair in pairs:
        if pair.kind == "kl" and not pair.inner:
            found = [logits(each[pair.teacher], pair.teacher_scale) for each in answers]
            rows = [_some(each.movedim(pair.axis, -1).flatten(0, -2)) for each in found]
            return temperature(np.concatenate(rows).astype(np.float64))
    return 1.0


def _some(rows: Tensor) -> Array:
    """Evenly spread rows of so many, as an array: vocabularies are long."""
    most = max(1, _NUMBERS // rows.shape[1])
    found: Array = rows[:: -(-len(rows) // most)].cpu().numpy()
    return found


def logits(x: Tensor, scale: Scale) -> Tensor:
    """Numbers whose softmax along the classes gives probabilities."""
    return torch.log(x.clamp_min(_TINY)) if scale == "probabilities" else x


def _mse(student: Tensor, teacher: Tensor, pair: Pair, temperature: float) -> Tensor:
    """The mean squared error over the variance of the teacher's values."""
    spread = teacher.var(unbiased=False).clamp_min(_TINY)
    return (student - teacher).square().mean() / spread


def _cosine(student: Tensor, teacher: Tensor, pair: Pair, temperature: float) -> Tensor:
    """One minus the cosine, along the last axis."""
    return 1 - functional.cosine_similarity(student, teacher, dim=pair.axis).mean()


_LOSSES: dict[str, Callable[[Tensor, Tensor, Pair, float], Tensor]] = {
    "kl": _kl,
    "mse": _mse,
    "cosine": _cosine,
}
