"""What is shown while a command works, and that nothing of it is left."""

from __future__ import annotations

import sys
import time

import pytest

from onnxopt.cli.progress import CLEAR, Progress


class Clock:
    """Time as a test sets it."""

    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Clock:
    clock = Clock()
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    monkeypatch.setenv("COLUMNS", "80")
    return clock


def _shown(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.rpartition(CLEAR)[2]


def test_the_time_that_is_left_is_told_where_it_is_long(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress() as progress:
        progress.share(0.0, "calibrating")
        assert _shown(capsys) == "calibrating …"
        clock.now = 10.0
        progress.share(0.25, "calibrating")
        assert _shown(capsys) == "calibrating  25%, 30 s left …"
        clock.now = 36.0
        progress.share(0.9, "calibrating")
        assert _shown(capsys) == "calibrating  90% …"
        progress.share(0.1, "timing")
        clock.now = 56.0
        progress.share(0.2, "timing")
        assert _shown(capsys) == "timing  20%, 3 min left …"
    assert _shown(capsys) == ""


def test_quiet_is_quiet(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress.share(0.5, "calibrating")
    assert capsys.readouterr().err == ""
