"""How far one run's outputs are from another's, elementwise and on the whole.

Tolerances were chosen from measurements on a zoo of real models (onnxruntime 1.31, CPU). Rewritten
float32 networks (normalizations folded, constants merged) move by at most 2e-6 of the largest
output; a sigmoid near zero moves by 1.5e-7 whatever its size; a scale that is wrong by 1e-3 moves
an output by 1e-4 or more. The bounds stand between.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np

from onnxopt.config import Exactness, Tolerance
from onnxopt.errors import BadInput

Array: TypeAlias = "np.ndarray[Any, Any]"

_BLOCK = 1 << 20
_EXACT = Tolerance(0.0, 0.0)
# Half a step: whole numbers pass only when they are equal, and `worst` still stays finite.
_WHOLE = Tolerance(0.5, 0.0)
_CLOSE: Mapping[Any, Tolerance] = {
    np.dtype(np.float64): Tolerance(1e-12, 1e-9),
    np.dtype(np.float32): Tolerance(5e-7, 2e-5),
    np.dtype(np.float16): Tolerance(1e-4, 5e-3),
    np.dtype(ml_dtypes.bfloat16): Tolerance(1e-3, 4e-2),
}
# One step of an 8-bit float (3 and 2 bits of mantissa) may flip; 4-bit floats have 1 bit.
_CLOSE_SMALL = Tolerance(1e-3, 0.26)
# A sanity bound only: a lossy step is judged by its own budget, not elementwise.
_LOSSY = Tolerance(1e-3, 1.0)
_ANYTHING = Tolerance(math.inf, 0.0)


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far an output moved, over all the runs compared.

    `max_abs` is the largest absolute difference of finite elements and `worst` the same in units
    of the tolerance (passing means at most 1; inf where values differ that must be the same);
    `cosine` and `sqnr_db` (decibels, inf for identical outputs) weigh all elements together, and
    are NaN where nothing could be compared.
    `reason` says why it did not pass, or what was allowed for when it did. `dtype` names the
    element type; structured outputs list their parts' types.
    """

    name: str
    dtype: str
    max_abs: float
    worst: float
    cosine: float
    sqnr_db: float
    passed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Measure:
    """The raw numbers of one comparison of two tensors; they add up over tensors and runs.

    `outside` counts elements beyond the tolerance, `mismatched` those that are NaN, infinite or
    another string on one side only, `resized` elements that are missing or too many. `alien` means
    that types, ranks or structures differ. Energies are sums of squares over finite elements.
    """

    dtype: str = ""
    max_abs: float = 0.0
    worst: float = 0.0
    outside: int = 0
    mismatched: int = 0
    count: int = 0
    resized: int = 0
    alien: bool = False
    all_nan: bool = False
    dot: float = 0.0
    reference_energy: float = 0.0
    candidate_energy: float = 0.0
    noise_energy: float = 0.0
    reason: str = ""

    @property
    def passed(self) -> bool:
        return not self.reason

    def __add__(self, other: Measure) -> Measure:
        names = dict.fromkeys(filter(None, (*self.dtype.split(", "), *other.dtype.split(", "))))
        return Measure(
            ", ".join(names),
            max(self.max_abs, other.max_abs),
            max(self.worst, other.worst),
            self.outside + other.outside,
            self.mismatched + other.mismatched,
            self.count + other.count,
            self.resized + other.resized,
            self.alien or other.alien,
            (self.all_nan or not self.count) and (other.all_nan or not other.count),
            self.dot + other.dot,
            self.reference_energy + other.reference_energy,
            self.candidate_energy + other.candidate_energy,
            self.noise_energy + other.noise_energy,
            self.reason or other.reason,
        )

    def difference(self, name: str, *, note: str = "") -> OutputDifference:
        """The public record of these numbers; `note` is its reason where nothing failed."""
        compared = self.passed or self.count > 0
        return OutputDifference(
            name,
            self.dtype,
            self.max_abs,
            self.worst,
            _cosine(self.dot, self.reference_energy, self.candidate_energy)
            if compared
            else math.nan,
            _decibels(self.reference_energy, self.noise_energy) if compared else math.nan,
            self.passed,
            self.reason or note,
        )


def tolerance_for(exactness: Exactness, dtype: Any) -> Tolerance:
    """The elementwise bound for outputs of `dtype` after steps of class `exactness`.

    Integers, booleans and strings must be equal unless the step is lossy.
    """
    dtype = np.dtype(dtype)
    if exactness is Exactness.EXACT:
        return _EXACT
    if not is_float(dtype):
        return _WHOLE if exactness is Exactness.CLOSE else _ANYTHING
    if exactness is Exactness.LOSSY:
        return _LOSSY
    return _CLOSE.get(_real(dtype), _CLOSE_SMALL)


def compare(
    reference: Sequence[Any],
    candidate: Sequence[Any],
    names: Sequence[str],
    tolerance: Tolerance | Exactness = Exactness.CLOSE,
) -> tuple[OutputDifference, ...]:
    """One record an output, in order.

    Args:
        reference: Output values: arrays, lists (sequences), dicts (maps), None (empty optional).
        candidate: The same outputs of the other model.
        names: The outputs' names.
        tolerance: One bound for all, or a class that gives each dtype its own.

    Raises:
        BadInput: The three do not have the same length.
    """
    if not len(reference) == len(candidate) == len(names):
        raise BadInput(
            f"can't compare {len(reference)} outputs with {len(candidate)} under {len(names)} names"
        )
    return tuple(
        measure(left, right, tolerance).difference(name)
        for left, right, name in zip(reference, candidate, names, strict=True)
    )


def measure(reference: Any, candidate: Any, tolerance: Tolerance | Exactness) -> Measure:
    """The numbers of one output, whatever its structure."""
    left, right = dict(leaves(reference)), dict(leaves(candidate))
    if list(left) != list(right):
        return Measure(reason=_structure_reason(left, right), worst=math.inf, alien=True)
    total = Measure()
    for path, array in left.items():
        total += _measure_leaf(path, array, right[path], tolerance)
    return total


def measure_types(reference: Any, candidate: Any, *, shapes: bool) -> Measure:
    """Whether types and (where asked) shapes are the same; the numbers do not matter."""
    left, right = dict(leaves(reference)), dict(leaves(candidate))
    if list(left) != list(right):
        return Measure(reason=_structure_reason(left, right), worst=math.inf, alien=True)
    for path, array in left.items():
        found = _measure_leaf(path, array, right[path], _ANYTHING)
        if found.alien or (shapes and found.resized):
            return found
    names = dict.fromkeys(_name(array) for array in left.values() if array is not None)
    return Measure(", ".join(names), dot=math.nan, noise_energy=math.nan)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Array | None]]:
    """The tensors in a value with the way to each; what has no tensor is told by its way alone."""
    if value is None:
        yield f"{path}(none)", None
    elif isinstance(value, Mapping):
        keys = sorted(value, key=lambda key: (str(type(key)), key))
        yield f"{path}{{{', '.join(map(repr, keys))}}}", _as_array([value[key] for key in keys])
    elif isinstance(value, (list, tuple)) and value and _same_keys(value):
        keys = sorted(value[0], key=lambda key: (str(type(key)), key))
        rows = [[row[key] for key in keys] for row in value]
        yield f"{path}[{len(value)}]{{{', '.join(map(repr, keys))}}}", _as_array(rows)
    elif isinstance(value, (list, tuple)):
        yield f"{path}[{len(value)}]", None
        for index, item in enumerate(value):
            yield from leaves(item, f"{path}[{index}]")
    else:
        yield path, np.asarray(value)


def is_float(dtype: Any) -> bool:
    """True for every floating or complex type, those of ml_dtypes included."""
    dtype = np.dtype(dtype)
    return dtype.kind in "fc" or "float" in dtype.name


def finite_scale(array: Array) -> float:
    """The largest finite magnitude in an array; 0 where there is none."""
    values = _as_float64(array)
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else 0.0


def _measure_leaf(
    path: str, left: Array | None, right: Array | None, tolerance: Tolerance | Exactness
) -> Measure:
    if left is None or right is None:
        return Measure()
    where = f" at {path}" if path else ""
    if _is_text(left) and _is_text(right):
        return _measure_text(left, right, where, tolerance)
    if left.dtype != right.dtype:
        reason = f"the element type{where} is {_name(right)}, it was {_name(left)}"
        return Measure(_name(left), worst=math.inf, alien=True, reason=reason)
    if left.shape != right.shape:
        return _measure_shapes(left, right, where)
    bound = tolerance_for(tolerance, left.dtype) if isinstance(tolerance, Exactness) else tolerance
    return _measure_numbers(left, right, bound, where)


def _measure_shapes(left: Array, right: Array, where: str) -> Measure:
    return Measure(
        _name(left),
        worst=math.inf,
        resized=max(abs(left.size - right.size), 1),
        alien=left.ndim != right.ndim,
        reason=f"the shape{where} is {list(right.shape)}, it was {list(left.shape)}",
    )


def _measure_text(
    left: Array, right: Array, where: str, tolerance: Tolerance | Exactness
) -> Measure:
    if left.shape != right.shape:
        return _measure_shapes(left, right, where)
    wrong = int(np.count_nonzero(left.astype(object) != right.astype(object)))
    if not wrong or tolerance is Exactness.LOSSY:
        return Measure("string", count=left.size, mismatched=wrong)
    reason = f"{wrong} of {left.size} strings{where} differ"
    return Measure(
        "string",
        worst=math.inf,
        outside=wrong,
        mismatched=wrong,
        count=left.size,
        reason=reason,
    )


def _measure_numbers(left: Array, right: Array, tolerance: Tolerance, where: str) -> Measure:
    limit = tolerance.absolute + tolerance.relative * (
        finite_scale(left) if tolerance.relative else 0.0
    )
    exact = tolerance == _EXACT
    total = Measure(_name(left))
    flat_left, flat_right = left.reshape(-1), right.reshape(-1)
    for start in range(0, left.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        total += _measure_block(flat_left[block], flat_right[block], limit, exact)
    reason = ""
    if total.mismatched:
        reason = (
            f"{total.mismatched} of {left.size} elements{where} are NaN or infinite on one side"
        )
    elif total.outside and not total.max_abs:
        reason = f"the sign of zero differs in {total.outside} of {left.size} elements{where}"
    elif total.outside:
        reason = _outside_reason(total, left, where)
    return replace(total, reason=reason)


def _measure_block(left: Array, right: Array, limit: float, exact: bool) -> Measure:
    a, b = _as_float64(left), _as_float64(right)
    both = np.isfinite(a) & np.isfinite(b)
    mismatched = int(np.count_nonzero(~(both | (a == b) | (np.isnan(a) & np.isnan(b)))))
    all_nan = bool(np.isnan(a).all())
    a, b = a[both], b[both]
    if left.dtype.kind in "iu" and left.dtype.itemsize == 8:
        gap = _whole_gap(left, right)
    else:
        gap = np.abs(a - b)
    beyond = gap > limit
    if exact:
        beyond |= (a == 0) & (b == 0) & (np.signbit(a) != np.signbit(b))
    outside = int(np.count_nonzero(beyond)) + mismatched
    largest = float(gap.max()) if gap.size else 0.0
    units = largest / limit if limit else (math.inf if outside else 0.0)
    with np.errstate(over="ignore", invalid="ignore"):
        dot, energy, other = float(a @ b), float(a @ a), float(b @ b)
        noise = float(gap @ gap)
    return Measure(
        max_abs=largest,
        worst=math.inf if mismatched else units,
        outside=outside,
        mismatched=mismatched,
        count=left.size,
        all_nan=all_nan,
        dot=dot,
        reference_energy=energy,
        candidate_energy=other,
        noise_energy=noise,
    )


def _whole_gap(left: Array, right: Array) -> Array:
    # float64 merges neighbours beyond 2**53; subtract before converting.
    high, low = np.maximum(left, right), np.minimum(left, right)
    unsigned = high.astype(np.uint64) - low.astype(np.uint64)
    return np.asarray(unsigned.astype(np.float64))


def _outside_reason(total: Measure, left: Array, where: str) -> str:
    share = f"{total.outside} of {left.size} elements{where}"
    if not is_float(left.dtype):
        return f"{share} differ, by at most {total.max_abs:g}"
    if math.isinf(total.worst):
        return f"{share} differ, by at most {total.max_abs:.2g}"
    return f"{share} are off by up to {total.worst:.3g} times the tolerance"


def _structure_reason(left: Mapping[str, Any], right: Mapping[str, Any]) -> str:
    gone = next((path for path in left if path not in right), "")
    new = next((path for path in right if path not in left), "")
    return f"the structure differs: {new or 'nothing'} in place of {gone or 'nothing'}"


def _same_keys(rows: Sequence[Any]) -> bool:
    return all(isinstance(row, Mapping) and row.keys() == rows[0].keys() for row in rows)


def _as_array(values: Sequence[Any]) -> Array:
    array = np.asarray(values)
    # onnxruntime hands out the floats of a map as Python floats, which hold single precision.
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _as_float64(array: Array) -> Array:
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind == "c":
        flat = flat.view(flat.real.dtype)
    return np.asarray(flat.astype(np.float64))


def _is_text(array: Array) -> bool:
    return array.dtype.kind in "OUS"


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.empty(0, dtype).real.dtype if dtype.kind == "c" else dtype


def _name(array: Array) -> str:
    return "string" if _is_text(array) else array.dtype.name


def _cosine(dot: float, left: float, right: float) -> float:
    if math.isnan(dot):
        return math.nan
    if left == right == 0.0:
        return 1.0
    norm = math.sqrt(left) * math.sqrt(right)
    return max(-1.0, min(1.0, dot / norm)) if norm else 0.0


def _decibels(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf
