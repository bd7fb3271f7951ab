"""The figure of the paper's experiments (extra `plot`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, number_of
from ..metrics.figure_style import STYLES, Panels, band, light_grid, machine_of, panels_of, requests_of, title
from ..simulation.clock import Clock
from ..workloads.workload import Workload
from .paper import EXPERIMENTS
from .paper import Row as PaperRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def paper(
    rows: Sequence[PaperRow],
    *,
    workload: Workload | None = None,
    clock: Clock | None = None,
    seed: int = 0,
    ax: Panels | None = None,
) -> Panels:
    """The paper's experiments: average latency against the number of requests, a panel per setting of the intervals.

    Lines are means over subsets, bands their 95 % confidence intervals. `workload`, `clock` and `seed`, as given to
    `llmsched.experiments.paper.reproduce`, go into the title. Draws on `ax`, six axes in two rows, of which the third
    has the legend, or on a new figure, which alone gets a title; returns the axes. Raises InputError without rows or
    for another number of axes, MissingExtraError without matplotlib.
    """
    if not rows:
        raise InputError("there is nothing to draw: no experiment has run")
    figure, grid = panels_of(ax, 2, 3, 10, 5.8, sharex=True, sharey="row")
    panels = [*grid[0, :2], *grid[1]]
    for panel, experiment in zip(panels, EXPERIMENTS, strict=True):
        spelling = str(experiment.rule)
        for policy in ("amax", "amin", "hsf"):  # hsf last: its dashes lie on amin, which is often the same line
            _line(panel, [row for row in rows if (row.intervals, row.policy) == (spelling, policy)])
        panel.set_title(f"{experiment.number}. {experiment.title}", fontsize=10, loc="left")
        light_grid(panel)
    most = max(row.requests for row in rows)
    for panel in grid[:, 0]:  # after all lines are there: the other panels of a row share this one's limits
        panel.set_ylabel(f"average latency ({rows[0].unit if rows else 'rounds'})")
        panel.set_ylim(bottom=0)
        panel.set_xlim(0, most * 1.03)
    for panel in grid[1]:
        panel.set_xlabel("requests, all arriving at 0")
    handles, labels = panels[0].get_legend_handles_labels()
    memory, subsets = rows[0].memory, rows[0].subsets
    grid[0, 2].axis("off")
    if subsets > 1:
        handles, labels = [*handles, band()], [*labels, "band: 95 % confidence"]
    grid[0, 2].legend(handles, labels, loc="center", frameon=False, fontsize=11, handlelength=3)
    sizes = sorted({row.requests for row in rows})
    range_of_sizes = f"{sizes[0]:,}" + (f" to {sizes[-1]:,}" if len(sizes) > 1 else "") + " requests"
    source = "the lmsys generator" if workload is None else f"the {requests_of(workload).replace(' from ', ' of ', 1)}"
    title(
        figure,
        f"{number_of(subsets, 'random subset')} of {range_of_sizes} from {source}, all arriving at 0",
        f"{machine_of(memory, clock)}; seed {seed}",
    )
    return np.ravel(grid)


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
