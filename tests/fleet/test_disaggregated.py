"""Prefill and decode pools: each is a fleet, and together they are the rounds that a reader would count by hand."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, LlmschedError, MemoryTooSmallError, PolicyError

CLOCK = ls.Clock(base=1.0, per_request=0.125, per_context_token=1 / 64, per_prompt_token=0.25)


@examples(100)
@given(drawn=fleets(most=12), decode=st.integers(1, 3), latency=st.sampled_from([0.0, 0.3, 2.0]))
def test_each_pool_is_a_fleet_and_both_engines_agree(drawn, decode, latency):
    workload, options = drawn
    prefill, _ = options.pop("replicas"), options.pop("engine", None)
    transfer = ls.Transfer(per_token=0.25, latency=latency)
    options |= {"prefill": prefill, "decode": decode, "transfer": transfer, "decode_router": "least-requests"}
    try:
        compiled = ls.simulate_disaggregated(workload, **options)
        readable = ls.simulate_disaggregated(workload, engine="reference", **options)
    except LlmschedError:
        assume(False)
    for name in ("first_token", "ready", "completion"):
        np.testing.assert_array_equal(getattr(compiled, name), getattr(readable, name))
    more = workload.output > 1
    moved = compiled.first_token[more] + (latency + workload.prompt[more] / 4)
    assert (compiled.ready[more] == moved).all()
    assert (compiled.completion[~more] == compiled.first_token[~more]).all()
    assert (compiled.decode.start >= compiled.ready[compiled.decoded]).all()
    assert (compiled.completion[compiled.decoded] == compiled.decode.completion).all()
    assert compiled.prefill.workload.output.tolist() == [1] * len(workload)
    assert compiled.decode.workload.output.sum() + len(workload) == workload.output.sum()


@pytest.mark.parametrize(("policy", "context"), [("fcfs", "all"), ("fcfs", "generated"), ("vllm", "all")])
def test_a_request_alone_takes_what_one_machine_takes_and_the_transfer(policy, context):
    w, clock = ls.Workload([16], [5]), dataclasses.replace(CLOCK, context=context)
    alone = ls.service.metrics(ls.simulate(w, policy, memory=100, clock=clock, record="tokens"))
    apart = ls.simulate_disaggregated(
        w, policy, prefill=1, decode=1, memory=100, clock=clock, transfer=ls.Transfer(per_token=0.5, latency=2.0)
    )
    assert apart.ttft.tolist() == alone.ttft.tolist()
    assert apart.e2e.tolist() == (alone.e2e + 10.0).tolist()
    assert apart.tpot.tolist() == (alone.tpot + 10.0 / 4).tolist()


def test_by_hand():
    # Prefill one by one: first tokens at 1, 2 and 3; caches are there 1 + s/2 later; decoding is one by one, too.
    w = ls.Workload([2, 4, 0], [3, 1, 2])
    result = ls.simulate_disaggregated(
        w, "fcfs", prefill=1, decode=1, memory=10, max_batch=1, transfer=ls.Transfer(0.5, 1.0), seed=None
    )
    assert result.first_token.tolist() == [1, 2, 3]
    assert result.ready[[0, 2]].tolist() == [3, 4]
    assert np.isnan(result.ready[1])
    assert result.completion.tolist() == [5, 2, 6]
    assert result.ttft.tolist() == [1, 2, 3]
    assert result.tpot[[0, 2]].tolist() == [2, 3]
    assert np.isnan(result.tpot[1])
    assert result.goodput({"ttft": 2, "tpot": 2}) == pytest.approx(2 / 3)
    assert result.columns()["decode"].tolist() == [0, -1, 0]
    assert result.summary()["tpot_p50"] == 2.5


@pytest.mark.parametrize("policy", ["fcfs", "vllm", "amin"])
@pytest.mark.parametrize("engine", ["compiled", "reference"])
def test_a_decode_replica_processes_what_it_evicted(policy, engine):
    """All rounds of the decode pool together: as without a charge for prompts, and that charge for what came again."""
    rng = np.random.default_rng(4)
    w = ls.Workload(rng.integers(1, 40, 60), rng.integers(2, 60, 60), lower=1, upper=80)
    options = {"prefill": 2, "decode": 2, "memory": 150, "seed": 0, "engine": engine, "record": ("tokens", "timeline")}
    r = ls.simulate_disaggregated(w, policy, clock=CLOCK, **options)
    assert r.decode.total_evictions > 0
    for replica in r.decode.replicas:
        log = ls.service.attempts(replica)
        again = ~log.is_first
        lost = (replica.workload.prompt[log.request] + log.kept)[again]
        first_rounds = np.isin(log.chunk_attempt, np.flatnonzero(again))
        assert first_rounds.all()
        assert replica.timeline.prefilled.sum() == log.chunk_tokens.sum()
        if policy != "vllm":  # which may evict within a prompt
            assert log.chunk_tokens.sum() == lost.sum()
        part = ls.simulate(replica.workload, replica.policy, seed=None, memory=150, clock=CLOCK)
        assert (part.completion == replica.completion).all()


def test_a_decode_replica_may_process_it_in_chunks():
    w = ls.Workload([20] * 8, [30] * 8)
    options = {"prefill": 1, "memory": 150, "clock": CLOCK, "record": "tokens"}
    r = ls.simulate_disaggregated(w, "vllm", decode=[ls.Replica(prefill_budget=8)], **options)
    assert r.decode.total_evictions > 0
    assert r.decode.replicas[0].tokens.chunk_tokens.max() <= 8


def test_decoding_is_not_held_up_by_prompts():
    """The point of it: beside long prompts on one machine tokens are late, apart from them they are not."""
    prompts, clock = np.where(np.arange(40) % 4 == 0, 400, 4), ls.Clock(base=1.0, per_prompt_token=0.25)
    w = ls.Workload(prompts, 100, arrival=np.arange(40.0) * 40)
    together = ls.simulate_fleet(w, "fcfs", replicas=2, memory=9000, clock=clock, record="tokens")
    apart = ls.simulate_disaggregated(w, "fcfs", prefill=1, decode=1, memory=9000, clock=clock)
    assert apart.percentile("tpot", 99) < 1.02
    assert ls.service.metrics(together).percentile("tpot", 99) > 1.9


THINKING = ls.Workload([5, 5], [3, 3], session=[0, 0], think=[0.0, 1.0])
CACHING = dataclasses.replace(ls.policies["vllm"], prefixes="cached")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"prefill": 0}, InputError, "replicas must be a whole number from 1"),
        ({"decode": []}, InputError, "replicas is empty"),
        ({"memory": 8}, MemoryTooSmallError, "request 1 needs 11 tokens of cache in the prefill pool"),
        ({"memory": 12}, MemoryTooSmallError, "request 1 needs 30 tokens of cache in the decode pool"),
        ({"transfer": 3}, InputError, "transfer is 3, expected a llmsched.Transfer"),
        ({"decode": [ls.Replica(clock=CLOCK)]}, InputError, "some replicas have a clock and others none"),
        ({"decode": [ls.Replica(policy="conditional")]}, PolicyError, "policy conditional reads a table of whole"),
        ({"workload": [3]}, InputError, "needs a llmsched.Workload, not list"),
        ({"decode": [ls.Replica(fails_at=9.0)]}, InputError, "leave fails_at out of its replicas"),
        ({"prefill": [ls.Replica(policy="vllm", fails_at=9.0)]}, InputError, "leave fails_at out of its replicas"),
        ({"workload": THINKING}, InputError, "think times are not for two pools"),
        ({"decode": [ls.Replica(policy=CACHING)]}, PolicyError, "cached prefixes are not for two pools"),
    ],
)
def test_what_cannot_be_taken_apart_is_refused(options, error, said):
    workload = options.pop("workload", ls.Workload([5, 10], [3, 20]))
    with pytest.raises(error, match=re.escape(said)):
        ls.simulate_disaggregated(workload, "fcfs", **{"prefill": 1, "decode": 1, "memory": 100, **options})


def test_a_transfer_takes_time_or_none():
    for bad in ({"per_token": -1}, {"latency": float("nan")}, {"latency": True}):
        with pytest.raises(InputError, match="expected a time of at least 0"):
            ls.Transfer(**bad)


def test_no_requests_are_none():
    result = ls.simulate_disaggregated(ls.Workload([], []), "fcfs", prefill=1, decode=2, memory=10)
    assert len(result) == 0
    assert np.isnan(result.mean_latency)
    assert np.isnan(result.percentile("tpot", 50))
    assert "Disaggregated(1 prefill + 2 decode replicas, 0 requests" in repr(result)
