"""A word on stderr about what is going on: on a terminal only, and gone when it is done."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType

CLEAR = "\r\x1b[2K"


class Progress:
    """One line that is written over; silent where stderr is no terminal or `quiet` is set."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._shown:
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def say(self, doing: str) -> None:
        """Show what is being done now."""
        if self._shown:
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write(f"{CLEAR}{f'{doing} …'[:width]}")
            sys.stderr.flush()

    def share(self, share: float, doing: str) -> None:
        """Show what is being done now and how much of it is done, 0 to 1."""
        self.say(f"{doing} {share:4.0%}")
