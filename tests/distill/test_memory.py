"""Memory that is freed stays where large tensors come and go."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from onnxopt.distill.memory import kept_memory

LARGE = 48 << 20


def _faults() -> int:
    """Pages that the system had to give for a large tensor, after some of its size were freed."""
    for _ in range(4):
        torch.ones(LARGE, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(LARGE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is on Linux")
def test_large_tensors_take_no_new_pages_meanwhile_and_do_again_afterwards() -> None:
    before = _faults()
    if before < 10:
        pytest.skip("this malloc keeps what is freed by itself")
    with kept_memory():
        assert _faults() < before / 10
    assert _faults() > before / 2
