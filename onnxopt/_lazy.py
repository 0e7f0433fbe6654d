"""Puts off what onnx and onnx_ir import and seldom use, most of all sympy.

onnx_ir imports sympy, which takes longer than all the rest of it, and asks nothing of it as long as
dims are numbers or plain names. While a host is imported, and only then, the modules named here
come as modules that run when they are first looked into.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.machinery import PathFinder
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec

HOSTS: dict[str, frozenset[str]] = {
    "onnx_ir": frozenset({"sympy", "onnx_ir._symbolic_shapes"}),
    "onnx": frozenset({"google.protobuf.json_format", "google.protobuf.text_format"}),
}
"""Which modules a host does not need in order to be imported."""


def put_off() -> None:
    """Arrange for the first import of each host to leave those modules aside."""
    if _FINDER not in sys.meta_path and not HOSTS.keys() <= sys.modules.keys():
        sys.meta_path.insert(0, _FINDER)


class _Finder:
    """Waits for the hosts, and answers for what is to be put off while one is imported."""

    def __init__(self) -> None:
        self.active: list[frozenset[str]] = []

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        later = any(name in names for names in self.active)
        if not later and name not in HOSTS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            wrapper = _Later(spec.loader) if later else _Host(spec.loader, HOSTS[name])
            spec.loader = wrapper  # type: ignore[assignment]
        return spec


_FINDER = _Finder()


class _Host:
    """Loads a host, with its modules put off meanwhile."""

    def __init__(self, loader: Loader, names: frozenset[str]) -> None:
        self._loader = loader
        self._names = names

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        _hand_back(module, self._loader)
        _FINDER.active.append(self._names)
        try:
            self._loader.exec_module(module)
        finally:
            _FINDER.active.remove(self._names)
            done = not _FINDER.active and HOSTS.keys() <= sys.modules.keys()
            if done and _FINDER in sys.meta_path:
                sys.meta_path.remove(_FINDER)


class _Later:
    """Makes a module that is loaded when something is asked of it."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _LaterModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        _hand_back(module, self._loader)
        module.__dict__[_PENDING] = _Pending(module, self._loader)


_PENDING = "_onnxopt_pending"


class _LaterModule(ModuleType):
    # Only what the module lacks comes here: its name, spec and file are there from the start.
    def __getattr__(self, name: str) -> object:
        pending = self.__dict__.get(_PENDING)
        if pending is not None and not pending.load():
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r} yet")
        return ModuleType.__getattribute__(self, name)


class _Pending:
    def __init__(self, module: ModuleType, loader: Loader) -> None:
        self._module = module
        self._loader = loader
        self._lock = threading.RLock()
        self._running = False
        # Without a path, importing a part of the package asks for the whole first.
        self._path = module.__dict__.pop("__path__", None)

    def load(self) -> bool:
        """Load the module; False if this thread is at it already."""
        with self._lock:
            if self._running:
                return False
            if type(self._module) is not _LaterModule:
                return True
            self._running = True
            try:
                if self._path is not None:
                    self._module.__dict__["__path__"] = self._path
                self._loader.exec_module(self._module)
                self._module.__class__ = ModuleType  # type: ignore[assignment]
                del self._module.__dict__[_PENDING]
            finally:
                self._running = False
            return True


def _hand_back(module: ModuleType, loader: Loader) -> None:
    """Show the module as its own loader would have made it."""
    module.__loader__ = loader
    if module.__spec__ is not None:
        module.__spec__.loader = loader
