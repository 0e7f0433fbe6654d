"""How long each node of the graph that onnxruntime runs takes, from its own profiler."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxopt.runtime.sessions import ModelSource, Session

MOST_CALLS = 40
_BLOCK_SECONDS = 0.4
_NODE = "_kernel_time"


@dataclass(frozen=True, slots=True)
class NodeTime:
    """The least time in seconds that a node of the optimized graph took, the mean over the feeds.

    `elements` is the number of elements of its first input, 0 where that is not known.
    """

    name: str
    op_type: str
    seconds: float
    elements: int


def node_times(
    models: Sequence[ModelSource],
    feeds: Sequence[Mapping[str, Any]],
    *,
    threads: int = 0,
    rounds: int = 3,
) -> list[tuple[NodeTime, ...]]:
    """Time the nodes of each model, in sessions of their own that take turns.

    The least of many calls is hardly touched by what else the machine does, where a total would
    be. Nodes of bodies are left out: they belong to the node that holds them.

    Args:
        models: The models; all take the same feeds.
        feeds: What to run them on, each call one of them in turn.
        threads: Threads inside an operator; 0 lets onnxruntime choose.
        rounds: Sessions of each model.

    Raises:
        RuntimeFailed: onnxruntime can't load or run a model.
    """
    found: list[dict[tuple[str, int], NodeTime]] = [{} for _ in models]
    for _ in range(rounds):
        for known, model in zip(found, models, strict=True):
            for key, timed in _block(model, feeds, threads).items():
                if key not in known or timed.seconds < known[key].seconds:
                    known[key] = timed
    return [_means(known, len(feeds)) for known in found]


def _block(
    model: ModelSource, feeds: Sequence[Mapping[str, Any]], threads: int
) -> dict[tuple[str, int], NodeTime]:
    """The least time of each node by its name and the feed, in one session."""
    with tempfile.TemporaryDirectory(prefix="onnxopt-") as folder:
        session = Session.open(model, optimize=True, threads=threads, profile=Path(folder, "run"))
        start = time.perf_counter()
        calls = 0
        while calls < MOST_CALLS and (
            calls < 2 or time.perf_counter() - start < _BLOCK_SECONDS * len(feeds)
        ):
            for feed in feeds:
                session.run(feed)
            calls += 1
        path = session.native.end_profiling()
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    return _least(events, len(feeds))


def _least(events: Sequence[Mapping[str, Any]], feeds: int) -> dict[tuple[str, int], NodeTime]:
    found: dict[tuple[str, int], NodeTime] = {}
    seen: dict[str, int] = {}
    for event in sorted(events, key=lambda each: int(each.get("ts", 0))):
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith(_NODE):
            continue
        turn = seen.get(name, 0)
        seen[name] = turn + 1
        key = (name.removesuffix(_NODE), turn % feeds)
        seconds = float(event["dur"]) * 1e-6
        if key not in found or seconds < found[key].seconds:
            facts = event.get("args", {})
            found[key] = NodeTime(key[0], str(facts.get("op_name", "")), seconds, _elements(facts))
    return found


def _elements(facts: Mapping[str, Any]) -> int:
    for shape in facts.get("input_type_shape", ())[:1]:
        for dims in shape.values():
            return math.prod(dims)
    return 0


def _means(known: Mapping[tuple[str, int], NodeTime], feeds: int) -> tuple[NodeTime, ...]:
    names = dict.fromkeys(name for name, _ in known)
    return tuple(
        NodeTime(
            name,
            known[name, 0].op_type,
            sum(known[name, i].seconds for i in range(feeds) if (name, i) in known) / feeds,
            sum(known[name, i].elements for i in range(feeds) if (name, i) in known) // feeds,
        )
        for name in names
        if (name, 0) in known
    )
