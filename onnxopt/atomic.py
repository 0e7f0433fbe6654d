"""Writes files that appear whole or not at all, several of them as one."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from onnxopt.errors import BadOutput

_HINT = "choose a folder that you may write to and that has room"


class Files:
    """Files under way, each in a temporary beside its place. Without `commit` they vanish."""

    def __init__(self) -> None:
        self._pairs: list[tuple[Path, Path]] = []
        self._open: list[BinaryIO] = []

    def __enter__(self) -> Files:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._open:
            with contextlib.suppress(OSError):
                file.close()
        for temporary, _ in self._pairs:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):
            path = self._pairs[-1][1] if self._pairs else error.filename
            raise BadOutput(f"{path} can't be written: {error.strerror or error}", hint=_HINT)

    def new(self, path: Path) -> BinaryIO:
        """A file to write, which takes its place at `commit`."""
        temporary = _beside(path, "part")
        self._pairs.append((temporary, path))
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(temporary, "xb", buffering=1 << 20)  # noqa: SIM115 - closed by the caller
        self._open.append(file)
        return file

    def commit(self) -> None:
        """Put all files in their places. The one that was made last speaks for the others.

        It is taken away first and comes back last, so that at no moment a new file of the set
        stands beside an old one under their final names. If anything fails in between, the old
        files come back.
        """
        for file in self._open:
            file.close()
        for temporary, path in self._pairs:
            if path.exists():
                shutil.copymode(path, temporary)
        if len(self._pairs) == 1:
            os.replace(*self._pairs[0])
        else:
            self._swap()
        self._pairs.clear()

    def _swap(self) -> None:
        saved: list[tuple[Path, Path]] = []
        placed: list[Path] = []
        try:
            for _, path in reversed(self._pairs):
                if path.exists():
                    backup = _beside(path, "old")
                    saved.append((backup, path))
                    os.replace(path, backup)
            for temporary, path in self._pairs:
                placed.append(path)
                os.replace(temporary, path)
        except BaseException:
            for path in placed:
                with contextlib.suppress(OSError):
                    path.unlink()
            for backup, path in reversed(saved):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(backup, path)
            raise
        for backup, _ in saved:
            backup.unlink()


def _beside(path: Path, kind: str) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.{kind}")
