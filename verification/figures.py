"""Figures of the verification: measured ratios with their confidence bands, theory as lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from llmsched.metrics.figure_style import STYLES, light_grid, new_figure, title

from .checks import Check

_FULL = "full cache, random order"
_GREY = "#606060"

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def competitive(checks: Sequence[Check]) -> Figure:
    """A panel per distribution: ratio to hsf against the cache, with the theorem's value."""
    ratios = [check for check in checks if check.name.endswith(" / hsf")]
    fewest = {name: min(c.n // c.memory for c in ratios if c.name == name) for name in {c.name for c in ratios}}
    ratios = [check for check in ratios if check.n // check.memory == fewest[check.name]]  # one line, one n/M
    labels = list(dict.fromkeys(check.name.partition(": ")[0] for check in ratios))
    figure = new_figure(10, 8)
    grid = figure.subplots(3, 3, sharex=True).ravel()
    for axes, label in zip(grid, labels, strict=False):
        for policy in ("amin", "amin-lottery", "aell"):
            _band(axes, [check for check in ratios if check.name == f"{label}: {policy} / hsf"], policy)
        full = [check for check in ratios if check.name.startswith(label) and check.source == _FULL]
        if full:
            axes.axhline(full[0].theory, color=_GREY, linestyle=":", linewidth=1.6, label=_FULL)
        axes.set_title(label, fontsize=9, loc="left")
        _log_grid(axes, "x")
        low, high = axes.get_ylim()
        axes.set_ylim(min(1.0, low), high + 0.03 * (high - low))
    for axes in grid[::3]:
        axes.set_ylabel("total latency / that of hsf")
    for axes in grid[5:8]:  # the last of each column
        axes.set_xlabel("KV cache M (tokens), n in proportion")
        axes.tick_params(labelbottom=True)
    grid[-1].axis("off")
    handles = {line.get_label(): line for axes in grid for line in axes.get_lines()}
    grid[-1].legend(handles.values(), handles.keys(), loc="center", frameon=False, title="band: 99 % confidence")
    title(
        figure,
        "Total latency over that of hsf: random lengths, every interval [shortest, longest], all arriving at 0",
        f"{_span(ratios, 'memory')} tokens of KV cache and {_span(ratios, 'n')} requests; bands: 99 % confidence",
    )
    return figure


def queueing(checks: Sequence[Check]) -> Figure:
    """Measured mean wait over the formula's, a row per check."""
    figure = new_figure(8, 1 + 0.24 * len(checks))
    axes = figure.subplots()
    places = np.arange(len(checks))
    ratio = np.array([check.measured / check.theory for check in checks])
    half = np.array([check.half / check.theory for check in checks])
    axes.errorbar(ratio, places, xerr=half, fmt="o", markersize=4, color=STYLES["amin"][0], capsize=2)
    axes.axvline(1.0, color=STYLES["hsf"][0], linewidth=1)
    light_grid(axes)
    axes.set_yticks(places, [check.name for check in checks], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("measured mean wait / formula")
    title(
        figure,
        "Mean wait of Poisson arrivals against queueing formulas",
        f"{_span(checks, 'n')} requests a run; bars: 99 % confidence for all together",
    )
    return figure


def worst(checks: Sequence[Check]) -> Figure:
    """A_min on the worst distribution of Lemma 2, and A_max on Theorem 2's instance, against theory."""
    figure = new_figure(9, 3.6)
    left, right = figure.subplots(1, 2)
    both = [check for check in checks if check.source == "Corollary 1"]
    for policy in ("amin", "amin-lottery"):
        rows = [check for check in both if check.name.startswith(f"{policy} /")]
        uppers = [int(check.name.rpartition("..")[2]) for check in rows]
        _points(left, uppers, rows, policy)
    left.plot(uppers, [check.theory for check in rows], color="black", linestyle="--", label="Corollary 1")
    full = [check for check in checks if check.source == _FULL]
    left.plot(uppers, [check.theory for check in full], color=_GREY, linestyle=":", linewidth=1.6, label=_FULL)
    left.set_xlabel("longest output u (shortest 1)")
    left.set_ylabel("total latency / that of hsf")
    left.set_title("amin on the distribution worst for Lemma 2", fontsize=10, loc="left")
    rows = [check for check in checks if check.source == "the proof's expressions"]
    right.plot([1, 20], [1, 20], color="black", linestyle="--", label="the proof's expressions")
    _points(right, [check.theory for check in rows], rows, "amax")
    right.set_xlabel("the proof's expressions")
    right.set_ylabel("measured")
    right.set_title("amax on Theorem 2's instance", fontsize=10, loc="left")
    _log_grid(left, "xy")
    left.set_xticks(uppers)
    left.set_yticks([y for y in (1, 2, 3, 5, 10, 20) if y <= max(check.theory for check in full)])
    light_grid(right)
    for axes in (left, right):
        axes.legend(frameon=False)
    drawn = [*both, *rows]
    title(
        figure,
        f"The worst that theory knows, simulated: {_span(drawn, 'n')} requests, all arriving at 0, in "
        f"{_span(drawn, 'memory')} tokens of KV cache; bars: 99 % confidence",
    )
    return figure


def _span(checks: Sequence[Check], field: str) -> str:
    """From the smallest to the largest n or memory."""
    numbers = [getattr(check, field) for check in checks]
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _log_grid(axes: Axes, which: str) -> None:
    """Logarithmic axes labelled at their major ticks only."""
    if "x" in which:
        axes.set_xscale("log")
    if "y" in which:
        axes.set_yscale("log")
    light_grid(axes)


def _band(axes: Axes, rows: Sequence[Check], policy: str) -> None:
    rows = [check for check in rows if check.source != _FULL]
    if not rows:
        return
    colour = STYLES[policy][0]
    memory = [check.memory for check in rows]
    mean, half = (np.array([getattr(check, name) for check in rows]) for name in ("measured", "half"))
    axes.plot(memory, mean, color=colour, marker="o", markersize=3.5, linewidth=1.5, label=f"{policy}, measured")
    axes.fill_between(memory, mean - half, mean + half, color=colour, alpha=0.25, linewidth=0)
    about = "both rules of amin" if policy.startswith("amin") else policy  # one statement, drawn twice in one place
    axes.axhline(rows[0].theory, color=colour, linestyle="--", linewidth=1.2, label=f"{about}, theory")


def _points(axes: Axes, x: Sequence[float], rows: Sequence[Check], policy: str) -> None:
    measured, half = (np.array([getattr(check, name) for check in rows]) for name in ("measured", "half"))
    colour = STYLES[policy][0]
    axes.errorbar(x, measured, yerr=half, fmt="o", markersize=4, color=colour, capsize=2, label=f"{policy}, measured")
