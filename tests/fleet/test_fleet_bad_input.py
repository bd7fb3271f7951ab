"""Mistakes are named with what to do: replicas, memory, columns, routers, policies, runs that do not finish."""

from __future__ import annotations

import dataclasses
import re

import pytest

import llmsched as ls
from llmsched.errors import InputError, MemoryTooSmallError, NotFinishedError, PolicyError, WorkloadError

W = ls.Workload([5, 5, 5], [3, 4, 30], arrival=[0, 1, 2])


def fleet(router="least-requests", replicas=2, policy="fcfs", workload=W, **options):
    return ls.simulate_fleet(workload, policy, replicas=replicas, router=router, **{"memory": 100, **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replicas": 0}, "replicas must be a whole number from 1 to 1000000, not 0"),
        ({"replicas": -1}, "not -1"),
        ({"replicas": 2.5}, "not 2.5"),
        ({"replicas": "8"}, "not '8'"),
        ({"replicas": []}, "replicas is empty: a fleet has at least one"),
        ({"replicas": ["a"]}, "replicas holds 'a', expected a llmsched.Replica for each"),
        ({"memory": None}, "a replica has no memory: simulate_fleet(..., memory=...), or Replica(memory=...)"),
        ({"block": 0}, "block must be a whole number from 1"),
        ({"replicas": [ls.Replica(block=0)] * 2}, "block must be a whole number from 1"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"engine": "fast"}, "there is no engine 'fast'"),
        ({"record": "token"}, "record='token' is unknown; did you mean 'tokens'?"),
        ({"workload": [1]}, "simulate_fleet needs a llmsched.Workload, not list"),
        ({"router": 3}, "a router is a name or a llmsched.Router, not int"),
        ({"router": "least-request"}, "there is no router 'least-request'; did you mean 'least-requests'?"),
        ({"router": "least-work,works=upper"}, "a router has no field 'works'; did you mean 'work'?"),
        ({"router": "least-work,work=upper,work=lower"}, "'work' is given twice"),
        ({"router": "least-work,delay=-1"}, "router field delay is -1.0, expected a time of at least 0"),
        ({"router": "least-requests,score=request"}, "router field score='request' is unknown; did you mean 'requests"),
        ({"router": "least-work,work=uppers"}, "router field work='uppers' is unknown; did you mean 'upper'?"),
    ],
)
def test_what_is_no_fleet_is_refused(options, said):
    with pytest.raises(InputError, match=re.escape(said)):
        fleet(**options)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rule": "rndom"}, "router field rule='rndom' is unknown; did you mean 'random'?"),
        ({"by": "promt"}, "router field by='promt' is unknown; did you mean 'prompt'?"),
        ({"score": 3}, "router field score is 3, expected one of requests, "),
        ({"work": 3}, "router field work is 3, expected lower, "),
        ({"choices": 0}, "router field choices must be a whole number from 1"),
        ({"classes": 0}, "router field classes must be a whole number from 1"),
        ({"sessions": "maybe"}, "router field sessions is 'maybe', expected True or False"),
        ({"delay": float("nan")}, "router field delay is nan, expected a time of at least 0"),
        ({"delay": float("inf")}, "router field delay is inf"),
        ({"delay": True}, "router field delay is True"),
        ({"rule": "central", "delay": 1.0}, "router field delay=1.0 says nothing of a central queue"),
        ({"rule": "central", "choices": 2}, "router field choices=2 says nothing of a central queue"),
        ({"score": "usd+1"}, "'usd' is no name; did you mean 'used'?"),
        ({"score": "output+used"}, "a router sees the request as it arrives, and not the truth"),
    ],
)
def test_what_is_no_router_is_refused(fields, said):
    with pytest.raises(InputError, match=re.escape(said)):
        ls.Router(**fields)


def test_a_request_that_fits_on_none_is_named_with_the_memory_that_would_do():
    for replicas in (2, [ls.Replica(memory=20), ls.Replica(memory=32, block=16)]):
        with pytest.raises(MemoryTooSmallError, match=r"request 2 needs prompt 5 .* memory=35 is enough") as caught:
            fleet(replicas=replicas, memory=30)
        assert (caught.value.request, caught.value.needed) == (2, 35)
    fleet(replicas=[ls.Replica(memory=9), ls.Replica(memory=35)])


@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_who_fits_on_none_is_named_by_the_place_in_the_workload(engine):
    w = ls.Workload([5, 5, 5], [30, 4, 30], arrival=[2, 0, 1])
    with pytest.raises(MemoryTooSmallError, match="request 0 needs") as caught:
        fleet(workload=w, memory=30, engine=engine)
    assert caught.value.request == 0


@pytest.mark.parametrize(
    ("router", "column"),
    [
        ("least-work", "point"),
        ("least-work,work=upper", "upper"),
        ("length-classes", "point"),
        ("session", "session"),
        ("least-requests,score=deadline*used", "deadline"),
        ("least-requests,score=used+lower", "lower"),
    ],
)
def test_a_router_that_needs_a_column_says_which(router, column):
    with pytest.raises(WorkloadError, match=rf"reads the column '{column}', .* workload.replace\({column}=\.\.\.\)"):
        fleet(router)


def test_point_predictions_are_the_middles_of_intervals():
    w = W.replace(lower=[1, 1, 1], upper=[9, 9, 40])
    middles = w.replace(point=[5, 5, 20])
    assert fleet("least-work", workload=w).replica.tolist() == fleet("least-work", workload=middles).replica.tolist()


def test_a_formula_without_a_value_names_the_request():
    with pytest.raises(InputError, match="request 0: the formula of score divides by zero, where requests = 0"):
        fleet(ls.Router(score="1/requests"))


def test_more_classes_than_replicas_are_refused():
    with pytest.raises(InputError, match="the router has 3 classes of requests for 2 replicas"):
        fleet(ls.Router(classes=3, by="prompt"), workload=W.replace(point=[1, 2, 3]))


def test_an_order_of_numbers_for_one_workload_is_refused():
    with pytest.raises(PolicyError, match="one number for each request of a workload; a fleet orders by words"):
        fleet("random", policy=ls.Policy(order=[1.0] * len(W)))


def test_a_policy_in_python_is_refused():
    class Mine(ls.Policy):
        def admission_key(self, *_):
            return 0

    with pytest.raises(PolicyError, match="decides in Python; a fleet runs policies of fields and formulas"):
        fleet(policy=Mine())


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (ls.Policy(order="arrival", fill="skip"), "only its first request is offered, and policy .* fill='skip'"),
        ("past-future", "policy past-future draws by the place of a request"),
        ("vllm-priority", "policy vllm-priority has evict='priority'"),
        (ls.Policy(order="bound / (1 + now)"), "the formula of order reads now, which depends on the replica"),
        (ls.Policy(evict="-joined"), "the formula of evict reads joined"),
        (ls.Policy(order="arrival", reserve="none", slots="processed", chunk=3), "policy .* has chunk=3"),
    ],
)
def test_a_policy_that_no_queue_could_have_in_common_is_refused(policy, said):
    w = W.replace(lower=[1, 1, 1], upper=[9, 9, 40], priority=[1, 1, 1])
    with pytest.raises(PolicyError, match=f"router central-queue: {said}.* Choose another router or policy"):
        fleet("central-queue", policy=policy, workload=w)


def test_a_central_queue_has_one_policy_and_requests_in_order():
    with pytest.raises(PolicyError, match="the replicas differ in policy"):
        fleet("central-queue", [ls.Replica(policy="vllm"), ls.Replica()])
    with pytest.raises(WorkloadError, match="a central queue wants requests in order of arrival"):
        fleet("central-queue", workload=W.replace(arrival=[2, 1, 0]))


def test_a_policy_that_draws_by_place_wants_requests_in_order():
    w = W.replace(arrival=[2, 1, 0], lower=[1, 1, 1], upper=[9, 9, 40])
    with pytest.raises(WorkloadError, match="put the requests in order of arrival"):
        fleet(policy=ls.Policy(shed="lottery"), workload=w)


def test_a_replica_that_does_not_finish_is_named():
    with pytest.raises(NotFinishedError, match="policy fcfs on replica 0 stopped at round 3 with 2 of its requests"):
        fleet(max_rounds=3)
    endless = ls.Workload(0, [4] * 9, lower=1, upper=1)
    replicas = [ls.Replica(memory=1000), ls.Replica(memory=4)]
    policy = ls.Policy(order="arrival", reserve="upper", evict="all", refine="none")
    with pytest.raises(NotFinishedError, match=r"on replica 1 stopped .* keep evicting each other") as caught:
        fleet("least-requests,score=free", replicas, policy, endless)
    assert caught.value.remaining > 0


@pytest.mark.parametrize("engine", ["compiled", "reference"])
@pytest.mark.parametrize("router", ["least-requests,score=free", "central-queue"])
def test_a_replica_that_stops_within_a_round_is_named(engine, router):
    endless = ls.Workload(0, [4] * 9, lower=1, upper=1)
    replicas = [ls.Replica(memory=1000, max_batch=1), ls.Replica(memory=4)]
    doubling = ls.Policy(order="arrival", reserve="upper", refine="double")
    said = r"on replica 1 stopped at round \d+ .* the bound of request \d would pass"
    with pytest.raises(NotFinishedError, match=said) as caught:
        fleet(router, replicas, doubling, endless, engine=engine)
    assert caught.value.request in range(9)
    drawing = ls.Policy(order="arrival", reserve="upper", evict="random", beta=1e-9)
    with pytest.raises(NotFinishedError, match=r"on replica 1 stopped at round \d+ .* draws with beta=1e-09"):
        fleet(router, replicas, drawing, endless, engine=engine)


def test_an_unknown_replica_of_a_result_is_refused():
    with pytest.raises(InputError, match="there is no replica 2: they are 0 to 1"):
        fleet().requests_of(2)


@pytest.mark.parametrize("fleet_of", [{"router": "central-queue"}, {"fails_at": 3.0}])
def test_what_stays_with_a_replica_is_refused_where_requests_do_not(fleet_of):
    replicas = [ls.Replica(fails_at=fleet_of.get("fails_at")), ls.Replica()]
    options = {"replicas": replicas, "router": fleet_of.get("router", "least-requests"), "memory": 100}
    thinking = ls.Workload([5, 5], [3, 3], session=[0, 0], think=[0.0, 1.0])
    with pytest.raises(InputError, match="think times are not for"):
        ls.simulate_fleet(thinking, "fcfs", **options)
    with pytest.raises(PolicyError, match="cached prefixes are not for"):
        ls.simulate_fleet(
            thinking.replace(think=None), dataclasses.replace(ls.policies["vllm"], prefixes="cached"), **options
        )
