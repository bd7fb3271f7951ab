"""Single plots (extra `plot`), for notebooks: each takes matplotlib axes (`ax`) and returns them.

    ls.plots.cache(ls.simulate(workload, "amin", memory=16492, record="timeline"))
    ls.plots.distribution({name: ls.simulate(workload, name, memory=16492) for name in ("amin", "amax")}, ax=axes)

Without `ax` a new figure of pyplot's is made, which a notebook shows. `llmsched.metrics.figures` has whole pages, with
titles that say what was run. A policy has the same colour everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..simulation.result import Result
from . import figure_ticks
from .figure_style import BLACK, BLUE, light_grid, require_matplotlib, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["cache", "distribution"]

_ECDF_POINTS = 2000  # enough for any eye; a million steps would make an SVG of 100 MB
_MOST_ROUNDS = 3000  # rounds that are drawn one by one; more are put together
#: So many pieces of time are drawn then.
PIECES_OF_TIME = 800


def cache(result: Result, *, ax: Axes | None = None) -> Axes:
    """Use of the cache over time, in percent; of long runs means over short pieces of time, and lightly the largest.

    The run must be recorded with ``record="timeline"``. Raises InputError without a timeline or requests,
    MissingExtraError without matplotlib.
    """
    check_recorded(result)
    axes = axes_or_new(ax, 8, 2.6)
    together = axes.get_shared_x_axes().get_siblings(axes)
    already = axes.get_xlim()[1] if any(other.has_data() for other in together) else 0.0
    rounds = rounds_of(result)
    rounds.setdefault("memory at most", rounds["memory"])
    draw_cache(axes, rounds, result.memory)
    axes.set_xlabel("seconds" if result.clock is not None else "rounds")
    axes.set_xlim(0, max(result.makespan, already, 1e-9))
    light_grid(axes)
    return axes


def distribution(results: Result | Mapping[str, Result], *, ax: Axes | None = None) -> Axes:
    """The share of requests whose latency was no longer: a line per result, by label.

    Raises InputError if there are no requests, MissingExtraError without matplotlib.
    """
    labelled = {results.policy.name: results} if isinstance(results, Result) else dict(results)
    if not any(len(result) for result in labelled.values()):
        raise InputError("there is nothing to draw: no result with requests")
    axes = axes_or_new(ax, 6.5, 4)
    unit = "seconds" if any(result.clock is not None for result in labelled.values()) else "rounds"
    latencies = {label: result.latency for label, result in labelled.items()}
    draw_distribution(axes, latencies, styles_of(list(labelled)), f"latency ({unit})", "distribution of latency")
    axes.legend(frameon=False, handlelength=2.6)
    return axes


def axes_or_new(ax: Axes | None, width: float, height: float) -> Axes:
    """The axes themselves, or those of a new figure of pyplot's. Raises MissingExtraError without matplotlib."""
    if ax is not None:
        return ax
    require_matplotlib()
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def check_recorded(result: Result) -> None:
    """Raises InputError unless it is a result with requests and a timeline."""
    if not isinstance(result, Result):
        raise InputError(f"expected a llmsched.Result, not {type(result).__name__}")
    if not len(result):
        raise InputError("there is nothing to draw: the run has no requests")
    if result.timeline is None:
        raise InputError('the run has no timeline: simulate(..., record=("timeline", "tokens")) keeps one')


def draw_bars(axes: Axes, values: Mapping[str, float], beside: Sequence[str], label: str) -> None:
    """A bar for each policy, from the top, in its colour, with a text beside it."""
    styles = styles_of(list(values))
    axes.barh(range(len(values)), list(values.values()), color=[styles[name][0] for name in values], height=0.7)
    for place, (value, text) in enumerate(zip(values.values(), beside, strict=True)):
        axes.text(value, place, f" {text}", va="center", fontsize=9)
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    light_grid(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()


def draw_cache(axes: Axes, rounds: Mapping[str, np.ndarray[Any, Any]], memory: int) -> None:
    """Use of a cache of `memory` tokens, in percent of it."""
    draw_steps(axes, rounds, "memory", BLUE, 100 / memory)
    axes.set_ylabel("KV cache (%)")
    axes.set_ylim(0, 104)
    axes.axhline(100, color=BLACK, linewidth=0.8, linestyle=":")
    figure_ticks.in_whole_numbers(axes.yaxis)


def draw_distribution(
    axes: Axes,
    values: Mapping[str, np.ndarray[Any, Any]],
    styles: Mapping[str, tuple[str, str]],
    label: str,
    heading: str,
) -> None:
    """The share of requests that took no longer, per label."""
    for policy, times in values.items():
        known = times[np.isfinite(times)]
        if not len(known):
            continue
        share = np.linspace(0, 1, min(len(known), _ECDF_POINTS) + 1)[1:]
        at = np.quantile(known, share, method="inverted_cdf")
        colour, dash = styles[policy]
        axes.plot(at, share, color=colour, linestyle=dash, linewidth=1.6, label=policy, drawstyle="steps-post")
    axes.set_xlabel(label)
    axes.set_ylabel("share of requests that took no longer")
    axes.set_ylim(0, 1.01)
    axes.set_xscale("log")
    axes.set_title(heading, fontsize=10, loc="left")
    light_grid(axes)


def rounds_of(result: Result) -> dict[str, np.ndarray[Any, Any]]:
    """Begin, end and what is drawn of every round; pieces of time instead, if there are too many rounds."""
    assert result.timeline is not None
    rows = result.timeline.expand()
    rounds = {"begin": rows["time"], "end": rows["time"] + rows["duration"]}
    rounds |= {name: rows[name] for name in ("memory", "batch", "waiting", "evictions")}
    if len(rows["time"]) <= _MOST_ROUNDS:
        return rounds
    edges = np.linspace(0, result.makespan, PIECES_OF_TIME + 1)
    place = np.clip(np.searchsorted(edges, rounds["begin"], side="right") - 1, 0, PIECES_OF_TIME - 1)
    binned = {
        "begin": edges[:-1],
        "end": edges[1:],
        "evictions": np.bincount(place, rounds["evictions"], PIECES_OF_TIME),
    }
    for name in ("memory", "batch", "waiting"):
        # The integral over time, which grows during rounds alone, and its differences between the edges.
        spent = np.repeat(np.cumsum(rounds[name] * rows["duration"]), 2)
        time = np.column_stack([rounds["begin"], rounds["end"]]).ravel()
        up_to = np.interp(edges, time, np.concatenate([[0.0], spent[:-1]]))
        lasting = np.searchsorted(rounds["begin"], edges[:-1], side="right") - 1  # what runs at an edge
        goes_on = (lasting >= 0) & (rounds["end"][lasting] > edges[:-1])
        most = np.where(goes_on, rounds[name][lasting], 0).astype(np.float64)
        np.maximum.at(most, place, rounds[name])
        binned |= {name: np.diff(up_to) / edges[1], f"{name} at most": most}
    return binned


def draw_steps(axes: Axes, rounds: Mapping[str, np.ndarray[Any, Any]], name: str, colour: str, scale: float) -> None:
    """One of the columns of `rounds_of` over time, in steps."""
    begin, end = rounds["begin"], rounds["end"]
    if not len(begin):
        return
    idle = np.flatnonzero(np.append(begin[1:] > end[:-1] + 1e-9 * end[-1], True))
    time = np.insert(begin, idle + 1, end[idle])

    def steps(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return np.insert(values.astype(np.float64) * scale, idle + 1, 0.0)

    if f"{name} at most" in rounds:
        axes.fill_between(time, steps(rounds[f"{name} at most"]), step="post", color=colour, alpha=0.2, linewidth=0)
    axes.plot(time, steps(rounds[name]), color=colour, linewidth=1.2, drawstyle="steps-post")
