"""The pipelines of the commands, as lists of passes."""

from __future__ import annotations

from collections.abc import Sequence

from onnxopt import registry
from onnxopt.config import Options
from onnxopt.passes.base import Pass
from onnxopt.passes.cleanup import CleanPass
from onnxopt.passes.fold import FoldPass
from onnxopt.passes.rewrite import RewritePass

ROUNDS = 4
"""Folding opens rewrites and the other way round; a pass that found nothing is not run again."""

PASS_NAMES = ("clean", "fold", "rewrite")


def optimize(options: Options, extra: Sequence[Pass] = ()) -> list[Pass]:
    """Fold and clean, rewrite and fold in turns, then the user's own passes, and all that again.

    Raises BadInput for a rule or pass in `options` that does not exist.
    """
    own = [each.name for each in extra]
    registry.check_names((*options.only, *options.disable, *options.enable), (*PASS_NAMES, *own))
    named = set(options.only) & set(PASS_NAMES)
    only = [name for name in options.only if name not in (*PASS_NAMES, *own)]
    rules = registry.select(only, options.disable)
    rewrite = RewritePass(tuple(rules))
    wanted = {*named, *own, *(("rewrite",) if only else ())} if options.only else None
    rounds: list[Pass] = [each for _ in range(ROUNDS) for each in (rewrite, FoldPass())]
    passes: list[Pass] = [FoldPass(), CleanPass(), *rounds, CleanPass(), *extra]
    if extra:
        passes += [FoldPass(), *rounds, CleanPass()]
    return [each for each in passes if wanted is None or each.name in wanted]
