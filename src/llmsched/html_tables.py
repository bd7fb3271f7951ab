"""How things show themselves in a notebook: small HTML tables. Every text is escaped, as names come from files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

#: Rows of a table that are shown; of more it says how many there are.
MOST_ROWS = 40

_LEFT = ' style="text-align:left"'


class Html(str):
    """Text that is HTML already: it is not escaped."""

    __slots__ = ()


def table(caption: str, rows: Iterable[Sequence[object]], *, header: Sequence[str] = (), note: str = "") -> str:
    """An HTML table: numbers by `number`, other values by `str`, the first column at the left.

    `note` stands below it, each of its lines by itself.
    """
    every = list(rows)
    lines = [f'<table><caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>']
    if header:
        lines += ["<thead><tr>", *_cells("th", header), "</tr></thead>"]
    lines += ["<tbody>"]
    for row in every[:MOST_ROWS]:
        lines += ["<tr>", *_cells("td", row), "</tr>"]
    lines += ["</tbody></table>"]
    if len(every) > MOST_ROWS:
        note = f"{len(every) - MOST_ROWS:,} more rows. {note}".strip()
    notes = [f'<p style="margin:0.3em 0"><small>{escape(line)}</small></p>' for line in note.splitlines()]
    return "".join(lines + notes)


def facts(caption: str, values: Mapping[str, object], *, note: str = "") -> str:
    """A table of names and values; values that are None are left out."""
    return table(caption, [(name, value) for name, value in values.items() if value is not None], note=note)


def number(value: float) -> str:
    """1,234 for whole numbers, four digits of others, a dash for what is not known."""
    if isinstance(value, int):
        return f"{value:,}"
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if abs(value) >= 1000 and math.isfinite(value) else f"{value:.4g}"


def share(value: float) -> str:
    """A share as a percentage; a dash for what is not known."""
    return "–" if math.isnan(value) else f"{value:.1%}"


def bar(value: float, most: float, colour: str) -> Html:
    """A bar as long as the value is to the most; nothing for what is not known."""
    if not (math.isfinite(value) and most > 0):
        return Html("")
    width = max(1, round(120 * value / most))
    return Html(
        f'<div style="width:{width}px;height:0.8em;background:{escape(colour)};'
        'box-shadow:0 0 0 1px rgba(128,128,128,0.6)"></div>'  # black is seen on a dark page, too
    )


def curve(values: Sequence[float], limit: float, label: str) -> str:
    """A small picture (SVG) of values over time, the limit as a dotted line; it takes the colours of the page."""
    width, height = 480, 64
    most = max([limit, *values]) or 1.0
    step = width / max(len(values), 1)
    places = [(round(k * step, 1), round(height - (height - 4) * value / most, 1)) for k, value in enumerate(values)]
    points = " ".join(f"{x},{y} {round(x + step, 1)},{y}" for x, y in places)
    top = round(height - (height - 4) * limit / most, 1)
    return (
        f'<figure style="margin:0"><svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" style="max-width:100%"><polygon points="0,{height} {points} '
        f'{width},{height}" fill="#0072B2" fill-opacity="0.55"/><line x1="0" x2="{width}" y1="{top}" y2="{top}" '
        f'stroke="currentColor" stroke-dasharray="2 3"/></svg><figcaption><small>{escape(label)}</small></figcaption>'
        "</figure>"
    )


def _cells(tag: str, row: Sequence[object]) -> list[str]:
    return [f"<{tag}{'' if k else _LEFT}>{_text(value)}</{tag}>" for k, value in enumerate(row)]


def _text(value: object) -> str:
    if isinstance(value, Html):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value)
    return escape(str(value))
