"""Every way to fail ends in one message, the right exit code and no traceback."""

from __future__ import annotations

import click
import pytest

from onnxopt.cli import main
from onnxopt.errors import BadInput, ParityFailed


def _import_error() -> ImportError:
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    return error


def _raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    @click.command()
    def command() -> None:
        raise error

    monkeypatch.setattr(main.Commands, "get_command", lambda *_: command)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (
            BadInput("no such dim", hint="see inspect"),
            2,
            "error: no such dim\n  hint: see inspect\n",
        ),
        (ParityFailed("they differ"), 1, "error: they differ\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (_import_error(), 130, "interrupted"),
        (MemoryError(), 2, "out of memory"),
        (OSError(28, "No space left on device"), 2, "No space left on device"),
        (ZeroDivisionError("oops"), 3, "internal error: ZeroDivisionError: oops"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_an_error_is_a_message_and_a_code(
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(main.DEBUG, raising=False)
    _raising(monkeypatch, error)
    assert main.run(["anything"]) == code
    printed = capsys.readouterr()
    assert words in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["optimise"], "No such command 'optimise'"),
        (["model.onnx"], "onnxopt optimize model.onnx -o OUT"),
        (["optimize"], "MODEL"),
        (["optimize", "m.onnx", "--level", "best"], "--level"),
        (["optimize", "m.onnx", "--dim", "batch"], "NAME=SIZE"),
        (["optimize", "m.onnx", "--dim", "n=1", "--dim", "n=2"], "--dim gives 'n' twice"),
        (["bench"], "A [B ...]"),
    ],
    ids=lambda item: " ".join(item) if isinstance(item, list) else None,
)
def test_a_command_that_is_not_understood(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    assert words in capsys.readouterr().err


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--version"]) == 0
    assert main.run(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in main.COMMANDS)


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([name, "-h"]) == 0
    assert f"onnxopt {name}" in capsys.readouterr().out
