"""A scheduler that is driven takes the decisions of a simulation, and says what is wrong with what it is told."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from helpers.drive import Driver
from helpers.examples import examples
from helpers.strategies import compositions, machines, problems, simulations
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import (
    FormulaValueError,
    InputError,
    MemoryTooSmallError,
    MissingPredictionError,
    NotFinishedError,
    PolicyError,
    WorkloadError,
)
from llmsched.policy import CHOICES

DRIVEN = [name for name, policy in ls.policies.items() if not policy.clairvoyant]

SLOTS = CHOICES["slots"]


def simulated(workload, policy, memory, seed, **machine):
    result = ls.simulate(workload, policy, memory=memory, seed=seed, **machine)
    return {name: getattr(result, name).tolist() for name in ("start", "completion", "evictions")}


def driven(workload, policy, memory, seed, at_once=True, clock=None, **machine):
    lengths = workload.lengths
    scheduler = ls.live.Scheduler(policy, memory=memory, seed=seed, lengths=lengths, **machine)
    return Driver(workload, scheduler, seed, clock, machine.get("prefill_budget"), at_once).run()


@examples(600)
@given(drawn=simulations(), at_once=st.booleans())
def test_driven_with_the_true_lengths_it_is_a_simulation(drawn, at_once):
    workload, policy, memory, seed, machine = drawn
    assume(not policy.clairvoyant and isinstance(policy.order, str) and policy.prefixes == "none")
    workload = workload.replace(think=None)  # the loop is closed by whoever drives it
    if "clock" in machine:
        machine["clock"] = ls.Clock(base=machine["clock"].base, per_request=machine["clock"].per_request)
    at_once = at_once or "history" in policy.reserve or policy.shed == "lottery"
    try:
        expected = simulated(workload, policy, memory, seed, max_rounds=3000, **machine)
    except NotFinishedError:
        return
    except FormulaValueError:
        with pytest.raises(FormulaValueError):
            driven(workload, policy, memory, seed, at_once, **machine)
        return
    assert driven(workload, policy, memory, seed, at_once, **machine) == expected


@pytest.mark.parametrize("name", DRIVEN)
@pytest.mark.parametrize("fill", ["break", "skip"])
@pytest.mark.parametrize("seed", [0, None])
def test_named_policies_under_pressure_decide_as_simulated(name, fill, seed):
    rng = np.random.default_rng(5)
    n = 120
    output = rng.integers(1, 40, n)
    lower = np.maximum(1, output - rng.integers(0, 25, n))
    w = ls.Workload(
        rng.integers(0, 30, n), output, lower, output + rng.integers(0, 30, n),
        arrival=np.sort(rng.integers(0, 160, n)), priority=rng.integers(0, 3, n),
    ).with_lengths(ls.LengthTable.from_outputs(output))  # fmt: skip
    policy = dataclasses.replace(ls.policies[name], fill=fill)
    for machine in ({}, {"block": 4, "max_batch": 9}, {"prefill_budget": 24}):
        try:
            expected = simulated(w, policy, 160, seed, max_rounds=20_000, **machine)
        except NotFinishedError:  # alpha-protection can go on for ever
            continue
        assert driven(w, policy, 160, seed, **machine) == expected
        assert driven(w, policy, 160, seed, at_once=False, **machine) == expected


# What changes on the way ----------------------------------------------------------------------------------------------


@examples(300)
@given(data=st.data())
def test_cancelled_requests_leave_nothing_behind(data):
    """The cache is never exceeded, nobody is lost, and what is left at the end is an empty scheduler."""
    workload, memory = data.draw(problems())
    policy = data.draw(compositions(len(workload), slots=SLOTS))
    assume(not policy.clairvoyant and isinstance(policy.order, str))
    machine = data.draw(machines())
    machine.pop("clock", None)
    block = machine.get("block", 1)
    memory = (memory + block - 1) // block * block
    scheduler = ls.live.Scheduler(policy, memory=memory, seed=0, lengths=workload.lengths, **machine)
    driver = Driver(workload, scheduler, 0)
    driver.ranks = list(range(len(workload)))
    for i in range(len(workload)):
        driver.submit(i)
    tokens: dict[int, int] = {}
    now, there = 0.0, set(range(len(workload)))
    chance = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    while there:
        for i in [i for i in sorted(there) if chance.random() < 0.05]:
            scheduler.cancel(i)
            tokens.pop(i, None)
            there.discard(i)
        try:
            decision = scheduler.decide(now)
        except MemoryTooSmallError as error:
            scheduler.cancel(int(str(error).split()[1]))
            there -= {i for i in there if i not in scheduler}
            tokens = {i: g for i, g in tokens.items() if i in there}
            continue
        for i in decision.evict:
            del tokens[i]
        for i in decision.admit:
            tokens[i] = 0
        assert len(tokens) == scheduler.running
        assert there == {i for i in range(len(workload)) if i in scheduler}
        assert scheduler.need <= memory
        assert scheduler.running or not scheduler.waiting
        for i in [i for i in tokens if chance.random() < 0.15]:
            scheduler.turn_back(i)
            del tokens[i]
        for i in [i for i in sorted(there) if chance.random() < 0.05]:
            scheduler.hasten(i)
        done = {i for i in tokens if chance.random() < 0.25}
        late = {i for i in tokens.keys() - done if chance.random() < 0.25 and policy.slots == "ahead"}
        scheduler.advance(finished=done, delayed=late)
        there -= done
        tokens = {i: g for i, g in tokens.items() if i not in done}
        now += 1.0 if scheduler.running or scheduler.waiting else 300.0
    assert len(scheduler) == scheduler.running == scheduler.waiting == scheduler.need == 0


def test_a_delayed_request_counts_as_admitted_later():
    """It is believed to end a round later, and so leaves room for nobody until then."""
    scheduler = ls.live.Scheduler("amax", memory=10, seed=None)
    scheduler.submit("a", 5, lower=1, upper=3)
    scheduler.submit("b", 4, lower=1, upper=4)
    assert scheduler.decide(0).admit == ("a",)
    scheduler.advance(delayed=["a"])
    for now in range(1, 4):
        assert scheduler.decide(now).admit == ()
        scheduler.advance(finished=["a"] if now == 3 else ())
    assert scheduler.decide(4).admit == ("b",)


@pytest.mark.parametrize("fill", ["break", "skip"])
def test_who_is_hastened_is_passed_by_nobody(fill):
    """The shortest first, with an endless stream of short ones: the long one would never start."""
    scheduler = ls.live.Scheduler(ls.Policy(order="upper", reserve="upper", fill=fill), memory=20, seed=None)
    scheduler.submit("long", 5, lower=1, upper=15)
    started, left = [], {}
    for now in range(200):
        scheduler.submit(now, 4, lower=1, upper=4, arrival=now)
        if now == 100:
            assert "long" not in started
            scheduler.hasten("long")
        for id in scheduler.decide(now).admit:
            started.append(id)
            left[id] = 4
        left = {id: rounds - 1 for id, rounds in left.items()}
        scheduler.advance(finished=[id for id, rounds in left.items() if rounds == 0])
        left = {id: rounds for id, rounds in left.items() if rounds}
        if "long" in started:
            return
    pytest.fail("it never started")


def test_who_is_turned_back_waits_as_before():
    scheduler = ls.live.Scheduler("fcfs", memory=100, seed=None)
    for id in "abc":
        scheduler.submit(id, 5)
    assert scheduler.decide(0).admit == ("a", "b", "c")
    scheduler.turn_back("b")
    assert (scheduler.running, scheduler.waiting) == (2, 1)
    scheduler.advance(finished=["a"])
    assert scheduler.decide(1)[:2] == (("b",), ())
    scheduler.advance()
    scheduler.turn_back("b")
    with pytest.raises(InputError, match="turn_back: request 'b' does not run"):
        scheduler.turn_back("b")


def test_memory_stays_bounded_however_many_requests_pass():
    """The same number of requests at once for 500 and 20,000 of them: slots and everything else are used again."""
    held = []
    for total in (500, 20_000):
        rng = np.random.default_rng(0)
        scheduler = ls.live.Scheduler("amin-recompute", memory=3000)
        left: dict[int, int] = {}
        running: set[int] = set()
        submitted = now = 0
        while submitted < total or left:
            while len(scheduler) < 120 and submitted < total:
                lower = int(rng.integers(1, 60))
                scheduler.submit(submitted, int(rng.integers(0, 40)), lower=lower, upper=2 * lower, arrival=now)
                left[submitted] = lower + int(rng.integers(0, 60))
                submitted += 1
            decision = scheduler.decide(now)
            running = (running - {*decision.evict}) | {*decision.admit}
            for i in running:
                left[i] -= 1
            done = [i for i in running if left[i] == 0]
            for i in done:
                del left[i]
            scheduler.advance(finished=done)
            running -= {*done}
            now += 1
        held.append(scheduler.work["bytes"])
    assert held[1] <= 1.5 * held[0]


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hsf", "svf"])
def test_policies_that_read_the_truth_are_refused(name):
    with pytest.raises(PolicyError, match=f"{name} reads the true output lengths"):
        ls.live.Scheduler(name, memory=100)


def test_policies_in_python_and_orders_of_numbers_are_refused():
    class Mine(ls.Policy):
        def admission_key(self, request, now):
            return 0

    with pytest.raises(PolicyError, match=r"decides in Python \(admission_key\)"):
        ls.live.Scheduler(Mine(), memory=100)
    with pytest.raises(PolicyError, match="use a formula"):
        ls.live.Scheduler(ls.Policy(order=[1, 2]), memory=100)
    with pytest.raises(PolicyError, match="reads the true output"):
        ls.live.Scheduler(ls.Policy(order="output * 2"), memory=100)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompt": -1}, InputError, "request 'x': prompt must be a whole number from 0"),
        ({"prompt": 100}, MemoryTooSmallError, r"request 'x' needs prompt 100 \+ 1 tokens of cache, but memory is 100"),
        ({"lower": 5, "upper": 3}, WorkloadError, "request 'x': lower is 5, more than upper, 3"),
        ({"lower": 0}, InputError, "request 'x': lower must be a whole number from 1"),
        ({"upper": 3}, MissingPredictionError, r"policy amin reads 'lower': submit\(..., lower=...\)"),
        ({"lower": 1, "arrival": math.nan}, WorkloadError, "request 'x': arrival is nan, expected a time"),
        ({"lower": 1, "tie": -1}, InputError, "request 'x': tie must be a whole number from 0"),
    ],
)
def test_impossible_requests_are_refused_and_change_nothing(given, error, message):
    scheduler = ls.live.Scheduler("amin", memory=100)
    with pytest.raises(error, match=message):
        scheduler.submit("x", **({"prompt": 1, "lower": None if "upper" in given else 1} | given))
    assert "x" not in scheduler
    scheduler.submit("x", 1, lower=1)
    assert scheduler.decide(0).admit == ("x",)


def test_steps_out_of_turn_are_refused():
    scheduler = ls.live.Scheduler("fcfs", memory=10)
    scheduler.submit("a", 5)
    scheduler.submit("b", 5)
    with pytest.raises(InputError, match="already"):
        scheduler.submit("a", 1)
    with pytest.raises(InputError, match="finished: request 'a' does not run"):
        scheduler.advance(finished=["a"])
    assert scheduler.decide(3.0).admit == ("a",)
    with pytest.raises(InputError, match=r"advance\(\) comes first"):
        scheduler.decide(4.0)
    for names, message in ((["b"], "'b' does not run"), (["a", "a"], "named twice"), (["aa"], "did you mean 'a'")):
        with pytest.raises(InputError, match=message):
            scheduler.advance(finished=names)
    with pytest.raises(InputError, match="finished and been delayed"):
        scheduler.advance(finished=["a"], delayed=["a"])
    knowing = ls.live.Scheduler("vllm", memory=100)
    knowing.submit("a", 5)
    assert knowing.decide(0.0).process == {"a": 5}
    with pytest.raises(InputError, match="'a' cannot be delayed: with slots='processed'"):
        knowing.advance(delayed=["a"])
    scheduler.advance(finished=["a"])
    with pytest.raises(InputError, match="time does not run back"):
        scheduler.decide(2.0)
    assert scheduler.decide(3.0).admit == ("b",)


def test_one_that_the_whole_cache_cannot_hold_is_named():
    scheduler = ls.live.Scheduler("fcfs", memory=8)
    scheduler.submit("long", 5)
    for now in range(3):
        scheduler.decide(now)
        scheduler.advance()
    with pytest.raises(MemoryTooSmallError, match=r"request 'long' has 5 \+ 3 tokens, and memory=8 holds no more"):
        scheduler.decide(3)
    scheduler.cancel("long")
    assert scheduler.decide(3)[:2] == ((), ())


def test_a_formula_without_a_value_names_the_request():
    scheduler = ls.live.Scheduler(ls.Policy(order="1 / (prompt - 3)"), memory=100)
    scheduler.submit("fine", 4, lower=1)
    with pytest.raises(FormulaValueError, match="request odd: the formula of order divides by zero"):
        scheduler.submit("odd", 3, lower=1)
    assert scheduler.decide(0).admit == ("fine",)
