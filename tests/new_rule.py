"""Starts a rule: `make new-rule NAME=fuse_silu` writes its file and its cases."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("drop", "fold", "fuse", "move", "split")

RULE = '''"""Say what this file knows."""

from onnxopt.rewrite import Exactness, Example, Rule, Value


class {title}(Rule):
    """Say in one line what the rule gives.

    Say when it applies and where the knowledge comes from.
    """

    exactness = Exactness.EXACT
    example = Example("y = Relu(Relu(x))", "y = Relu(x)")

    def pattern(self, op, x: Value):
        return op.Relu(op.Relu(x))

    def rewrite(self, op, hit):
        hit.require(hit.x.rank is not None, "the number of dims is not known")
        return op.Relu(hit.x)
'''

CASES = """== say the situation
g (float[2,3] x) => (float[2,3] y) { a = Relu(x) y = Relu(a) }
== becomes
g (float[2,3] x) => (float[2,3] y) { y = Relu(x) }
== the inner value is read elsewhere
g (float[2,3] x) => (float[2,3] y, float[2,3] a) { a = Relu(x) y = Relu(a) }
== stays
"""


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Write the two files; 2 for a name that can't be a rule's or is taken."""
    name = arguments[0] if arguments else ""
    if not re.fullmatch(rf"({'|'.join(KINDS)})(_[a-z0-9]+)+", name):
        kinds = ", ".join(f"{kind}_" for kind in KINDS)
        print(f"give a name that starts with one of {kinds}: make new-rule NAME=fuse_silu")
        return 2
    rule = root / "rules" / f"{name}.py"
    cases = root / "tests" / "cases" / f"{name}.txt"
    for path in (rule, cases):
        if path.exists():
            print(f"{path.relative_to(root)} is there already")
            return 2
    title = "".join(word.capitalize() for word in name.split("_"))
    rule.write_text(RULE.format(title=title), encoding="utf-8")
    cases.write_text(CASES, encoding="utf-8")
    print(f"wrote {rule.relative_to(root)} and {cases.relative_to(root)}")
    print(f"next: fill both in, then `.venv/bin/python -m pytest tests/test_cases.py -k {name}`,")
    print("and at last `make check`; the catalogue is written by `make catalogue`")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
