"""Finds the object that `module:name` or `path/to/file.py:name` means."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxopt.errors import BadInput, RuleError


def load_object(spec: str) -> Any:
    """What `spec` names.

    The working directory becomes importable and stays so, for imports that happen later.

    Raises:
        BadInput: The spec is malformed, or names nothing that exists.
        RuleError: The module fails to import.
    """
    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        raise BadInput(
            f"{spec!r} does not name a pass",
            hint="write module:function, as in my_passes:drop_debug_outputs",
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            near = difflib.get_close_matches(part, [n for n in vars(module) if n[0] != "_"], 1)
            hint = f"did you mean {place}:{near[0]}?" if near else f"look into {module.__file__}"
            raise BadInput(f"{place!r} has no {attribute!r}", hint=hint)
        found = getattr(found, part)
    return found


def _load_module(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise BadInput(
                f"there is no module {name!r}",
                hint=f"run where {missing.partition('.')[0]}.py lies, or install its package",
            ) from error
        raise _failed_import(name, error) from error
    except Exception as error:
        raise _failed_import(name, error) from error


def _load_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise BadInput(
            f"there is no file {str(path)!r}", hint="the part before the colon is a path"
        )
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed_import(str(path), error) from error
    return module


def _failed_import(name: str, error: Exception) -> RuleError:
    return RuleError(
        f"{name!r} fails to import: {type(error).__name__}: {error}",
        hint="import it in Python by itself to see where",
    )
