"""Whether one model is faster than another, asked for as long as it takes to tell.

On a machine with other work the twin of the reference strays, and with it the floor that a verdict
has to stand clear of. A race that does not settle is run again, for longer. Where even that leaves
the verdict open, the least times decide: other work can only lengthen a block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxopt import io
from onnxopt.bench.timing import Timing, bench
from onnxopt.bench.trial import Feed, Progress

SECONDS = (20.0, 30.0, 60.0)
"""How long each attempt may take."""
_QUIET_FLOOR = 1.04
_MARGIN = 1.03
_LEAST_ROUNDS = 6


@dataclass(frozen=True, slots=True)
class Race:
    """How often as fast the candidate is, whether that is sure, and the timing that told so."""

    speedup: float
    faster: bool
    timing: Timing


def race(
    models: Sequence[io.Source],
    feeds: Iterable[Feed],
    *,
    names: Sequence[str],
    threads: int = 0,
    seconds: Sequence[float] = SECONDS,
    progress: Progress | None = None,
) -> Race:
    """Time models until the second is clearly faster than the first, or both are clearly alike.

    Args:
        models: What has to be beaten, the candidate, and what else is to be timed beside them.
        feeds: What to run them on, see timing.bench.
        names: What to call them.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        seconds: The time of each attempt.
        progress: Told how far it is.

    Raises:
        BadInput, BadModel, RuntimeFailed: As timing.bench does.
    """
    timing: Timing | None = None
    given = list(feeds)
    for limit in seconds:
        timing = bench(
            models, names=names, feeds=given, threads=threads, seconds=limit, progress=progress
        )
        found = timing.comparisons[0]
        # A slow model has few rounds, too few for a verdict; the interval then has to be enough.
        if found.verdict == "faster" or found.speedup.low > timing.noise_floor:
            return Race(found.speedup.median, True, timing)
        if found.verdict == "slower" or timing.noise_floor < _QUIET_FLOOR:
            return Race(found.speedup.median, False, timing)
    assert timing is not None
    return Race(timing.comparisons[0].speedup.median, least_times_tell(timing), timing)


def least_times_tell(timing: Timing) -> bool:
    """Whether the candidate is faster in the blocks that were disturbed least, and in the middle.

    The two best blocks of each side must agree better than they differ between the sides.
    """
    reference, candidate = (sorted(side.blocks_ms) for side in timing.sides[:2])
    if timing.rounds < _LEAST_ROUNDS:
        return False
    strays = max(reference[1] / reference[0], candidate[1] / candidate[0], _MARGIN)
    return reference[0] / candidate[0] > strays and timing.comparisons[0].speedup.low > 1.0
