"""What can be read in a figure: visible texts, by matplotlib's own extents, that overlap or are cut off."""

from __future__ import annotations

import itertools
import math
from typing import Any

from llmsched.metrics.figure_style import figure_of


def visible_texts(figure: Any) -> list[Any]:
    """Every text that is drawn: tick labels in view, titles, labels, legends and annotations."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    of_ticks: set[Any] = set()
    seen: list[Any] = []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            of_ticks |= set(axis.findobj(Text)) - {axis.label, axis.offsetText}
            if axes.axison and axes.get_visible() and axis.get_visible():
                seen += [label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)]
            else:
                of_ticks |= {axis.label, axis.offsetText}
    seen += [text for text in figure.findobj(Text) if text not in of_ticks]
    return [text for text in dict.fromkeys(seen) if text.get_visible() and text.get_text().strip()]


def unreadable(drawn: Any) -> list[str]:
    """Pairs of texts in the figure of these axes that overlap, and texts that its edge cuts off."""
    figure = drawn if hasattr(drawn, "draw_without_rendering") else figure_of(drawn)
    texts = visible_texts(figure)
    assert len(texts) > 3
    boxes = [text.get_window_extent() for text in texts]
    whole = figure.bbox
    wrong = [
        f"cut off: {text.get_text()!r}"
        for text, box in zip(texts, boxes, strict=True)
        if box.x0 < whole.x0 - 1 or box.x1 > whole.x1 + 1 or box.y0 < whole.y0 - 1 or box.y1 > whole.y1 + 1
    ]
    for (one, box), (other, its) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        width = min(box.x1, its.x1) - max(box.x0, its.x0)
        height = min(box.y1, its.y1) - max(box.y0, its.y0)
        if width > 0.5 and height > 0.5 and not _beside_each_other(one, other, box, its):
            wrong.append(f"overlap: {one.get_text()!r} and {other.get_text()!r}")
    return wrong


def _beside_each_other(one: Any, other: Any, box: Any, its: Any) -> bool:
    """Whether two labels that lie aslant at the same angle are further apart than they are high."""
    angle = one.get_rotation() % 90
    if not angle or one.get_rotation() != other.get_rotation():
        return False
    high = one.get_fontsize() * 1.2 * one.get_figure().dpi / 72
    return bool(abs(box.x1 - its.x1) * math.sin(math.radians(angle)) >= high)
