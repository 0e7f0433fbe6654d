"""Prints a record: JSON, tables on a terminal, or Markdown that reads as plain text in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from onnxopt.cli.progress import Progress
from onnxopt.errors import BadInput, BadOutput
from onnxopt.report.page import Page

FACES = (".html", ".json", ".md")


@dataclass(frozen=True, slots=True)
class Telling:
    """What is told, and where: --report, --verbose, --quiet and --json.

    Raises BadInput or BadOutput for a report that could not be written.
    """

    reports: tuple[str, ...] = ()
    verbose: bool = False
    quiet: bool = False
    as_json: bool = False

    def __post_init__(self) -> None:
        for path in self.reports:
            check_face(path)

    @property
    def wants_html(self) -> bool:
        """Whether a report of every detail is to be written."""
        return any(path.lower().endswith(".html") for path in self.reports)

    def progress(self) -> Progress:
        """What shows how far the work is."""
        return Progress(quiet=self.quiet or self.as_json)

    def tell(self, record: object, page: Callable[..., Page]) -> None:
        """Write the reports and print the record; `page` takes it, and whether to say it all."""
        for path in self.reports:
            write_report(record, lambda: page(record, verbose=True), path)
        emit(
            record, lambda: page(record, verbose=self.verbose), as_json=self.as_json,
            quiet=self.quiet,
        )  # fmt: skip


def ended(passed: bool, what: str) -> int:
    """The exit code of a command; where a promise was broken, stderr says `what`."""
    if passed:
        return 0
    click.echo(f"error: {what}", err=True)
    return 1


def need_output(path: str | None) -> None:
    """Raise BadInput where a command that only writes has nowhere to write to."""
    if path is None:
        raise BadInput("there is nowhere to write the result to", hint="give -o OUT")


def emit(record: object, page: Callable[[], Page], *, as_json: bool, quiet: bool) -> None:
    """Print one record to standard output in the face that was asked for."""
    if as_json:
        from onnxopt.report.record import to_json

        click.echo(to_json(record))
    elif quiet:
        return
    elif sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from onnxopt.report import terminal

        terminal.show(page())
    else:
        from onnxopt.report.markdown import markdown

        click.echo(markdown(page()), nl=False)


def check_face(path: str) -> None:
    """Raise BadInput for a report file whose suffix names no face, before any work is done."""
    if Path(path).suffix.lower() not in FACES:
        raise BadInput(
            f"a report can't be written as {path!r}", hint="end it in .html, .md or .json"
        )
    folder = Path(path).parent
    if not folder.is_dir():
        raise BadOutput(f"there is no folder {str(folder)!r} for the report {Path(path).name}")


def write_report(record: object, page: Callable[[], Page], path: str) -> None:
    """Write the record to a file in the face its suffix names. Raises BadOutput if it can't."""
    write_text(path, _face(Path(path).suffix.lower(), record, page))


def write_text(path: str, text: str) -> None:
    """Write a text file, whole or not at all. Raises BadOutput if it can't be written."""
    from onnxopt.atomic import Files

    target = Path(path)
    if target.exists() and not target.is_file():
        # A pipe or a device can't be swapped for a file.
        try:
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadOutput(f"{path} can't be written: {error.strerror}") from error
        return
    with Files() as files:
        files.new(target).write(text.encode("utf-8"))
        files.commit()


def _face(suffix: str, record: object, page: Callable[[], Page]) -> str:
    if suffix == ".json":
        from onnxopt.report.record import to_json

        return to_json(record) + "\n"
    if suffix == ".html":
        from onnxopt.report.html import html

        return html(page())
    from onnxopt.report.markdown import markdown

    return markdown(page())
