"""Every engine before a third judge, who knows docs/background/model.md alone."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.judge import Judge, judge, judge_fleet, requests_of
from helpers.strategies import compositions, fleets, machines, problems, seeds, simulations
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import LlmschedError, NotFinishedError
from llmsched.fleet.router import SCORES

RECORD = ("timeline", "tokens")


@examples(400)
@given(drawn=simulations())
def test_every_round_is_as_the_model_says(drawn):
    workload, policy, memory, seed, machine = drawn
    assume(policy.slots == "ahead")
    try:
        result = ls.simulate(workload, policy, memory=memory, seed=seed, record=RECORD, max_rounds=3000, **machine)
    except LlmschedError:
        assume(False)
    judge(result)


@st.composite
def live_days(draw):
    """A policy that can be driven, a machine, requests with hidden lengths, and when some are aborted."""
    workload, memory = draw(problems(most=16))
    policy = draw(compositions(len(workload)))
    assume(not policy.clairvoyant and isinstance(policy.order, str))
    machine = {name: value for name, value in draw(machines()).items() if name != "clock"}
    aborted = draw(st.dictionaries(st.integers(0, len(workload) - 1), st.integers(0, 30)))
    return workload, policy, memory + machine.get("block", 1) - 1, draw(seeds), machine, aborted


@examples(200)
@given(day=live_days())
def test_every_live_decision_is_as_the_model_says_though_requests_are_aborted(day):
    workload, policy, memory, seed, machine, aborted = day
    scheduler = ls.live.Scheduler(policy, memory=memory, seed=seed, lengths=workload.lengths, **machine)
    table = workload.lengths.quantile(policy.quantile)
    court = Judge(policy, scheduler.memory, seed, table=table, **machine)
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
            scheduler.submit(r.i, r.s, arrival=r.a, length_class=label, **given)
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
        except NotFinishedError:
            return
        left, started = court.decide(float(t))
        assert set(decision.evict) == {r.i for r in left}
        assert list(decision.admit) == [r.i for r in started]
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


@pytest.mark.parametrize("router", sorted(set(ls.routers) - {"central-queue"}))  # which chooses nobody
def test_a_named_router_chooses_whom_the_pages_say(router):
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
            chosen = ls.routers[router].replace(delay=delay)
            judge_fleet(
                ls.simulate_fleet(w, "fcfs", replicas=replicas, router=chosen, seed=seed, clock=c, record=RECORD)
            )


@examples(80)
@given(drawn=fleets(most=14))
def test_every_choice_of_a_router_is_as_the_pages_say(drawn):
    workload, options = drawn
    router = options["router"]
    assume(router.rule != "central" and router.score in SCORES and router.work in ("lower", "upper", "point"))
    try:
        result = ls.simulate_fleet(workload, record=RECORD, max_rounds=1000, **options)
    except LlmschedError:
        assume(False)
    assume(len(result.outcomes) > 1 and all(part.policy.slots == "ahead" for part in result.outcomes))
    judge_fleet(result)
