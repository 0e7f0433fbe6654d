"""The class every rule extends, and the records that describe it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from onnxopt.config import Exactness


@dataclass(frozen=True, slots=True)
class Example:
    """Before and after, as one line of pseudo-code each, for the rule's page."""

    before: str
    after: str


class Rule(ABC):
    """A local rewrite: what to look for, and what to put in its place.

    The first docstring line says what it gives; it is the rule's page and its entry in
    `onnxopt rules`. `opsets` are the first and last opset of the default domain the rule was
    written against (last None: every later one too, the engine still refuses ops that a model's
    opset lacks). Rules of equal pattern size are tried by falling `benefit`, then by name.
    """

    exactness: ClassVar[Exactness]
    example: ClassVar[Example]
    opsets: ClassVar[tuple[int, int | None]] = (7, None)
    benefit: ClassVar[int] = 0
    off_because: ClassVar[str] = ""
    """Why the rule does not run unless the user enables it by name; empty for most."""

    @property
    def name(self) -> str:
        """The name users see and disable: the class name in snake case."""
        return snake_case(type(self).__name__)

    @property
    def kind(self) -> str:
        """The first word of the name: drop, fold, fuse, move or split."""
        return self.name.split("_", 1)[0]

    @abstractmethod
    def pattern(self, op: Any, *operands: Any) -> Any:
        """Build the tree to look for; called once."""

    @abstractmethod
    def rewrite(self, op: Any, hit: Any) -> Any:
        """What takes the place of the match.

        `hit.require(condition, reason)` refuses with a reason the user reads, and
        `hit.match(condition)` says quietly that this is not the pattern. Returns an operand or new
        output for each root of the pattern, or a dict from operands to their replacements. Must
        not edit the graph.
        """


def snake_case(name: str) -> str:
    """`FoldBatchNormIntoConv` to `fold_batch_norm_into_conv`."""
    parts: list[str] = []
    for index, letter in enumerate(name):
        before = name[index - 1] if index else ""
        after = name[index + 1] if index + 1 < len(name) else ""
        if letter.isupper() and index and (not before.isupper() or after.islower()):
            parts.append("_")
        parts.append(letter.lower())
    return "".join(parts)
