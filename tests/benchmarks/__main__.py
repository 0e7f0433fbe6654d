"""`python -m tests.benchmarks [SECTION ...]`: measure, print the tables, keep them as files."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from onnxopt.report.html import html
from onnxopt.report.record import Versions, plain
from tests.benchmarks import (
    calibration,
    commands,
    large,
    latency,
    nodes,
    prune,
    quantize,
    scaling,
    tools,
    zoo,
)
from tests.benchmarks.tables import Section

Measure = Callable[[argparse.Namespace, list[zoo.Model]], Section]

SECTIONS: Mapping[str, Measure] = {
    "commands": lambda asked, models: commands.section(
        models, tools.onnxopt(asked.onnxopt), rounds=asked.rounds
    ),
    "nodes": lambda asked, models: nodes.section(models, asked.onnxopt),
    "latency": lambda asked, models: latency.section(
        models, asked.onnxopt, seconds=asked.seconds, threads=asked.threads
    ),
    "large": lambda asked, models: large.section(
        asked.onnxopt, rounds=asked.rounds, rivals=asked.rivals
    ),
    "calibration": lambda asked, models: calibration.section(
        models, asked.onnxopt, rounds=asked.rounds
    ),
    "quantize": lambda asked, models: quantize.section(
        models, seconds=3 * asked.seconds, threads=asked.threads or 1
    ),
    "prune": lambda asked, models: prune.section(
        models,
        seconds=3 * asked.seconds,
        threads=asked.threads or 1,
        ratios=asked.ratio or prune.RATIOS,
        every=bool(asked.model),
    ),
    "scaling": lambda asked, models: scaling.section(asked.onnxopt, rounds=asked.rounds),
}


def main() -> None:
    """Run the sections that are asked for, one after the other."""
    asked = _arguments()
    versions = tools.versions()
    models = zoo.models(asked.zoo, tuple(asked.model))
    asked.out.mkdir(parents=True, exist_ok=True)
    here = {**plain(Versions.here()), **versions}
    for name in asked.section or SECTIONS:
        start = time.perf_counter()
        section = SECTIONS[name](asked, models)
        page = section.markdown()
        print(f"\n{page}\n{name}: {time.perf_counter() - start:.0f} s\n", flush=True)
        (asked.out / f"{name}.md").write_text(page, encoding="utf-8")
        if section.picture:
            target = asked.picture or asked.out / f"{name}.html"
            target.write_text(html(section.picture), encoding="utf-8")
        record = {"versions": here, "summary": section.summary, "data": section.data}
        text = json.dumps(plain(record), indent=2)
        (asked.out / f"{name}.json").write_text(text, encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("section", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--out", type=Path, default=zoo.ROOT / ".bench", help="default: .bench")
    parser.add_argument("--zoo", type=Path, help="a folder of NAME/model.onnx or NAME.onnx")
    parser.add_argument("--model", action="append", default=[], help="only this one (repeatable)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every command")
    parser.add_argument("--seconds", type=float, default=20.0, help="time a model for this long")
    parser.add_argument("--threads", type=int, default=0, help="threads of a timed session")
    parser.add_argument(
        "--ratio", action="append", type=float, help="share of the work to keep (repeatable)"
    )
    parser.add_argument("--picture", type=Path, help="where curves are drawn, as .html")
    parser.add_argument("--rivals", action="store_true", help="rivals on the large model as well")
    parser.add_argument("--onnxopt", help="the command to measure, if not the installed one")
    asked = parser.parse_args()
    unknown = sorted(set(asked.section) - set(SECTIONS))
    if unknown:
        parser.error(f"no section is called {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    return asked


if __name__ == "__main__":
    main()
