"""The figure of imbalance: what it draws is what the fleets had."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.figure_texts import unreadable

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics import fleet_figures

pytest.importorskip("matplotlib")


def test_imbalance_draws_the_fullest_replica_of_each_fleet(tmp_path):
    w = ls.generate.poisson(ls.generate.lmsys(300, seed=1), 5.0)
    fleets = {
        router: ls.simulate_fleet(w, "fcfs", replicas=3, router=router, memory=16492, clock="llama2-70b-2xa100")
        for router in ("random", "least-requests")
    }
    most, over_mean = fleet_figures.imbalance(fleets)
    assert [line.get_label() for line in most.lines] == ["random", "least-requests"]
    for line, fleet in zip(most.lines, fleets.values(), strict=True):
        times, drawn = line.get_data()
        assert times[-1] == w.arrival[-1]
        assert np.array_equal(drawn, fleet.requests_at(times).max(axis=0))
    assert min(line.get_ydata().min() for line in over_mean.lines[:2]) >= 1
    assert unreadable(most.figure) == []


def test_nothing_is_not_drawn():
    with pytest.raises(InputError, match="nothing to draw"):
        fleet_figures.imbalance({})
