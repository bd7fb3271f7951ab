"""prompts="moved" (model.md, section 7): prompts come with their cache, and are processed by whoever loses it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import compositions, machines, problems, seeds
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import LlmschedError, PolicyError

ENGINES = ["compiled", "reference"]
CLOCK = ls.Clock(base=1.0, per_prompt_token=0.5)
drawn = examples(200)


def moved(policy):
    return dataclasses.replace(ls.policy.named(policy), prompts="moved")


@pytest.mark.parametrize("engine", ENGINES)
def test_who_is_evicted_pays_for_what_it_lost_and_nobody_before(engine):
    # 4+4 and 5+5 tokens; the third round would need 6+6: request 1 leaves with two tokens, and is prefilled at 5.
    w = ls.Workload([3, 3], [4, 4])
    r = ls.simulate(w, moved("vllm"), memory=9, clock=CLOCK, seed=None, engine=engine, record="timeline")
    assert r.evictions.tolist() == [0, 1]
    lost = 3 + 2
    assert r.completion.tolist() == [4.0, 4.0 + 1 + lost * 0.5 + 1]
    assert r.timeline.prefilled.sum() == lost


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("resume", "prefilled"), [("recompute", 4 + 2), ("restart", 4), ("swap", 0)])
def test_what_is_lost_is_what_the_policy_says(engine, resume, prefilled):
    policy = dataclasses.replace(moved("fcfs"), reserve="none", resume=resume, evict="newest")
    w = ls.Workload([4, 4], [4, 4])
    clock = dataclasses.replace(CLOCK, per_swapped_token=0.25)
    r = ls.simulate(w, policy, memory=13, clock=clock, seed=None, engine=engine, record="timeline")
    assert r.total_evictions == 1
    assert r.timeline.prefilled.sum() == prefilled
    assert r.timeline.swapped.sum() == (12 if resume == "swap" else 0)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("budget", [3, 7])
def test_what_is_lost_is_processed_within_the_budget(engine, budget):
    w = ls.Workload([3, 3], [4, 4])
    options = {"memory": 9, "clock": CLOCK, "seed": None, "record": "tokens", "prefill_budget": budget}
    r = ls.simulate(w, moved("vllm"), engine=engine, **options)
    assert r.tokens.chunk_request.tolist() == [1] * len(r.tokens.chunk_request)
    assert r.tokens.chunk_tokens.tolist() == ([3, 2] if budget == 3 else [5])


@drawn
@given(data=st.data())
def test_all_that_is_prefilled_is_what_was_evicted(data):
    """Whatever policy and machine: each admission but a request's first, and unless it was moved out and in."""
    workload, memory = data.draw(problems(15))
    machine = data.draw(machines()) | {"clock": CLOCK}
    policy = moved(data.draw(compositions(len(workload), slots=("ahead", "processed"))))
    memory += machine.get("block", 1) - 1
    try:
        r = ls.simulate(workload, policy, memory=memory, seed=data.draw(seeds), record="tokens", **machine)
    except LlmschedError:
        assume(False)
    log = ls.service.attempts(r)
    first = log.chunk_attempt[:, None] == np.flatnonzero(log.is_first)
    assert not log.chunk_tokens[first.any(axis=1)].sum()
    if policy.resume == "swap":
        assert not log.chunk_tokens.sum()
    elif policy.slots == "ahead":
        again = ~log.is_first
        assert log.chunk_tokens.sum() <= (workload.prompt[log.request] + log.kept)[again].sum()
        if "prefill_budget" not in machine:
            assert log.chunk_tokens.sum() == (workload.prompt[log.request] + log.kept)[again].sum()


@drawn
@given(data=st.data())
def test_without_evictions_a_clock_without_prompts_is_the_same(data):
    workload, memory = data.draw(problems(15))
    policy = data.draw(compositions(len(workload)))
    memory += 20 * int(workload.prompt.sum() + workload.output.sum()) * data.draw(st.booleans())
    free = dataclasses.replace(CLOCK, per_context_token=0.25, per_prompt_token=0.0)
    clock = dataclasses.replace(free, per_prompt_token=0.5)
    options = {"memory": memory, "seed": data.draw(seeds)}
    try:
        r = ls.simulate(workload, moved(policy), clock=clock, **options)
        other = ls.simulate(workload, dataclasses.replace(policy, prompts="processed"), clock=free, **options)
    except LlmschedError:
        assume(False)
    if policy.resume == "swap" or not r.total_evictions:
        assert (r.completion == other.completion).all()
        assert (r.start == other.start).all()


@drawn
@given(data=st.data())
def test_no_schedule_beats_the_bound(data):
    workload, memory = data.draw(problems(10))
    policy = moved(data.draw(compositions(len(workload), slots=("ahead", "processed"))))
    clock = ls.Clock(base=0.5, per_request=0.125, per_context_token=0.25, per_prompt_token=0.5)
    clock = dataclasses.replace(clock, context=data.draw(st.sampled_from(["all", "generated"])))
    bound = ls.lower_bound(workload, memory=memory, clock=clock)
    try:
        r = ls.simulate(workload, policy, memory=memory, clock=clock)
    except LlmschedError:
        assume(False)
    assert bound.of(policy) <= r.total_latency * (1 + 1e-9)


@drawn
@given(data=st.data())
def test_all_joules_are_of_requests_or_idle(data):
    workload, memory = data.draw(problems(10))
    clock = ls.Clock(base=0.5, per_request=0.125, per_prompt_token=0.5, per_swapped_token=0.25)
    policy = moved(data.draw(compositions(len(workload))))
    try:
        r = ls.simulate(workload, policy, memory=memory, clock=clock, record="tokens")
    except LlmschedError:
        assume(False)
    assume(len(workload))
    joules = ls.energy.metrics(r, "example-2xa100")
    assert (joules.wasted_per_request <= joules.per_request + 1e-9).all()
    spent = (
        sum(w * s for w, s in zip(joules.watts, np.diff(r.tokens.round_end, prepend=0.0), strict=True))
        if (r.idle == 0)
        else None
    )
    if spent is not None:
        assert joules.per_request.sum() == pytest.approx(spent, rel=1e-6)


def test_what_is_moved_in_is_not_shared():
    with pytest.raises(PolicyError, match="prompts='moved' with prefixes='cached'"):
        dataclasses.replace(ls.policies["vllm"], prefixes="cached", prompts="moved")
