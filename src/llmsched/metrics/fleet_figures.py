"""Figures of fleets (extra `plot`): how evenly routers spread requests over time.

figure_style.save(fleet_figures.imbalance({"random": fleet, "least-requests": other}), "imbalance.png")
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import InputError, number_of
from ..fleet.result import FleetResult
from .figure_style import BLACK, Panels, legend, light_grid, machine_of, panels_of, requests_of, styles_of, title

__all__ = ["imbalance"]

_POINTS = 400


def imbalance(fleets: Mapping[str, FleetResult], *, ax: Panels | None = None) -> Panels:
    """Requests at the replica that has the most of them, as long as requests arrive: how many, and over the mean.

    A line for each fleet, by label: the same requests behind several routers, say.

    Draws on `ax`, two axes, or on a new figure, which alone gets a title; returns the axes.

    Raises InputError if there is nothing to draw or for another number of axes, MissingExtraError without matplotlib.
    """
    if not fleets or not any(len(fleet) for fleet in fleets.values()):
        raise InputError("there is nothing to draw: no fleet has a request")
    first = next(iter(fleets.values()))
    figure, panels = panels_of(ax, 1, 2, 11, 4.2)
    most, over_mean = panels[0]
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
    legend(figure, over_mean, handles, labels)
    one = first.outcomes[0]
    title(
        figure,
        f"{number_of(len(first.outcomes), 'replica')}, {requests_of(first.workload)}",
        f"{first.policy.name}; each {machine_of(one.memory, one.clock, one.max_batch, one.block, one.prefill_budget)}",
    )
    return np.ravel(panels)
