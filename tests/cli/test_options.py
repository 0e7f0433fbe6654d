"""Options are read as people write them, and what can't be meant is turned down."""

from __future__ import annotations

import click
import pytest

from onnxopt.cli.options import dim, input_shape, once, share
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
