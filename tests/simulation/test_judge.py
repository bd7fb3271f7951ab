"""Every engine before a third judge, who knows docs/background/model.md and fleets.md alone."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from helpers.judge import requests_of
from helpers.judge_fleets import judge_fleet
from helpers.judge_runs import court_of, judge
from helpers.strategies import (
    compositions,
    fleets,
    fleets_as_processed,
    machines,
    problems,
    queues,
    seeds,
    simulations,
    simulations_as_processed,
)
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import FormulaValueError, LlmschedError, NotFinishedError

RECORD = ("timeline", "tokens")


@examples(400)
@given(drawn=simulations())
def test_every_round_is_as_the_model_says(drawn):
    judge(simulated(*drawn))


@examples(400)
@given(drawn=simulations_as_processed())
def test_every_round_is_as_the_model_says_where_slots_are_taken_as_tokens_are_processed(drawn):
    judge(simulated(*drawn))


def simulated(workload, policy, memory, seed, machine):
    """The result; an example that is refused or does not end is none."""
    try:
        return ls.simulate(workload, policy, memory=memory, seed=seed, record=RECORD, max_rounds=3000, **machine)
    except LlmschedError:
        assume(False)


def test_a_reserve_that_exceeds_a_whole_number_by_a_rounding_is_that_number():
    w = ls.Workload([0] * 4, [7] * 4, 1, 100, point=[100] * 4)
    result = ls.simulate(w, ls.Policy(order="arrival", reserve="0.07 * point", hold="peak"), memory=14, record=RECORD)
    assert result.start.tolist().count(0) == 2  # 7.000000000000001 is 7
    judge(result)


@st.composite
def live_days(draw):
    """A policy that can be driven, a machine, requests with hidden lengths, and when some are aborted."""
    if draw(st.booleans()):
        workload, policy, memory, seed, machine = draw(simulations_as_processed())
        policy = dataclasses.replace(policy, prefixes="none")  # what prompts begin alike no engine tells a scheduler
    else:
        workload, memory = draw(problems(most=16))
        policy, seed, machine = draw(compositions(len(workload))), draw(seeds), draw(machines())
        memory += machine.get("block", 1) - 1
    assume(not policy.clairvoyant and isinstance(policy.order, str))
    machine = {name: value for name, value in machine.items() if name != "clock"}
    aborted = draw(st.dictionaries(st.integers(0, len(workload) - 1), st.integers(0, 30)))
    return workload, policy, memory, seed, machine, aborted


@examples(200)
@given(day=live_days())
def test_every_live_decision_is_as_the_model_says_though_requests_are_aborted(day):
    workload, policy, memory, seed, machine, aborted = day
    scheduler = ls.live.Scheduler(policy, memory=memory, seed=seed, lengths=workload.lengths, **machine)
    court = court_of(policy, scheduler.memory, seed, workload, **machine)
    requests = requests_of(workload, policy, None)
    to_come = sorted(requests, key=lambda r: (r.a, r.i))
    for place, r in enumerate(to_come):
        r.i = r.rank = place  # as it is submitted
    outcome = dict.fromkeys(range(len(requests)), "")
    for t in range(3000):
        while to_come and to_come[0].a <= t:
            r = to_come.pop(0)
            if not court.running and not court.waiting:
                court.idle_until(float(t))
            given = {name: r.known[name] for name in ("lower", "upper", "point", "priority", "deadline")}
            label = workload.lengths.classes[r.known["row"]]
            try:
                scheduler.submit(r.i, r.s, arrival=r.a, length_class=label, **given)
            except FormulaValueError:
                return
            court.now = float(t)
            court.arrive(r)
        for r in [r for r in (*court.waiting, *court.running) if aborted.get(r.i, -1) == t]:
            scheduler.cancel(r.i)
            court.abort(r)
            outcome[r.i] += "aborted"
        if not court.running and not court.waiting:
            court.idle_until(float(t))
            if not to_come:
                break
            decision = scheduler.decide(float(t))  # with nobody there it is no round, in which lengths were drawn
            assert (decision.evict, decision.admit) == ((), ())
            scheduler.advance()
            continue
        try:
            decision = scheduler.decide(float(t))
        except (NotFinishedError, FormulaValueError):
            return
        left, started = court.decide(float(t))
        assert set(decision.evict) == {r.i for r in left}
        assert list(decision.admit) == [r.i for r in started]
        if policy.slots == "processed":
            assert list(decision.process.items()) == [(r.i, r.got) for r in court.served]
        assert scheduler.running == len(court.running)
        assert scheduler.waiting == len(court.waiting)
        assert scheduler.need == court.need() <= scheduler.memory
        done = [r for r in court.generate() if r.g == r.known["output"]]
        scheduler.advance(finished=[r.i for r in done])
        for r in done:
            court.complete(r)
            outcome[r.i] += "completed"
    else:
        assume(False)
    assert set(outcome.values()) <= {"completed", "aborted"}  # nothing is lost, nothing twice
    assert len(scheduler) == scheduler.need == 0


@pytest.mark.parametrize("policy", ["fcfs", "vllm", "vllm, prefixes=cached, chunk=7, reserve=none"])
@pytest.mark.parametrize("router", sorted(ls.routers))
def test_a_named_router_chooses_whom_the_pages_say(router, policy):
    if router == "central-queue":  # it takes neither cached prefixes nor `chunk`
        policy = policy.split(",")[0]
    rng = np.random.default_rng(11)
    for seed in (None, 5):
        n = 120
        output = rng.integers(1, 20, n)
        w = ls.Workload(
            rng.integers(0, 20, n), output, output, output + 3, arrival=np.sort(np.round(rng.random(n) * 80, 1)),
            session=rng.integers(0, 15, n),
        )  # fmt: skip
        replicas = [
            ls.Replica(memory=60),
            ls.Replica(memory=45, max_batch=3),
            ls.Replica(memory=60),
            ls.Replica(memory=39),
        ]
        clock = ls.Clock(base=0.7, per_request=0.05, per_context_token=0.001)
        for delay, c in ((0.0, None), (2.5, clock)):
            chosen = ls.routers[router] if router == "central-queue" else ls.routers[router].replace(delay=delay)
            judge_fleet(
                ls.simulate_fleet(w, policy, replicas=replicas, router=chosen, seed=seed, clock=c, record=RECORD)
            )


def test_a_length_that_divides_the_work_evenly_is_the_bound():
    w = ls.Workload([2, 0, 2, 0], [1, 2, 1, 2], point=[1, 2, 1, 2], arrival=[0, 10, 20, 30])  # 3 token-rounds each
    result = ls.simulate_fleet(w, "fcfs", memory=9, replicas=2, router="length-classes", seed=None, record=RECORD)
    assert result.replica.tolist() == [0, 1, 0, 1]  # 1 is the bound: those of 1 may go to either, and the first is idle
    judge_fleet(result)


@examples(80)
@given(drawn=fleets(most=14))
def test_every_choice_of_a_router_is_as_the_pages_say(drawn):
    judge_fleet(simulated_fleet(*drawn))


@examples(120)
@given(drawn=fleets_as_processed())
def test_every_choice_is_as_the_pages_say_where_slots_are_taken_as_tokens_are_processed(drawn):
    judge_fleet(simulated_fleet(*drawn))


@examples(240)
@given(drawn=queues())
def test_every_request_of_a_central_queue_goes_where_the_page_says(drawn):
    judge_fleet(simulated_fleet(*drawn))


def simulated_fleet(workload, options):
    try:
        return ls.simulate_fleet(workload, record=RECORD, max_rounds=1000, **options)
    except LlmschedError:
        assume(False)
