"""Each argument of a public function is explained, and what is shared is checked alike."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import onnxopt
from onnxopt import api_compress, api_distill, api_prune, api_quantize, api_sparsify
from onnxopt.api_call import Data
from onnxopt.arguments import SHARED, budget, explained, keywords, known, silent
from onnxopt.check.metric import metric
from onnxopt.errors import BadInput

PUBLIC = [
    onnxopt.optimize,
    api_prune.prune,
    api_quantize.quantize,
    api_sparsify.sparsify,
    api_compress.compress,
    api_distill.distill,
]
ABSENT = "absent.onnx"


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_each_argument_is_explained_in_its_place(function: Any) -> None:
    told = inspect.getdoc(function) or ""
    entries = told.partition("Args:\n")[2].partition("\n\n")[0]
    named = re.findall(r"^    (\w+): ", entries, re.MULTILINE)
    assert named == list(inspect.signature(function).parameters)
    assert "Raises:\n" in told


def test_own_words_go_before_the_shared_ones() -> None:
    @explained
    def work(model: str, seed: int = 0) -> None:
        """Do something.

        Args:
            model: Another one,
                in two lines.

        Raises:
            BadInput: Never.
        """

    assert work.__doc__ == (
        "Do something.\n\nArgs:\n    model: Another one,\n        in two lines.\n"
        f"    seed: {SHARED['seed']}\n\nRaises:\n    BadInput: Never."
    )


def test_an_argument_that_nothing_explains_is_an_error() -> None:
    def work(mystery: int) -> None:
        """Do something.

        Args:
        """

    with pytest.raises(KeyError, match="mystery"):
        explained(work)


def test_a_loss_without_data_to_measure_it_on_is_refused() -> None:
    for asked in ({"max_drop": 0.01}, {"metric": metric("top1", labels=[0, 1])}):
        with pytest.raises(BadInput, match="can only be measured on samples"):
            Data(**asked)
    Data("samples.npz", max_drop=0.01)


@pytest.mark.parametrize(
    ("function", "asked"),
    [
        (api_prune.prune, {"macs": 0.8}),
        (api_sparsify.sparsify, {"sparsity": 0.5}),
        (api_quantize.quantize, {"mode": "dynamic"}),
    ],
)
def test_a_limit_without_data_is_refused_before_the_model_is_read(
    function: Any, asked: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="can only be measured on samples"):
        function(ABSENT, max_drop=0.02, **asked)
    with pytest.raises(BadInput, match="drop can't be -1"):
        function(ABSENT, data="absent.npz", max_drop=-1, **asked)


@pytest.mark.parametrize(
    ("function", "asked"),
    [
        (api_prune.prune, {"macs": 0.8}),
        (api_quantize.quantize, {"mode": "dynamic"}),
        (api_compress.compress, {"quantize": True, "data": "absent.npz"}),
    ],
)
def test_a_keyword_that_optimize_may_not_be_given_is_refused(
    function: Any, asked: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match="'bench' is nothing to choose for optimize"):
        function(ABSENT, optimize={"bench": True}, **asked)


def test_checks_give_back_what_is_fine() -> None:
    assert known("score", "fpgm", ["fpgm"]) == "fpgm"
    assert budget(None) is None and budget(0.0) == 0.0
    assert keywords("optimize", None) == {} and keywords("x", {"y": 1}, ["y"]) == {"y": 1}
    silent(0.5, "nothing")
    with pytest.raises(BadInput, match="no score 'guess'"):
        known("score", "guess", ["fpgm"])
