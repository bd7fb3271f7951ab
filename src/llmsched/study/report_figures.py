"""Static figures of a study, for papers and slides: what the report shows, drawn by matplotlib (extra `plot`).

for name, figure in figures.draw(report.read("results")).items():
    figure_style.save(figure, f"{name}.pdf")
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, nearest, number_of
from ..metrics import figure_style
from ..metrics.catalogue import Metric
from ..metrics.figure_style import Panels
from .report_contents import Contents

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "save"]

_PANELS = 12  # on one figure; more go on the next
_MARKERS = {"-": "o", "--": "s", ":": "^", "-.": "D"}  # relatives share a colour
_FIXED = {"memory": "tokens of KV cache:", "max_batch": "at most at once:", "block": "tokens in a block:"}
_LETTERS = 9  # of tick labels in an inch
_MEANS = ("mean", "low", "high")
_RATIOS = ("ratio", "ratio_low", "ratio_high")
_DIFFERENCES = ("difference", "difference_low", "difference_high")
_LOG = {_MEANS: 30, _RATIOS: 8}  # what spans more than this gets a logarithmic axis


def draw(contents: Contents, *, along: str | None = None) -> dict[str, Panels]:
    """The axes of each figure by name, which is the metric's and what is shown of it.

    ``mean_latency``, ``mean_latency-ratio`` and ``mean_latency-differences`` (or another metric than `mean_latency`,
    as `contents` was made), the use of the cache and the eviction rate; each against the factor `along` (by default
    memory, if it varies), axes per setting of the other factors. More than 12 panels go on several figures, whose
    names end in ``-2`` and so on.

    Raises InputError if there is no such factor, MissingExtraError without matplotlib.
    """
    along = along or contents.along
    if along not in contents.factors:
        raise InputError(f"the study has no factor {along!r}: {nearest(along, contents.factors)}")
    metric = contents.metric_named(contents.metric)
    title = metric.title(contents.clocked)
    wanted: list[tuple[str, Metric, tuple[str, str, str], str]] = [(metric.name, metric, _MEANS, title)]
    if len(contents.factors["policy"]) > 1:
        against = contents.against
        wanted.append((f"{metric.name}-ratio", metric, _RATIOS, f"{metric.label}: ratio to {against}"))
        wanted.append((f"{metric.name}-differences", metric, _DIFFERENCES, f"{title}: difference to {against}"))
    for name in (contents.memory_use, contents.eviction_rate):
        if name is not None and name != metric.name:
            other = contents.metric_named(name)
            wanted.append((name, other, _MEANS, other.title(contents.clocked)))
    drawn = {}
    for name, of, keys, title in wanted:
        for page, panels in enumerate(_pages(contents, of, keys, title, along), 1):
            drawn[name if page == 1 else f"{name}-{page}"] = panels
    return drawn


def save(
    contents: Contents, folder: str | os.PathLike[str], formats: Sequence[str] = ("png",), *, along: str | None = None
) -> list[Path]:
    """Write every figure of `draw` into `folder` (made if there is none) in each of `formats`; the files written.

    Raises InputError for a format that is not in `llmsched.figure_style.FORMATS`, OSError if a file cannot be written.
    """
    for extension in formats:
        figure_style.check_path(f"figure.{extension}")
    drawn = draw(contents, along=along)
    directory = Path(folder)
    directory.mkdir(parents=True, exist_ok=True)
    files = [directory / f"{name}.{extension}" for name in drawn for extension in formats]
    for file, (panels, _) in zip(files, ((f, e) for f in drawn.values() for e in formats), strict=True):
        figure_style.save(panels, file)
    return files


def _pages(contents: Contents, metric: Metric, keys: tuple[str, str, str], title: str, along: str) -> Iterator[Panels]:
    panels = list(_panels(contents, along).items())
    for begin in range(0, len(panels), _PANELS):
        yield _page(contents, metric, keys, title, along, dict(panels[begin : begin + _PANELS]))


def _panels(contents: Contents, along: str) -> dict[str, list[int]]:
    """Cells by the setting of the factors that are neither `along` nor the policy."""
    kept = [name for name in contents.varied if name not in (along, "policy")]
    at = [list(contents.factors).index(name) for name in kept]
    panels: dict[str, list[int]] = {}
    for k, cell in enumerate(contents.cells):
        parts = [_spelled(name, cell[j]) for name, j in zip(kept, at, strict=True)]
        panels.setdefault(" · ".join(parts), []).append(k)
    return panels


def _spelled(factor: str, level: Any) -> str:
    if level is None:
        return f"{factor} none".strip()
    return f"{factor} {level:,}" if isinstance(level, (int, float)) else str(level)


def _page(
    contents: Contents,
    metric: Metric,
    keys: tuple[str, str, str],
    title: str,
    along: str,
    panels: Mapping[str, Sequence[int]],
) -> Panels:
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure = figure_style.new_figure(max(5.5, 3.4 * columns) + 1.6, max(3.6, 2.5 * rows + 0.4))
    grid = figure.subplots(rows, columns, squeeze=False)
    longest = max(len(str(policy)) for policy in contents.factors["policy"])
    letters = max(12, int(_LETTERS * 1.2 * (figure.get_figwidth() - 1.2 - longest / 12) / columns))
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    values = {key: contents.values[metric.name][key] for key in keys}
    scale = contents.scale(along) or (along, [])
    spreads = sorted(_spread(values[keys[0]][cells]) for cells in panels.values())
    log = spreads[len(spreads) // 2] > _LOG.get(keys, math.inf) and not (metric.is_share and keys == _MEANS)
    for number, (axes, (name, cells)) in enumerate(zip(grid.flat, panels.items(), strict=False)):
        _panel(axes, contents, [values[key] for key in keys], cells, along)
        axes.set_title(textwrap.fill(name, letters), fontsize=10, loc="left").set_parse_math(False)
        _finish(axes, metric, keys, log, float(np.nanmin(values[keys[0]], initial=np.inf)))
        _level_ticks(axes, scale[1] or contents.factors[along], _LETTERS * figure.get_figwidth() / columns)
        axes.set_xlabel(scale[0] if number + columns >= len(panels) else "")
    figure.supylabel(title, fontsize=10)
    handles = dict(pair for axes in grid.flat for pair in _legend(axes))
    labels = [str(policy) for policy in contents.factors["policy"] if str(policy) in handles]
    if labels:
        bands = f"band: {100 * contents.confidence:g} % confidence"
        handles[bands] = figure_style.band()
        labels.append(bands)
        figure.legend(
            [handles[label] for label in labels], labels, loc="outside right upper", frameon=False, handlelength=2.6
        )
    figure_style.title(figure, *_title(contents, values[keys[0]], metric, along))
    return np.ravel(grid)[: len(panels)]


def _title(contents: Contents, values: np.ndarray[Any, Any], metric: Metric, along: str) -> tuple[str, ...]:
    """The study, its replications, and the factors that do not vary."""
    n = contents.values[metric.name]["n"][np.isfinite(values)]
    each = f", {_range(n)} a point" if len(n) else ""
    fixed = [
        _spelled_out(contents, name, levels[0])
        for name, levels in contents.factors.items()
        if len(levels) == 1 and name not in ("policy", along) and levels[0] is not None
    ]
    return f"{contents.name}: {contents.simulations:,} simulations{each}", "; ".join(fixed)


def _range(n: np.ndarray[Any, Any]) -> str:
    """How many replications: a number, or from the fewest to the most."""
    low, high = int(n.min()), int(n.max())
    return f"{number_of(high, 'replication')}" if low == high else f"{low:,} to {high:,} replications"


def _spelled_out(contents: Contents, factor: str, level: Any) -> str:
    """A factor that does not vary, for a title: requests and where they come from, the cache, the intervals."""
    if factor != "workload":
        return f"{_FIXED.get(factor, factor)} {level:,}" if isinstance(level, (int, float)) else f"{factor} {level}"
    entry = ((contents.described.get("definitions") or {}).get("workloads") or {}).get(level) or {}
    source = Path(entry["trace"]).name if entry.get("trace") else entry.get("generator")
    if source is None:
        return f"workload {level}"
    count = "" if entry.get("requests") is None else f"{number_of(entry['requests'], 'request')} of "
    rate = entry.get("rate")
    return f"{count}{source}" + (f" at {rate:g} a {'second' if contents.clocked else 'round'}" if rate else "")


def _legend(axes: Axes) -> Iterator[tuple[str, Any]]:
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        yield label, handle


def _spread(values: np.ndarray[Any, Any]) -> float:
    """The largest over the smallest; 1 if not all are positive."""
    known = values[np.isfinite(values)]
    return float(known.max() / known.min()) if len(known) and known.min() > 0 else 1.0


def _panel(axes: Axes, contents: Contents, values: Sequence[Any], cells: Sequence[int], along: str) -> None:
    """A line with a band per policy along numbers, points with bars along names."""
    factor, policy = (list(contents.factors).index(name) for name in (along, "policy"))
    levels = list(contents.factors[along])
    policies = list(contents.factors["policy"])
    styles = figure_style.styles_of([str(name) for name in policies])
    scale = contents.scale(along)
    for number, name in enumerate(policies):
        mine = [k for k in cells if contents.cells[k][policy] == name and np.isfinite(values[0][k])]
        if not mine:
            continue
        colour, dash = styles[str(name)]
        middle, low, high = (np.array([column[k] for k in mine]) for column in values)
        low, high = np.where(np.isfinite(low), low, middle), np.where(np.isfinite(high), high, middle)
        if scale is not None:
            x = np.array([scale[1][levels.index(contents.cells[k][factor])] for k in mine])
            order = np.argsort(x)
            x, middle, low, high = x[order], middle[order], low[order], high[order]
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            look: dict[str, Any] = {"linestyle": dash, "marker": _MARKERS[dash], "markersize": 3, "linewidth": 1.5}
            look["clip_on"] = False  # a marker on the edge, such as no evictions, is drawn whole
            axes.plot(x, middle, color=colour, label=str(name), **look)
            continue
        shift = 0.0 if along == "policy" else 0.7 * ((number + 0.5) / len(policies) - 0.5)
        x = np.array([levels.index(contents.cells[k][factor]) + shift for k in mine])
        sides = [(middle - low).tolist(), (high - middle).tolist()]  # arrays of one, Matplotlib 3.10 takes for a number
        axes.errorbar(x, middle, sides, color=colour, fmt=_MARKERS[dash], markersize=4, elinewidth=1.6, label=str(name))


def _finish(axes: Axes, metric: Metric, keys: tuple[str, ...], log: bool, lowest: float) -> None:
    """Scale and limits of the vertical axis."""
    if log:
        axes.set_yscale("log")
    figure_style.light_grid(axes)
    if metric.is_share and keys != _RATIOS:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    if keys != _MEANS:
        axes.axhline(1 if keys == _RATIOS else 0, color="#555555", linestyle="--", linewidth=0.9)
    elif metric.is_share:
        axes.set_ylim(0, 1.02)
    elif not log and lowest >= 0:
        axes.set_ylim(bottom=0)  # intervals of what is never less may reach below it


def _level_ticks(axes: Axes, levels: Sequence[Any], letters: float) -> None:
    """A tick at each level, or at some of many numbers; names lie aslant where there is no room for them."""
    if all(isinstance(level, float) for level in levels):
        if _geometric(sorted(levels)):
            axes.set_xscale("log")
            axes.minorticks_off()
        shown = _apart(levels, axes.get_xscale() == "log", letters)
        axes.set_xticks(shown, [_short(level) for level in shown])
        return
    names = [_spelled("", level).strip() for level in levels]
    aslant = sum(len(name) + 2 for name in names) > letters
    axes.set_xticks(range(len(levels)), names, rotation=30 if aslant else 0, ha="right" if aslant else "center")
    axes.grid(visible=False, axis="x")


def _apart(levels: Sequence[float], log: bool, letters: float) -> list[float]:
    """Of the levels, in ascending order, those whose labels keep apart on an axis as wide as so many letters."""
    ordered = sorted(levels)
    at = np.log(ordered) if log else np.array(ordered)
    at = (at - at[0]) / ((at[-1] - at[0]) or 1.0) * 0.9 * letters  # the axis goes on beyond its ends
    wide = [len(_short(level)) for level in ordered]
    kept = [0]
    for k in range(1, len(ordered)):
        if at[k] - at[kept[-1]] >= (wide[k] + wide[kept[-1]]) / 2 + 1.5:
            kept.append(k)
    return [ordered[k] for k in kept]


def _geometric(levels: Sequence[float]) -> bool:
    """Whether levels, in ascending order, lie better on a logarithmic axis."""
    spread = levels[0] > 0 and levels[-1] / levels[0] >= 6
    return spread and levels[-1] - levels[-2] > 3 * (levels[1] - levels[0])


def _short(number: float) -> str:
    """16492 as 16.5k; what has four digits at most as it is."""
    if number < 10_000:
        return f"{number:,g}"
    size, letter = next(unit for unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if number >= unit[0])
    return f"{number / size:.3g}{letter}"
