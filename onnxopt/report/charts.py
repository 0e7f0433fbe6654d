"""Bars and curves as SVG that stands in an HTML page and takes its colours from there."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from html import escape

from onnxopt.report.page import Bar, Curve, Series

WIDTH, HEIGHT = 860, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 14, 44
_COLOURS = 6
_MOST_DOTS = 250
_LETTER, _ROW = 7, 18
"""How wide a letter and how high a row of the legend is."""
_PLACES = 6
_ORDER = (0, _PLACES, *range(1, _PLACES))
"""Places of the legend between left and right, top and bottom, the ends first."""


def bar_svg(bar: Bar, longest: float) -> str:
    """One bar as wide as its cell, before what it was."""
    was = "" if bar.was is None else _rect(bar.was / longest, f"was {bar.tone}", 0, 14)
    now = _rect(bar.length / longest, f"now {bar.tone}", 3, 8)
    return f'<svg aria-hidden="true">{was}{now}</svg>'


def _rect(share: float, kind: str, y: int, height: int) -> str:
    if not share > 0:
        return ""
    width = max(0.4, 100 * min(share, 1.0))
    return f'<rect class="{kind}" y="{y}" width="{width:.2f}%" height="{height}" rx="2"/>'


def curve_svg(curve: Curve) -> str:
    """The curve with its axes; names of points show when the pointer rests on them."""
    points = [point for series in curve.series for point in series.points]
    if not points:
        return ""
    axes = _Axes(points, [] if curve.limit is None else [curve.limit])
    parts = [axes.grid(), axes.titles(curve.x, curve.y)]
    if curve.limit is not None:
        parts.append(_level(axes.y(curve.limit), "limit"))
    for number, series in enumerate(curve.series):
        parts.append(_line(series, axes, f"n{number % _COLOURS}"))
    if len(curve.series) > 1:
        parts.append(_legend(curve.series, axes))
    label = escape(f"{curve.y} over {curve.x}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(parts)}</svg>"
    )


class _Axes:
    """Where numbers lie in the picture."""

    def __init__(self, points: Sequence[tuple[float, float]], also: Sequence[float]) -> None:
        xs, ys = [x for x, _ in points], [*(y for _, y in points), *also]
        self._x0, self._x1 = min(xs), max(xs)
        self._ticks = ticks(min(ys), max(ys))
        self._y0, self._y1 = self._ticks[0], self._ticks[-1]

    def x(self, value: float) -> float:
        share = (value - self._x0) / ((self._x1 - self._x0) or 1.0)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = (value - self._y0) / ((self._y1 - self._y0) or 1.0)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def grid(self) -> str:
        levels = [
            f"{_level(self.y(tick), 'grid')}"
            f'<text x="{_LEFT - 8}" y="{self.y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
            for tick in self._ticks
        ]
        ends = [
            f'<text x="{self.x(end):.1f}" y="{HEIGHT - _BOTTOM + 19}" text-anchor="{anchor}">'
            f"{_short(end):g}</text>"
            for end, anchor in ((self._x0, "start"), (self._x1, "end"))
        ]
        return "".join([*levels, *ends])

    def titles(self, x: str, y: str) -> str:
        middle = (WIDTH + _LEFT) / 2
        return (
            f'<text x="{middle:.0f}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>'
            f'<text transform="translate(16 {HEIGHT / 2 - 10:.0f}) rotate(-90)"'
            f' text-anchor="middle">{escape(y)}</text>'
        )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from below `low` to above `high`, at least two."""
    if high <= low:
        high = low + (abs(low) or 1.0)
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 2.5, 5, 10) if power * each >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(count * step, 12) for count in range(first, last + 1)]


def _short(end: float) -> float:
    """A number that is easily read: counts as they are, shares to three digits."""
    return end if float(end).is_integer() else float(f"{end:.3g}")


def _level(y: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'


def _line(series: Series, axes: _Axes, colour: str) -> str:
    places = [(axes.x(x), axes.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    drawn = f'<polyline class="line {colour}" points="{path}"/>'
    if len(places) > _MOST_DOTS:
        return drawn
    names = series.names or ("",) * len(places)
    dots = [
        f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y:.1f}" r="3.5">'
        f"<title>{escape(name)} {point[1]:.4g}</title></circle>"
        for (x, y), point, name in zip(places, series.points, names, strict=True)
    ]
    return drawn + "".join(dots)


def _legend(series: Sequence[Series], axes: _Axes) -> str:
    """The names of the lines where the fewest of them pass through, best in a corner."""
    width = 26 + _LETTER * max(len(each.name) for each in series)
    height = _ROW * len(series)
    ends = (_LEFT + 12, WIDTH - _RIGHT - width), (_TOP + 4, HEIGHT - _BOTTOM - height - 4)
    lefts, tops = ([a + (b - a) * part / _PLACES for part in _ORDER] for a, b in ends)
    corners = [(round(left), round(top)) for top in tops for left in lefts]
    corners.sort(key=lambda corner: corner[0] not in ends[0] or corner[1] not in ends[1])
    places = [place for each in series for place in _along(each, axes)]

    def crossed(corner: tuple[float, float]) -> int:
        left, top = corner
        return sum(left <= x <= left + width and top <= y <= top + height for x, y in places)

    left, top = min(corners, key=crossed)
    rows = [
        f'<circle class="dot n{number % _COLOURS}" cx="{left + 4}" cy="{top + 10 + _ROW * number}"'
        f' r="4"/><text x="{left + 14}" y="{top + 14 + _ROW * number}">{escape(each.name)}</text>'
        for number, each in enumerate(series)
    ]
    return "".join(rows)


def _along(series: Series, axes: _Axes) -> list[tuple[float, float]]:
    """Places on the line, close to each other, in the units of the picture."""
    found = [(axes.x(x), axes.y(y)) for x, y in series.points]
    for (x0, y0), (x1, y1) in itertools.pairwise(found[:]):
        steps = int(max(abs(x1 - x0), abs(y1 - y0)) / 8)
        found += [(x0 + (x1 - x0) * k / steps, y0 + (y1 - y0) * k / steps) for k in range(1, steps)]
    return found
