"""sweep(): what is measured at a point, where the knee lies, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics import steady_state
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.metrics.sweep import MEASURES, parse_rates
from llmsched.workloads.random_streams import raw_stream

MACHINE = ls.machines["llama2-70b-2xa100"].options()
SLO = {"ttft": 1.0, "tpot": 0.1}


@pytest.fixture(scope="module")
def workload() -> ls.Workload:
    return ls.generate.lmsys(400, seed=1).with_intervals(ls.intervals.buckets(100))


@pytest.fixture(scope="module")
def swept(workload: ls.Workload) -> ls.Sweep:
    return ls.sweep(workload, ["fcfs", "amin"], rates=[40, 1, 4], slo=SLO, replications=3, seed=5, **MACHINE)


def test_a_point_is_what_runs_of_its_own_give(workload: ls.Workload, swept: ls.Sweep) -> None:
    """Draws, gaps, warm-up and means, done again by hand."""
    latencies, firsts, kept_goals = [], [], []
    for seed in map(int, raw_stream(5, "sweep", 3)):
        requests = ls.generate.poisson(ls.generate.resample(workload, 400, seed), 4.0, seed)
        run = ls.simulate(requests, "amin", seed=seed, record="tokens", **MACHINE)
        seen = ls.service.metrics(run, SLO)
        order = np.argsort(requests.arrival, kind="stable")
        dropped = steady_state.warm_up(run.latency[order])
        kept = order[200 if dropped is None else dropped :]
        latencies.append(run.latency[kept].mean())
        firsts.append(np.quantile(seen.ttft[kept], 0.99))
        kept_goals.append(seen.met[kept].mean())
    point = swept.of("amin")[1]
    assert point.rate == 4
    assert (point.means["latency_mean"], point.half_widths["latency_mean"]) == mean_and_half_width(latencies)
    assert point.means["ttft_p99"] == mean_and_half_width(firsts)[0]
    assert point.means["goodput"] == mean_and_half_width(kept_goals)[0]


def test_rates_ascend_and_records_have_every_measure(swept: ls.Sweep) -> None:
    assert [point.rate for point in swept.of("fcfs")] == [1, 4, 40]
    assert swept.policies == ("fcfs", "amin")
    assert all(set(MEASURES) <= record.keys() for record in swept.records())
    assert all(value == value for record in swept.records() for value in record.values())  # no NaN


def test_the_answer_does_not_depend_on_threads(workload: ls.Workload, swept: ls.Sweep) -> None:
    asked: dict[str, Any] = {"rates": [1, 4, 40], "slo": SLO, "replications": 3, "seed": 5, "threads": 1}
    assert ls.sweep(workload, ["fcfs", "amin"], **asked, **MACHINE).records() == swept.records()


def test_the_knee_is_what_is_served_at_the_first_rate_that_piles_up(swept: ls.Sweep) -> None:
    for policy in swept.policies:
        first = next(point for point in swept.of(policy) if not point.steady)
        assert swept.knee(policy) == first.stable_rate
        assert first.rate == 40
        assert [swept.is_steady(point) for point in swept.of(policy)] == [
            point.rate <= first.stable_rate for point in swept.of(policy)
        ]


def test_below_the_knee_long_runs_settle_and_above_it_they_grow() -> None:
    """One request at a time, 10 rounds each: 0.1 requests a round, whatever is measured."""
    one = ls.Workload(1, [10]).take(np.zeros(200, np.int64))
    found = ls.sweep(one, ["fcfs"], rates=[0.05, 0.08, 0.2], memory=1000, max_batch=1, replications=4, requests=3000)
    assert found.knee("fcfs") == pytest.approx(0.1, rel=0.02)
    assert [found.is_steady(point) for point in found.points] == [True, True, False]
    short, long = (
        ls.sweep(one, ["fcfs"], rates=[0.05, 0.2], memory=1000, max_batch=1, replications=4, requests=n).points
        for n in (1000, 4000)
    )
    assert long[0].means["latency_mean"] == pytest.approx(short[0].means["latency_mean"], rel=0.2)
    assert long[1].means["latency_mean"] > 3 * short[1].means["latency_mean"]


def test_where_nothing_piles_up_the_knee_is_above_all_rates(workload: ls.Workload) -> None:
    found = ls.sweep(workload, "fcfs", rates=[0.1], replications=1, **MACHINE)
    assert math.isinf(found.knee("fcfs"))
    assert "goodput" not in found.measures
    assert math.isnan(found.points[0].half_widths["latency_mean"])
    assert found.points[0].record()["latency_mean_ci95"] is None


def test_a_policy_that_does_not_finish_has_points_without_numbers() -> None:
    stuck = ls.Workload(0, [10] * 100).with_intervals(ls.intervals.exact()).replace(point=10)
    found = ls.sweep(stuck, ["protection"], rates=[50.0], memory=20, replications=2, requests=100)
    (point,) = found.points
    if point.replications == 0:
        assert math.isnan(point.means["latency_mean"])
        assert not point.steady
    assert dataclasses.asdict(point)["policy"] == "protection"


@pytest.mark.parametrize(
    ("text", "rates"),
    [("1:10", list(range(1, 11))), ("1:3:5", [1, 1.5, 2, 2.5, 3]), ("2,1,0.5", [0.5, 1, 2]), ("3", [3]), ("1,1", [1])],
)
def test_rates_are_read(text: str, rates: list[float]) -> None:
    assert parse_rates(text) == rates


@pytest.mark.parametrize("text", ["", "a", "3:1", "1:2:1", "1:2:3:4", "1:2:x", "1,,2", "0:3", "-1", "nan", "1:inf"])
def test_what_is_no_rates_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="rate"):
        parse_rates(text)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rates": []}, "at least one rate"),
        ({"rates": [0]}, "greater than 0"),
        ({"requests": 99}, "requests"),
        ({"replications": 0}, "replications"),
        ({"slo": {"ttf": 1}}, "did you mean 'ttft'"),
        ({"policies": []}, "at least one policy"),
        ({"policies": ["amni"]}, "did you mean 'amin'"),
        ({"workload": ls.Workload([], [])}, "no requests"),
    ],
)
def test_bad_input(workload: ls.Workload, change: dict[str, Any], said: str) -> None:
    asked: dict[str, Any] = {"workload": workload, "policies": ["amin"], "rates": [1.0], **MACHINE}
    with pytest.raises(InputError, match=said):
        ls.sweep(**(asked | change))


def test_the_drain_at_the_end_does_not_lower_the_knee() -> None:
    """Eight at once, one output in fifty long: 8 requests in the mean output are served for ever, and no fewer."""
    outputs = [10] * 49 + [400]
    requests = ls.Workload(1, outputs).with_intervals(ls.intervals.exact())
    limit = 8 / np.mean(outputs)
    for policy in ("fcfs", "hsf"):
        found = ls.sweep(
            requests, [policy], rates=[2 * limit], memory=10**6, max_batch=8, replications=8, requests=1500
        )
        assert found.knee(policy) == pytest.approx(limit, rel=0.03)


def test_the_knee_of_short_runs_is_that_of_a_long_one(workload: ls.Workload) -> None:
    short = ls.sweep(workload, ["vllm"], rates=[9], replications=8, requests=2000, **MACHINE).knee("vllm")
    long = ls.sweep(workload, ["vllm"], rates=[9], replications=1, requests=50_000, **MACHINE).knee("vllm")
    assert short == pytest.approx(long, rel=0.04)
