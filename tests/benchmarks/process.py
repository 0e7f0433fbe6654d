"""Runs a whole command and says how long it took and how much memory it held at its peak."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

LIMIT_SECONDS = 300

# A process starts out with the peak memory of the one that forked it, so the command is started by
# an interpreter that holds next to nothing, which also keeps its own start out of the time.
_LAUNCHER = """
import json, os, signal, sys, time
log, limit, command = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
actions = [(os.POSIX_SPAWN_OPEN, 1, log, os.O_WRONLY | os.O_CREAT, 0o600),
           (os.POSIX_SPAWN_DUP2, 1, 2)]
start = time.perf_counter()
child = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
signal.signal(signal.SIGALRM, lambda *_: os.kill(child, signal.SIGKILL))
signal.alarm(limit)
status, usage = os.wait4(child, 0)[1:]
seconds = time.perf_counter() - start
unit = 1 if sys.platform == "darwin" else 1024
code = os.waitstatus_to_exitcode(status)
busy = usage.ru_utime + usage.ru_stime
print(json.dumps([code, seconds, busy, usage.ru_maxrss * unit]))
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished command; `said` is the last line it wrote, `code` is negative for a signal."""

    code: int
    seconds: float
    processor_seconds: float
    peak_bytes: int
    said: str

    @property
    def failed(self) -> bool:
        return self.code != 0


def run(command: Sequence[str], *, limit: int = LIMIT_SECONDS) -> Ran:
    """Run `command` with its output kept away, and kill it after `limit` seconds."""
    program = shutil.which(command[0])
    if program is None:
        return Ran(127, 0.0, 0.0, 0, f"{command[0]} is not installed")
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        launcher = [sys.executable, "-S", "-E", "-c", _LAUNCHER, str(log), str(limit)]
        done = subprocess.run(
            [*launcher, program, *command[1:]], stdout=subprocess.PIPE, text=True, check=True
        )
        code, seconds, busy, peak = json.loads(done.stdout)
        lines = log.read_text(errors="replace").strip().splitlines() or [""]
    said = f"killed after {limit} s" if code == -9 and seconds > limit else lines[-1].strip()
    return Ran(code, seconds, busy, peak, said)
