"""Figures (extra `plot`): matplotlib Figure objects, without pyplot and without any global state.

    plots.save(plots.comparison(compare(workload, memory=16492)), "comparison.png")

A policy has the same colour everywhere, from Okabe and Ito's palette, which colour-blind people can tell apart.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from .compare import Comparison
from .compare import Row as ComparisonRow
from .errors import InputError, MissingExtraError, NotFinishedError
from .paper import EXPERIMENTS
from .paper import Row as PaperRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "STYLES", "check_path", "comparison", "paper", "require_matplotlib", "save"]

#: What `save` can write, by the file's extension.
FORMATS = ("png", "svg", "pdf")

_BLACK, _ORANGE, _SKY, _GREEN, _BLUE, _RED, _PURPLE, _GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#808080",
)  # fmt: skip

#: Named policy -> (colour, dash). Relatives share a hue or a grey and differ in the dash.
STYLES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "hsf": (_BLACK, "-"),
        "svf": (_BLACK, ":"),
        "amax": (_RED, "-"),
        "amin": (_BLUE, "-"),
        "amin-doubling": (_SKY, "--"),
        "aell": (_GREEN, "-"),
        "mcsf": (_ORANGE, "-"),
        "mc-benchmark": (_ORANGE, "--"),
        "fcfs": (_PURPLE, "-"),
        "protection": (_GREY, "--"),
        "clearing": (_GREY, ":"),
    }
)
_OTHERS = ("#882255", "#44AA99", "#999933", "#332288", "#AA4499", "#117733")  # compositions of one's own

_ECDF_POINTS = 2000  # enough for any eye; a million steps would make an SVG of 100 MB


def require_matplotlib() -> None:
    """Raises MissingExtraError unless matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise MissingExtraError("matplotlib", "plot", "drawing figures") from None


def check_path(path: str | os.PathLike[str]) -> None:
    """Raises InputError unless `save` can write a file of this name, by its extension."""
    extension = Path(path).suffix.removeprefix(".").lower()
    if extension not in FORMATS:
        known = ", ".join(f".{name}" for name in FORMATS)
        raise InputError(f"cannot draw {os.fspath(path)!r}: the extension must be one of {known}")


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a figure in the format that the path's extension says; equal figures make equal files.

    Raises InputError for any other extension than those of `FORMATS`, OSError if the file cannot be written.
    """
    check_path(path)
    import matplotlib

    extension = Path(path).suffix.lower()
    undated: dict[str, Any] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(extension, {})
    with matplotlib.rc_context({"svg.hashsalt": "llmsched"}):
        figure.savefig(path, dpi=150, metadata=undated)


def comparison(compared: Comparison) -> Figure:
    """Mean latency of each policy as bars, and the distribution of latency behind it.

    Raises MissingExtraError without matplotlib.
    """
    rows = compared.ranked()
    figure = _figure(10, max(3.6, 1.6 + 0.3 * len(rows)))
    bars, curves = figure.subplots(1, 2, width_ratios=[1, 1.25])
    styles = _styles([row.policy for row in rows])
    _bars(bars, rows, styles, compared.baseline)
    _ecdf(curves, rows, styles)
    handles, labels = curves.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=2.6)
    figure.suptitle(
        f"{len(compared.workload):,} requests, {compared.memory:,} tokens of KV cache", x=0.01, ha="left", fontsize=11
    )
    return figure


def paper(rows: Sequence[PaperRow]) -> Figure:
    """The paper's experiments: average latency against the number of requests, a panel per setting of the intervals.

    Lines are means over subsets, bands their 95 % confidence intervals. Raises MissingExtraError without matplotlib.
    """
    figure = _figure(10, 5.8)
    grid = figure.subplots(2, 3, sharex=True, sharey="row")
    panels = [*grid[0, :2], *grid[1]]
    for panel, experiment in zip(panels, EXPERIMENTS, strict=True):
        spelling = str(experiment.rule)
        for policy in ("amax", "amin", "hsf"):  # hsf last: its dashes lie on amin, which is often the same line
            _line(panel, [row for row in rows if (row.intervals, row.policy) == (spelling, policy)])
        panel.set_title(f"{experiment.number}. {experiment.title}", fontsize=10, loc="left")
        _grid(panel)
    most = max((row.requests for row in rows), default=1)
    for panel in grid[:, 0]:  # after all lines are there: the other panels of a row share this one's limits
        panel.set_ylabel("average latency (rounds)")
        panel.set_ylim(bottom=0)
        panel.set_xlim(0, most * 1.03)
    for panel in grid[1]:
        panel.set_xlabel("requests, all arriving at 0")
    handles, labels = panels[0].get_legend_handles_labels()
    memory, subsets = (rows[0].memory, rows[0].subsets) if rows else (0, 0)
    note = f"KV cache {memory:,} tokens,\nmean of {subsets} random subsets"
    note += ",\nband: 95 % confidence interval" if subsets > 1 else ""
    grid[0, 2].axis("off")
    grid[0, 2].legend(handles, labels, loc="center", frameon=False, title=note, fontsize=11, handlelength=3)
    return figure


def _figure(width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(wspace=0.04, hspace=0.04))


def _styles(policies: Sequence[str]) -> dict[str, tuple[str, str]]:
    others = [policy for policy in policies if policy not in STYLES]
    return {**STYLES, **{policy: (_OTHERS[k % len(_OTHERS)], "-.") for k, policy in enumerate(sorted(others))}}


def _grid(axes: Axes) -> None:
    """A light grid, no box, and thousands separators (not on an axis of names)."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _bars(
    axes: Axes, rows: Sequence[ComparisonRow], styles: Mapping[str, tuple[str, str]], baseline: str | None
) -> None:
    latency = [0.0 if row.result is None else float(np.nan_to_num(row.result.mean_latency)) for row in rows]
    places = range(len(rows))
    axes.barh(places, latency, color=[styles[row.policy][0] for row in rows], height=0.7)
    for place, row, value in zip(places, rows, latency, strict=True):
        axes.text(value, place, f" {_beside(row)}", va="center", fontsize=9)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.set_xlabel("mean latency (rounds)")
    if baseline and not all(math.isnan(row.ratio) for row in rows):
        axes.set_title(f"mean latency and its ratio to {baseline}", fontsize=10, loc="left")
    _grid(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(places, [row.policy for row in rows])
    axes.invert_yaxis()


def _beside(row: ComparisonRow) -> str:
    if row.result is None:
        return "does not finish" if isinstance(row.error, NotFinishedError) else "cannot run"
    return "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"


def _ecdf(axes: Axes, rows: Sequence[ComparisonRow], styles: Mapping[str, tuple[str, str]]) -> None:
    for row in rows:
        if row.result is None or not len(row.result):
            continue
        share = np.linspace(0, 1, min(len(row.result), _ECDF_POINTS) + 1)[1:]
        latency = np.quantile(row.result.latency, share, method="inverted_cdf")
        colour, dash = styles[row.policy]
        axes.plot(latency, share, color=colour, linestyle=dash, linewidth=1.6, label=row.policy, drawstyle="steps-post")
    axes.set_xlabel("latency (rounds)")
    axes.set_ylabel("share of requests that took no longer")
    axes.set_ylim(0, 1.01)
    axes.set_xscale("log")
    axes.set_title("distribution of latency", fontsize=10, loc="left")
    _grid(axes)


def _line(axes: Axes, rows: Sequence[PaperRow]) -> None:
    if not rows:
        return
    policy = rows[0].policy
    colour, _ = STYLES[policy]
    dash, marker = ("--", "") if policy == "hsf" else ("-", "o")
    requests = [row.requests for row in rows]
    mean, half = (np.array([getattr(row, name) for row in rows]) for name in ("mean_latency", "mean_latency_ci95"))
    axes.plot(requests, mean, color=colour, markersize=3.5, linewidth=1.5, label=policy, linestyle=dash, marker=marker)
    axes.fill_between(requests, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
