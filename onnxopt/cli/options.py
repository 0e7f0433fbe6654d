"""Options that several commands share, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from onnxopt.errors import BadInput

Command = TypeVar("Command", bound=Callable[..., Any])
Shape = tuple[int, ...]


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


def model_path(name: str) -> Callable[[Command], Command]:
    """An argument that is the path of a model; whether it can be read is the loader's word."""
    return click.argument(name, type=click.Path(), metavar=name.upper())


def shapes(command: Command) -> Command:
    """--input-shape and --dim, as mappings."""
    command = click.option(
        "--dim",
        "dims",
        type=dim,
        metavar="NAME=SIZE",
        multiple=True,
        callback=lambda _, __, pairs: once(pairs, "--dim"),
        help="Size of a symbolic dim, such as batch=1; repeatable.",
    )(command)
    return click.option(
        "--input-shape",
        "input_shapes",
        type=input_shape,
        metavar="NAME:D,D,...",
        multiple=True,
        callback=lambda _, __, pairs: once(pairs, "--input-shape"),
        help="Shape of an input, such as x:1,3,224,224; repeatable.",
    )(command)


def feeds(command: Command) -> Command:
    """--data, --batch, --preprocess and --seed: what the models are run on."""
    return data(
        "Inputs to run on: .npz (keys are input names), .npy, a folder of them, a folder of"
        " pictures with --preprocess, or a function that gives dicts. Without it, inputs are made"
        " from the model's signature."
    )(command)


def data(help_text: str, metavar: str = "PATH|MODULE:FUNCTION") -> Callable[[Command], Command]:
    """--data with what it means to the command, --batch, --preprocess and --seed."""

    def decorated(command: Command) -> Command:
        command = preprocess(batch(seed(command)))
        return click.option("--data", metavar=metavar, help=help_text)(command)

    return decorated


def batch(command: Command) -> Command:
    """--batch."""
    return click.option(
        "--batch",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Samples a run takes from --data.",
    )(command)


def preprocess(command: Command) -> Command:
    """--preprocess."""
    return click.option(
        "--preprocess",
        metavar="PRESET|MODULE:FUNCTION",
        help="How pictures become inputs: imagenet, unit (0 to 1), symmetric (-1 to 1) or raw, with"
        " options such as unit,resize=256,crop=224,mean=0.5,std=0.2,bgr; or a function of uint8"
        " pixels (height, width, 3).",
    )(command)


def seed(command: Command) -> Command:
    """--seed."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Seed of made inputs.",
    )(command)


def runtime(command: Command) -> Command:
    """--provider and --threads: where the models run."""
    command = threads(command)
    return click.option(
        "--provider",
        "providers",
        multiple=True,
        default=("CPUExecutionProvider",),
        show_default=False,
        metavar="NAME",
        help="onnxruntime execution provider, such as cuda; repeatable, in order of preference."
        " Without it, cpu.",
    )(command)


def threads(command: Command) -> Command:
    """--threads."""
    return click.option(
        "--threads",
        type=click.IntRange(min=0),
        default=0,
        show_default=True,
        help="Threads of a session; 0 leaves it to onnxruntime.",
    )(command)


def written(command: Command) -> Command:
    """-o: where the result goes."""
    return click.option("-o", "--output", metavar="PATH", help="Where to write the result.")(
        command
    )


def saving(command: Command) -> Command:
    """--external and --overwrite: how a result is written."""
    command = click.option(
        "--overwrite", is_flag=True, help="Let the output take the place of the input."
    )(command)
    return click.option(
        "--external",
        type=click.Choice(["keep", "inline", "file"]),
        default="keep",
        show_default=True,
        help="Where weights go: as in the input, into the model, or into a file beside it.",
    )(command)


def reporting(command: Command) -> Command:
    """--report, --verbose, --quiet and --json: what is told, and where."""
    command = click.option(
        "--verbose", "-v", is_flag=True, help="Show every rule, node, reason and output."
    )(output(command))
    return click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="PATH",
        help="Also write the report as .html, .md or .json; repeatable.",
    )(command)


def output(command: Command) -> Command:
    """--quiet and --json: what is printed."""
    command = click.option(
        "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
    )(command)
    return click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors.")(command)
