"""A fleet is its replicas: each equals `simulate` of the requests that it took; compiled and readable agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import FormulaValueError, LlmschedError

RECORD = ("timeline", "tokens")
OF_A_RUN = (
    "completion",
    "start",
    "evictions",
    "rounds",
    "peak_memory",
    "wasted_tokens",
    "timeline",
    "tokens",
    "idle",
    "cached",
)


def plain(result, names=OF_A_RUN):
    values = {name: getattr(result, name) for name in names}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}


def fleet_or_error(workload, engine="compiled", **options):
    try:
        result = ls.simulate_fleet(workload, record=RECORD, engine=engine, max_rounds=2000, **options)
    except ls.errors.LlmschedError as error:
        return None, (type(error), str(error))
    return result, None


@examples(300)
@given(drawn=fleets())
def test_each_replica_equals_a_simulation_of_what_it_took(drawn):
    workload, options = drawn
    fleet, error = fleet_or_error(workload, **options)
    assume(error is None)
    assert sorted(np.concatenate([fleet.requests_of(k) for k in range(len(fleet.outcomes))])) == [*range(len(workload))]
    for k, part in enumerate(fleet.replicas):
        requests = fleet.workload.take(fleet.requests_of(k)).replace(think=None)
        if fleet.router.rule == "central" and len(fleet.outcomes) > 1:  # for it, they arrive as it takes them
            requests = requests.replace(arrival=part.start)
        machine = {"clock": part.clock, "max_batch": part.max_batch, "prefill_budget": part.prefill_budget}
        policy = part.policy
        if not isinstance(policy.order, str):
            policy = dataclasses.replace(policy, order=policy.order[fleet.requests_of(k)])
        alone = ls.simulate(
            requests, policy, memory=part.memory, block=part.block, seed=part.seed, record=RECORD, **machine
        )
        assert plain(part) == plain(alone)
        assert fleet.outcomes[k].busy == pytest.approx(alone.makespan - alone.idle)


@examples(300)
@given(drawn=fleets(most=14))
def test_compiled_and_readable_fleets_agree(drawn):
    workload, options = drawn
    compiled, error = fleet_or_error(workload, **options)
    readable, readable_error = fleet_or_error(workload, "reference", **options)
    if compiled is None or readable is None:
        if FormulaValueError in [one[0] for one in (error, readable_error) if one is not None]:
            return  # the readable one simulates replicas to their ends, with who came so far: others may have no value
        if error is None and readable_error[0] is ls.errors.NotFinishedError:
            return  # so it does not learn that somebody who comes later lets those finish
        # They may notice at another round that a replica does not finish: it is not known there how many will come.
        assert error[0] is readable_error[0]
        assert error[0] is ls.errors.NotFinishedError or error == readable_error
        return
    names = ("completion", "start", "evictions", "rounds", "peak_memory", "wasted_tokens", "replica", "cached")
    assert plain(compiled, names) == plain(readable, names)
    assert compiled.summary() == readable.summary()
    assert compiled.workload == readable.workload
    for one, other in zip(compiled.outcomes, readable.outcomes, strict=True):
        assert plain(one, ("timeline", "tokens", "rounds", "busy")) == plain(
            other, ("timeline", "tokens", "rounds", "busy")
        )


@pytest.mark.parametrize("router", sorted({*ls.routers} - {"central-queue"}))
@pytest.mark.parametrize("policy", sorted(ls.policies))
def test_parts_are_simulations_for_every_named_router_and_policy(router, policy):
    rng = np.random.default_rng(5)
    n = 200
    output = rng.integers(1, 12, n)
    lower = np.maximum(1, output - rng.integers(0, 4, n))
    w = ls.Workload(
        rng.integers(0, 8, n), output, lower, np.maximum(lower, output + rng.integers(-2, 4, n)),
        arrival=np.sort(rng.random(n) * 90), priority=rng.integers(0, 3, n), deadline=rng.integers(1, 50, n),
        session=rng.integers(0, 20, n),
    )  # fmt: skip
    w = w.with_lengths(ls.LengthTable.from_outputs(output))
    memory = 150 if "protection" in policy else 48  # or they do not finish
    for seed in (None, 3):
        fleet = ls.simulate_fleet(w, policy, replicas=4, router=router, memory=memory, seed=seed, record=RECORD)
        assert fleet.load.sum() == n
        assert (fleet.load > 0).all()
        for k, part in enumerate(fleet.replicas):
            alone = ls.simulate(w.take(fleet.requests_of(k)), policy, memory=memory, seed=None, record=RECORD)
            assert plain(part) == plain(alone)


@examples(200)
@given(drawn=fleets(most=14), replicas=st.integers(2, 4))
def test_behind_a_central_queue_requests_arrive_as_a_replica_takes_them(drawn, replicas):
    workload, options = drawn
    workload = workload.take(np.argsort(workload.arrival, kind="stable")).replace(think=None)  # refused there
    options |= {"router": "central-queue", "record": RECORD, "max_rounds": 2000}
    if isinstance(options["replicas"], int):
        options["replicas"] = replicas
    else:
        options["replicas"] = [dataclasses.replace(one, policy=None) for one in options["replicas"]] + [ls.Replica()]
    try:
        compiled = ls.simulate_fleet(workload, **options)
        readable = ls.simulate_fleet(workload, engine="reference", **options)
    except LlmschedError:
        assume(False)
    for name in ("completion", "start", "replica", "evictions"):
        assert getattr(compiled, name).tolist() == getattr(readable, name).tolist()
    for one, other in zip(compiled.replicas, readable.replicas, strict=True):
        assert plain(one) == plain(other)
        seen = one.workload.replace(arrival=one.start)
        machine = {"clock": one.clock, "max_batch": one.max_batch, "prefill_budget": one.prefill_budget}
        alone = ls.simulate(seen, one.policy, memory=one.memory, block=one.block, seed=None, record=RECORD, **machine)
        assert plain(one) == plain(alone)


@examples(100)
@given(drawn=fleets())
def test_one_replica_is_a_simulation_with_the_same_seed(drawn):
    workload, options = drawn
    fleet, error = fleet_or_error(workload, **{**options, "replicas": 1, "router": "random"})
    assume(error is None)
    alone = {name: value for name, value in options.items() if name not in ("replicas", "router")}
    assert plain(fleet.replicas[0]) == plain(ls.simulate(workload, record=RECORD, max_rounds=2000, **alone))


@examples(100)
@given(drawn=fleets(), data=st.data())
def test_requests_out_of_order_of_arrival_are_sent_in_it(drawn, data):
    workload, options = drawn
    arrival = [0.5 * i for i in data.draw(st.permutations(range(len(workload))))]  # under fcfs, nobody ties
    shuffled, order = workload.replace(arrival=arrival, think=None), np.argsort(arrival)
    options |= {"policy": "fcfs", "seed": None}
    assume(options["router"].rule != "central")  # which wants them in order
    if not isinstance(options["replicas"], int):
        options["replicas"] = [dataclasses.replace(replica, policy=None) for replica in options["replicas"]]
    fleet, error = fleet_or_error(shuffled, **options)
    straight, same_error = fleet_or_error(shuffled.take(order), **options)
    assume(error is None and same_error is None)
    assert fleet.replica[order].tolist() == straight.replica.tolist()
    assert fleet.completion[order].tolist() == straight.completion.tolist()
