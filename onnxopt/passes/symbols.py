"""Integers that are known only by name: the algebra of symbolic dims.

An `Expression` is a sum of products of symbols with integer coefficients, kept in one normal form,
so that two expressions are the same number for every value of their symbols if they are equal.
What a sum of products can't say (rounding divisions, minima) becomes a new symbol named after the
operation and its operands: the same operation on equal operands gives an equal result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Union, cast


class Symbol(NamedTuple):
    """An unknown integer. `natural` says that it can't be negative, as every dim."""

    name: str
    natural: bool = True


Monomial = tuple[Symbol, ...]
Dim = Union[int, "Expression"]

_LONGEST_NAME = 400
_FRESH = "~"
_NO_JOIN: tuple[str, frozenset[Dim]] = ("", frozenset())


class Expression:
    """A sum of products of symbols; use `symbol` and the operators to make one."""

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: tuple[tuple[Monomial, int], ...]) -> None:
        self.terms = terms
        self._hash = hash(terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.terms == other.terms

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return _total([*self.terms, *_terms(other)])

    def __mul__(self, other: Dim) -> Dim:
        return _total(
            [
                (tuple(sorted(left + right)), factor * scale)
                for left, factor in self.terms
                for right, scale in _terms(other)
            ]
        )

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + -other

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    __radd__ = __add__
    __rmul__ = __mul__

    def __str__(self) -> str:
        text = ""
        for monomial, factor in self.terms:
            body = "*".join(symbol.name for symbol in monomial)
            size = abs(factor)
            part = body if body and size == 1 else f"{size}*{body}" if body else str(size)
            sign = "-" if factor < 0 else "+"
            text += f" {sign} {part}" if text else (f"-{part}" if factor < 0 else part)
        return text

    __repr__ = __str__


def symbol(name: str, *, natural: bool = True) -> Expression:
    """The unknown integer of that name; two of one name are the same number."""
    return Expression((((Symbol(name, natural),), 1),))


def is_natural(dim: Dim) -> bool:
    """Whether `dim` is proven to be zero or more."""
    if isinstance(dim, int):
        return dim >= 0
    return all(
        factor >= 0 and all(part.natural for part in monomial) for monomial, factor in dim.terms
    )


def is_positive(dim: Dim) -> bool:
    """Whether `dim` is proven to be one or more."""
    return is_natural(dim - 1)


def never_equal(left: Dim, right: Dim) -> bool:
    """Whether the two are proven to differ for every value of their symbols."""
    return is_positive(left - right) or is_positive(right - left)


def is_followed(dim: Dim) -> bool:
    """Whether `dim` is a number, or made of integers that have a name of their own."""
    return isinstance(dim, int) or not any(
        _FRESH in part.name for monomial, _ in dim.terms for part in monomial
    )


def product(dims: Iterable[Dim]) -> Dim:
    """The product of `dims`; 1 if there are none."""
    result: Dim = 1
    for dim in dims:
        result = result * dim
    return result


def exact_quotient(dim: Dim, divisor: Dim) -> Dim | None:
    """`dim / divisor` if the division is proven to leave no rest, where `divisor` is not zero."""
    if dim == divisor:
        return 1
    if isinstance(divisor, int) and divisor == 0:
        return None
    parts = _terms(divisor)
    if len(parts) != 1:
        return None
    below, scale = parts[0]
    terms: list[tuple[Monomial, int]] = []
    for monomial, factor in _terms(dim):
        rest = _without(monomial, below)
        if rest is None or factor % scale:
            return None
        terms.append((rest, factor // scale))
    return _total(terms)


def symbols_of(dims: Iterable[Dim]) -> set[Symbol]:
    """The symbols that the dims are made of."""
    return {part for dim in dims for monomial, _ in _terms(dim) for part in monomial}


class Names:
    """Gives names to unknown integers: one name for one operation on the same operands."""

    def __init__(self) -> None:
        self._known: dict[str, Expression] = {}
        self._count = 0
        self._operands: dict[Dim, tuple[str, frozenset[Dim]]] = {}

    def fresh(self, *, natural: bool = True) -> Expression:
        """An integer nothing is known about, not equal to any other."""
        self._count += 1
        return symbol(f"{_FRESH}{self._count}", natural=natural)

    def of(self, operation: str, *operands: Dim, natural: bool) -> Expression:
        """The result of `operation`, which must be a function of its operands alone."""
        key = f"{operation}({', '.join(map(str, operands))})"
        found = self._known.get(key)
        if found is None:
            short = len(key) <= _LONGEST_NAME
            found = symbol(key, natural=natural) if short else self.fresh(natural=natural)
            self._known[key] = found
        return found

    def floor_divide(self, dim: Dim, divisor: Dim) -> Dim | None:
        """`dim / divisor` rounded down; None where the divisor may not be above zero."""
        if isinstance(dim, int) and isinstance(divisor, int):
            return dim // divisor if divisor > 0 else None
        exact = exact_quotient(dim, divisor)
        if exact is not None:
            return exact
        if not is_positive(divisor):
            return None
        if isinstance(divisor, int) and not isinstance(dim, int):
            whole, rest = _split(dim, divisor)
            if whole != 0:
                return whole + cast(Dim, self.floor_divide(rest, divisor))
        return self.of("floordiv", dim, divisor, natural=is_natural(dim))

    def least(self, left: Dim, right: Dim) -> Dim:
        """The smaller of the two."""
        return self._extreme("min", min, left, right)

    def greatest(self, left: Dim, right: Dim) -> Dim:
        """The larger of the two."""
        return self._extreme("max", max, left, right)

    def broadcast(self, left: Dim, right: Dim) -> Dim:
        """The dim that two broadcast dims give, taken for granted that they fit."""
        if left == right or right == 1:
            return left
        if left == 1:
            return right
        for dim in (left, right):
            if isinstance(dim, int):
                return dim
        parts = self._parts("broadcast", left) | self._parts("broadcast", right)
        # What is the smaller of c and x can only be broadcast against x by being x: it is 1 only
        # where x is.
        parts = {part for part in parts if not self._is_capped(part, parts)}
        if len(parts) == 1:
            return parts.pop()
        return self._joined("broadcast", parts, natural=True)

    def broadcast_all(self, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
        """The dims that tensors have after broadcasting against each other."""
        rank = max(map(len, shapes))
        result: list[Dim] = [1] * rank
        for dims in shapes:
            for index, dim in enumerate(dims, start=rank - len(dims)):
                result[index] = self.broadcast(result[index], dim)
        return tuple(result)

    def _parts(self, operation: str, dim: Dim) -> set[Dim]:
        """What `dim` joins by `operation`; itself if it is no such join."""
        name, parts = self._operands.get(dim, _NO_JOIN)
        return set(parts) if name == operation else {dim}

    def _is_capped(self, dim: Dim, others: set[Dim]) -> bool:
        name, parts = self._operands.get(dim, _NO_JOIN)
        bounds = [part for part in parts if isinstance(part, int)]
        if name != "min" or not bounds or bounds[0] < 2:
            return False
        return any(part in others for part in parts)

    def _joined(self, operation: str, parts: set[Dim], *, natural: bool) -> Expression:
        """An operation that takes its operands in any order."""
        found = self.of(operation, *sorted(parts, key=str), natural=natural)
        self._operands[found] = (operation, frozenset(parts))
        return found

    def _extreme(self, name: str, choose: Callable[[int, int], int], left: Dim, right: Dim) -> Dim:
        if isinstance(left, int) and isinstance(right, int):
            return choose(left, right)
        small, large = (left, right) if is_natural(right - left) else (right, left)
        if is_natural(large - small):
            return small if name == "min" else large
        natural = is_natural(left) and is_natural(right)
        if name == "max":
            natural = is_natural(left) or is_natural(right)
        return self._joined(name, {left, right}, natural=natural)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Expression):
        return dim.terms
    return (((), int(dim)),) if dim else ()


def _total(terms: list[tuple[Monomial, int]]) -> Dim:
    """The sum of the terms in normal form: like terms merged, zeros gone, in one order."""
    merged: dict[Monomial, int] = {}
    for monomial, factor in terms:
        merged[monomial] = merged.get(monomial, 0) + factor
    kept = {monomial: factor for monomial, factor in merged.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expression(tuple(sorted(kept.items(), key=lambda term: (not term[0], term[0]))))


def _without(monomial: Monomial, divisor: Monomial) -> Monomial | None:
    """The monomial with the factors of `divisor` taken out, or None if it lacks one."""
    rest = list(monomial)
    for part in divisor:
        if part not in rest:
            return None
        rest.remove(part)
    return tuple(rest)


def _split(dim: Expression, divisor: int) -> tuple[Dim, Dim]:
    """`dim` as whole multiples of `divisor` (already divided) and a rest."""
    whole: list[tuple[Monomial, int]] = []
    rest: list[tuple[Monomial, int]] = []
    for monomial, factor in dim.terms:
        times, left = divmod(factor, divisor) if not monomial else (0, factor)
        if monomial and factor % divisor == 0:
            times, left = factor // divisor, 0
        whole.append((monomial, times))
        rest.append((monomial, left))
    return _total(whole), _total(rest)
