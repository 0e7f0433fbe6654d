"""What is shown while a command works, and that nothing of it is left."""

from __future__ import annotations

import io
import sys
import time

import pytest

from onnxopt.cli.progress import CLEAR, Progress


class Terminal(io.StringIO):
    """A terminal of 80 columns, and the time as a test sets it."""

    now = 0.0

    def isatty(self) -> bool:
        return True

    @property
    def line(self) -> str:
        """What stands on the line now."""
        return self.getvalue().rpartition(CLEAR)[2]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    terminal = Terminal()
    monkeypatch.setattr(time, "monotonic", lambda: terminal.now)
    monkeypatch.setenv("COLUMNS", "80")
    return terminal


def test_the_time_that_is_left_is_told_where_it_is_long(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress() as progress:
        progress.share(0.0, "calibrating")
        assert terminal.line == "calibrating …"
        terminal.now = 10.0
        progress.share(0.25, "calibrating")
        assert terminal.line == "calibrating  25%, 30 s left …"
        terminal.now = 36.0
        progress.share(0.9, "calibrating")
        assert terminal.line == "calibrating  90% …"
        progress.share(0.1, "timing")
        terminal.now = 56.0
        progress.share(0.2, "timing")
        assert terminal.line == "timing  20%, 3 min left …"
    assert terminal.line == ""


def test_quiet_is_quiet(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(quiet=True) as progress:
        progress.share(0.5, "calibrating")
    assert terminal.getvalue() == ""
