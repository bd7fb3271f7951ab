"""The compiled engine equals the reference engine in every number, on any workload and any composition of fields."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import compositions, problems, simulations, simulations_as_processed
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.policy import CHOICES

# What a run leaves behind, in one comparable value: numbers, or the exception.
NUMBERS = ("completion", "start", "evictions", "rounds", "peak_memory", "wasted_tokens", "timeline", "tokens", "cached")

ENGINES = ("reference", "compiled")
SLOTS = CHOICES["slots"]


def outcome(workload, policy, memory, seed, engine, record=("timeline", "tokens"), **options):
    try:
        r = ls.simulate(workload, policy, memory=memory, seed=seed, engine=engine, record=record, **options)
    except ls.errors.LlmschedError as error:
        return type(error), str(error)
    values = {name: value.tolist() if isinstance(value := getattr(r, name), np.ndarray) else value for name in NUMBERS}
    return values | {"arrival": r.workload.arrival.tolist()}


def check_invariants(result: ls.Result) -> None:
    w, memory = result.workload, result.memory
    rounds = result.timeline.expand()
    assert rounds["memory"].max(initial=0) == result.peak_memory <= memory
    assert len(rounds["memory"]) == result.rounds
    assert (rounds["batch"] >= 1).all() or result.policy.slots == "processed"  # who would be served may have left
    assert rounds["evictions"].sum() == result.total_evictions
    assert (result.start >= w.arrival).all()
    shortest = 1 if result.clock is None else result.clock.duration(1, 0)
    # some ulps of slack where arrivals or durations are not whole
    assert (result.completion >= (w.arrival + shortest * w.output) * (1 - 1e-12)).all()
    if result.prefill_budget is None and result.policy.slots == "ahead":
        generated = int(rounds["batch"].sum())
        assert generated == int(w.output.sum()) + result.wasted_tokens
    if result.policy.resume != "restart":
        assert result.wasted_tokens == 0
    held = np.concatenate([[0], rounds["memory"]])
    assert held.min() >= 0


@examples(2500)
@given(drawn=st.one_of(simulations(), simulations_as_processed()))
def test_engines_agree_on_any_workload_and_composition(drawn):
    workload, policy, memory, seed, machine = drawn
    expected = outcome(workload, policy, memory, seed, "reference", **machine)
    assert outcome(workload, policy, memory, seed, "compiled", **machine) == expected
    if isinstance(expected, dict):
        # With blocks the compiled engine looks at every round that is to be recorded, and jumps over the others.
        unseen = {"timeline": None, "tokens": None}
        assert outcome(workload, policy, memory, seed, "compiled", record=None, **machine) == expected | unseen
        check_invariants(ls.simulate(workload, policy, memory=memory, seed=seed, record="timeline", **machine))


@examples(300)
@given(data=st.data(), max_rounds=st.integers(0, 60))
def test_engines_stop_at_the_same_round(data, max_rounds):
    workload, memory = data.draw(problems())
    policy = data.draw(compositions(len(workload), formulas=True, slots=SLOTS))
    results = [outcome(workload, policy, memory, 0, e, max_rounds=max_rounds) for e in ENGINES]
    assert results[0] == results[1]


@pytest.mark.parametrize("name", sorted(ls.policies))
@pytest.mark.parametrize("resume", ["restart", "recompute"])
@pytest.mark.parametrize("fill", ["break", "skip"])
def test_engines_agree_when_the_cache_is_under_pressure(name, resume, fill):
    """Many requests, a small cache, wrong predictions: hundreds of evictions and ties."""
    rng = np.random.default_rng(7)
    n = 80
    output = rng.integers(1, 20, n)
    lower = np.maximum(1, output - rng.integers(0, 12, n))
    w = ls.Workload(
        rng.integers(0, 10, n), output, lower, np.maximum(lower, output + rng.integers(-8, 16, n)),
        np.maximum(1, output + rng.integers(-8, 8, n)), np.sort(rng.exponential(3, n).cumsum()),
        rng.integers(0, 3, n),
    )  # fmt: skip
    w = w.with_lengths(ls.LengthTable.from_outputs(rng.integers(1, 20, 50)))
    policy = dataclasses.replace(ls.policies[name], resume=resume, fill=fill)
    for memory, seed in ((40, 0), (150, 1), (400, None)):
        for workload in (w, w.replace(arrival=None)):
            # Rounds are limited, or protection takes long.
            both = [outcome(workload, policy, memory, seed, engine, max_rounds=2000) for engine in ENGINES]
            assert both[0] == both[1]


@pytest.mark.parametrize("memory", [2000, 20_000])
@pytest.mark.parametrize("name", ["rect", "s3", "trtllm", "fcfs", "amin"])
def test_engines_agree_on_a_long_line(name, memory):
    """With fill="skip" and a thousand who wait the line is a tree of three levels: nodes split, empty and merge."""
    rng = np.random.default_rng(3)
    n = 400 if name == "amin" else 1600
    output = rng.integers(1, 8, n)
    prompt = rng.choice([1, 5, 40, 300], n) + rng.integers(0, 20, n)
    lower = np.maximum(1, output - rng.integers(0, 3, n))
    arrival = rng.choice([0.0, 0.0, 9.0, 25.0], n)
    w = ls.Workload(prompt, output, lower, output + rng.integers(0, 8, n), arrival=arrival)
    policy = dataclasses.replace(ls.policies[name], fill="skip")
    both = [outcome(w, policy, memory, 0, engine) for engine in ENGINES]
    assert both[0] == both[1]
    assert isinstance(both[0], dict)


def test_a_request_that_outlives_the_wheel_completes_on_time():
    """Outputs longer than the timing wheel's 4,096 buckets share buckets with shorter ones."""
    output = [1, 4095, 4096, 4097, 8192, 12_300, 3, 4096]
    w = ls.Workload(0, output, lower=1, upper=output, point=output, arrival=[0, 0, 5, 0, 1, 2, 0, 4000])
    for policy in ("hsf", "amax", "amin", "fcfs", "aell"):
        for memory in (20_000, 60_000):
            both = [outcome(w, policy, memory, 0, engine) for engine in ENGINES]
            assert both[0] == both[1]


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**64 - 1])
@pytest.mark.parametrize("n", [1, 2, 3, 64, 1000, 70_000])
def test_ranks_are_the_permutation_that_numpy_draws(seed, n):
    """Equal requests that run one at a time start in the order of their ranks."""
    r = ls.simulate(ls.Workload(0, np.ones(n, int)), "svf", memory=1, seed=seed)
    assert r.start.tolist() == np.random.default_rng(seed).permutation(n).tolist()


@pytest.mark.parametrize("seed", [0, None])
@pytest.mark.parametrize("n", [64, 65, 129, 500])
@pytest.mark.parametrize("spread", [1, 2**11, 2**31, 2**32, 2**33, 2**50])
def test_keys_of_any_spread_are_sorted(spread, n, seed):
    """Keys that take one pass of the sort, or several, or more than 32 bits; with ties, whole and not."""
    rng = np.random.default_rng(spread)
    few = rng.integers(0, spread + 1, n // 3)
    w = ls.Workload(0, rng.integers(1, 30, n), point=rng.choice(few, n) + 1)
    for order in ("point", np.ldexp(rng.choice(few, n) - spread / 2, rng.integers(-900, 900))):
        policy = ls.Policy(order=order, reserve="output", evict="progress", refine="none")
        both = [outcome(w, policy, 200, seed, engine) for engine in ENGINES]
        assert both[0] == both[1]


def test_the_seed_changes_the_outcome_and_nothing_else_does():
    w = ls.generate.linear_geometric(200, 0.9, 60, prompt=1, seed=3)
    one, again, other = (ls.simulate(w, "amin", memory=200, seed=seed) for seed in (1, 1, 2))
    assert one.completion.tolist() == again.completion.tolist()
    assert one.completion.tolist() != other.completion.tolist()
