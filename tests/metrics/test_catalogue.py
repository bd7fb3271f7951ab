"""The table of metrics: every row can be computed, has its unit, and is the number that its source has."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics import catalogue
from llmsched.metrics.catalogue import METRICS, PER_REQUEST, Metric
from llmsched.metrics.measure import measure

POWER = ls.energy.powers["example-2xa100"]


def served(**more: Any) -> ls.Result:
    workload = ls.generate.poisson(ls.generate.lmsys(80, 1), 20, 2).with_intervals(ls.intervals.buckets(100))
    record = catalogue.recorded_for(METRICS.values())
    return ls.simulate(workload, "amin", memory=1500, clock="llama2-70b-2xa100", record=record, **more)


def test_every_metric_of_a_run_is_what_its_source_says() -> None:
    result = served()
    slo = {"ttft": 1.0, "max_itl": 0.5}
    found = measure(result, METRICS.values(), slo=slo, power=POWER)
    assert list(found) == list(METRICS)
    summary, service = result.summary(), ls.service.metrics(result, slo)
    spent, bound = ls.energy.metrics(result, POWER), ls.lower_bound(result.workload, memory=1500, clock=result.clock)
    expected = {name: value for name, value in summary.items() if name in METRICS}
    expected |= {name: value for name, value in service.summary().items() if name in METRICS}
    expected |= {f"energy_{name}": value for name, value in spent.summary().items() if name != "seconds"}
    expected["hit_share"] = 0.0  # nothing is kept in the cache
    expected["gap"] = bound.gap(result.total_latency, result.policy)
    expected["evictions_per_request"] = result.total_evictions / len(result)
    steady = ls.steady_state.estimate(ls.steady_state.latencies(result))
    expected |= {"steady_latency": steady.mean, "steady_half": (steady.high - steady.low) / 2}
    expected |= {"steady_dropped": steady.dropped, "steady_doubts": len(steady.doubts)}
    assert set(expected) == set(METRICS)
    for name, value in found.items():
        assert value == pytest.approx(float(expected[name]), nan_ok=True), name
    assert service.max_itl[service.counted].max() == found["max_itl_max"] > 0
    assert found["wasted_share"] == result.wasted_share > 0
    assert found["energy_peak_watts"] == spent.watts.max()


def test_only_what_the_metrics_need_is_recorded() -> None:
    assert catalogue.recorded_for([METRICS["mean_latency"], METRICS["gap"], catalogue.find("p99_latency")]) == ()
    assert catalogue.recorded_for([METRICS["ttft_p99"], METRICS["energy_total"]]) == ("tokens",)
    assert catalogue.recorded_for([METRICS["cache_use"]]) == ("timeline", "tokens")


@pytest.mark.parametrize(
    ("name", "clocked", "without"),
    [
        ("mean_latency", "seconds", "rounds"),
        ("p99.5_latency", "seconds", "rounds"),
        ("max_itl_p99", "seconds", "rounds"),
        ("slowdown_p99", "ratio", "ratio"),
        ("slowdown_mean", "ratio", "ratio"),
        ("goodput_rate", "requests/second", "requests/round"),
        ("energy_wasted", "joules", "joules"),
        ("rounds", "count", "count"),
    ],
)
def test_units_follow_the_clock_where_they_are_times(name: str, clocked: str, without: str) -> None:
    metric = catalogue.find(name)
    assert (metric.unit_in(clocked=True), metric.unit_in(clocked=False)) == (clocked, without)


def test_names_for_people_say_the_unit_but_of_shares() -> None:
    titles = [catalogue.find(name).title(clocked=True) for name in ("ttft_p99", "p99_latency", "max_itl_mean", "busy")]
    assert titles == ["TTFT p99 (seconds)", "latency p99 (seconds)", "max ITL mean (seconds)", "busy"]


def test_shares_are_between_0_and_1_and_more_is_better_where_it_is() -> None:
    found = measure(served(), METRICS.values(), slo={"ttft": 1.0}, power=POWER)
    assert all(0 <= found[name] <= 1 for name, metric in METRICS.items() if metric.is_share)
    more = {name for name, metric in METRICS.items() if not metric.less_is_better}
    assert {"goodput", "tokens_rate", "stable_rate", "jain"} <= more
    assert more.isdisjoint({"gap", "evictions", "energy_total", "above_capacity", *(f"{m}_p99" for m in PER_REQUEST)})


def test_a_metric_is_a_row_whatever_it_is_computed_from() -> None:
    rows = [
        Metric("a", "", "count", "result", lambda result: np.percentile(result.evictions, 95)),
        Metric("b", "", "tokens", "service", lambda service: service.times.output[service.met].sum()),
        Metric("c", "", "time", "bound", lambda found: found.bound.value),
        Metric("d", "", "count", "totals", lambda totals: totals["evictions"] / totals["rounds"]),
    ]
    result = served()
    found = measure(result, rows, slo={"ttft": 1e-9})
    assert found["a"] == np.percentile(result.evictions, 95)
    assert found["b"] == 0
    assert found["c"] == ls.lower_bound(result.workload, memory=1500, iterations=0, clock=result.clock).value
    assert found["d"] == result.total_evictions / result.rounds


def test_what_cannot_be_measured_is_refused_and_the_nearest_name_suggested() -> None:
    with pytest.raises(InputError, match="there is no metric 'tftt_p99'; did you mean 'ttft_p99'"):
        catalogue.find("tftt_p99")
    with pytest.raises(InputError, match="there is no metric 'p101_latency'"):
        catalogue.find("p101_latency")
    with pytest.raises(InputError, match="power model"):
        measure(served(), [METRICS["energy_total"]])
    with pytest.raises(InputError, match="record"):
        measure(ls.simulate(ls.Workload(0, [3]), "fcfs", memory=10), [METRICS["ttft_p99"]])


def test_nothing_to_measure_is_no_error() -> None:
    nothing = ls.simulate(ls.Workload([], []), "fcfs", memory=10, record=("tokens", "timeline"))
    found = measure(nothing, [METRICS[name] for name in ("evictions_per_request", "wasted_share", "ttft_p99")])
    assert (found["evictions_per_request"], found["wasted_share"]) == (0, 0)
    assert math.isnan(found["ttft_p99"])
