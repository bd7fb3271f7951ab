"""Lower bounds: what theory.md prints, and never above the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from helpers.exhaustive import least_total, least_total_with_breaks, tiny
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError
from llmsched.optimum import clock_costs, fluid_relaxation, lower_bounds
from llmsched.optimum.lower_bounds import area_bound, busy_bound, lower_bound, price_bound, trivial_bound
from llmsched.policy import EVICTION_RULES


def with_prices(at_most: int = 12):
    return st.lists(st.floats(0, 2), min_size=1, max_size=at_most).map(np.array)


@examples(50)
@given(tiny(), with_prices())
def test_no_bound_exceeds_the_optimum(instance, prices):
    workload, memory = instance
    optimum = least_total(workload, memory)
    assert trivial_bound(workload) <= optimum
    assert area_bound(workload, memory) <= optimum + 1e-9
    assert busy_bound(workload, memory) <= optimum + 1e-9
    assert price_bound(workload, memory, prices) <= optimum + 1e-9
    assert lower_bound(workload, memory=memory).value <= optimum


@examples(50)
@given(tiny(requests=3), with_prices())
def test_bounds_for_every_policy_hold_when_requests_pause(instance, prices):
    workload, memory = instance
    optimum = least_total_with_breaks(workload, memory)
    assert lower_bound(workload, memory=memory).preemptive <= optimum
    assert price_bound(workload, memory, np.sort(prices)[::-1]) <= optimum + 1e-9


def test_prices_that_rise_do_not_bound_schedules_with_breaks():
    """Why `preemptive` is a bound of its own: pausing one request lets both start at once here."""
    found = []
    rng = np.random.default_rng(0)
    for _ in range(300):
        w = ls.Workload(rng.integers(0, 3, 3), rng.integers(1, 5, 3))
        memory = int((w.prompt + w.output).max()) + int(rng.integers(0, 4))
        found.append(least_total_with_breaks(w, memory) < least_total(w, memory))
    assert any(found)


@examples(50)
@given(tiny(), st.floats(0, 0.999), st.sampled_from(sorted(ls.policies)))
def test_no_policy_beats_its_bound_at_fractional_arrivals_either(instance, shift, name):
    workload, memory = instance
    workload = workload.replace(
        arrival=workload.arrival * (0.5 + shift), lower=1, upper=workload.output, point=workload.output, priority=0
    ).with_lengths(ls.LengthTable.from_outputs(workload.output))
    policy = ls.policies[name]
    if EVICTION_RULES[policy.evict].may_cycle == "always":  # it can run for ever
        policy = dataclasses.replace(policy, evict="newest")
    total = ls.simulate(workload, policy, memory=memory).total_latency
    assert lower_bound(workload, memory=memory).of(policy) <= total + 1e-9


@examples(50)
@given(tiny(), st.sampled_from(["hsf", "amin", "aell", "fcfs"]), st.integers(1, 3), st.integers(1, 4))
def test_bounds_hold_with_a_cap_on_the_batch_and_with_blocks(instance, name, most, block):
    workload, memory = instance
    workload = workload.replace(lower=1, upper=workload.output)
    memory = 4 * memory
    result = ls.simulate(workload, name, memory=memory, max_batch=most, block=block)
    assert lower_bound(workload, memory=memory).gap(result.total_latency, name) >= 0
    assert lower_bound(workload, memory=memory).of(name) <= result.total_latency + 1e-9


@st.composite
def clocks(draw):
    some = st.sampled_from([0, 0.01, 0.3, 1])
    base, request = draw(st.tuples(some, some).filter(any))
    context = draw(st.sampled_from(["all", "generated"]))
    return ls.Clock(base, request, draw(some), draw(some), per_swapped_token=draw(some), context=context)


@examples(100)
@given(tiny(), clocks())
def test_what_a_request_costs_by_a_clock_is_the_sum_over_its_rounds(instance, clock):
    workload, memory = instance
    found = clock_costs.request_costs(workload, memory, clock)
    for i, (s, o) in enumerate(zip(workload.prompt.tolist(), workload.output.tolist(), strict=True)):
        held = np.arange(o) + (s if clock.context == "all" else 0)
        lasts = clock.base + clock.per_request + clock.per_context_token * held
        takes = lasts - clock.base + clock.base * (s + 1 + np.arange(o)) / memory
        takes[0] += clock.per_prompt_token * s
        tail = np.cumsum(lasts[::-1])[::-1] - lasts / 2
        assert found.work[i] == pytest.approx(takes.sum())
        assert found.offset[i] == pytest.approx((takes * tail).sum() / takes.sum())
        assert found.alone[i] == pytest.approx(lasts.sum() + clock.per_prompt_token * s)
    one = lower_bound(workload, memory=memory, clock=ls.Clock(1))
    assert one.each["busy"] == pytest.approx(busy_bound(workload, memory))
    assert one.each["trivial"] == trivial_bound(workload)


@examples(200)
@given(tiny(), clocks(), st.sampled_from(["svf", "hsf", "amin", "vllm", "s3"]), st.data())
def test_no_policy_beats_its_bound_in_seconds(instance, clock, name, data):
    workload, memory = instance
    workload = workload.replace(
        arrival=workload.arrival * data.draw(st.floats(0, 2)), lower=1, upper=workload.output, point=workload.output
    )
    resumes = ["restart", "recompute", *(["swap"] if ls.policies[name].slots == "ahead" else [])]
    policy = dataclasses.replace(ls.policies[name], resume=data.draw(st.sampled_from(resumes)), margin=0)
    budget = data.draw(st.none() | st.integers(2, 8))
    result = ls.simulate(workload, policy, memory=memory, clock=clock, prefill_budget=budget)
    found = lower_bound(workload, memory=memory, clock=clock)
    assert found.of(policy) <= result.total_latency + 1e-9
    assert found.preemptive == found.value == max(found.each.values()) * (1 - 1e-9)


def test_a_clock_must_be_one():
    for requests in ([], [3]):
        with pytest.raises(InputError, match="there is no clock 'llama'"):
            lower_bound(ls.Workload(requests, requests), memory=50, clock="llama")


def test_what_swaps_or_pauses_is_bounded_too():
    """Requests that keep their tokens are not bounded by `value`: `of` knows which."""
    found = lower_bounds.LowerBound(10.0, 9.0, {"trivial": 9.0}, "trivial")
    kept = [dataclasses.replace(ls.policies["amin"], resume=how) for how in ("swap", "recompute")]
    assert [found.of(policy) for policy in kept] == [9.0, 9.0]
    assert found.of(dataclasses.replace(ls.policies["amin"], pause="overflow")) == 10.0


@examples(50)
@given(tiny(requests=6))
def test_bounds_get_stronger_in_the_order_they_are_documented(instance):
    workload, memory = instance
    found = lower_bound(workload, memory=memory)
    assert found.preemptive <= found.value
    assert found.value >= max(found.each.values()) - 1e-6
    assert found.each[found.method] == max(found.each.values())
    if not workload.arrival.any():
        assert found.each["area"] <= found.each["busy"] + 1e-9


@examples(50)
@given(tiny(requests=8))
def test_the_fluid_schedule_agrees_with_closed_form_and_levels(instance):
    workload, memory = instance
    work, since = fluid_relaxation.volumes(workload) / memory, workload.arrival - workload.arrival.min()
    exact = fluid_relaxation.fluid_schedule_over_time(work, since)
    # With a level for each volume nothing is rounded.
    assert fluid_relaxation.total_delay_by_levels(work, since) == pytest.approx(exact.total_delay)
    at_once = fluid_relaxation.fluid_schedule(workload.replace(arrival=0), memory)
    assert fluid_relaxation.fluid_schedule_over_time(work, 0 * since).total_delay == pytest.approx(at_once.total_delay)
    assert (np.diff(exact.times) >= -1e-9).all()
    assert exact.remaining.min() >= -1e-9


def test_levels_are_below_the_exact_bound_and_not_by_much(monkeypatch):
    rng = np.random.default_rng(1)
    w = ls.Workload(rng.integers(0, 300, 3000), rng.integers(1, 300, 3000), arrival=rng.random(3000) * 3000)
    exact = busy_bound(w, 4000)
    monkeypatch.setattr(fluid_relaxation, "_EXACT_FLUID", 10)
    assert 0.9 * exact < busy_bound(w, 4000) <= exact


def test_busy_offset_is_the_weighted_middle():
    w = ls.Workload([0, 3, 7], [1, 4, 9])
    expected = [
        sum((s + k) * (k - 0.5) for k in range(1, o + 1)) / sum(s + k for k in range(1, o + 1))
        for s, o in zip(w.prompt.tolist(), w.output.tolist(), strict=True)
    ]
    assert fluid_relaxation.busy_offsets(w) == pytest.approx(expected)


def test_the_printed_bounds_of_the_lmsys_trace(data_file):
    w = ls.traces.load(data_file("lmsys_lengths.csv")).replace(arrival=0)
    found = lower_bound(w, memory=16492)
    assert round(found.each["area"]) == 357_354
    assert round(found.each["busy"]) == 418_056
    assert found.value > 424_700  # the linear relaxation, by prices


def test_iterations_only_improve_and_repeat_exactly():
    rng = np.random.default_rng(2)
    w = ls.Workload(rng.integers(0, 6, 20), rng.integers(1, 21, 20))
    values = [lower_bound(w, memory=40, iterations=k).each["price"] for k in (0, 20, 200)]
    assert values == sorted(values)
    assert lower_bound(w, memory=40).each == lower_bound(w, memory=40).each


def test_a_million_requests_are_bounded_by_the_closed_forms():
    w = ls.Workload(np.arange(1_000_000) % 97, 1 + np.arange(1_000_000) % 89)
    found = lower_bound(w, memory=16492)
    assert found.method == "busy"
    assert "price" not in found.each


def test_the_bound_of_a_policy_depends_on_what_it_resumes_with():
    found = lower_bounds.LowerBound(10.0, 9.0, {"trivial": 9.0}, "trivial")
    assert found.of("hsf") == 10.0
    assert found.of("fcfs") == 9.0
    with pytest.raises(ls.errors.PolicyError, match="hsf"):
        found.of("hs")


def test_no_requests_cost_nothing():
    assert lower_bound(ls.Workload([], []), memory=5).value == 0


def test_what_cannot_be_bounded_is_refused():
    w = ls.Workload([1, 9], [1, 3])
    with pytest.raises(ls.errors.MemoryTooSmallError, match="request 1"):
        lower_bound(w, memory=11)
    with pytest.raises(ls.errors.InputError, match="memory"):
        lower_bound(w, memory=0)
    with pytest.raises(ls.errors.InputError, match="iterations"):
        lower_bound(w, memory=20, iterations=-1)
    with pytest.raises(ls.errors.InputError, match="Workload"):
        lower_bound([1, 2], memory=20)


@pytest.mark.parametrize("chunk", [1, 2, 3, 2**30])
@pytest.mark.parametrize("prompt", [0, 1, 2])
def test_a_clock_that_charges_for_all_context_is_no_dearer_after_an_eviction(prompt: int, chunk: int) -> None:
    """A request without a prompt holds a token less after it has been recomputed."""
    policy = ls.Policy(
        order="prompt",
        reserve="none",
        evict="prompt",
        shed="lottery",
        resume="recompute",
        slots="processed",
        chunk=chunk,
    )
    w = ls.Workload([prompt], [4], lower=1, upper=1)
    clock = ls.Clock(base=0.05, per_context_token=0.1, per_prompt_token=0.1, context="all")
    for seed in (None, 0, 1, 2):
        result = ls.simulate(w, policy, memory=10, seed=seed, clock=clock)
        assert ls.lower_bound(w, memory=10, clock=clock).of(policy) <= result.total_latency * (1 + 1e-9)
