"""The straight line of each command, for Python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import onnx_ir as ir

from onnxopt import io
from onnxopt.arguments import explained
from onnxopt.bench.cost import cost
from onnxopt.config import Exactness, Level, Options
from onnxopt.errors import BadInput, RuntimeFailed
from onnxopt.passes import manager, pipelines, shapes
from onnxopt.passes.base import Context, Pass
from onnxopt.passes.fold import freeze_inputs
from onnxopt.report.record import Report, Versions

if TYPE_CHECKING:
    import onnx

    from onnxopt.bench.timing import Timing
    from onnxopt.check.parity import Parity, Reference
    from onnxopt.report.inspection import Inspection

CPU = "CPUExecutionProvider"
Reader: TypeAlias = "Callable[[ir.Model], Any]"
"""Feeds for a model, from the user's data."""


class Saved:
    """What holds a model that can be written."""

    __slots__ = ()
    model: ir.Model

    def save(self, path: str | os.PathLike[str], *, external: io.External = "keep") -> Path:
        """Write the model (see io.save)."""
        return io.save(self.model, path, external=external)


@dataclass(frozen=True, slots=True)
class Result(Saved):
    """An optimized model and the record of how it came about."""

    model: ir.Model
    report: Report

    @property
    def proto(self) -> onnx.ModelProto:
        """The model as a ModelProto with all weights inside. Raises BadModel above 2 GB."""
        return io.to_proto(self.model)


@explained
def optimize(
    model: io.Source,
    *,
    level: Level | str = Level.CLOSE,
    freeze_inputs: bool = False,
    max_growth: float = 0.03,
    opset: int | None = None,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    only: Iterable[str] = (),
    disable: Iterable[str] = (),
    enable: Iterable[str] = (),
    seed: int = 0,
    passes: Sequence[Pass] = (),
    check: bool = True,
    bench: bool = True,
    data: Any = None,
    batch: int = 1,
    preprocess: str | None = None,
    providers: Sequence[str] = (CPU,),
    threads: int = 0,
    output: str | os.PathLike[str] | None = None,
    external: io.External = "keep",
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Result:
    """Make a model smaller and faster without changing what it computes, and prove it.

    Args:
        model: A path, serialized bytes, a ModelProto or an ir.Model; it is never changed.
        level: "clean" (fold and clean only), "exact" (also rewrites that keep every bit) or "close"
            (also rewrites that may round differently).
        freeze_inputs: Make initializers that are also inputs constants, and inputs no longer.
        max_growth: The share of the file's size that folding may add.
        opset: Raise the default domain's opset to this.
        only: Names of the only rules and passes to run.
        disable: Names of rules and passes to leave out.
        enable: Names of rules to run that are off by themselves.
        passes: Further passes of the user's, run after ours under the same guard.
        check: Prove parity with onnxruntime.
        bench: Time both models with onnxruntime.
        data: Feeds (see check.data.read_data); made up from the signature where None.
        providers: Execution providers for the timing.
        progress: Called with a word on what is going on.

    Raises:
        OnnxoptError: A child of it, each with a hint: the model, an option, the data or the output
            is not usable.
    """
    started = time.perf_counter()
    options = Options(
        level=_level(level),
        freeze_inputs=freeze_inputs,
        max_growth=max_growth,
        opset=opset,
        input_shapes=_shapes(input_shapes),
        dims=dict(dims or {}),
        only=tuple(only),
        disable=tuple(disable),
        enable=tuple(enable),
        seed=seed,
    )  # fmt: skip
    _refuse_unknown(providers)
    pipeline = pipelines.optimize(options, passes)
    read = _reader(data, batch, preprocess)
    original = io.load(model)
    if output is not None:
        io.check_target(original, output, overwrite=overwrite)
    prepared = prepare(original, options)
    before = cost(prepared)
    source = model if isinstance(model, bytes | str | os.PathLike) else original
    reference, notes = _reference(source, original, options, read, threads) if check else (None, ())
    if notes:
        # What can't be run can't be proven, and what can't be proven is left as it is.
        pipeline, bench = [], False
    outcome = manager.run(
        prepared,
        pipeline,
        Context(options, before.bytes),
        prove=None if reference is None else reference.parity,
        progress=progress,
        again=lambda: prepare(original, options),
    )
    after = cost(outcome.model)
    shapes.restore(outcome.model)
    failed = outcome.parity is not None and not outcome.parity.passed
    if output is not None and not failed:
        io.save(outcome.model, output, external=external, overwrite=overwrite)
    timing = None
    if bench and not failed:
        feeds = None if read is None else read(prepare(original, options))
        timing = _timing(source, outcome.model, feeds, options, providers, threads)
    report = Report(
        source=name_of(model),
        output="<memory>" if output is None else os.fspath(output),
        before=before,
        after=after,
        steps=outcome.steps,
        parity=outcome.parity,
        timing=timing,
        exactness=outcome.exactness,
        options=options,
        versions=Versions.here(providers[0]),
        notes=(*notes, *outcome.notes),
        seconds=time.perf_counter() - started,
    )
    return Result(outcome.model, report)


def validate(
    reference: io.Source,
    candidate: io.Source,
    *,
    level: Level | str = Level.CLOSE,
    data: Any = None,
    batch: int = 1,
    preprocess: str | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    providers: Sequence[str] = (CPU,),
    threads: int = 0,
) -> Parity:
    """Whether two models give the same outputs; `level` "exact" asks for the same bits.

    Feeds come from `data` (see check.data.read_data), or are made up from the reference's inputs.
    Raises OnnxoptError where the reference or the data is not usable.
    """
    from onnxopt.check.parity import parity

    read = _reader(data, batch, preprocess)
    exact = _level(level) is Level.EXACT
    return parity(
        reference,
        candidate,
        None if read is None else read(io.load(reference)),
        exactness=Exactness.EXACT if exact else Exactness.CLOSE,
        providers=providers,
        threads=threads,
        seed=seed,
        dims=dims,
        input_shapes=_shapes(input_shapes),
    )


def bench(
    models: Sequence[io.Source],
    *,
    data: Any = None,
    batch: int = 1,
    preprocess: str | None = None,
    seed: int = 0,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
    providers: Sequence[str] = (CPU,),
    threads: int = 0,
    seconds: float = 20.0,
    peak_memory: bool = False,
    progress: Callable[[float, str], None] | None = None,
) -> Timing:
    """How fast models run on onnxruntime, the first being the reference (see bench.timing.bench).

    Raises OnnxoptError where a model or the data is not usable.
    """
    from onnxopt.bench.timing import bench as time_models

    read = _reader(data, batch, preprocess)
    return time_models(
        models,
        feeds=None if read is None or not models else read(io.load(models[0])),
        providers=providers,
        threads=threads,
        seconds=seconds,
        peak_memory=peak_memory,
        dims=dims,
        input_shapes=_shapes(input_shapes),
        seed=seed,
        progress=progress,
    )


def inspect(
    model: io.Source,
    *,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, int] | None = None,
) -> Inspection:
    """What is in a model and what would block the optimizer. Raises OnnxoptError, see optimize."""
    from onnxopt.report.inspection import inspection

    original = io.load(model)
    options = Options(input_shapes=_shapes(input_shapes), dims=dict(dims or {}))
    file = io.file_info(model) if isinstance(model, str | os.PathLike) else None
    return inspection(original, prepare(original, options), source=name_of(model), file=file)


def prepare(model: ir.Model, options: Options) -> ir.Model:
    """A copy with the user's shapes bound, inputs frozen if asked, and facts inferred."""
    prepared = model.clone()
    if options.input_shapes or options.dims:
        from onnxopt.passes.dims import bind

        bind(prepared, options.input_shapes, options.dims)
    if options.freeze_inputs:
        freeze_inputs(prepared)
    if options.opset is not None:
        from onnxopt.passes.opset import raise_opset

        raise_opset(prepared, options.opset)
    shapes.keep_facts(prepared)
    return prepared


def _level(level: Level | str) -> Level:
    try:
        return Level(level)
    except ValueError:
        names = ", ".join(item.value for item in Level)
        raise BadInput(f"there is no level {level!r}", hint=f"choose one of {names}") from None


def _refuse_unknown(providers: Sequence[str]) -> None:
    """Raise BadInput for a wrong name of a provider: it must not be found out after the work."""
    if tuple(providers) != (CPU,):
        from onnxopt.runtime.providers import resolve

        resolve(providers)


def _reference(
    source: io.Source, original: ir.Model, options: Options, read: Reader | None, threads: int
) -> tuple[Reference | None, tuple[str, ...]]:
    """What the result is proven against; where the model can't be run none, and a note why."""
    from onnxopt.check.parity import Reference

    try:
        feeds = _feeds(prepare(original, options), options, read)
        return Reference(source, feeds, threads=threads), ()
    except RuntimeFailed as error:
        return None, (f"nothing was changed: {error.message}; --no-check rewrites without proof",)


def _timing(
    source: io.Source, made: ir.Model, feeds: Any, options: Options, providers: Sequence[str],
    threads: int,
) -> Timing:  # fmt: skip
    from onnxopt.bench.timing import bench as time_both

    return time_both(
        [source, made],
        names=("original", "optimized"),
        feeds=feeds,
        dims=options.dims,
        input_shapes=options.input_shapes,
        seed=options.seed,
        providers=providers,
        threads=threads,
    )


def _feeds(prepared: ir.Model, options: Options, read: Reader | None) -> Any:
    from onnxopt.check.feeds import synthesize

    if read is not None:
        return read(prepared)
    # The sizes the user chose are bound in the prepared model, where their names are gone.
    # Dims without a name must stay without: where they stand tells what they are.
    return synthesize(shapes.declared_copy(prepared), seed=options.seed)


def _reader(data: Any, batch: int, preprocess: str | None) -> Reader | None:
    """What reads the data for a model, None where there is none."""
    if data is None:
        if preprocess is not None:
            raise BadInput("there are no pictures to preprocess", hint="name them with --data")
        return None

    def read(model: ir.Model) -> Any:
        from onnxopt.check.data import read_data

        return read_data(data, model, batch, preprocess=preprocess)

    return read


def _shapes(given: Mapping[str, Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in (given or {}).items()}


def name_of(model: io.Source) -> str:
    """What a report calls a model: its path, or a word in angle brackets."""
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    return "<bytes>" if isinstance(model, bytes) else "<memory>"
