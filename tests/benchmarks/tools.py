"""The optimizers that are compared, each as the command a user types."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

_ONNXSCRIPT = (
    "import sys, onnx, onnxscript.optimizer as o;"
    "onnx.save(o.optimize(onnx.load(sys.argv[1])), sys.argv[2])"
)


@dataclass(frozen=True, slots=True)
class Tool:
    """An optimizer: its name in the tables and its command from source to target."""

    name: str
    command: Callable[[Path, Path], list[str]]


def script(name: str) -> str:
    """A command that is installed beside this interpreter, or the bare name."""
    path = Path(sys.executable).with_name(name)
    return str(path) if path.is_file() else name


def onnxopt(command: str | None = None, *, freeze_inputs: bool = False) -> Tool:
    """This project, with proof and timing left out, as `command` or as it is installed here."""
    installed = script("onnxopt")
    default = [installed] if Path(installed).is_file() else [sys.executable, "-m", "onnxopt"]
    start = shlex.split(command) if command else default
    end = ["--no-check", "--no-bench", *(["--freeze-inputs"] if freeze_inputs else [])]
    return Tool("onnxopt", lambda a, b: [*start, "optimize", str(a), "-o", str(b), *end])


ONNXSIM = Tool("onnxsim", lambda a, b: [script("onnxsim"), str(a), str(b)])
ONNXSLIM = Tool("OnnxSlim", lambda a, b: [script("onnxslim"), str(a), str(b)])
ONNXSCRIPT = Tool("onnxscript", lambda a, b: [sys.executable, "-c", _ONNXSCRIPT, str(a), str(b)])
RIVALS = (ONNXSIM, ONNXSLIM, ONNXSCRIPT)


def versions() -> dict[str, str]:
    """The installed versions of the rivals and of what they all run on."""
    names = ("onnx", "onnxruntime", "onnx-ir", "onnxsim", "onnxslim", "onnxscript")
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            raise SystemExit(f"{name} is not installed: pip install 'onnxopt[bench]'") from None
    return found
