"""Options are read as people write them, and what can't be meant is turned down."""

from __future__ import annotations

from typing import Any

import click
import pytest

from onnxopt.cli.options import dim, group, input_shape, once, share
from onnxopt.errors import BadInput


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("x:1,3,224,224", ("x", (1, 3, 224, 224))),
        ("input:0:1,3", ("input:0", (1, 3))),
        ("scalar:", ("scalar", ())),
        ("x:0,3", ("x", (0, 3))),
    ],
)
def test_an_input_shape(text: str, read: tuple[str, tuple[int, ...]]) -> None:
    assert input_shape(text) == read


@pytest.mark.parametrize("text", ["x", ":1,2", "x:1,a", "x:-1,3", "x:1,,3", ""])
def test_what_is_no_input_shape(text: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME:D,D"):
        input_shape(text)


def test_a_dim() -> None:
    assert dim("batch=1") == ("batch", 1)
    assert dim("a=b=3") == ("a=b", 3)


@pytest.mark.parametrize("text", ["batch", "=1", "batch=", "batch=-1", "batch=x", "batch=1.5"])
def test_what_is_no_dim(text: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME=SIZE"):
        dim(text)


@pytest.mark.parametrize(
    ("text", "read"), [("3%", 0.03), ("0.03", 0.03), ("0", 0.0), ("250%", 2.5)]
)
def test_a_share(text: str, read: float) -> None:
    assert share(text) == pytest.approx(read)


@pytest.mark.parametrize("text", ["", "%", "-1%", "nan", "inf", "three"])
def test_what_is_no_share(text: str) -> None:
    with pytest.raises(click.BadParameter, match="share"):
        share(text)


def test_the_same_thing_said_twice_is_once() -> None:
    assert once([("batch", 1), ("batch", 1), ("n", 2)], "--dim") == {"batch": 1, "n": 2}


def test_two_sizes_for_one_dim_contradict_each_other() -> None:
    with pytest.raises(BadInput, match="--dim gives 'batch' twice: 1 and 2"):
        once([("batch", 1), ("batch", 2)], "--dim")


def test_a_group_shows_its_options_in_their_order() -> None:
    @click.command()
    @group(click.option("--first"), group(click.option("--second"), click.option("--third")))
    @click.option("--last")
    def command(**asked: Any) -> None: ...

    assert [each.name for each in command.params] == ["first", "second", "third", "last"]


@pytest.mark.parametrize(
    "command",
    [
        ["optimize", "absent.onnx"],
        ["optimize", "absent.onnx", "--prune", "0.8", "--data", "absent.npz"],
        ["quantize", "absent.onnx"],
        ["prune", "absent.onnx", "--macs", "0.8"],
        ["prune", "absent.onnx", "--explain"],
        ["sparsify", "absent.onnx", "--sparsity", "2:4"],
        ["distill", "absent.onnx", "absent.onnx"],
    ],
)
def test_a_report_without_a_face_is_refused_before_any_work(ran: Any, command: list[str]) -> None:
    code, _, told = ran(*command, "--report", "report.txt")
    assert code == 2 and "end it in .html, .md or .json" in told


@pytest.mark.parametrize("command", ["prune", "sparsify"])
def test_a_command_that_only_writes_needs_somewhere_to_write_to(ran: Any, command: str) -> None:
    code, _, told = ran(command, "absent.onnx")
    assert code == 2 and "give -o OUT" in told


@pytest.mark.parametrize("command", ["quantize", "prune", "sparsify"])
@pytest.mark.parametrize("name", ["absent.npy", "labels.txt"])
def test_labels_that_are_not_there_are_refused(ran: Any, command: str, name: str) -> None:
    code, _, told = ran(command, "absent.onnx", "-o", "out.onnx", "--labels", name)
    assert code == 2 and f"no labels at {name}" in told
