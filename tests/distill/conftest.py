"""These tests need torch; without it they are skipped (`make test-distill` has it)."""

from __future__ import annotations

import importlib.util
from pathlib import Path

collect_ignore_glob = [] if importlib.util.find_spec("torch") else ["test_*.py"]
_HERE = Path(__file__).parent


def pytest_configure() -> None:
    """One thread: sums come out in one order, and cores are left to others."""
    if importlib.util.find_spec("torch"):
        import torch

        torch.set_num_threads(1)
