"""A small chart kit: scales, axes and marks as inline SVG, drawn by hand so that text stays text.

Notable: colours are CSS classes, so one drawing serves light, dark and print; every coordinate is
rounded, so equal reports give equal bytes; every text is escaped here, in one place. Coordinates are
CSS pixels of a viewBox about as wide as a phone, which keeps labels readable there.
Not here: what is drawn (``plots``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from locum.core.text import visible

Value = str | float | int
Box = tuple[float, float, float, float]
Place = tuple[float, float, str]
_RINGS = (-14.0, 22.0, -29.0, 37.0, -44.0, 52.0, -59.0, 67.0)


def _text(value: Value) -> str:
    if isinstance(value, str):
        return str(escape(visible(value)))
    return f"{value:.1f}".removesuffix(".0")


def tag(name: str, content: str = "", **attributes: Value | None) -> str:
    """One SVG element; ``class_`` is class and underscores become dashes. ``content`` is SVG, not text."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_text(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>" if content else f"<{name}{written}/>"


def label(x: float, y: float, text: str, **attributes: Value | None) -> str:
    """A text element at (x, y)."""
    return tag("text", _text(text), x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A straight line with CSS class ``kind``."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def path(points: Sequence[tuple[float, float]], kind: str, *, close: bool = False) -> str:
    """A line through points, or the area inside them."""
    steps = " ".join(f"{'L' if index else 'M'}{_text(x)} {_text(y)}" for index, (x, y) in enumerate(points))
    return tag("path", d=steps + (" Z" if close else ""), class_=kind)


def title(text: str) -> str:
    """What a pointer resting on the enclosing element reads."""
    return tag("title", _text(text))


def marker(x: float, y: float, shape: str, kind: str, radius: float = 5.5) -> str:
    """A mark whose shape, not only its colour, tells the series apart: circle, square, triangle, diamond."""
    if shape == "square":
        side = radius * 1.75
        return tag("rect", x=x - side / 2, y=y - side / 2, width=side, height=side, rx=1.5, class_=kind)
    if shape == "triangle":
        corners = [(x, y - radius * 1.2), (x + radius * 1.1, y + radius * 0.85), (x - radius * 1.1, y + radius * 0.85)]
        return path(corners, kind, close=True)
    if shape == "diamond":
        reach = radius * 1.25
        return path([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], kind, close=True)
    return tag("circle", cx=x, cy=y, r=radius, class_=kind)


@dataclass(frozen=True)
class Scale:
    """Maps data from ``low``..``high`` to pixels ``start``..``end``; ``log`` for a logarithmic axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside the range are kept at its edge."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        share = (value - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values inside the range: 1-2-5 steps, or 1-2-5 (powers of ten when wide) on a log axis."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high, wanted)


def _linear_ticks(low: float, high: float, wanted: int) -> list[float]:
    rough = (high - low) / max(1, wanted)
    if rough <= 0:
        return [low]
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 10) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1,) if last - first > 4 else (1, 3) if last - first > 2 else (1, 2, 5)
    values = [factor * 10.0**exponent for exponent in range(first, last + 1) for factor in factors]
    return [value for value in values if low * 0.999 <= value <= high * 1.001]


@dataclass
class Chart:
    """A drawing with a frame of axes.

    Attributes:
        name: short id, unique on the page.
        caption: read out by screen readers in place of the drawing.
    """

    name: str
    caption: str
    width: float = 440
    height: float = 300
    left: float = 46
    right: float = 14
    top: float = 14
    bottom: float = 44
    _parts: list[str] = field(default_factory=list[str])

    @property
    def x_range(self) -> tuple[float, float]:
        """Left and right edge of the plotting area, px."""
        return self.left, self.width - self.right

    @property
    def y_range(self) -> tuple[float, float]:
        """Bottom and top edge of the plotting area, px (y grows downwards)."""
        return self.height - self.bottom, self.top

    def add(self, *parts: str) -> None:
        """Draw elements above what is there."""
        self._parts.extend(parts)

    def axes(self, x: Scale, y: Scale, x_label: str, y_label: str, x_ticks: list[str], y_ticks: list[str]) -> None:
        """Grid lines, tick labels and axis names; tick labels belong to ``ticks()`` of each scale."""
        floor, ceiling = self.y_range
        left, right = self.x_range
        for value, text in zip(y.ticks(), y_ticks, strict=True):
            self.add(line(left, y(value), right, y(value), "grid"))
            self.add(label(left - 7, y(value) + 4, text, class_="tick", text_anchor="end"))
        for value, text in zip(x.ticks(), x_ticks, strict=True):
            self.add(line(x(value), floor, x(value), floor + 4, "axis"))
            self.add(label(x(value), floor + 17, text, class_="tick", text_anchor="middle"))
        self.add(line(left, floor, right, floor, "axis"))
        self.add(label((left + right) / 2, self.height - 6, x_label, class_="axis-name", text_anchor="middle"))
        if y_label:
            self.add(label(0, ceiling - 18, y_label, class_="axis-name"))

    def markup(self) -> Markup:
        """The finished drawing, safe to stand in a page."""
        head = tag("title", _text(self.caption), id=f"{self.name}-title")
        return Markup(  # noqa: S704 - every text went through escape in _text
            tag(
                "svg",
                head + "".join(self._parts),
                class_="chart",
                role="img",
                aria_labelledby=f"{self.name}-title",
                viewBox=f"0 0 {_text(self.width)} {_text(self.height)}",
                id=self.name,
                style=f"max-width:{round(1.25 * self.width)}px",
            )
        )


@dataclass
class Labels:
    """Places text beside marks without covering marks or other text (greedy, deterministic)."""

    bounds: Box
    taken: list[Box] = field(default_factory=list[Box])

    def block(self, x: float, y: float, radius: float = 8) -> None:
        """Keep text away from a mark."""
        self.taken.append((x - radius, y - radius, x + radius, y + radius))

    def on_line(self, left: float, right: float, y: float, text: str, kind: str, size: float = 11.5) -> str:
        """The name of a horizontal line: above or below it, at the end where least is covered."""
        places = [
            (right, y - 5, "end"),
            (left + 4, y - 5, "start"),
            (left + 4, y + 14, "start"),
            (right, y + 14, "end"),
        ]
        x, at, anchor = self._best(places, len(text) * size * 0.54, size, y)
        return label(x, at, text, class_=kind, text_anchor=anchor)

    def place(self, x: float, y: float, text: str, kind: str, size: float = 11.5) -> str:
        """The label in the free place nearest its mark, with a leader when it is not beside it.

        Where nothing is free it goes where it covers least.
        """
        offsets = [(12.0, 4.0, "start"), (-12.0, 4.0, "end"), (0.0, -13.0, "middle"), (0.0, 21.0, "middle")]
        offsets += [(dx, dy, side) for dy in _RINGS for dx, side in ((9.0, "start"), (-9.0, "end"), (0.0, "middle"))]
        places = [(x + dx, y + dy, side) for dx, dy, side in offsets]
        at_x, at_y, anchor = self._best(places, len(text) * size * 0.54, size, y)
        placed = label(at_x, at_y, text, class_=kind, text_anchor=anchor)
        if abs(at_y - y) < 24:
            return placed
        return line(x, y, at_x, at_y + 3 if at_y < y else at_y - 9, "leader") + placed

    def _best(self, places: Sequence[Place], wide: float, size: float, y: float) -> Place:
        """The place that covers least and lies nearest ``y``; it counts as taken from now on."""
        boxes = [_box(place, wide, size) for place in places]
        badness = [self._badness(box) + 0.2 * abs(place[1] - y) for box, place in zip(boxes, places, strict=True)]
        best = badness.index(min(badness))
        self.taken.append(boxes[best])
        return places[best]

    def _badness(self, box: Box) -> float:
        return 3 * sum(_overlap(box, other) for other in self.taken) + 9 * _outside(box, self.bounds)


def _box(place: Place, wide: float, size: float) -> Box:
    x, y, anchor = place
    left = x - {"start": 0.0, "middle": wide / 2, "end": wide}[anchor]
    return left, y - size * 0.85, left + wide, y + size * 0.2


def _overlap(a: Box, b: Box) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def _outside(box: Box, bounds: Box) -> float:
    inside = _overlap(box, bounds)
    return (box[2] - box[0]) * (box[3] - box[1]) - inside
