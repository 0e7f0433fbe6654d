"""Execution providers by name."""

from __future__ import annotations

import onnxruntime
import pytest

from onnxopt.errors import BadInput
from onnxopt.runtime import providers
from onnxopt.runtime.sessions import Session

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@pytest.fixture
def with_cuda(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])


@pytest.mark.parametrize("name", ["cpu", "CPU", CPU, "cpuexecutionprovider"])
def test_long_and_short_names_mean_the_same(name):
    assert providers.resolve([name]) == [CPU]


def test_the_cpu_is_the_last_resort(with_cuda):
    assert providers.resolve(["cuda"]) == [CUDA, CPU]


def test_options_stay_with_their_provider(with_cuda):
    assert providers.resolve([("cuda", {"device_id": 1})]) == [(CUDA, {"device_id": 1}), CPU]


def test_a_provider_that_is_not_installed_lists_those_that_are():
    if CUDA in onnxruntime.get_available_providers():
        pytest.skip("CUDA is installed here")
    with pytest.raises(BadInput, match=CUDA) as caught:
        providers.resolve(["cuda"])
    assert "cpu" in caught.value.hint


def test_a_misspelt_provider_is_guessed():
    with pytest.raises(BadInput, match="opnvino") as caught:
        providers.resolve(["opnvino"])
    assert "'openvino'" in caught.value.hint


def test_no_provider_at_all():
    with pytest.raises(BadInput, match="no execution provider"):
        providers.resolve([])


def test_a_silent_fallback_is_seen():
    session = Session(None, (), (), requested=(CUDA, CPU), providers=(CPU,))
    assert session.fallen_back == (CUDA,)
