"""Finds rules: every pack behind the entry point group `onnxopt.rules`, the built-in one first."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from importlib import metadata
from types import GenericAlias, ModuleType

from onnxopt.errors import BadInput, RuleError
from onnxopt.rewrite.engine import CompiledRule, compile_rule
from onnxopt.rewrite.rule import Rule
from onnxopt.rewrite.specs import ChannelFlow, QuantSpec

GROUP = "onnxopt.rules"
BUILTIN = "onnxopt_rules"


@functools.cache
def rules() -> dict[str, CompiledRule]:
    """Every rule by name, sorted. Raises RuleError naming a pack or rule that can't be loaded."""
    found: dict[str, CompiledRule] = {}
    for pack in packs():
        for rule in _rules_of(pack):
            compiled = compile_rule(rule)
            known = found.get(compiled.name)
            if known is not None and type(known.rule) is not type(rule):
                raise RuleError(
                    f"two rules are called {compiled.name!r}: one in"
                    f" {type(known.rule).__module__}, one in {type(rule).__module__}"
                )
            found[compiled.name] = compiled
    return dict(sorted(found.items()))


@functools.cache
def quant_specs() -> dict[str, QuantSpec]:
    """How each operator is quantized, by op type. Raises RuleError where two specs claim one."""
    found: dict[str, QuantSpec] = {}
    for module in (module for pack in packs() for module in _modules(pack)):
        for item in vars(module).values():
            for op_type in item.op_types if isinstance(item, QuantSpec) else ():
                if found.setdefault(op_type, item) is not item:
                    raise RuleError(f"two specs say how {op_type} is quantized: {module.__name__}")
    return dict(sorted(found.items()))


@functools.cache
def channel_flows() -> dict[tuple[str, str], ChannelFlow]:
    """How channels pass each operator, by domain ("" is the standard one) and op type.

    Raises RuleError where two records claim one operator.
    """
    found: dict[tuple[str, str], ChannelFlow] = {}
    for module in (module for pack in packs() for module in _modules(pack)):
        for item in vars(module).values():
            for op_type in item.op_types if isinstance(item, ChannelFlow) else ():
                if found.setdefault((item.domain, op_type), item) is not item:
                    raise RuleError(f"two records say how {op_type} is pruned: {module.__name__}")
    return dict(sorted(found.items()))


def packs() -> list[str]:
    """The packages that hold rules: the built-in one, then third-party ones by entry point name."""
    entries = sorted(metadata.entry_points(group=GROUP), key=lambda entry: entry.name)
    others = dict.fromkeys(entry.value for entry in entries if entry.value != BUILTIN)
    return [BUILTIN, *others]


def select(only: Iterable[str] = (), disable: Iterable[str] = ()) -> list[CompiledRule]:
    """The rules the user asked for. Raises BadInput for a name that no rule has."""
    known = rules()
    wanted, unwanted = set(only), set(disable)
    return [
        compiled
        for name, compiled in known.items()
        if (not wanted or name in wanted) and name not in unwanted
    ]


def check_names(names: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raise BadInput for the first name that is neither a rule nor one of `others` (passes)."""
    known = [*rules(), *others]
    for name in names:
        if name in known:
            continue
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise BadInput(f"no rule or pass is called {name!r}", hint=f"{guess}see `onnxopt rules`")


def _rules_of(pack: str) -> Iterator[Rule]:
    for module in _modules(pack):
        for _, item in sorted(vars(module).items()):
            if _is_rule_of(item, module):
                yield item()


def _is_rule_of(item: object, module: ModuleType) -> bool:
    # To Python 3.10 an alias such as list[int] is a class too.
    return (
        inspect.isclass(item)
        and not isinstance(item, GenericAlias)
        and issubclass(item, Rule)
        and not inspect.isabstract(item)
        and item.__module__ == module.__name__
        and not item.__name__.startswith("_")
    )


def _modules(pack: str) -> Iterator[ModuleType]:
    name = pack
    try:
        package = importlib.import_module(pack)
        yield package
        for info in sorted(pkgutil.iter_modules(getattr(package, "__path__", [])), key=_by_name):
            name = f"{pack}.{info.name}"
            yield importlib.import_module(name)
    except Exception as error:
        raise RuleError(
            f"the rule pack {pack!r} can't be imported: {name} raised"
            f" {type(error).__name__}: {error}",
            hint="mend or uninstall it; leaving its rules out silently would change results",
        ) from error


def _by_name(info: pkgutil.ModuleInfo) -> str:
    return info.name
