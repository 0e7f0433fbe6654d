"""What onnxruntime says of the ONNX backend suite before is what it says after.

Every model of the suite that onnxruntime runs goes through the optimizer as it is, with all dims
symbolic, with all inputs but the first made constants, and with all of them made constants, so that
there is something to fold. Nothing may come out wrong, fail to load or run, raise, or newly fail
the checker.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import corpus
import onnx
import pytest

import onnxopt.api
from onnxopt.check.compare import measure, measure_types
from onnxopt.config import Exactness

CHUNKS = 40


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_suite_means_the_same_after_the_optimizer(chunk: int) -> None:
    verdicts = list(verdicts_of(corpus.cases()[chunk::CHUNKS]))
    failures = [verdict for verdict in verdicts if verdict]
    assert not failures, "\n".join(failures)
    assert len(verdicts) >= 100, "onnxruntime runs only a part of what it used to"


def verdicts_of(cases: Iterable[corpus.Case]) -> Iterator[str]:
    """For each model that onnxruntime runs, a line on what came out wrong, or an empty one."""
    for case in cases:
        model, feeds = case.model(), case.feeds()
        for title, given, left in _variants(model, feeds):
            fault = fault_of(given, left, case.deterministic())
            if fault is not None:
                yield f"{case.name}, {title}: {fault}" if fault else ""


def _variants(
    model: onnx.ModelProto, feeds: corpus.Feeds
) -> Iterator[tuple[str, onnx.ModelProto, corpus.Feeds]]:
    yield "as it is", model, feeds
    if feeds:
        yield "dims symbolic", _with_symbolic_dims(model), feeds
        yield "all inputs frozen", *corpus.frozen(model, feeds, keep_first=False)
    if len(feeds) > 1:
        yield "first input kept", *corpus.frozen(model, feeds, keep_first=True)


def _with_symbolic_dims(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a name in the place of every dim that its inputs and outputs declare."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    held = {tensor.name for tensor in model.graph.initializer}
    for info in (*result.graph.input, *result.graph.output):
        for axis, dim in enumerate(_tensor_type(info.type).shape.dim):
            if info.name not in held:
                dim.dim_param = f"{info.name}_{axis}"
    return result


def _tensor_type(type_: onnx.TypeProto) -> onnx.TypeProto.Tensor:
    while (kind := type_.WhichOneof("value")) in ("sequence_type", "optional_type"):
        type_ = getattr(type_, kind).elem_type
    return type_.tensor_type


def fault_of(model: onnx.ModelProto, feeds: corpus.Feeds, deterministic: bool) -> str | None:
    """What is wrong with the optimized model, empty where nothing is; None if the given one can't
    run."""
    expected = corpus.run(model, feeds)
    if expected is None:
        return None
    valid = is_valid(model)
    try:
        optimized = onnxopt.api.optimize(model, check=False, bench=False).proto
    except Exception as error:  # any exception at all is the failure that is looked for
        return f"raised {type(error).__name__}: {error}"
    found = corpus.run(optimized, feeds)
    if found is None:
        return "no longer loads or runs"
    if valid and not is_valid(optimized):
        return "newly fails the checker"
    for info, left, right in zip(model.graph.output, expected, found, strict=True):
        if deterministic:
            result = measure(left, right, Exactness.CLOSE)
        else:
            result = measure_types(left, right, shapes=True)
        if not result.passed:
            return f"output {info.name!r}: {result.reason}"
    return ""


def is_valid(model: onnx.ModelProto) -> bool:
    """Whether onnx.checker has nothing to say against the model."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception:  # the checker raises several unrelated classes
        return False
    return True
