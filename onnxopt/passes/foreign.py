"""Passes written for other tools: they run here, and are held to the same proof as ours.

`graphsurgeon_pass` adapts a function that edits a graphsurgeon graph, `foreign_pass` anything else
that rewrites a model, `load_pass` what `--pass module:function` names.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, overload

import onnx
import onnx_ir as ir

from onnxopt import io
from onnxopt.config import Exactness
from onnxopt.errors import RuleError
from onnxopt.passes.base import Context, Pass, PassResult, Refusal
from onnxopt.passes.foreign_load import load_object
from onnxopt.passes.foreign_restore import restore, with_listed
from onnxopt.passes.foreign_result import (
    INITIALIZERS_STAND_ALONE,
    fingerprint,
    raised_past_listing,
    replace_contents,
)
from onnxopt.passes.foreign_tensors import same_tensor
from onnxopt.passes.shapes import declared_copy

Kind = Literal["graphsurgeon", "onnx", "onnx_ir"]

_ACCEPTED = (
    "a pass is a function that edits a graphsurgeon Graph, an onnx ModelProto or an onnx_ir Model "
    "(annotate its argument), an onnx_ir pass, an onnxscript rewrite rule set, or a onnxopt Pass"
)


@dataclass(frozen=True, slots=True)
class GraphsurgeonPass:
    """Runs a function over a graphsurgeon graph and brings back what graphsurgeon drops.

    `function` takes a `gs.Graph` and edits it, or returns the one to use instead. `exactness` says
    how far it may move the numbers. Calling the pass calls the function.
    """

    function: Callable[..., Any]
    name: str
    exactness: Exactness = Exactness.CLOSE

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.function(*arguments, **options)

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Edit the model in place.

        Raises:
            BadModel: What came back can't be a model.
            RuleError: The function returned something other than a graph.
        """
        from onnxopt.passes.foreign_export import export_model
        from onnxopt.passes.foreign_graph import is_graph
        from onnxopt.passes.foreign_import import import_model

        graph = import_model(model)
        with _output_to_stderr():
            edited = self.function(graph)
        edited = graph if edited is None else edited
        if not is_graph(edited):
            raise RuleError(
                f"pass {self.name!r} returned a {type(edited).__name__}, not a graph",
                hint="return the graphsurgeon Graph, or None after editing it in place",
            )
        result = export_model(edited, model)
        restore(model, result)
        return _finish(self, model, result, _default_notes(model))


@dataclass(frozen=True, slots=True)
class ProtoPass:
    """Runs a `ModelProto -> ModelProto` tool and keeps the model's own tensors where it can.

    `function` may also return `(proto, ok)` as onnxsim does, an object with the proto in `.model`
    as onnxruntime's transformers optimizer does, or None after editing in place.
    """

    function: Callable[..., Any]
    name: str
    exactness: Exactness = Exactness.CLOSE

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Edit the model in place.

        Raises:
            BadModel: The model is too large for one proto, or the result can't be read.
            RuleError: The function returned something other than a model.
        """
        proto = io.to_proto(declared_copy(model))
        _hide_defaults(model, proto)
        with _output_to_stderr():
            returned = self.function(proto)
        if isinstance(returned, tuple) and len(returned) == 2 and returned[1] is False:
            refusal = Refusal(self.name, "", "the tool's own check of its result failed")
            return PassResult(changed=False, refusals=(refusal,))
        result = _as_model(returned, proto, self.name)
        _put_back(model, result)
        restore(model, result)
        return _finish(self, model, result, _default_notes(model))


@dataclass(frozen=True, slots=True)
class IrPass:
    """Runs a callable over the `ir.Model` itself.

    `function` edits the model, or returns the one to use, or an `ir.passes.PassResult`, or how
    many rewrites it applied.
    """

    function: Callable[[ir.Model], Any]
    name: str
    exactness: Exactness = Exactness.CLOSE

    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Edit the model in place.

        Raises:
            RuleError: The function returned something other than a model, a result or a count.
        """
        original = model.clone()
        with _output_to_stderr():
            returned = self.function(model)
        if isinstance(returned, ir.passes.PassResult):
            returned = returned.model
        count = returned if isinstance(returned, int) else 1
        if not (returned is None or isinstance(returned, (int, ir.Model))):
            raise RuleError(
                f"pass {self.name!r} returned a {type(returned).__name__}, not a model",
                hint="return the ir.Model, or None after editing it in place",
            )
        result = returned if isinstance(returned, ir.Model) else model
        restore(original, result)
        changed = fingerprint(original) != fingerprint(result)
        if result is not model:
            replace_contents(model, result)
        return PassResult(changed, {self.name: count} if changed else {}, exactness=self.exactness)


@overload
def graphsurgeon_pass(function: Callable[..., Any], /) -> GraphsurgeonPass: ...


@overload
def graphsurgeon_pass(
    function: None = None, /, *, name: str | None = None, exactness: Exactness = Exactness.CLOSE
) -> Callable[[Callable[..., Any]], GraphsurgeonPass]: ...


@overload
def graphsurgeon_pass(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    exactness: Exactness = Exactness.CLOSE,
) -> GraphsurgeonPass: ...


def graphsurgeon_pass(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    exactness: Exactness = Exactness.CLOSE,
) -> GraphsurgeonPass | Callable[[Callable[..., Any]], GraphsurgeonPass]:
    """A pass from a function over a graphsurgeon graph; a decorator, with or without options.

    Args:
        function: Takes a `gs.Graph`; edits it in place or returns the one to use.
        name: What reports call the pass; the function's own name by default.
        exactness: How far the function may move the numbers.
    """
    if function is None:
        return functools.partial(graphsurgeon_pass, name=name, exactness=exactness)
    return GraphsurgeonPass(function, name or _name_of(function), exactness)


def foreign_pass(
    obj: Any,
    name: str | None = None,
    *,
    kind: Kind | None = None,
    exactness: Exactness = Exactness.CLOSE,
) -> Pass:
    """A pass from whatever rewrites models elsewhere.

    Args:
        obj: A pass of ours (comes back as it is), a pass of onnx_ir, a rewrite rule set of
            onnxscript, or a function over a `ModelProto`, an `ir.Model` or a `gs.Graph`. What a
            function takes is read from the annotation of its first argument; one without is
            taken for graphsurgeon's. A class is called without arguments first.
        name: What reports call the pass.
        kind: What a function without annotations takes.
        exactness: How far it may move the numbers.

    Raises:
        RuleError: `obj` is none of these.
    """
    if inspect.isclass(obj):
        obj = _instance(obj)
    if isinstance(obj, Pass) and not isinstance(obj, ir.passes.PassBase):
        return obj
    title = name or _name_of(obj)
    if isinstance(obj, ir.passes.PassBase):
        return IrPass(obj, title, exactness)
    if hasattr(obj, "apply_to_model"):
        return IrPass(obj.apply_to_model, title, exactness)
    if not callable(obj):
        raise RuleError(f"a {type(obj).__name__} is not a pass", hint=_ACCEPTED)
    kind = kind or _kind_of(obj)
    if kind == "graphsurgeon":
        return GraphsurgeonPass(obj, title, exactness)
    return (ProtoPass if kind == "onnx" else IrPass)(obj, title, exactness)


def load_pass(spec: str) -> Pass:
    """The pass that `module:function` (or `path/to/file.py:function`) names.

    Modules are also looked for in the working directory, which stays importable so that the pass
    can import its neighbours later.

    Raises:
        BadInput: The spec is malformed, or names nothing that exists.
        RuleError: The module fails to import, or what is named is not a pass.
    """
    return foreign_pass(load_object(spec))


def _finish(
    ran: GraphsurgeonPass | ProtoPass, model: ir.Model, result: ir.Model, notes: tuple[str, ...]
) -> PassResult:
    changed = fingerprint(model) != fingerprint(result)
    replace_contents(model, result)
    hits = {ran.name: 1} if changed else {}
    return PassResult(changed, hits, exactness=ran.exactness, notes=notes)


def _default_notes(model: ir.Model) -> tuple[str, ...]:
    count = len(_overridable(model))
    if not count:
        return ()
    return (
        f"{count} initializers are also graph inputs and were shown as inputs without data; "
        "--freeze-inputs makes them constants",
    )


def _overridable(model: ir.Model) -> dict[str, ir.Value]:
    if (model.ir_version or 0) < INITIALIZERS_STAND_ALONE:
        return {}
    listed = model.graph.inputs
    return {value.name: value for value in listed if value.name and value.is_initializer()}


def _hide_defaults(model: ir.Model, proto: onnx.ModelProto) -> None:
    # Tools take an initializer for a constant even where a caller may feed something else.
    hidden = _overridable(model)
    kept = [tensor for tensor in proto.graph.initializer if tensor.name not in hidden]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def _as_model(returned: Any, proto: onnx.ModelProto, name: str) -> ir.Model:
    if isinstance(returned, tuple) and returned:
        returned = returned[0]
    if returned is None:
        returned = proto
    if not isinstance(returned, (onnx.ModelProto, ir.Model)):
        returned = getattr(returned, "model", returned)
    if not isinstance(returned, (onnx.ModelProto, ir.Model)):
        raise RuleError(
            f"pass {name!r} returned a {type(returned).__name__}, not a model",
            hint="return the ModelProto, or None after editing it in place",
        )
    return io.load(returned)


def _put_back(original: ir.Model, result: ir.Model) -> None:
    """Undo what tools do to a model as a whole: inputs, tensors, versions, producers."""
    if result.opset_imports == original.opset_imports:
        result.ir_version = original.ir_version
    result.producer_name = original.producer_name
    result.producer_version = original.producer_version
    result.graph.name = original.graph.name
    _put_back_initializers(original.graph, result.graph)
    if raised_past_listing(original, result.ir_version):
        inputs = result.graph.inputs
        inputs[:] = [value for value in inputs if not value.is_initializer()]
    if (result.ir_version or 0) < INITIALIZERS_STAND_ALONE:
        for graph in (result.graph, *result.graph.subgraphs()):
            _store_in_nodes(graph)


def _put_back_initializers(original: ir.Graph, result: ir.Graph) -> None:
    stored = dict(result.initializers)
    inputs = {value.name: value for value in result.inputs}
    listed = []
    for name, known in original.initializers.items():
        if known.is_graph_input():
            # One that is an input is part of the interface, whatever the tool made of it.
            value = inputs.pop(name, None) or stored.get(name) or _like(known)
            value.const_value = value.const_value or known.const_value
            stored[name] = value
            listed.append(value)
        before, now = known.const_value, stored[name].const_value if name in stored else None
        if before is not None and now is not None and same_tensor(before, now):
            stored[name].const_value = before
    result.inputs[:] = with_listed(list(inputs.values()), listed, original)
    # Those that were there keep their order; what the tool added follows.
    known_order = [name for name in original.initializers if name in stored]
    result.initializers.clear()
    for name in [*known_order, *(n for n in stored if n not in original.initializers)]:
        result.initializers.add(stored[name])


def _like(value: ir.Value) -> ir.Value:
    return ir.Value(
        name=value.name, type=value.type, shape=value.shape, const_value=value.const_value
    )


def _store_in_nodes(graph: ir.Graph) -> None:
    """Make a node of each initializer that is not an input, for which the format has no room."""
    for name, value in list(graph.initializers.items()):
        if value.is_graph_input() or value.const_value is None:
            continue
        del graph.initializers[name]
        node = ir.node("Constant", [], {"value": value.const_value})
        made = node.outputs[0]
        made.type, made.shape = value.type, value.shape
        ir.convenience.replace_all_uses_with(value, made, replace_graph_outputs=True)
        value.name, made.name = None, name
        first = next(iter(graph), None)
        if first is None:
            graph.append(node)
        else:
            graph.insert_before(first, node)


@contextlib.contextmanager
def _output_to_stderr() -> Iterator[None]:
    # Foreign tools print tables; what we print to stdout is the report and nothing else.
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _kind_of(function: Callable[..., Any]) -> Kind:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return "graphsurgeon"
    annotation = parameters[0].annotation if parameters else inspect.Parameter.empty
    text = annotation if isinstance(annotation, str) else f"{annotation!r}"
    if "ModelProto" in text:
        return "onnx"
    words = ("ir.Model", "onnx_ir.Model", "onnx_ir._core.Model")
    return "onnx_ir" if any(word in text for word in words) else "graphsurgeon"


def _name_of(obj: Any) -> str:
    while isinstance(obj, functools.partial):
        obj = obj.func
    return getattr(obj, "__name__", None) or type(obj).__name__


def _instance(kind: type) -> Any:
    try:
        return kind()
    except TypeError as error:
        raise RuleError(
            f"{kind.__name__} can't be made without arguments: {error}",
            hint="make the pass in the module and name the instance",
        ) from error
