"""Service metrics: against a recomputation token by token, and what they say of runs that can be done by hand."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from helpers import strategies
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.metrics import service
from llmsched.predict.intervals import with_midpoints
from llmsched.simulation import reference
from llmsched.simulation.problem import problem_of

CLOCK = ls.Clock(base=1.0, per_prompt_token=0.5)


# Token by token -------------------------------------------------------------------------------------------------------


class Watched(reference.ReferenceEngine):
    """The readable engine, writing down what happens to every request in every round."""

    def __init__(self, problem: Any) -> None:
        super().__init__(problem, ())
        self.tokens: list[tuple[int, int, float]] = []  # request, which token, when
        self.stays: dict[int, list[tuple[float, float]]] = {i: [] for i in range(self.n)}  # begin and end of rounds
        self.spans: list[tuple[float, float, int]] = []  # begin and end of rounds, tokens of cache

    def generation(self) -> None:
        begin, running, need = self.now, [(r, r.generated) for r in self.running], self.need()
        super().generation()
        self.spans.append((begin, self.now, need))
        for r, tokens in running:
            if r.generated > tokens:  # else it prefilled
                self.tokens.append((r.index, r.generated, self.now))
            self.stays[r.index].append((begin, self.now))


def by_hand(workload: ls.Workload, engine: Watched, window: tuple[float, float]) -> dict[str, Any]:
    """The metrics, from every single token."""
    n = len(workload)
    out: dict[str, Any] = {name: [math.nan] * n for name in ("ttft", "tpot", "max_itl", "wait", "queueing", "e2e")}
    new_in_window = 0
    for i in range(n):
        arrival, seen, times = workload.arrival[i], 0, []
        for request, token, when in engine.tokens:
            if request == i and token > seen:
                seen = token
                times.append(when)
        assert seen == workload.output[i]
        new_in_window += sum(window[0] < when <= window[1] for when in times)
        out["ttft"][i] = times[0] - arrival
        out["e2e"][i] = times[-1] - arrival
        if len(times) > 1:
            out["tpot"][i] = (times[-1] - times[0]) / (len(times) - 1)
            out["max_itl"][i] = max(b - a for a, b in itertools.pairwise(times))
        out["queueing"][i] = engine.stays[i][0][0] - arrival
        waits, before = [], arrival
        for begin, end in engine.stays[i]:
            waits.append(begin - before)
            before = end
        out["wait"][i] = max(waits)
    length = window[1] - window[0]
    weights = [max(0.0, min(end, window[1]) - max(begin, window[0])) for begin, end, _ in engine.spans]
    out["tokens_rate"] = new_in_window / length
    out["busy"] = sum(weights) / length
    out["used"] = sum(w * need for w, (_, _, need) in zip(weights, engine.spans, strict=True)) / length
    return out


@given(problem=strategies.problems(), machine=strategies.machines(), data=st.data())
@examples(200)
def test_every_metric_is_what_the_single_tokens_say(problem: Any, machine: Any, data: st.DataObject) -> None:
    workload, memory = problem
    policy = data.draw(strategies.compositions(len(workload)))
    seed = data.draw(strategies.seeds)
    try:
        result = ls.simulate(workload, policy, memory=memory, seed=seed, record=("tokens", "timeline"), **machine)
    except (errors.NotFinishedError, errors.MemoryTooSmallError):
        return
    engine = Watched(problem_of(workload, policy, memory, seed, **machine))
    while engine.unfinished:
        engine.run_round()
    length = result.makespan - float(workload.arrival.min())
    cut = data.draw(st.sampled_from([(0.0, 0.0), (0.25, 0.0), (0.0, 0.3), (0.25, 0.25)]))
    limits = {"ttft": 3.0, "max_itl": 2.5}
    found = service.metrics(result, limits, warmup=cut[0] * length, drain=cut[1] * length)
    expected = by_hand(workload, engine, found.window)
    for name in ("ttft", "tpot", "max_itl", "wait", "queueing", "e2e"):
        assert np.array_equal(getattr(found, name), expected[name], equal_nan=True), name
    assert math.isclose(found.tokens_rate, expected["tokens_rate"], rel_tol=1e-9)
    assert math.isclose(found.busy, expected["busy"], rel_tol=1e-9, abs_tol=1e-12)
    assert math.isclose(found.cache_use, expected["used"] / result.memory, rel_tol=1e-9, abs_tol=1e-12)
    inside = (workload.arrival >= found.window[0]) & (workload.arrival <= found.window[1])
    longest = np.nan_to_num(found.max_itl)
    assert np.array_equal(found.met, (found.ttft <= 3.0) & (longest <= 2.5))
    assert np.array_equal(found.counted, inside)
    if inside.any():
        assert found.goodput == found.met[inside].mean()
        slowest = found.slowdown[inside].max()
        assert 1 / inside.sum() <= found.jain + 1e-12
        assert found.jain <= 1 + 1e-12
        assert slowest >= 1 - 1e-9


@given(problem=strategies.problems(), machine=strategies.machines(), data=st.data())
@examples(60)
def test_both_engines_give_the_same_metrics(problem: Any, machine: Any, data: st.DataObject) -> None:
    workload, memory = problem
    policy = data.draw(strategies.compositions(len(workload)))
    both = []
    for engine in ("compiled", "reference"):
        try:
            result = ls.simulate(workload, policy, memory=memory, engine=engine, record="tokens", **machine)
        except (errors.NotFinishedError, errors.MemoryTooSmallError):
            return
        both.append(service.metrics(result).summary())
    assert repr(both[0]) == repr(both[1])


@given(st.lists(st.floats(0, 10), min_size=1, max_size=70), st.data())
@examples(100)
def test_the_range_maximum(values: list[float], data: st.DataObject) -> None:
    bound = st.integers(0, len(values))
    pairs = [(min(p), max(p)) for p in data.draw(st.lists(st.tuples(bound, bound), max_size=9)) if p[0] != p[1]]
    low, high = np.array([p[0] for p in pairs], int), np.array([p[1] for p in pairs], int)
    found = service._range_max(np.array(values), low, high)
    assert found.tolist() == [max(values[a:b]) for a, b in pairs]


# By hand --------------------------------------------------------------------------------------------------------------


def test_a_restart_shows_nothing_new_until_it_passes_where_it_was() -> None:
    # model.md, example 6: both start at once is impossible, so each waits, is evicted twice, and repeats its tokens
    workload = ls.Workload(prompt=0, output=[6, 6], lower=4, upper=8)
    result = ls.simulate(workload, "amin", memory=6, seed=None, record="tokens")
    assert result.completion.tolist() == [19, 25]
    found = service.metrics(result)
    assert found.ttft.tolist() == [1, 3]
    log = result.tokens
    shown: dict[int, list[float]] = {0: [], 1: []}
    for request, first, kept, generated in zip(
        log.request, log.first_round, log.kept, log.generated, strict=True
    ):  # attempts in the order of their end, which within a request is the order of time
        for k in range(generated - kept):
            if kept + k + 1 > len(shown[request]):
                shown[request].append(float(log.round_end[first + k]))
    assert [shown[i][-1] for i in (0, 1)] == [19, 25]
    for i in (0, 1):
        assert found.max_itl[i] == np.diff(shown[i]).max()
        assert found.tpot[i] == (shown[i][-1] - shown[i][0]) / 5


def test_under_recompute_an_eviction_is_a_gap_and_nothing_is_repeated() -> None:
    workload = ls.Workload(prompt=[0, 0], output=[3, 3])
    result = ls.simulate(workload, "fcfs", memory=4, seed=None, record="tokens", clock=CLOCK)
    # two rounds together; then they need 6 of 4: the second leaves after 2 tokens, and comes back for its third
    assert result.evictions.tolist() == [0, 1]
    found = service.metrics(result, {"max_itl": 2.0})
    assert found.ttft.tolist() == [1, 1]
    assert found.max_itl.tolist() == [1, 3]  # waits a round of 1, recomputes 2 tokens in one of 1 + 2/2
    assert found.tpot.tolist() == [1, 2]
    assert found.wait.tolist() == [0, 1]
    assert found.queueing.tolist() == [0, 0]
    assert found.slowdown.tolist() == [1, 5 / 3]
    assert found.met.tolist() == [True, False]
    assert (found.goodput, found.goodput_rate) == (0.5, 1 / 5)
    assert found.tokens_rate == 6 / 5
    assert found.requests_rate == 2 / 5
    assert found.jain == pytest.approx((1 + 0.6) ** 2 / (2 * (1 + 0.36)))
    assert found.longest_wait == 1
    assert found.unit == "s"


def test_idle_time_is_not_busy_and_delays_nobody() -> None:
    workload = ls.Workload(prompt=[2, 2], output=[2, 2], arrival=[1.0, 11.0])
    result = ls.simulate(workload, "fcfs", memory=10, record=("tokens", "timeline"), clock=CLOCK)
    found = service.metrics(result)
    assert found.window == (1.0, 14.0)
    assert found.ttft.tolist() == [2, 2]
    assert found.slowdown.tolist() == [1, 1]
    assert found.busy == 6 / 13
    assert found.cache_use == pytest.approx(2 * (2 * 3 + 1 * 4) / 13 / 10)
    assert found.jain == 1


def test_the_window_cuts_off_warm_up_and_drain() -> None:
    workload = ls.Workload(prompt=0, output=[4] * 3, arrival=[0.0, 10.0, 20.0])
    result = ls.simulate(workload, "fcfs", memory=10, record="tokens")
    found = service.metrics(result, warmup=5, drain=5)
    assert found.window == (5, 19)
    assert found.counted.tolist() == [False, True, False]
    assert (found.requests_rate, found.tokens_rate, found.busy) == (1 / 14, 4 / 14, 4 / 14)
    with pytest.raises(errors.InputError, match="leave nothing of a run from 0 to 24"):
        service.metrics(result, warmup=12, drain=12)
    with pytest.raises(errors.InputError, match="warmup=-1"):
        service.metrics(result, warmup=-1)


def test_summary_and_columns_are_plain() -> None:
    workload = ls.generate.poisson(ls.generate.lmsys(50), 0.5)
    found = service.metrics(ls.simulate(workload, "fcfs", memory=3000, record="tokens"), {"e2e": 100})
    summary = found.summary()
    assert summary["ttft_p99"] == found.percentile("ttft", 99)
    assert summary["e2e_max"] == found.e2e.max()
    assert all(isinstance(value, (int, float, str, bool)) for value in summary.values())
    json.dumps(summary)
    assert set(found.columns()) == {*service.METRICS, "counted", "met"}
    assert len(found.to_pandas()) == 50
    assert "p99 ttft" in repr(found)
    assert math.isnan(summary["cache_use"])


def test_nothing_to_serve() -> None:
    found = service.metrics(ls.simulate(ls.Workload([], []), "fcfs", memory=10, record="tokens"), {"ttft": 1})
    assert math.isnan(found.goodput)
    assert math.isnan(found.tokens_rate)
    assert math.isnan(found.longest_wait)
    assert found.summary()["counted"] == 0


# Load above capacity --------------------------------------------------------------------------------------------------


def served(rate: float, policy: str = "fcfs", n: int = 3000) -> ls.Result:
    workload = ls.generate.poisson(ls.generate.lmsys(n, 3), rate, 4)
    workload = workload.with_intervals(ls.intervals.buckets(100))
    return ls.simulate(workload, policy, memory=16492, clock="llama2-70b-2xa100", record="tokens")


@pytest.mark.parametrize("policy", ["fcfs", "amin", "hsf"])
def test_a_load_above_capacity_is_seen_and_the_stable_rate_holds(policy: str) -> None:
    overload = service.metrics(served(30.0, policy)).overload
    assert overload is not None
    assert overload.rate == pytest.approx(30, rel=0.1)
    assert overload.after > 1.5 * overload.before
    assert f"about {overload.stable_rate:.3g} can be served" in str(overload)
    stable = overload.stable_rate
    assert service.metrics(served(0.8 * stable, policy)).overload is None
    assert service.metrics(served(1.4 * stable, policy)).overload is not None


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("policy", ["hsf", "amax", "mcsf", "amin", "vllm"])
def test_every_policy_above_capacity_is_seen_if_shortest_first(policy: str, seed: int) -> None:
    """Long requests that wait are few: their work grows slowly, and so it does in a short trace."""
    requests = ls.generate.poisson(ls.generate.lmsys(1000, seed), 8.0, seed)
    requests = with_midpoints(requests.with_intervals(ls.intervals.buckets(100)))
    result = ls.simulate(requests, policy, memory=6000, clock="llama2-70b-2xa100", record="tokens")
    seen = service.metrics(result)
    assert seen.requests_rate < 0.7 * 8
    assert seen.overload is not None


@pytest.mark.parametrize("rate", [2.0, 3.0])
@pytest.mark.parametrize("policy", ["hsf", "amin", "vllm"])
def test_a_load_that_can_be_served_is_no_overload(policy: str, rate: float) -> None:
    for seed in range(6):
        requests = ls.generate.poisson(ls.generate.lmsys(1000, seed), rate, seed)
        requests = requests.with_intervals(ls.intervals.buckets(100))
        result = ls.simulate(requests, policy, memory=6000, clock="llama2-70b-2xa100", record="tokens")
        assert service.metrics(result).overload is None


def test_a_light_load_and_requests_that_come_at_once_are_no_overload() -> None:
    assert service.metrics(served(1.0)).overload is None
    result = ls.simulate(ls.generate.lmsys(200), "fcfs", memory=16492, record="tokens")
    assert service.metrics(result).overload is None


# Bad input ------------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_and_the_nearest_name_suggested() -> None:
    workload = ls.Workload(prompt=0, output=[3, 4])
    with pytest.raises(errors.InputError, match='record="tokens"'):
        service.metrics(ls.simulate(workload, "fcfs", memory=10))
    with pytest.raises(errors.InputError, match="not Workload"):
        service.metrics(workload)
    result = ls.simulate(workload, "fcfs", memory=10, record="tokens")
    with pytest.raises(errors.InputError, match="there is no SLO 'tfft'; did you mean 'ttft'"):
        service.metrics(result, {"tfft": 1})
    for bad in (0, -1, math.nan, "1", True, None):
        with pytest.raises(errors.InputError, match="the SLO ttft is"):
            service.metrics(result, {"ttft": bad})
    found = service.metrics(result)
    with pytest.raises(errors.InputError, match="did you mean 'tpot'"):
        found.percentile("tpott", 50)
    with pytest.raises(errors.InputError, match="out of range"):
        found.percentile("tpot", 101)


def test_slo_as_written_on_the_command_line() -> None:
    assert service.parse_slo("ttft=1, tpot=0.1") == {"ttft": 1.0, "tpot": 0.1}
    for bad in ("", "ttft", "ttft=", "ttft=a", "ttft=1,ttft=2", "ttft=nan"):
        with pytest.raises(errors.InputError, match="does not have the form"):
            service.parse_slo(bad)
    with pytest.raises(errors.InputError, match="did you mean 'e2e'"):
        service.parse_slo("e2=3")
    with pytest.raises(errors.InputError, match="limits are numbers, seconds where there is a clock"):
        service.parse_slo("ttft=2000ms")
    with pytest.raises(errors.InputError, match=r"'ttft_p99'; did you mean 'ttft'.* which share keeps them"):
        service.parse_slo("ttft_p99=2")


# Several policies -----------------------------------------------------------------------------------------------------


def test_compare_passes_the_clock_on() -> None:
    from llmsched.metrics.compare import compare

    workload = ls.generate.lmsys(60).with_intervals(ls.intervals.buckets(100))
    seen: list[tuple[str, int, int]] = []
    timed = compare(
        workload, {"a": "amin"}, memory=2000, clock=CLOCK, max_batch=4, progress=lambda *at: seen.append(at)
    )
    (row,) = timed
    assert row.result is not None
    assert row.result.clock == CLOCK
    assert row.result.max_batch == 4
    assert seen[0] == ("a", 0, 120)
    assert seen[-1] == ("hsf", 120, 120)
