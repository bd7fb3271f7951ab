"""Figures (extra `plot`): on matplotlib axes of yours, or on new ones without pyplot and without any global state.

    figure_style.save(figures.comparison(compare(workload, memory=16492)), "comparison.png")

A policy has the same colour everywhere, from Okabe and Ito's palette, which colour-blind people can tell apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, number_of
from ..simulation.result import Result
from . import energy, figure_ticks, service
from .compare import Comparison
from .compare import Row as ComparisonRow
from .figure_style import (
    BLACK,
    FORMATS,
    GREEN,
    ORANGE,
    RED,
    SKY,
    STYLES,
    Panels,
    check_path,
    legend,
    light_grid,
    machine_of,
    panels_of,
    requests_of,
    require_matplotlib,
    save,
    styles_of,
    title,
)
from .knowledge import Level
from .plots import PIECES_OF_TIME, check_recorded, draw_cache, draw_distribution, draw_steps, rounds_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "FORMATS",
    "STYLES",
    "check_path",
    "comparison",
    "require_matplotlib",
    "save",
    "timeline",
    "tradeoff",
]


_BEHIND = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5}  # of texts on lines
_MOST_IN_GANTT = 60  # requests that a Gantt chart can show
_LIMITS = ("max_batch", "block", "prefill_budget")
_LEAST_SPAN = 1.1  # from the middle to either end of a logarithmic axis that compares policies


def comparison(
    compared: Comparison,
    *,
    intervals: str = "",
    slo: Mapping[str, float] | None = None,
    levels: Sequence[Level] = (),
    ax: Panels | None = None,
) -> Panels:
    """Mean latency of each policy as bars, and the distribution of latency behind it.

    With targets (`slo`: metric -> the most it may be) also the share of requests that meet them all, and the
    distribution of the time to first token; the runs must then be recorded with ``record="tokens"``. With `levels`
    (`llmsched.metrics.knowledge.levels`) also mean and p99 of each policy against what it is told of the lengths.
    `intervals`, in words, goes into the title.

    Draws on `ax`, two axes, and two more for targets and for levels, or on a new figure, and returns the axes. What
    was run stands in the title of a new figure alone.

    Raises InputError if there are no requests or another number of axes, MissingExtraError without matplotlib.
    """
    if not len(compared.workload):
        raise InputError("there is nothing to draw: the workload has no requests")
    rows = compared.ranked()
    height = max(2.9, 0.9 + 0.3 * len(rows))
    heights = [height] * (2 if slo else 1) + [3.2] * bool(levels)
    layout = {"width_ratios": [1, 1.25], "height_ratios": heights}
    figure, panels = panels_of(ax, len(heights), 2, 10, 0.9 + sum(heights), **layout)
    bars, curves = panels[0]
    styles = styles_of([row.policy for row in rows])
    compared.plot(ax=bars)
    latencies = {row.policy: row.result.latency for row in rows if row.result is not None}
    draw_distribution(curves, latencies, styles, f"latency ({compared.unit})", "distribution of latency")
    if slo:
        _service_panels(panels[1], rows, styles, slo, compared.unit)
    if levels:
        for axes, column, words in zip(panels[-1], ("mean_latency", "p99_latency"), ("mean", "p99"), strict=True):
            _told(axes, levels, column, styles)
            axes.set_ylabel(f"{words} latency ({compared.unit})")
            axes.set_title(f"{words} latency by what policies are told", fontsize=10, loc="left")
    handles, labels = curves.get_legend_handles_labels()
    if handles:
        legend(figure, curves, handles, labels)
    result = next((row.result for row in rows if row.result is not None), None)
    limits = {} if result is None else {name: getattr(result, name) for name in _LIMITS}
    ran_on = machine_of(compared.memory, None if result is None else result.clock, **limits)
    said = [f"intervals {intervals}"] if intervals else []
    said = [*_fleet_of(compared, result), ran_on, *said, f"one run, seed {compared.seed}"]
    title(figure, requests_of(compared.workload), "; ".join(said))
    return np.ravel(panels)


def _fleet_of(compared: Comparison, result: Result | None) -> list[str]:
    """The fleet in words, and what all rows have in common: the router, or the policy."""
    if compared.replicas is None:
        return []
    same = "" if result is None else result.policy.name
    if compared.router is not None:
        same = f"router {compared.router.name}"
    return [f"{number_of(compared.replicas, 'replica')}, {same}"]


def _told(axes: Axes, levels: Sequence[Level], column: str, styles: Mapping[str, tuple[str, str]]) -> None:
    """A line per policy over what it is told of the lengths; of those that run at some level only, points."""
    found = [{row.policy: row.record()[column] for row in level.rows} for level in levels]
    for policy in dict.fromkeys(name for values in found for name in values):
        places = [k for k, values in enumerate(found) if values.get(policy) is not None]
        colour, dash = styles[policy]
        values = [found[k][policy] for k in places]
        axes.plot(places, values, color=colour, linestyle=dash, linewidth=1.6, marker="o", markersize=4)
    axes.set_yscale("log")
    known = [value for values in found for value in values.values()]
    middle = math.sqrt(min(known) * max(known)) if known else 0.0
    if known and max(known) <= _LEAST_SPAN * min(known) and middle > 0:  # hardly different, and to look like that
        axes.set_ylim(middle / _LEAST_SPAN, middle * _LEAST_SPAN)
    light_grid(axes)
    axes.set_xlim(-0.25, len(levels) - 0.75)
    axes.set_xticks(range(len(levels)), [level.words for level in levels])


def _service_panels(
    panels: Sequence[Axes],
    rows: Sequence[ComparisonRow],
    styles: Mapping[str, tuple[str, str]],
    slo: Mapping[str, float],
    unit: str,
) -> None:
    """Goodput as bars, and the distribution of the time to first token with its target."""
    share, curves = panels
    found = {row.policy: service.metrics(row.result, slo) for row in rows if row.result is not None}
    places = range(len(rows))
    goodput = [100 * found[row.policy].goodput if row.policy in found else 0.0 for row in rows]
    share.barh(places, np.nan_to_num(goodput), color=[styles[row.policy][0] for row in rows], height=0.7)
    for place, row, value in zip(places, rows, goodput, strict=True):
        share.text(
            value,
            place,
            f" {value:.{0 if value >= 10 else 1}f}" if row.policy in found else " no result",
            va="center",
            fontsize=9,
        )
    share.set_xlim(0, 114)
    share.set_xlabel("requests that meet the targets (%)")
    targets = ", ".join(f"{name} <= {limit:g}" for name, limit in slo.items())
    share.set_title(f"goodput: {targets}", fontsize=10, loc="left")
    light_grid(share)
    share.grid(visible=False, axis="y")
    share.set_yticks(places, [row.policy for row in rows])
    share.invert_yaxis()
    first = {name: one.ttft for name, one in found.items()}
    draw_distribution(curves, first, styles, f"time to first token ({unit})", "distribution of the time to first token")
    if "ttft" in slo:
        curves.axvline(slo["ttft"], color=BLACK, linewidth=0.9, linestyle=":")


def timeline(result: Result, *, intervals: str = "", ax: Panels | None = None) -> Panels:
    """Use of the cache, batch size, queue and evictions over time; for up to 60 requests a Gantt chart as well.

    The run must be recorded with ``record="timeline"``, and with ``"tokens"`` for the Gantt chart. Of long runs, means
    over short pieces of time are drawn, and lightly behind them the largest values. `intervals`, in words, goes into
    the title.

    Draws on `ax`, from the top: three axes, a fourth if there are evictions, and one more for the Gantt chart; or on a
    new figure, which alone gets a title. Returns the axes.

    Raises InputError without a timeline or requests, or for another number of axes, MissingExtraError without
    matplotlib.
    """
    check_recorded(result)
    chart = result.tokens is not None and 0 < len(result) <= _MOST_IN_GANTT
    heights = {"memory": 2.2, "batch": 1.3, "waiting": 1.3}
    heights |= {"evictions": 1.0} if result.total_evictions else {}
    heights |= {"gantt": 0.4 + 0.16 * len(result)} if chart else {}
    layout = {"sharex": True, "height_ratios": list(heights.values())}
    figure, rows = panels_of(ax, len(heights), 1, 10, 1.0 + sum(heights.values()), **layout)
    panels: dict[str, Axes] = dict(zip(heights, rows[:, 0], strict=True))
    rounds = rounds_of(result)
    draw_cache(panels["memory"], rounds, result.memory)
    for name, colour, label in (("batch", GREEN, "running"), ("waiting", ORANGE, "waiting")):
        draw_steps(panels[name], rounds, name, colour, 1.0)
        panels[name].set_ylabel(label)
        panels[name].set_ylim(0, max(1.0, panels[name].get_ylim()[1]))
    if "evictions" in panels:
        gone = rounds["evictions"] > 0
        panels["evictions"].vlines(rounds["begin"][gone], 0, rounds["evictions"][gone], color=RED, linewidth=1.2)
        panels["evictions"].set_ylabel("evictions")
        panels["evictions"].set_ylim(0, max(1.0, panels["evictions"].get_ylim()[1]))
    if chart:
        _gantt(panels["gantt"], result)
    for axes in panels.values():
        light_grid(axes)
        if axes is not panels.get("gantt"):
            figure_ticks.in_whole_numbers(axes.yaxis)
    lowest = rows[-1, 0]
    lowest.set_xlabel("seconds" if result.clock is not None else "rounds")
    for axes in panels.values():
        axes.set_xlim(0, max(result.makespan, 1e-9))
    if any("at most" in name for name in rounds):
        panels["memory"].set_title(
            f"lines: means over pieces of 1/{PIECES_OF_TIME} of the time; shaded: the largest value in each",
            fontsize=9, loc="left",
        )  # fmt: skip
    ran_on = machine_of(result.memory, result.clock, **{name: getattr(result, name) for name in _LIMITS})
    evictions = f"{result.total_evictions:,} eviction{'' if result.total_evictions == 1 else 's'}"
    said = [f"intervals {intervals}"] if intervals else []
    title(
        figure,
        f"{result.policy.name}: {requests_of(result.workload)}, {evictions}",
        "; ".join([ran_on, *said, f"one run, seed {result.seed}"]),
    )
    return np.ravel(rows)


def tradeoff(
    runs: Mapping[str, Result | Sequence[Result]],
    power: str | energy.Power,
    *,
    metric: str = "e2e",
    q: float = 99,
    intervals: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Latency against energy: a point for each run, by label; several of one label are joined by a line.

    The runs must be recorded with ``record="tokens"`` and a clock. Across is joules per output token, all included; up
    is the `q`-th percentile of `metric` (one of `llmsched.service.METRICS`) in seconds. Points of a line are marked
    with the memory or the cap on the batch, if that is what tells them apart. Draws on `ax`, or on a new figure, in
    whose title is what was run, and `intervals`, in words; returns the axes.

    Raises what `llmsched.energy.metrics` and `llmsched.service.metrics` raise; MissingExtraError without matplotlib.
    """
    figure, panels = panels_of(ax, 1, 1, 7.5, 4.8)
    axes: Axes = panels[0, 0]
    styles = styles_of(list(runs))
    what, marks = "", []
    for label, given in runs.items():
        line = [given] if isinstance(given, Result) else list(given)
        across = [energy.metrics(result, power).joules_per_token for result in line]
        up = [float(service.metrics(result).percentile(metric, q)) for result in line]
        colour, dash = styles[label]
        axes.plot(across, up, color=colour, linestyle=dash, linewidth=1.4, marker="o", markersize=5, label=label)
        axes.plot(across, up, color=colour, linestyle="", marker="o", markersize=5, zorder=4)  # above the labels
        differs, texts = _what_differs(line)
        what = differs or what
        marks += [(x, y, text, colour) for x, y, text in zip(across, up, texts, strict=True)]
    _write_labels(axes, marks)
    axes.set_xlabel("joules per output token")
    measured = service.METRICS[metric]
    axes.set_ylabel(f"{measured.label}, p{q:g} ({measured.unit_in(clocked=True)})")
    axes.margins(0.1)
    light_grid(axes)
    if runs:
        axes.legend(frameon=False, handlelength=2.6)
    model = f"power model {power}" if isinstance(power, str) else "a power model of one's own"
    said = [f"intervals {intervals}"] if intervals else []
    numbers = [f"numbers: {what}"] if what else []
    every = [result for given in runs.values() for result in ([given] if isinstance(given, Result) else given)]
    parts = [requests_of(every[0].workload), _shared(every)] if every else []
    title(figure, *parts[:1], "; ".join([*parts[1:], *said, model, "one run a point", *numbers]))
    return axes


def _shared(runs: Sequence[Result]) -> str:
    """What all runs ran on, for a title: what differs between them is left out."""

    def same(name: str, otherwise: Any = None) -> Any:
        values = [getattr(run, name) for run in runs]
        return values[0] if all(value == values[0] for value in values) else otherwise

    return machine_of(same("memory"), same("clock"), same("max_batch"), same("block", 1), same("prefill_budget"))


def _write_labels(axes: Axes, marks: Sequence[tuple[float, float, str, str]]) -> None:
    """Write a text beside each point (x, y, text, colour): none twice in nearly the same place, others below it."""
    spans = [max(column) - min(column) or 1.0 for column in list(zip(*marks, strict=True))[:2]]
    written: list[tuple[float, float, str]] = []
    for x, y, text, colour in marks:
        near = [other for at, up, other in written if abs(x - at) < 0.06 * spans[0] and abs(y - up) < 0.06 * spans[1]]
        if text not in near:
            place = (5, 4 - 12 * len(near))
            axes.annotate(
                text, (x, y), xytext=place, textcoords="offset points", fontsize=8, color=colour, bbox=_BEHIND
            )
            written.append((x, y, text))


def _what_differs(line: Sequence[Result]) -> tuple[str, list[str]]:
    """What differs along a line of runs, a limit of the batch or else the memory, and its values; else nothing."""
    limits = (("max_batch", "cap on the batch"), ("prefill_budget", "prefill budget"), ("memory", "tokens of cache"))
    for name, words in limits:
        values = [getattr(result, name) for result in line]
        if len(set(values)) > 1:
            return words, ["none" if value is None else f"{value:,}" for value in values]
    return "", [""] * len(line)


def _gantt(axes: Axes, result: Result) -> None:
    """A row per request, by arrival: waiting, running, and running in vain."""
    log = service.attempts(result)
    order = np.lexsort((result.start, result.workload.arrival))
    row = np.empty(len(result), np.int64)
    row[order] = np.arange(len(result))
    places = row[log.request]
    arrival = result.workload.arrival
    axes.barh(row, result.completion - arrival, left=arrival, height=0.25, color="#cccccc", label="waiting")
    lost = ~log.completes & (result.policy.resume == "restart")
    stopped = ~log.completes & ~lost
    for mask, colour, label in (
        (log.completes, GREEN, "running, completes"),
        (stopped, SKY, "running, evicted, tokens kept"),
        (lost, RED, "running, evicted, tokens lost"),
    ):
        if mask.any():
            begin, wide = log.begin[mask], log.end[mask] - log.begin[mask]
            edges = np.where(wide > 0.01 * result.makespan, "white", colour)  # or a narrow bar would be all edge
            bars = axes.barh(places[mask], wide, left=begin, height=0.7, color=colour, label=label, linewidth=0.4)
            for bar, edge in zip(bars, edges.tolist(), strict=True):
                bar.set_edgecolor(edge)
    axes.set_ylim(len(result) - 0.4, -0.6)
    axes.set_ylabel("requests by arrival")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False, ncols=4, fontsize=8)
