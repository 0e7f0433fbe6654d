"""The arithmetic of layouts: what joins, splits and merges, and what is kept."""

from __future__ import annotations

import numpy as np
import pytest

from onnxopt.prune.axes import Tokens
from onnxopt.prune.balance import Balance, balance
from onnxopt.prune.regroup import regroup
from onnxopt.rewrite.flows import Layout, fixed, join


def _sets(tokens: Tokens, layout: Layout) -> list[set[int]]:
    return [set(row) - {0} for row in tokens.cells(layout).tolist()]


def test_equal_axes_have_the_same_channels() -> None:
    tokens = Tokens()
    one, other = tokens.fresh(3), tokens.fresh(3)
    assert not tokens.same(one, other)
    tokens.equal(one, other, "")
    assert tokens.same(one, other) and len(np.unique(tokens.cells(other))) == 3


def test_a_channel_that_stays_keeps_its_counterpart() -> None:
    tokens = Tokens()
    one, other = tokens.fresh(3), tokens.fresh(3)
    tokens.freeze(one.take([1]), "it is needed")
    tokens.equal(one, other, "")
    reasons = [tokens.reason(int(token)) for token in tokens.cells(other).reshape(-1)]
    assert reasons == ["", "it is needed", ""]


def test_an_axis_split_and_merged_is_itself() -> None:
    tokens = Tokens()
    flat = tokens.fresh(12)
    rows, columns = tokens.split(flat, (3, 4), "")
    assert (rows.size, columns.size) == (3, 4)
    assert tokens.same(tokens.merge([rows, columns]), flat)
    assert all(len(found) == 2 for found in _sets(tokens, flat))


def test_what_was_merged_comes_apart_the_same_way() -> None:
    tokens = Tokens()
    heads, width = tokens.fresh(3), tokens.fresh(4)
    outer, inner = tokens.split(tokens.merge([heads, width]), (3, 4), "")
    assert tokens.same(outer, heads) and tokens.same(inner, width)


def test_a_split_finer_than_the_merge() -> None:
    tokens = Tokens()
    heads, width = tokens.fresh(4), tokens.fresh(6)
    parts = tokens.split(tokens.merge([heads, width]), (2, 2, 6), "")
    assert tokens.same(tokens.merge(parts[:2]), heads) and tokens.same(parts[2], width)


def test_a_split_across_the_merge_keeps_what_it_cuts() -> None:
    tokens = Tokens()
    wide, narrow = tokens.fresh(3), tokens.fresh(4)
    tokens.split(tokens.merge([wide, narrow]), (2, 6), "cut across")
    reasons = {tokens.reason(int(token)) for token in tokens.cells(wide).reshape(-1)}
    assert reasons == {"cut across"}
    assert tokens.misfits


def test_two_products_of_the_same_shape_are_tied_factor_by_factor() -> None:
    tokens = Tokens()
    one, other = [tokens.fresh(2), tokens.fresh(3)], [tokens.fresh(2), tokens.fresh(3)]
    tokens.equal(tokens.merge(one), tokens.merge(other), "")
    assert tokens.same(one[0], other[0]) and tokens.same(one[1], other[1])


def test_sizes_that_disagree_are_kept() -> None:
    tokens = Tokens()
    one, other = tokens.fresh(2), tokens.fresh(3)
    tokens.equal(one, other, "they disagree")
    assert tokens.reason(int(tokens.cells(one)[0, 0])) == "they disagree"


def test_a_joined_axis_remembers_its_parts() -> None:
    tokens = Tokens()
    one, other = tokens.fresh(2), tokens.fresh(3)
    both = join([one, other])
    assert tokens.same(both.take(slice(2, 5)), other)
    assert join([one, fixed(None, "")]).size is None


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (["N", 12, "H"], ["N", 3, 4, "H"], [0, 3, 4, 0]),
        (["N", 3, 4, "S"], ["N", "S*12"], [0, 0]),
        (["S", 3, 4], ["S", 12], [0, 12]),
        (["S", 12], ["T", "U", 3, 4], [0, 0, 3, 4]),
        ([12, "S"], [3, "T", "U"], [3, 0, 0]),
    ],
)
def test_a_reshape_is_followed_as_far_as_sizes_are_known(
    old: list[int | str], new: list[int | str], expected: list[int]
) -> None:
    tokens = Tokens()
    axes = [(d, tokens.fresh(d) if isinstance(d, int) else fixed(None, "")) for d in old]
    found = regroup(tokens, axes, new, "open")
    assert [layout.size or 0 for layout in found] == expected
    free = [bool(layout.size and _free(tokens, layout)) for layout in found]
    assert free == [size > 0 for size in expected]


def _free(tokens: Tokens, layout: Layout) -> set[int]:
    found = set().union(*_sets(tokens, layout))
    return {token for token in found if not tokens.reason(token)}


def test_parts_that_lose_unequally_are_tied_until_they_do() -> None:
    tokens = Tokens()
    axis = tokens.fresh(6)
    balance(tokens, [Balance(axis, 2, "uneven")])
    found = _sets(tokens, axis)
    for token in set().union(*found):
        at = [index for index, each in enumerate(found) if token in each]
        assert sum(index < 3 for index in at) == sum(index >= 3 for index in at)
    assert len(set().union(*found)) == 3
