"""Prunes one model with one tool, in a process of its own: `pruners.py TOOL MODEL DATA MACS OUT`.

DATA is an .npz of samples, MACS the share of the multiply-accumulates to keep. OUT.json says how
long the tool itself took, null where that is the whole process, and what was asked of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

_LOOKS = 7
"""How often a tool that can't be told the work to keep is asked for another share of channels."""
_SAMPLES = 100

Told: TypeAlias = "dict[str, Any]"
Prune: TypeAlias = "Callable[[Path, Path, float, Path], Told]"


def ours(*more: str) -> Prune:
    """`onnxopt prune` as it is typed."""

    def prune(model: Path, data: Path, macs: float, out: Path) -> Told:
        from onnxopt.cli.main import run

        asked = ["--macs", f"{macs:g}", "--data", str(data), "--no-bench", "--quiet", *more]
        code = run(["prune", str(model), "-o", str(out), *asked])
        if not out.is_file():
            raise SystemExit(f"exit code {code}, and nothing was written")
        return {"seconds": None, "asked": " ".join(["--macs", f"{macs:g}", *more])}

    return prune


def simplifier(name: str, *, calibrated: bool) -> Prune:
    """onnxsim's removal of channels, at the share of them that comes nearest to the work to keep.

    It takes no target but that share, which is searched for here and does not count as its time.
    """

    def prune(model: Path, data: Path, macs: float, out: Path) -> Told:
        import onnx
        import onnxsim

        function = getattr(onnxsim, name)
        simple, _ = onnxsim.simplify(str(model))
        samples = _samples(data) if calibrated else None
        whole = work(simple)
        low, high, best = 0.0, 0.95, (1.0, simple, 0.0, 0.0)
        for _ in range(_LOOKS):
            share = (low + high) / 2
            start = time.perf_counter()
            made = function(simple, samples, sparsity=share) if samples else function(
                simple, sparsity=share
            )  # fmt: skip
            seconds = time.perf_counter() - start
            kept = work(made) / whole
            low, high = (share, high) if kept > macs else (low, share)
            best = min(best, (abs(kept - macs), made, seconds, share), key=lambda each: each[0])
        _, made, seconds, share = best
        onnx.save(made, str(out))
        return {"seconds": seconds, "asked": f"sparsity={share:.3f}"}

    return prune


def _samples(data: Path) -> list[dict[str, Any]]:
    with np.load(data) as stored:
        arrays = {name: stored[name][:_SAMPLES] for name in stored.files}
    count = len(next(iter(arrays.values())))
    return [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(count)]


def work(model: Any) -> int:
    """The multiply-accumulates of one run of a ModelProto."""
    from onnxopt import io
    from onnxopt.bench.cost import cost_at

    return cost_at(io.load(model)).macs or 0


# Channel counts are not rounded there unless that is asked for.
_MAGNITUDE = ["--score", "magnitude", "--normalize", "global", "--recover", "none", "--round", "1"]
TOOLS: dict[str, Prune] = {
    "onnxopt": ours(),
    "onnxopt, no recovery": ours("--recover", "none"),
    "magnitude, as Torch-Pruning": ours(*_MAGNITUDE),
    "onnxsim, magnitude": simplifier("apply_structured_pruning", calibrated=False),
    "onnxsim, activations": simplifier("apply_structured_wanda_pruning", calibrated=True),
}


def main() -> None:
    """Prune, and say what was asked of the tool and how long it took."""
    tool, macs = sys.argv[1], float(sys.argv[4])
    model, data, out = (Path(sys.argv[index]).resolve() for index in (2, 3, 5))
    told = TOOLS[tool](model, data, macs, out)
    out.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main()
