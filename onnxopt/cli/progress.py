"""A word on stderr about what is going on: on a terminal only, and gone when it is done."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

CLEAR = "\r\x1b[2K"
SOON = 5.0
"""What is done within so many seconds needs no forecast."""


class Progress:
    """One line that is written over; silent where stderr is no terminal or `quiet` is set."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._shown = not quiet and sys.stderr.isatty()
        self._start = (0.0, time.monotonic())
        self._share = 0.0

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
        """Show what is being done now and how much of it is done: 0 (not known) to 1."""
        if share <= self._share:
            # What comes next has begun.
            self._start = (share, time.monotonic())
        self._share = share
        self.say(f"{doing} {share:4.0%}{self._left(share)}" if share > 0 else doing)

    def _left(self, share: float) -> str:
        """The time that is left if it goes on as it went so far, where that is long."""
        begun, since = self._start
        gone = time.monotonic() - since
        if share <= begun or gone < SOON:
            return ""
        left = gone * (1 - share) / (share - begun)
        if left < SOON:
            return ""
        return f", {left:.0f} s left" if left < 100 else f", {left / 60:.0f} min left"
