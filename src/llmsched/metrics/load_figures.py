"""Figures of load (extra `plot`): latency and time to first token against the rate, and what targets a cache holds.

    swept = ls.sweep(workload, ["fcfs", "amin"], rates=[1, 2, 3], memory=16492)
    figure_style.save(load_figures.sweep(swept), "sweep.png")

Titles say what was run. `llmsched.Sweep.plot` draws one measure on axes of yours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, number_of
from ..simulation.clock import Clock
from ..workloads.workload import Workload
from .capacity import Capacity
from .figure_style import (
    BLACK,
    Panels,
    band,
    legend,
    light_grid,
    machine_of,
    panels_of,
    requests_of,
    styles_of,
    title,
)  # fmt: skip
from .sweep import Sweep, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["capacity", "sweep"]

#: What has a panel, and its metric among targets.
_PANELS = {"latency_mean": "e2e", "ttft_mean": "ttft", "goodput": ""}


def sweep(
    swept: Sweep,
    *,
    intervals: str = "",
    capacities: Mapping[str, float] | None = None,
    attainment: float | None = None,
    ax: Panels | None = None,
) -> Panels:
    """Mean latency, mean time to first token and, with targets, goodput against the rate: a line per policy.

    Bands are 95 % confidence intervals. Hollow points are loads beyond the knee: what they show grows with the
    length of the run. A dashed vertical line marks each knee within the rates (`Sweep.knee`). `capacities` (policy
    -> rate) are marked by triangles on the goodput, `attainment` by a line; `intervals`, in words, goes into the title.

    Draws on `ax`, two axes or with targets three, or on a new figure, which alone gets a title; returns the axes.

    Raises InputError if nothing finished or for another number of axes, MissingExtraError without matplotlib.
    """
    if not any(point.replications for point in swept.points):
        raise InputError("there is nothing to draw: no simulation finished")
    measures = [name for name in _PANELS if name in swept.measures]
    figure, rows = panels_of(ax, 1, len(measures), 4.1 * len(measures) + 2.4, 4.4, sharex=True)
    panels = rows[0]
    styles = styles_of(swept.policies)
    for axes, name in zip(panels, measures, strict=True):
        draw(swept, name, axes)
    if "goodput" in measures:
        _finish_goodput(panels[-1], swept, styles, capacities or {}, attainment)
    handles, labels = panels[0].get_legend_handles_labels()
    notes = _notes(swept)
    handles, labels = [*handles, *(handle for handle, _ in notes)], [*labels, *(text for _, text in notes)]
    legend(figure, panels[0], handles, labels)
    limits = machine_of(swept.memory, swept.clock, swept.max_batch, swept.block, swept.prefill_budget)
    said = [f"intervals {intervals}"] if intervals else []
    if swept.replicas is not None:
        router = "" if swept.router is None else f", router {swept.router}"
        limits = f"{number_of(swept.replicas, 'replica')}{router}; each {limits}"
    title(
        figure,
        f"{swept.replications} replication{'' if swept.replications == 1 else 's'} of "
        f"{requests_of(swept.workload, swept.requests)}, Poisson arrivals, warm-up cut off",
        "; ".join([limits, *said, f"seed {swept.seed}"]),
    )
    return np.ravel(panels)


def capacity(
    found: Mapping[str, Capacity],
    workload: Workload,
    *,
    clock: Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    intervals: str = "",
    ax: Axes | None = None,
) -> Axes:
    """What was tried on the way to each capacity: the share of requests within the targets against what was searched.

    Bands are 95 % confidence intervals of the mean; a dashed vertical line marks each answer, a dotted horizontal one
    the share that is asked for.

    Draws on `ax`, or on a new figure, which alone gets a title; returns the axes.

    Raises InputError if there is nothing to draw, MissingExtraError without matplotlib.
    """
    answers = list(found.values())
    if not any(math.isfinite(at) for one in answers for at, _, _ in one.probes):
        raise InputError("there is nothing to draw: no finite number was tried")
    first = answers[0]
    figure, panels = panels_of(ax, 1, 1, 8.5, 4.2)
    axes: Axes = panels[0, 0]
    styles = styles_of(list(found))
    for name, one in found.items():
        tried = [probe for probe in one.probes if math.isfinite(probe[0]) and probe[0] > 0]
        at, mean, half = (np.array(column) for column in zip(*tried, strict=True))
        colour, dash = styles[name]
        form = ".3g" if one.quantity == "rate" else ",.0f"
        label = f"{name}: {one.value:{form}}" if math.isfinite(one.value) else f"{name}: none"
        axes.plot(at, 100 * mean, color=colour, linestyle=dash, marker="o", markersize=3, linewidth=1.5, label=label)
        low, high = np.clip(mean - np.nan_to_num(half), 0, 1), np.clip(mean + np.nan_to_num(half), 0, 1)
        axes.fill_between(at, 100 * low, 100 * high, color=colour, alpha=0.2, linewidth=0)
        if math.isfinite(one.value):
            axes.axvline(one.value, color=colour, linestyle="--", linewidth=0.9)
    axes.axhline(100 * first.attainment, color=BLACK, linestyle=":", linewidth=0.9, label="asked for")
    axes.set_xscale("log")
    axes.set_ylim(-2, 104)
    axes.set_ylabel("requests that meet the targets (%)")
    along = {"memory": "tokens of KV cache", "rate": f"requests/{first.unit}", "replicas": "replicas"}
    axes.set_xlabel(along[first.quantity])
    light_grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    if first.replications > 1:
        handles, labels = [*handles, band()], [*labels, "band: 95 % confidence"]
    legend(figure, axes, handles, labels)
    targets = ", ".join(f"{name} <= {limit:g}" for name, limit in first.slo.items())
    ran_on = machine_of(first.memory, clock, max_batch, block, prefill_budget)
    said = [f"intervals {intervals}"] if intervals else []
    if len({one.router for one in answers}) == 1 and first.router is not None:
        said = [f"router {first.router}", *said]
    at_rate = "" if first.rate is None else f", {first.rate:g} requests/{first.unit}"
    title(
        figure,
        f"{first.replications} replications of {requests_of(workload, first.requests)}{at_rate}; targets {targets}",
        "; ".join(filter(None, [ran_on, *said])),
    )
    return axes


def _finish_goodput(
    axes: Axes,
    swept: Sweep,
    styles: Mapping[str, tuple[str, str]],
    capacities: Mapping[str, float],
    attainment: float | None,
) -> None:
    axes.set_ylim(-2, 104)
    axes.set_ylabel("requests that meet the targets (%)")
    axes.set_title(", ".join(f"{name} <= {limit:g}" for name, limit in swept.slo.items()), fontsize=10, loc="left")
    if attainment is not None:
        axes.axhline(100 * attainment, color=BLACK, linestyle=":", linewidth=0.9)
    for policy, rate in capacities.items():
        if 0 < rate < math.inf and attainment is not None:
            axes.plot([rate], [100 * attainment], "v", color=styles[policy][0], markersize=9, zorder=4)


def _notes(swept: Sweep) -> list[tuple[Any, str]]:
    """What the legend says beside the policies."""
    from matplotlib.lines import Line2D

    grey = "#555555"
    notes: list[tuple[Any, str]] = []
    if any(0 < swept.knee(policy) < math.inf for policy in swept.policies):
        notes.append((Line2D([], [], color=grey, linestyle="--", linewidth=0.9), "knee: can be served for ever"))
    if not all(map(swept.is_steady, swept.points)):
        hollow = Line2D([], [], color=grey, marker="o", markerfacecolor="white", linestyle="")
        notes.append((hollow, "hollow: grows with the run"))
    if swept.replications > 1:
        notes.append((band(), "band: 95 % confidence"))
    return notes
