"""Figures of fleets (extra `plot`): how evenly routers spread requests over time.

figure_style.save(fleet_figures.imbalance({"random": fleet, "least-requests": other}), "imbalance.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError, number_of
from ..fleet.result import FleetResult
from .figure_style import BLACK, light_grid, machine_of, new_figure, requests_of, styles_of, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["imbalance"]

_POINTS = 400


def imbalance(fleets: Mapping[str, FleetResult]) -> Figure:
    """Requests at the replica that has the most of them, as long as requests arrive: how many, and over the mean.

    A line for each fleet, by label: the same requests behind several routers, say.

    Raises InputError if there is nothing to draw, MissingExtraError without matplotlib.
    """
    if not fleets or not any(len(fleet) for fleet in fleets.values()):
        raise InputError("there is nothing to draw: no fleet has a request")
    first = next(iter(fleets.values()))
    figure = new_figure(11, 4.2)
    most, over_mean = figure.subplots(1, 2)
    styles = styles_of(list(fleets))
    for label, fleet in fleets.items():
        times = np.linspace(0.0, float(fleet.workload.arrival.max(initial=0.0)), _POINTS)
        there = fleet.requests_at(times)
        mean = there.mean(axis=0)
        ratio = there.max(axis=0)[mean > 0] / mean[mean > 0]
        colour = styles[label][0]
        most.plot(times, there.max(axis=0), color=colour, linewidth=1.2, label=label)
        words = f"{label}: {ratio.mean():.2f} on average" if len(ratio) else label
        over_mean.plot(times[mean > 0], ratio, color=colour, linewidth=1.2, label=words)
    over_mean.axhline(1, color=BLACK, linewidth=0.8, linestyle=":")
    most.set_ylabel("requests at the replica with the most")
    over_mean.set_ylabel("the most over the mean of all replicas")
    for axes in (most, over_mean):
        axes.set_xlabel("time (rounds)" if first.clock is None else "time (s)")
        light_grid(axes)
    handles, labels = over_mean.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False, handlelength=2.6)
    one = first.outcomes[0]
    title(
        figure,
        f"{number_of(len(first.outcomes), 'replica')}, {requests_of(first.workload)}",
        f"{first.policy.name}; each {machine_of(one.memory, one.clock, one.max_batch, one.block, one.prefill_budget)}",
    )
    return figure
