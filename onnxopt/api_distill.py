"""`distill` as users call it: reads, teaches, measures against the teacher, writes, reports."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir

from onnxopt import api, io
from onnxopt.arguments import Progress, explained, silent
from onnxopt.check.inputs import Feed
from onnxopt.check.metric import Score
from onnxopt.check.metric import metric as metric_of
from onnxopt.distill.door import require_torch
from onnxopt.distill.settings import (
    AUTO,
    BATCH,
    HELD,
    MATCH_WEIGHT,
    SAME,
    Augment,
    Settings,
)
from onnxopt.report.distillation import CurvePoint, DistillReport, Pairing
from onnxopt.report.record import Versions
from onnxopt.runtime.sessions import Session

if TYPE_CHECKING:
    from onnxopt.distill.teach import Taught

Matches: TypeAlias = "str | Mapping[str, str] | Sequence[tuple[str, str]]"


@dataclass(frozen=True, slots=True)
class DistillResult(api.Saved):
    """The student with the best weights seen, and the record of how it came to them."""

    model: ir.Model
    report: DistillReport


@explained
def distill(
    teacher: io.Source,
    student: io.Source,
    *,
    data: Any = None,
    loss: str = AUTO,
    temperature: float | None = None,
    match: Matches = SAME,
    match_weight: float = MATCH_WEIGHT,
    epochs: float | None = None,
    minutes: float | None = None,
    steps: int | None = None,
    learning_rate: float | None = None,
    batch: int = BATCH,
    augment: Augment = AUTO,
    held: float | Sequence[Feed] = HELD,
    patience: int = 0,
    average: bool = True,
    freeze: Sequence[str] = (),
    preprocess: str | None = None,
    device: str = "cpu",
    threads: int = 0,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    output: str | os.PathLike[str] | None = None,
    external: io.External = "keep",
    overwrite: bool = False,
    progress: Progress | None = None,
) -> DistillResult:
    """Teach a student to answer as its teacher does, on samples without labels.

    The student may be a pruned model, a quantized one (the gradient goes straight through the
    rounding; scales stay), or one of another architecture. Its graph stays as it is, name for name:
    only the numbers in its weights change. What comes out are the weights that did best on samples
    kept apart; if none beat the student's own by more than chance, these are kept.

    Args:
        teacher: Any model that onnxruntime runs.
        student: A model with matching inputs and outputs: the same names, or the same order.
        data: Samples of real inputs (see check.data.read_data).
        loss: Between outputs: "kl" for scores of classes, "mse" (over the teacher's variance),
            "cosine", or "auto".
        temperature: How soft the classes are made for "kl": more shows which classes are alike, and
            lets samples count that the teacher is sure of. None: by its answers, see
            check.softness.
        match: Inner values that are to be alike too: pairs of names, the teacher's first; "same"
            for some of one name that nearly are, as in a pruned copy of the teacher; "auto" for
            some of one name and shape, or else of one shape; or () for none.
        match_weight: What the inner values count beside the outputs.
        epochs: Passes over the data; of the three lengths one may be given. Without any it is as
            much work as takes about ten to fifteen minutes on two cores, in 5 to 150 passes.
        minutes: Time for the training. Two runs of one length in minutes differ.
        steps: Batches.
        learning_rate: The peak rate, as a share of each weight's own size (None: 5e-4 for few
            samples up to 1.5e-3 for thousands, see distill.schedule.peak); it falls, from the
            best weights on, where the loss of the held samples has tripled, or was worse than the
            best three times in a row.
        batch: Samples a step.
        augment: How samples are varied: "auto" (pictures are flipped, cropped, tinted and mixed;
            those of a folder are cropped before they lose pixels), "none", names with commas
            between them, "module:function" or a function of a feed and a numpy random generator
            (see distill.augment.augmenter).
        held: The share of samples that is kept apart; or the runs that are, none of them in `data`.
            A student that was made from these data is best judged by others: a fifth is what
            `prune` keeps apart as well. `quantize` keeps other ones apart: give a student of it
            runs that it was not calibrated on.
        patience: Stop after so many looks at the held samples without a better one, of twenty; 0
            goes on to the end.
        average: Judge and keep weights averaged over the last tenth of the steps.
        freeze: Names of constants that stay as they are.
        device: "cpu", "cuda" or "cuda:N".
        threads: Threads of torch and onnxruntime; 0 lets them choose.
        seed: Seed of the order of samples and of their variations.
        checkpoint: A file to go on from after an interrupt.
        resume: Go on from it, if it is there; the rest must be as it was.
        output: Where to write the student.
        overwrite: Allow `output` to be the student's own file.

    Raises:
        OnnxoptError: A child of it, each with a hint: torch is missing, a model, the data or an
            option is not usable, or the loss was not finite before anything was learned.
    """
    started = time.perf_counter()
    share, apart = (held, ()) if isinstance(held, (int, float)) else (HELD, tuple(held))
    settings = Settings(
        loss=loss, temperature=temperature, match=_pairs(match), match_weight=match_weight,
        epochs=epochs, minutes=minutes, steps=steps, learning_rate=learning_rate, batch=batch,
        augment=augment, held=share, patience=patience, average=average, frozen=tuple(freeze),
        device=device, threads=threads, seed=seed, resume=resume,
        checkpoint=None if checkpoint is None else Path(checkpoint),
    )  # fmt: skip
    torch = require_torch()
    from onnxopt.distill.teach import teach

    guide, pupil = io.load(teacher), io.load(student)
    if output is not None:
        io.check_target(pupil, output, overwrite=overwrite)
    taught = teach(
        guide, pupil, data, settings, preprocess=preprocess,
        apart=apart,
        progress=progress or silent,
    )  # fmt: skip
    before, after = _scores(guide, pupil, taught, threads)
    report = DistillReport(
        teacher=api.name_of(teacher),
        student=api.name_of(student),
        output="<memory>" if output is None else os.fspath(output),
        stopped=taught.course.stopped,
        curve=tuple(CurvePoint(**asdict(point)) for point in taught.course.curve),
        best=CurvePoint(**asdict(taught.course.best)),
        before=before,
        after=after,
        pairs=tuple(Pairing(p.teacher, p.student, p.kind, p.inner) for p in taught.pairs),
        weights=taught.weights,
        coded=taught.coded,
        numbers=taught.numbers,
        training_samples=len(taught.samples.training),
        held_samples=len(taught.samples.held),
        steps=taught.course.steps,
        torch=str(torch.__version__),
        device=device,
        versions=Versions.here(),
        notes=taught.notes,
        seconds=time.perf_counter() - started,
    )
    if output is not None:
        io.save(taught.model, output, external=external, overwrite=overwrite)
    return DistillResult(taught.model, report)


def _pairs(match: Matches) -> tuple[tuple[str, str], ...] | str:
    if isinstance(match, str):
        return match
    return tuple(match.items() if isinstance(match, Mapping) else match)


def _scores(
    teacher: ir.Model, student: ir.Model, taught: Taught, threads: int
) -> tuple[Score, Score]:
    """How near the student was to its teacher on the held samples, and how near it is now."""
    outputs = [pair for pair in taught.pairs if not pair.inner]
    names = [pair.teacher for pair in outputs]
    feeds = [each for feed in taught.samples.held for each in taught.samples.stacked([feed])]
    own = {ours: theirs for theirs, ours in taught.inputs.items()}

    def answers(model: ir.Model, wanted: Sequence[str], rename: bool) -> list[dict[str, Any]]:
        session = Session.open(model, optimize=True, threads=threads)
        found = []
        for feed in feeds:
            given = {own[k]: v for k, v in feed.items() if k in own} if rename else dict(feed)
            found.append(dict(zip(names, session.run(given, list(wanted)), strict=True)))
        return found

    reference, metric = answers(teacher, names, True), metric_of(AUTO)
    before, after = (
        metric.score(reference, answers(model, [pair.student for pair in outputs], False), feeds)
        for model in (student, taught.model)
    )
    return before, after
