"""Runs that would not end are stopped, in the same round and with the same words by both engines (model.md, 3 to 6)."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.examples import examples
from helpers.strategies import compositions, machines, problems, seeds
from hypothesis import event, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import LlmschedError, NotFinishedError
from llmsched.policy import CHOICES
from llmsched.simulation import _compiled, readable
from llmsched.simulation.batch import simulate_batch
from llmsched.simulation.limits import MOST_VAIN_DRAWS, STALL_FACTOR, STALL_START
from llmsched.simulation.problem import problem_of

ENGINES = ("compiled", "reference")
TWO_FIVES = ls.Workload(0, [5, 5], 1, 5)
TWO_FOURS = ls.Workload(0, [4, 4], 1, 4)
DOUBLING = ls.Policy(order="arrival", reserve="none", refine="double")
NEVER_DRAWN = ls.Policy(order="arrival", reserve="none", evict="random", beta=1e-300, refine="none")
DRAWN = ls.Policy(order="arrival", reserve="none", evict="random", beta=0.3, refine="none")


def outcome(workload, policy, engine, memory, seed=0, **options):
    """What a run leaves behind, or its error."""
    try:
        r = ls.simulate(workload, policy, memory=memory, seed=seed, engine=engine, **options)
    except LlmschedError as error:
        return type(error), str(error), vars(error)
    return r.completion.tolist(), r.start.tolist(), r.evictions.tolist(), r.rounds, r.wasted_tokens


def ended(*args, **options):
    """The attributes and the message of the error that both engines raise."""
    both = [outcome(*args[:2], engine, *args[2:], **options) for engine in ENGINES]
    assert both[0] == both[1]
    assert both[0][0] is NotFinishedError
    return both[0][2] | {"message": both[0][1]}


# A bound that would pass 2**62 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("slots", ["ahead", "processed"])
@pytest.mark.parametrize("clock", [None, ls.Clock(base=0.5, per_request=0.01, per_context_token=0.001)])
def test_a_bound_that_would_pass_2_to_the_62_ends_the_run(clock, slots):
    w = ls.Workload(0, [5, 5], 1, 1)
    error = ended(w, dataclasses.replace(DOUBLING, slots=slots, tie="last"), 5, clock=clock)
    assert error["request"] in (0, 1)
    assert f"the bound of request {error['request']} would pass 2**62" in error["message"]
    assert error["remaining"] == 2


def test_the_run_that_an_attack_found_ends_as_the_model_says():
    assert "would pass 2**62" in ended(TWO_FIVES, DOUBLING, 5)["message"]


def test_a_bound_may_reach_2_to_the_62_and_no_more():
    """From 2**53 tokens it may double nine times: whoever leaves for the tenth time ends the run."""
    policy = dataclasses.replace(DOUBLING, tie="last")
    w = ls.Workload(0, [5, 5], 2**53, 2**53)
    last = ended(w, policy, 5)["round"]
    for run in (_compiled.run, readable.run):
        evictions = run(problem_of(w, policy, 5, 0, max_rounds=last)).evictions
        assert evictions.tolist() == [9, 9]


def test_a_policy_that_reads_no_bound_has_none_to_pass():
    assert "would pass" not in ended(TWO_FIVES, dataclasses.replace(DOUBLING, evict="all"), 5)["message"]


def test_a_batch_names_the_request_whose_bound_would_pass():
    batch = simulate_batch([TWO_FIVES], [DOUBLING, "hsf"], memory=5, seeds=[0, 1])
    assert [type(error) for error in batch.errors.values()] == [NotFinishedError] * 2
    assert all("would pass 2**62" in str(error) for error in batch.errors.values())


@pytest.mark.parametrize("engine", ENGINES)
def test_a_fleet_names_the_request_as_the_workload_does(engine):
    w = ls.Workload(0, [1, 5, 5], 1, 1, arrival=[9.0, 2.0, 2.0], session=[0, 1, 1])
    router = ls.Router(rule="round-robin", sessions=True)
    policy = dataclasses.replace(DOUBLING, tie="last")
    with pytest.raises(NotFinishedError, match="would pass") as caught:
        ls.simulate_fleet(w, policy, replicas=2, router=router, memory=5, engine=engine)
    assert caught.value.request in (1, 2)


def drive(policy, rounds):
    """A live scheduler with two requests that never finish."""
    scheduler = ls.live.Scheduler(policy, memory=5)
    for name in "ab":
        scheduler.submit(name, 0)
    for t in range(rounds):
        scheduler.decide(float(t))
        scheduler.advance()


def test_a_live_scheduler_names_the_request_whose_bound_would_pass():
    with pytest.raises(NotFinishedError, match=r"the bound of request '[ab]' would pass"):
        drive(dataclasses.replace(DOUBLING, bound="one", tie="last"), 1000)


@st.composite
def near_the_limit(draw):
    """Requests whose bounds start at 2**53, nine doublings from the end, and any policy that doubles."""
    workload, memory = draw(problems())
    n = len(workload)
    large = st.sampled_from([1, 2**52 + 1, 2**53])
    lower = draw(st.lists(large, min_size=n, max_size=n))
    workload = workload.replace(lower=lower, upper=[max(a, draw(large)) for a in lower])
    policy = draw(compositions(n, formulas=True, slots=CHOICES["slots"]))
    more = {"refine": "double", "cap_refine": draw(st.sampled_from(CHOICES["cap_refine"])), "margin": 0.0}
    if draw(st.booleans()):
        more |= {
            "reserve": "none",
            "evict": draw(st.sampled_from(["bound", "evictions + bound*0", "newest", "random"])),
        }
    options = draw(machines())
    return workload, dataclasses.replace(policy, **more), memory + options.get("block", 1) - 1, draw(seeds), options


@examples(300)
@given(drawn=near_the_limit())
def test_engines_agree_where_bounds_near_the_limit(drawn):
    workload, policy, memory, seed, options = drawn
    both = [outcome(workload, policy, engine, memory, seed, max_rounds=2000, **options) for engine in ENGINES]
    assert both[0] == both[1]
    event("a bound would pass" if "would pass" in str(both[0]) else "none would")


# Random eviction ------------------------------------------------------------------------------------------------------


def test_draws_that_name_nobody_end_the_run():
    error = ended(TWO_FOURS, NEVER_DRAWN, 4)
    assert f"{MOST_VAIN_DRAWS:,} draws with beta=1e-300 named nobody" in error["message"]
    assert (error["round"], error["remaining"], error["request"]) == (2, 2, None)


def test_draws_that_name_nobody_end_the_run_with_slots_as_processed():
    assert "named nobody" in ended(TWO_FOURS, dataclasses.replace(NEVER_DRAWN, slots="processed"), 4)["message"]


def test_draws_that_name_nobody_end_batches_fleets_and_live_schedulers():
    batch = simulate_batch([TWO_FOURS], [NEVER_DRAWN], memory=4, seeds=[0])
    assert "named nobody" in str(batch.errors[0])
    with pytest.raises(NotFinishedError, match="named nobody"):
        ls.simulate_fleet(ls.Workload(0, [4] * 4, 1, 4), NEVER_DRAWN, replicas=2, router="round-robin", memory=4)
    with pytest.raises(NotFinishedError, match="named nobody"):
        drive(NEVER_DRAWN, 6)


@pytest.mark.parametrize("beta", [1e-4, 1e-3, 0.02])
def test_a_small_chance_to_leave_is_waited_for(beta):
    policy = dataclasses.replace(DRAWN, beta=beta)
    both = [outcome(TWO_FOURS, policy, engine, 4) for engine in ENGINES]
    assert both[0] == both[1]
    assert both[0][0] is not NotFinishedError


@pytest.mark.parametrize("engine", ENGINES)
def test_max_rounds_stops_random_eviction(engine):
    with pytest.raises(NotFinishedError, match="max_rounds=2 is reached"):
        ls.simulate(TWO_FOURS, NEVER_DRAWN, memory=4, engine=engine, max_rounds=2)


def test_random_eviction_is_stopped_by_rounds_and_not_by_admissions():
    """What is promised (model.md, section 6): 1,000 + 100 times the longest output, in rounds."""
    longer = 0
    for seed in range(40):
        w = ls.Workload(0, [25] * 4, 1, 25)
        least = STALL_START + STALL_FACTOR * 25
        both = [outcome(w, DRAWN, engine, 25, seed) for engine in ENGINES[: 1 + (seed < 3)]]
        assert all(one == both[0] for one in both)
        if both[0][0] is NotFinishedError:
            assert both[0][2]["round"] >= least
            assert "it might have come to an end later" in both[0][1]
        else:
            longer += both[0][3] > least
    assert longer > 0


@examples(100)
@given(
    drawn=problems(), beta=st.sampled_from([0.02, 0.3, 0.7, 1.0]), resume=st.sampled_from(CHOICES["resume"]), seed=seeds
)
def test_random_eviction_agrees_in_both_engines(drawn, beta, resume, seed):
    workload, memory = drawn
    policy = dataclasses.replace(DRAWN, beta=beta, resume=resume)
    both = [outcome(workload, policy, engine, memory, seed, max_rounds=20_000) for engine in ENGINES]
    assert both[0] == both[1]
