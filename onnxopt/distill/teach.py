"""One distillation from two models and data to a student with new weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import onnx_ir as ir
import torch

from onnxopt.check.inputs import Feed
from onnxopt.distill.centres import Centre, centres
from onnxopt.distill.door import device_of
from onnxopt.distill.losses import Pair
from onnxopt.distill.match import Match, match
from onnxopt.distill.memory import kept_memory
from onnxopt.distill.module import GraphModule
from onnxopt.distill.samples import Samples, read
from onnxopt.distill.settings import Settings
from onnxopt.distill.teacher import Teacher
from onnxopt.distill.train import Course, Progress, Trainer, trained
from onnxopt.errors import BadInput, BadOutput

_CENTRED = 8
_FREE = frozenset({"checkpoint", "device", "match", "patience", "resume", "threads"})
"""Settings that a resumed training may change."""
_DOUBTFUL = "what some weights gained on the held samples may be chance: more samples would help"


@dataclass(frozen=True, slots=True)
class Taught:
    """A student with its best weights, and how it came to them.

    `weights` counts the constants that were trained and `numbers` the elements in them; `coded`
    are those of the constants that the model keeps as integer codes. `inputs` says what each of
    the teacher's inputs is called in feeds.
    """

    model: ir.Model
    course: Course
    pairs: tuple[Pair, ...]
    inputs: Mapping[str, str]
    samples: Samples
    weights: int
    numbers: int
    coded: int
    notes: tuple[str, ...]


def teach(
    teacher: ir.Model,
    student: ir.Model,
    data: Any,
    settings: Settings,
    *,
    preprocess: str | None = None,
    apart: Sequence[Feed] = (),
    progress: Progress = lambda share, doing: None,
) -> Taught:
    """Train the student's weights to give what the teacher gives; neither model is changed.

    Args:
        teacher: Any model that onnxruntime runs.
        student: A model of the same inputs and outputs, of operators that have kernels here.
        data: Samples of real inputs without labels, see check.data.read_data.
        settings: What the user chose.
        preprocess: How pictures become inputs.
        apart: Runs to choose the best weights by, where `data` holds none for that.
        progress: Told how far it is.

    Raises:
        BadInput: The models do not match, there is no data or none that fits, a checkpoint is in
            the way or not of this training, or the loss is not finite from the start.
        Untaught: The student uses operators that have no kernel.
        RuntimeFailed: A model does not run.
    """
    _refuse_checkpoint(settings)
    device = device_of(settings.device)
    progress(0.0, "reading the samples")
    samples = read(data, student, preprocess=preprocess, held=settings.held, apart=apart)
    (sample,) = samples.stacked(samples.training[:1])
    found = match(teacher, student, settings, sample)
    wanted = list(dict.fromkeys(pair.student for pair in found.pairs))
    module = GraphModule(student, wanted, train=True, frozen=settings.frozen, device=device)
    _refuse_idle(student, module, settings)
    names = [pair.teacher for pair in found.pairs]
    guide = Teacher(teacher, names, found.inputs, device=device, threads=settings.threads)
    facts = _facts(module, found, samples, settings)
    with _threads(settings.threads), kept_memory():
        trainer = Trainer(
            module,
            guide,
            found.pairs,
            samples,
            settings,
            facts=facts,
            progress=progress,
            centres=_centres(student, module, samples),
        )
        course = trainer.run()
    return Taught(
        student if course.best.step == 0 else trained(student, module),
        course,
        found.pairs,
        found.inputs,
        samples,
        len(module.weights),
        sum(weight.start.numel() for weight in module.weights),
        sum(weight.coding is not None for weight in module.weights),
        (*found.notes, samples.note, *([_DOUBTFUL] if course.doubtful else [])),
    )


def _centres(student: ir.Model, module: GraphModule, samples: Samples) -> list[Centre]:
    """Where the inputs of products lie, from a few samples; of one where they do not stack."""
    return centres(student, module, samples.stacked(samples.training[:_CENTRED])[0])


def _refuse_checkpoint(settings: Settings) -> None:
    path = settings.checkpoint
    if path is None:
        return
    if path.exists() and not settings.resume:
        raise BadInput(
            f"there is a checkpoint at {path} already",
            hint="go on from it with --resume, or remove it to start anew",
        )
    if not path.parent.is_dir():
        raise BadOutput(f"the folder {path.parent} does not exist", hint="create it first")


class _threads:  # noqa: N801 - reads as a statement
    """Lets torch use so many threads meanwhile; 0 leaves it as it is."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._before = torch.get_num_threads()

    def __enter__(self) -> None:
        if self._count:
            torch.set_num_threads(self._count)

    def __exit__(self, *error: object) -> None:
        torch.set_num_threads(self._before)


def _refuse_idle(student: ir.Model, module: GraphModule, settings: Settings) -> None:
    constants = {value.name for value in student.graph.initializers.values()}
    constants |= {n.outputs[0].name for n in student.graph if n.op_type == "Constant"}
    unknown = [name for name in settings.frozen if name not in constants]
    if unknown:
        raise BadInput(
            f"the student has no constant {unknown[0]!r} to leave as it is",
            hint="constants go by the names of initializers",
        )
    if not module.weights:
        raise BadInput(
            "the student has no weights to train",
            hint="weights are constants that products, normalizations and embeddings use"
            + ("; some were named to stay as they are" if settings.frozen else ""),
        )


def _facts(
    module: GraphModule, found: Match, samples: Samples, settings: Settings
) -> Mapping[str, str]:
    """What must be the same for a training to go on from a checkpoint."""
    digest = hashlib.sha256()
    for weight in module.weights:
        digest.update(f"{weight.name}{tuple(weight.start.shape)}".encode())
        digest.update(weight.start.numpy().tobytes())
    facts = {
        field.name.replace("_", " "): str(getattr(settings, field.name))
        for field in fields(settings)
        if field.name not in _FREE
    }
    facts["augment"] = str(getattr(settings.augment, "__qualname__", settings.augment))
    facts["the student's weights"] = digest.hexdigest()
    facts["the matched values"] = str([(pair.teacher, pair.student) for pair in found.pairs])
    facts["the number of samples"] = str(len(samples.training) + len(samples.held))
    return facts
