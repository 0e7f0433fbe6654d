"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import click

from onnxopt.cli.output import Telling
from onnxopt.errors import BadInput

Command = TypeVar("Command", bound=Callable[..., Any])
Decorator: TypeAlias = "Callable[[Any], Any]"
Shape = tuple[int, ...]

FORMS = (
    ".npz (keys are input names), .npy, a folder of them, a folder of pictures with --preprocess,"
    " or a function that gives dicts"
)
"""What --data may be."""
APART = f"Samples of real inputs, no labels: {FORMS}. A fifth is kept apart to measure on."


def input_shape(text: str) -> tuple[str, Shape]:
    """`x:1,3,224,224` as ("x", (1, 3, 224, 224)); the name may hold colons itself."""
    name, colon, dims = text.rpartition(":")
    sizes = dims.split(",") if dims else []
    if not colon or not name or not all(size.strip().isdecimal() for size in sizes):
        raise click.BadParameter(f"{text!r} is not NAME:D,D,... such as x:1,3,224,224")
    return name, tuple(map(int, sizes))


def dim(text: str) -> tuple[str, int]:
    """`batch=1` as ("batch", 1)."""
    name, equals, size = text.rpartition("=")
    if not equals or not name or not size.isdecimal():
        raise click.BadParameter(f"{text!r} is not NAME=SIZE such as batch=1")
    return name, int(size)


def share(text: str) -> float:
    """`3%` or `0.03` as 0.03."""
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise click.BadParameter(f"{text!r} is not a share such as 3% or 0.03")
    return number


def once(pairs: Iterable[tuple[str, Any]], option: str) -> dict[str, Any]:
    """The pairs as a dict. Raises BadInput where one name is given two different values."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if found.setdefault(name, value) != value:
            raise BadInput(
                f"{option} gives {name!r} twice: {found[name]} and {value}",
                hint="leave one of them out",
            )
    return found


def labels(path: str | None) -> Any:
    """The class of each sample, from an .npy. Raises BadInput where there is none."""
    if path is None:
        return None
    from onnxopt.check.arrays import read_npy

    if not Path(path).is_file() or Path(path).suffix != ".npy":
        raise BadInput(f"there are no labels at {path}", hint="save them with numpy.save")
    return read_npy(Path(path))


def group(*decorators: Decorator) -> Callable[[Command], Command]:
    """Several options as one decorator; the help shows them in this order."""

    def decorated(command: Command) -> Command:
        for decorate in reversed(decorators):
            command = decorate(command)
        return command

    return decorated


def model_path(name: str) -> Decorator:
    """An argument that is the path of a model; whether it can be read is the loader's word."""
    return click.argument(name, type=click.Path(), metavar=name.upper())


shapes = group(
    click.option(
        "--input-shape",
        "input_shapes",
        type=input_shape,
        metavar="NAME:D,D,...",
        multiple=True,
        callback=lambda _, __, pairs: once(pairs, "--input-shape"),
        help="Shape of an input, such as x:1,3,224,224; repeatable.",
    ),
    click.option(
        "--dim",
        "dims",
        type=dim,
        metavar="NAME=SIZE",
        multiple=True,
        callback=lambda _, __, pairs: once(pairs, "--dim"),
        help="Size of a symbolic dim, such as batch=1; repeatable.",
    ),
)
"""--input-shape and --dim, as mappings."""

freeze_inputs = click.option(
    "--freeze-inputs",
    is_flag=True,
    help="Make initializers that are also inputs constants, and inputs no longer.",
)

batch = click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Samples a run takes from --data.",
)

preprocess = click.option(
    "--preprocess",
    metavar="PRESET|MODULE:FUNCTION",
    help="How pictures become inputs: imagenet, unit (0 to 1), symmetric (-1 to 1) or raw, with"
    " options such as unit,resize=256,crop=224,mean=0.5,std=0.2,bgr; or a function of uint8"
    " pixels (height, width, 3).",
)

seed = click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Seed of made inputs.",
)


def data(help_text: str, metavar: str = "PATH|MODULE:FUNCTION") -> Decorator:
    """--data with what it means to the command, --batch, --preprocess and --seed."""
    return group(click.option("--data", metavar=metavar, help=help_text), preprocess, batch, seed)


feeds = data(f"Inputs to run on: {FORMS}. Without it, inputs are made from the model's signature.")
"""What the models are run on."""

threads = click.option(
    "--threads",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Threads of a session; 0 leaves it to onnxruntime.",
)

runtime = group(
    click.option(
        "--provider",
        "providers",
        multiple=True,
        default=("CPUExecutionProvider",),
        show_default=False,
        metavar="NAME",
        help="onnxruntime execution provider, such as cuda; repeatable, in order of preference."
        " Without it, cpu.",
    ),
    threads,
)
"""--provider and --threads: where the models run."""


def measuring(allowed: str, cls: type[click.Option] = click.Option) -> Decorator:
    """--metric, --labels and --max-drop; `allowed` is the help of the last."""
    return group(
        click.option(
            "--metric",
            default="auto",
            show_default=True,
            metavar="NAME|MODULE:FUNCTION",
            help="How loss is measured: top1, agreement, sqnr, cosine, or a function of outputs and"
            " feeds that gives more for better; auto takes agreement for scores of classes, else"
            " sqnr.",
            cls=cls,
        ),
        click.option(
            "--labels",
            metavar="PATH",
            callback=lambda _, __, path: labels(path),
            help="For top1: an .npy with the class of each sample.",
            cls=cls,
        ),
        click.option("--max-drop", type=share, metavar="SHARE", help=allowed, cls=cls),
    )


NO_LIMIT = "Write nothing where more is lost, such as 2%; without it anything goes."


def plans(cls: type[click.Option] = click.Option) -> Decorator:
    """--plan-only and --plan."""
    return group(
        click.option(
            "--plan-only", metavar="PATH", help="Write the plan as JSON, and stop.", cls=cls
        ),
        click.option(
            "--plan",
            metavar="PATH",
            help="Carry out this plan, as --plan-only wrote it.",
            cls=cls,
        ),
    )


def keep(what: str) -> Decorator:
    """--keep with what it does to what is named."""
    return click.option(
        "--keep",
        multiple=True,
        metavar="NAME",
        help=f"{what}; patterns such as '*head*'; repeatable.",
    )


written = click.option("-o", "--output", metavar="PATH", help="Where to write the result.")

overwrite = click.option(
    "--overwrite", is_flag=True, help="Let the output take the place of the input."
)

saving = group(
    click.option(
        "--external",
        type=click.Choice(["keep", "inline", "file"]),
        default="keep",
        show_default=True,
        help="Where weights go: as in the input, into the model, or into a file beside it.",
    ),
    overwrite,
)
"""--external and --overwrite: how a result is written."""

output = group(
    click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
    ),
)
"""--quiet and --json: what is printed."""


def reporting(command: Command) -> Command:
    """--report, --verbose, --quiet and --json, which reach the command as `telling`.

    A report that could not be written is refused before any work is done.
    """

    @functools.wraps(command)
    def told(
        *given: Any,
        reports: tuple[str, ...],
        verbose: bool,
        quiet: bool,
        as_json: bool,
        **asked: Any,
    ) -> Any:
        telling = Telling(reports, verbose, quiet, as_json)
        return command(*given, telling=telling, **asked)

    decorated = group(
        click.option(
            "--report",
            "reports",
            multiple=True,
            metavar="PATH",
            help="Also write the report as .html, .md or .json; repeatable.",
        ),
        click.option(
            "--verbose", "-v", is_flag=True, help="Show every rule, node, reason and output."
        ),
        output,
    )
    return decorated(cast("Command", told))
