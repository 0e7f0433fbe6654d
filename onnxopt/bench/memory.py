"""The peak memory of loading and running a model, measured in a process of its own."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxopt.errors import RuntimeFailed

_RUNS = 2


def peak_bytes(
    path: Path, feeds: Sequence[Mapping[str, Any]], providers: Sequence[Any], threads: int
) -> int | None:
    """How many bytes a fresh process grows by, at its peak, to load and run the model at `path`.

    Pages of files that the process maps count as they do for the operating system. None where the
    system does not tell (Windows).

    Raises:
        RuntimeFailed: The process ended without an answer.
    """
    if _peak() is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.pickle"
        task.write_bytes(pickle.dumps((str(path), list(feeds), list(providers), threads)))
        searched = os.pathsep.join(entry for entry in sys.path if entry)
        done = subprocess.run(
            [sys.executable, "-m", __spec__.name, str(task)],
            env={**os.environ, "PYTHONPATH": searched},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != 0 or not done.stdout.strip().isdigit():
        reason = (done.stderr.strip().splitlines() or ["it wrote nothing"])[-1]
        raise RuntimeFailed(
            f"the process that measures the memory of {path.name} failed: {reason}",
            hint="leave the peak memory out, or give the process more memory",
        )
    return int(done.stdout)


def _peak() -> int | None:
    """The most memory this process has held so far, in bytes."""
    # On Linux ru_maxrss starts at what the parent held when it forked; VmHWM starts at nothing.
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(task: Path) -> int:
    from onnxopt.runtime.sessions import Session

    path, feeds, providers, threads = pickle.loads(task.read_bytes())
    before = _peak() or 0
    session = Session.open(path, optimize=True, providers=providers, threads=threads)
    for _ in range(_RUNS):
        for feed in feeds:
            session.run(feed)
    return (_peak() or 0) - before


if __name__ == "__main__":
    sys.stdout.write(str(_measure(Path(sys.argv[1]))))
