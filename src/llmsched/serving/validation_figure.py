"""The figure of a validation: two distributions and a scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..metrics.figure_style import BLACK, ORANGE, Panels, light_grid, panels_of, title
from ..workloads.columns import FloatArray
from .records import Requests

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw(real: Requests, made: Requests, heading: str, ax: Panels | None = None) -> Panels:
    """Draw the requests as measured and as simulated, on three axes; see `Validation.plot`."""
    figure, panels = panels_of(ax, 1, 3, 11.5, 4.2)
    axes = panels[0]
    _distributions(axes[0], real.latency, made.latency, "latency (s)")
    second = ("time to the first token (s)", real.ttft, made.ttft)
    if not np.isfinite(real.ttft).any():
        second = ("latency per token (s)", real.latency / real.output, made.latency / made.output)
    _distributions(axes[1], second[1], second[2], second[0])
    _scatter(axes[2], real.latency, made.latency)
    title(figure, heading)
    return np.ravel(panels)


def _distributions(axes: Axes, real: FloatArray, made: FloatArray, label: str) -> None:
    for values, name, colour, dash in ((real, "measured", BLACK, "-"), (made, "simulated", ORANGE, "--")):
        known = np.sort(values[np.isfinite(values)])
        axes.step(known, np.arange(1, len(known) + 1) / len(known), dash, where="post", color=colour, label=name)
    axes.set_xlabel(label)
    axes.set_ylabel("share of requests")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1)
    light_grid(axes)
    axes.legend(loc="upper left", frameon=False)


def _scatter(axes: Axes, real: FloatArray, made: FloatArray) -> None:
    end = 1.03 * float(max(real.max(), made.max()))
    axes.plot([0, end], [0, end], "-", color="#bbbbbb", linewidth=1)
    axes.plot(real, made, "o", color=ORANGE, markersize=3, alpha=0.7, markeredgewidth=0)
    axes.set_xlim(0, end)
    axes.set_ylim(0, end)
    axes.set_aspect("equal")
    axes.set_xlabel("measured latency (s)")
    axes.set_ylabel("simulated latency (s)")
    light_grid(axes)
