"""`onnxopt`: finds the command, and turns what can go wrong into one clear message."""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import os
import signal
import sys
from typing import Any, NoReturn

import click

import onnxopt
from onnxopt.errors import OnnxoptError

COMMANDS = (
    "optimize",
    "quantize",
    "prune",
    "sparsify",
    "distill",
    "inspect",
    "validate",
    "bench",
    "diff",
    "lint",
    "rules",
)
MATRIX_WORK = frozenset({"prune", "--prune", "quantize", "--quantize"})
"""Words on the command line that ask for large systems to be solved in numpy."""
INTERRUPTED = 128 + signal.SIGINT
INTERNAL_ERROR = 3
DEBUG = "ONNXOPT_DEBUG"


class Commands(click.Group):
    """The commands by name; each module is imported only for its own command or the overview."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"onnxopt.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0].endswith(".onnx"):
            raise click.UsageError(
                f"name a command first: `onnxopt optimize {args[0]} -o OUT`", ctx
            )
        return super().resolve_command(ctx, args)


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(onnxopt.__version__, prog_name="onnxopt")
def cli() -> None:
    """Make ONNX models smaller and faster, and prove that nothing changed.

    Exit codes: 0 done, 1 the models do not agree or a promise was broken, 2 bad input.
    """


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    # Hundreds of thousands of long-lived objects are made in one go: with the default thresholds
    # the collector walks all of them again and again.
    gc.set_threshold(200_000, 20, 100)
    if not MATRIX_WORK.intersection(sys.argv[1:]):
        # The others multiply few and small matrices; a pool of threads costs more than it brings.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = run(sys.argv[1:])
    _leave(max(code, _flush()))


def _leave(code: int) -> NoReturn:
    """End the process at once: to take a model's objects down one by one takes a tenth of a second.

    What is registered to run at the end, such as removing temporary files, has run before.
    """
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)


def run(arguments: list[str]) -> int:
    """The exit code of one command; errors are printed to stderr, without a traceback."""
    try:
        result: Any = cli.main(arguments, prog_name="onnxopt", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except click.ClickException as error:
        error.show()
        return 2
    except OnnxoptError as error:
        show_error(error.message, error.hint)
        return error.exit_code
    except BrokenPipeError:
        return 0
    except (OSError, MemoryError) as error:
        show_error(str(error) or "out of memory")
        return 2
    except Exception as error:
        if _is_interrupt(error):
            return _interrupted()
        if os.environ.get(DEBUG):
            raise
        show_error(
            f"internal error: {type(error).__name__}: {error}",
            f"this is a bug in onnxopt: please report it; {DEBUG}=1 shows the traceback",
        )
        return INTERNAL_ERROR
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    click.echo("interrupted: no file was left half-written", err=True)
    return INTERRUPTED


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether an interrupt is behind the error: C++ modules turn one into an ImportError."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def show_error(message: str, hint: str = "") -> None:
    """What is wrong and what to do about it, on stderr."""
    click.secho("error: ", fg="red", bold=True, nl=False, err=True)
    click.echo(message, err=True)
    if hint:
        click.echo(f"  hint: {hint}", err=True)


def _flush() -> int:
    """Write out what is left; a reader that went away (`| head`) is no error, a full disk is."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at its end, and would complain itself.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            show_error(f"the output can't be written: {error.strerror}")
            return 2
    return 0
