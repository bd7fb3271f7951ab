"""Figures of what a predictor is worth (extra `plot`): a heat map, curves, and real predictors beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics.figure_style import Panels, figure_of, legend, light_grid, machine_of, panels_of, requests_of, styles_of
from ..metrics.figure_style import title as write_title
from ..workloads.columns import FloatArray
from .predictor_value import BIAS_AT, PredictorValue, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["heatmap", "latency_curves", "real_predictors"]

# Where the curves cut through the grid, or as near as it has a line.
_COVERAGE, _WIDTH = 0.9, 1.0
#: What intervals are made from, unless they are a real predictor's.
_NOISY = "intervals from the truth with noise"
#: Letters across the figure of curves.
_LETTERS = 125
_TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def heatmap(study: PredictorValue, *, ax: Panels | None = None) -> Panels:
    """Mean latency over coverage and width, a column per policy: relative to perfect knowledge, and to no predictor.

    Lines are where the policy breaks even: with itself with no predictor (solid), and with `fcfs` (dashed). Draws on
    `ax`, two rows of as many axes as there are policies, or on a new figure, which alone gets a title and a legend;
    returns the axes.

    Raises InputError for another number of axes, MissingExtraError without matplotlib.
    """
    count = len(study.policies)
    figure, panels = panels_of(ax, 2, count, 1.5 + 3.2 * count, 6.4, sharex=True, sharey=True)
    rows = (("vs_perfect", "latency / hsf", "cividis_r"), ("vs_none", "latency / no predictor", "RdBu_r"))
    for line, (column, label, colours) in zip(panels, rows, strict=True):
        norm = _norm([study.table(policy, column) for policy in study.policies], around_one=column == "vs_none")
        for axes, policy in zip(line, study.policies, strict=True):
            mesh = _mesh(axes, study, policy, column, norm, colours)
        bar = figure_of(line).colorbar(mesh, ax=line.tolist(), pad=0.01, aspect=14)
        bar.set_label(label)
        low, high = norm.vmin, norm.vmax
        ticks = [t for t in (0.05, *_TICKS[:3], 0.7, 1, 1.4, 2, 3, 5, 10, 20) if low / 1.02 <= t <= high * 1.02]
        bar.set_ticks(ticks, labels=[f"{t:g}" for t in ticks])
        bar.minorticks_off()
    for axes, policy in zip(panels[0], study.policies, strict=True):
        axes.set_title(policy, fontsize=11)
    for axes in panels[1]:
        axes.set_xlabel("width of the interval / truth")
    for axes in panels[:, 0]:
        axes.set_ylabel("coverage")
    if figure is None:
        return np.ravel(panels)
    from matplotlib.lines import Line2D

    _title(figure, study, "")
    lines = [
        Line2D([], [], color="black", label="as good as with no predictor"),
        Line2D([], [], color="black", linestyle="--", label="as good as fcfs, which needs none"),
    ]
    figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False)
    return np.ravel(panels)


def latency_curves(study: PredictorValue, *, ax: Panels | None = None) -> Panels:
    """Mean latency relative to perfect knowledge: against width, against coverage, against bias.

    Bands are 95 % confidence intervals; dotted lines are policies with no predictor; the legend tells the values
    of those that lie above the picture. Draws on `ax`, two axes or with biases three, or on a new figure, which alone
    gets a title; returns the axes.

    Raises InputError for another number of axes, MissingExtraError without matplotlib.
    """
    figure, grid = panels_of(ax, 1, 3 if study.biased else 2, 11, 4.2, sharey=True)
    panels = grid[0]
    coverages, widths = study.axes()
    coverage = float(coverages[np.argmin(np.abs(coverages - _COVERAGE))])
    width = float(widths[np.argmin(np.abs(np.log(widths + 1e-9) - math.log(_WIDTH)))])
    parts: list[tuple[str, list[Row], str]] = [
        ("width", [row for row in study.grid if row.coverage == coverage], f"coverage {coverage:g}"),
        ("coverage", [row for row in study.grid if row.width == width], f"width {width:g} of the truth"),
        ("bias", list(study.biased), f"coverage {BIAS_AT[0]}, width {BIAS_AT[1]}, before the bias"),
    ]
    ratios = [row.vs_perfect for _, rows, _ in parts for row in rows if row.replications]
    lowest, highest = min(ratios), max(ratios)
    for axes, (across, rows, title) in zip(panels, parts, strict=False):
        for policy in study.policies:
            _curve(axes, [row for row in rows if row.policy == policy], across)
        _references(axes, study, highest * 1.1)
        axes.set_title(title, fontsize=10, loc="left")
        light_grid(axes)
    panels[0].set_xscale("log")
    panels[0].set_xlabel("width of the interval / truth")
    panels[1].set_xlabel("coverage")
    if study.biased:
        panels[2].set_xlabel("bias / truth")
    ticks = [t for t in (0.5, 0.7, 1, 1.2, 1.4, 1.7, 2, 2.5, 3, 5, 7, 10, 20, 50) if 0.9 <= t <= highest * 1.2]
    for axes in panels:
        axes.set_yscale("log")
        axes.set_ylim(0.93 * lowest, 1.2 * highest)  # the bands of few replications may be wider
        axes.set_yticks(ticks, labels=[f"{t:g}" for t in ticks])
    panels[0].set_xticks(*_labelled(widths))
    for axes in panels:
        axes.minorticks_off()
    panels[0].set_ylabel("mean latency / hsf")
    handles, labels = panels[0].get_legend_handles_labels()
    if figure is None:
        legend(None, panels[0], handles, labels)
        return np.ravel(panels)
    _title(figure, study, "bands: 95 % confidence")
    columns = max(1, int(_LETTERS / (max(map(len, labels)) + 8)))
    figure.legend(
        handles, labels, loc="outside lower center", ncols=min(len(labels), columns), frameon=False, handlelength=2.6
    )
    return np.ravel(panels)


def real_predictors(study: PredictorValue, *, ax: Axes | None = None) -> Axes:
    """Real predictors: mean latency relative to perfect knowledge, by policy, and hollow what it is without them.

    Bars are 95 % confidence intervals; one that reaches below every ratio (few replications) ends in an arrow at the
    edge. Draws on `ax`, or on a new figure, which alone gets a title; returns the axes.

    Raises MissingExtraError without matplotlib.
    """
    names = list(dict.fromkeys(row.predictor for row in study.real))
    figure, panels = panels_of(ax, 1, 1, 8.5, 1.3 + 0.5 * len(names))
    axes: Axes = panels[0, 0]
    styles = styles_of(study.policies)
    points = [getattr(row, name) for row in study.real for name in ("vs_perfect", "none_vs_perfect")]
    left = 0.9 * min([1.0, *(value for value in points if value > 0)])
    for k, policy in enumerate(study.policies):
        rows = [row for row in study.real if row.policy == policy]
        places = [names.index(row.predictor) + 0.6 * ((k + 0.5) / len(study.policies) - 0.5) for row in rows]
        ratios, blind = ([getattr(row, name) for row in rows] for name in ("vs_perfect", "none_vs_perfect"))
        half = np.array([row.vs_perfect_ci95 for row in rows])
        below = np.fmin(half, np.array(ratios) - left)
        cut = [place for place, length, whole in zip(places, below, half, strict=True) if length < whole]
        how: dict[str, Any] = {"color": styles[policy][0], "markersize": 5}
        axes.errorbar(ratios, places, xerr=np.array([below, half]), fmt="o", capsize=2, label=policy, **how)
        axes.plot([left] * len(cut), cut, "<", clip_on=False, zorder=3, **how)
        axes.plot(blind, places, "o", markerfacecolor="none", label=f"{policy}, no predictor", **how)
    axes.set_xscale("log")
    axes.set_xlabel("mean latency / hsf")
    light_grid(axes)
    axes.set_xlim(left=left)
    ticks = _apart((1, 1.2, 1.5, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100), *axes.get_xlim())
    axes.set_xticks(ticks, labels=[f"{t:g}" for t in ticks])
    axes.minorticks_off()
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _title(figure, study, "bars: 95 % confidence", "")
    return axes


def _title(figure: Figure | None, study: PredictorValue, bands: str, intervals: str = _NOISY) -> None:
    """What every figure rests on."""
    source = f"{study.requests:,} requests from the lmsys generator"
    if study.workload is not None:
        source = requests_of(study.workload, study.requests)
    per = "round" if study.clock is None else "second"
    arriving = "all arriving at 0" if study.rate is None else f"Poisson arrivals, {study.rate:g} per {per}"
    ran_on = machine_of(study.memory, study.clock, study.max_batch, study.block, study.prefill_budget)
    write_title(
        figure,
        f"{study.replications} replications of {source}, {arriving}",
        "; ".join(filter(None, [ran_on, intervals, f"seed {study.seed}", bands])),
    )


def _mesh(axes: Axes, study: PredictorValue, policy: str, column: str, norm: Any, colours: str) -> Any:
    coverages, widths = study.axes()
    across = np.log10(np.maximum(widths, 1e-3))
    mesh = axes.pcolormesh(across, coverages, study.table(policy, column), norm=norm, cmap=colours, shading="nearest")
    for against, dash in (("vs_none", "-"), ("vs_fcfs", "--")):
        ratio = study.table(policy, against)
        if len(across) > 1 and len(coverages) > 1 and (ratio < 1).any() and (ratio > 1).any():
            axes.contour(across, coverages, ratio, levels=[1.0], colors="black", linestyles=dash, linewidths=1.4)
    ticks, labels = _labelled(widths)
    axes.set_xticks(np.log10(ticks), labels=labels)
    return mesh


def _norm(tables: Sequence[FloatArray], around_one: bool) -> Any:
    from matplotlib.colors import LogNorm

    low, high = (float(f(np.concatenate(tables))) for f in (np.nanmin, np.nanmax))
    if around_one:
        most = max(1 / low, high, 1.05)
        return LogNorm(1 / most, most)
    return LogNorm(min(low, 0.99), max(high, 1.05))


def _curve(axes: Axes, rows: Sequence[Row], across: str) -> None:
    if not rows:
        return
    colour, dash = styles_of([rows[0].policy])[rows[0].policy]
    rows = sorted(rows, key=lambda row: getattr(row, across))
    x, mean, half = (
        np.array([getattr(row, name) for row in rows]) for name in (across, "vs_perfect", "vs_perfect_ci95")
    )
    axes.plot(x, mean, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=3, label=rows[0].policy)
    axes.fill_between(x, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)


def _references(axes: Axes, study: PredictorValue, highest: float) -> None:
    for row in study.references:
        if row.predictor != "none" or math.isnan(row.vs_perfect):
            continue
        look: dict[str, Any] = {"color": styles_of([row.policy])[row.policy][0], "linestyle": ":", "linewidth": 1.3}
        if row.vs_perfect <= highest:
            axes.axhline(row.vs_perfect, label=f"{row.policy}, no predictor", **look)
        else:
            axes.plot([], [], label=f"{row.policy}, no predictor: {row.vs_perfect:.3g}, off the scale", **look)


def _apart(ticks: Sequence[float], low: float, high: float) -> list[float]:
    """Those of the ticks that are on a logarithmic axis from low to high and leave room for each other's labels."""
    chosen: list[float] = []
    for tick in ticks:
        if low <= tick <= high and (not chosen or math.log(tick / chosen[-1]) >= 0.055 * math.log(high / low)):
            chosen.append(tick)
    return chosen


def _labelled(widths: FloatArray) -> tuple[list[float], list[str]]:
    """Ticks on an axis of widths."""
    ticks = [t for t in _TICKS if widths.min() / 1.001 <= t <= widths.max() * 1.001] or [float(widths[0])]
    return ticks, [f"{t:g}" for t in ticks]
