"""Replicas that fail: nothing lost, nothing twice, memory never exceeded, and both fleets agree."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, LlmschedError, MemoryTooSmallError, PolicyError


@st.composite
def failing_fleets(draw, most=14):
    """Any fleet, some of whose replicas fail; the last, which holds every request, returns."""
    workload, options = draw(fleets(most))
    replicas = options["replicas"]
    replicas = [ls.Replica()] * replicas if isinstance(replicas, int) else replicas
    last = len(replicas) - 1
    times = st.sampled_from([0.0, 0.5, 3.0, 7.3, 20.0, 41.0, 1e6])
    failing = []
    for k, replica in enumerate(replicas):
        if draw(st.booleans()):
            dies, away = draw(times), draw(times)
            returns = dies + away if k == last or draw(st.booleans()) else None
            replica = dataclasses.replace(replica, fails_at=dies, returns_at=returns)
        failing.append(replica)
    return workload, options | {"replicas": failing}


def run(workload, engine="compiled", **options):
    try:
        return ls.simulate_fleet(workload, engine=engine, record="timeline", max_rounds=2000, **options)
    except LlmschedError as error:
        return type(error)


def check(result, replicas):
    """What holds of any fleet whose replicas fail."""
    w = result.workload
    assert np.isfinite(result.completion).all()  # nothing is lost
    assert (result.start >= w.arrival).all()
    losses = np.zeros(len(w), int) if result.losses is None else result.losses
    tokens = 0
    for k, (replica, outcome) in enumerate(zip(replicas, result.outcomes, strict=True)):
        rows = outcome.timeline.expand()
        assert rows["memory"].max(initial=0) == outcome.peak_memory <= outcome.memory
        assert len(rows["time"]) == outcome.rounds
        tokens += int(rows["batch"].sum())
        ends = rows["time"] + rows["duration"]
        if replica.fails_at is not None:  # no round is in progress as it dies, or while it is away
            away_until = np.inf if replica.returns_at is None else replica.returns_at
            dead = (ends > replica.fails_at * (1 + 1e-12)) & (rows["time"] < away_until)
            assert not dead.any()
            of_it = result.replica == k
            finished = result.completion[of_it]
            assert ((finished <= replica.fails_at) | (result.start[of_it] >= away_until)).all()
    assert (losses <= sum(replica.fails_at is not None for replica in replicas)).all()
    if result.prefill_budget is None and all(o.policy.slots == "ahead" for o in result.outcomes):
        assert tokens == int(w.output.sum()) + result.wasted_tokens  # nothing twice: what is not wasted is output


@examples(100)
@given(drawn=failing_fleets())
def test_nothing_is_lost_nothing_twice_and_both_fleets_agree(drawn):
    workload, options = drawn
    result = run(workload, **options)
    assume(isinstance(result, ls.FleetResult))
    check(result, options["replicas"])
    readable = run(workload, "reference", **options)
    names = ("completion", "start", "evictions", "replica", "rounds", "peak_memory", "wasted_tokens", "losses", "idle")
    for name in names:
        assert np.array_equal(getattr(result, name), getattr(readable, name)), name
    for one, other in zip(result.outcomes, readable.outcomes, strict=True):
        assert one.timeline == other.timeline
        assert one.busy == other.busy


@examples(40)
@given(drawn=failing_fleets())
def test_what_completed_before_the_first_death_is_as_without_it(drawn):
    workload, options = drawn
    result = run(workload, **options)
    assume(isinstance(result, ls.FleetResult) and result.losses is not None)
    deaths = [replica.fails_at for replica in options["replicas"] if replica.fails_at is not None]
    whole = [dataclasses.replace(replica, fails_at=None, returns_at=None) for replica in options["replicas"]]
    unharmed = run(workload, **options | {"replicas": whole})
    assume(isinstance(unharmed, ls.FleetResult) and len(whole) > 1)
    before = unharmed.completion <= min(deaths)
    assert result.completion[before].tolist() == unharmed.completion[before].tolist()
    assert not result.losses[before].any()


def test_a_death_by_hand():
    """Two replicas, equal requests of ten tokens: at 4.5 the first has lost four rounds of its request."""
    w = ls.Workload(0, [10, 10, 10], arrival=[0.0, 0.0, 6.0])
    replicas = [ls.Replica(fails_at=4.5, returns_at=6.0), ls.Replica()]
    result = ls.simulate_fleet(w, "fcfs", replicas=replicas, router="round-robin", memory=30, seed=None)
    assert result.replica.tolist() == [1, 1, 0]
    assert result.losses.tolist() == [1, 0, 0]
    assert result.start.tolist() == [5.0, 0.0, 6.0]  # a round of the second was in progress
    assert result.completion.tolist() == [15.0, 10.0, 16.0]
    assert result.wasted_tokens == 4
    assert [outcome.rounds for outcome in result.outcomes] == [4 + 10, 15]


def test_a_round_that_ends_as_the_replica_dies_counts():
    w = ls.Workload(0, [4, 5])
    replicas = [ls.Replica(fails_at=4.0), ls.Replica(fails_at=4.0, returns_at=9.0)]
    result = ls.simulate_fleet(w, "fcfs", replicas=replicas, router="round-robin", memory=30, seed=None)
    assert result.losses.tolist() == [0, 1]
    assert result.completion.tolist() == [4.0, 14.0]  # the second waits at the router until one is there


def test_a_replica_may_die_before_anything_was_sent_to_it():
    """The soak found it: the compiled engine took a run without requests for one that had failed."""
    replicas = [ls.Replica(fails_at=0.0, returns_at=50.0), ls.Replica()]
    result = ls.simulate_fleet(ls.Workload(0, [4, 5], 1, 5), "s3", replicas=replicas, memory=20)
    assert result.replica.tolist() == [1, 1]
    empty = ls.Workload(0, np.empty(0, int), np.empty(0, int), np.empty(0, int))
    assert len(ls.simulate(empty, "amin", memory=20)) == 0


@pytest.mark.parametrize("router", sorted(set(ls.routers) - {"central-queue"}))
def test_every_named_router_sends_again_what_a_death_sent_back(router):
    rng = np.random.default_rng(2)
    n = 300
    output = rng.integers(1, 30, n)
    w = ls.Workload(
        rng.integers(0, 20, n), output, output, output + 5, arrival=np.sort(rng.random(n) * 250),
        session=rng.integers(0, 40, n),
    )  # fmt: skip
    replicas = [ls.Replica(fails_at=60.0 + 20 * k, returns_at=150.0 + 30 * k) for k in range(3)] + [ls.Replica()]
    for policy, clock in itertools.product(("amin", "vllm"), (None, ls.Clock(base=0.8, per_request=0.02))):
        result = run(w, policy=policy, replicas=replicas, router=router, memory=120, clock=clock)
        check(result, replicas)
        assert result.losses.sum() > 0


def test_what_failing_replicas_cannot_do_is_refused():
    w = ls.Workload(0, [5] * 3, 1, 5, arrival=[0.0, 1.0, 9.0])
    gone = [ls.Replica(fails_at=3.0), ls.Replica(fails_at=2.0)]
    with pytest.raises(InputError, match=r"request 2 has no replica: .*\(Replica.returns_at\)"):
        ls.simulate_fleet(w, "amin", replicas=gone, memory=10)
    with pytest.raises(MemoryTooSmallError, match="request 0 needs 5 tokens"):
        ls.simulate_fleet(w, "amin", replicas=gone, memory=4)
    with pytest.raises(InputError, match=r"record=.tokens. is not kept"):
        ls.simulate_fleet(w, "amin", replicas=gone, memory=10, record="tokens")
    with pytest.raises(PolicyError, match="draws by the place of a request"):
        ls.simulate_fleet(w, "past-future", replicas=gone, memory=10)
    with pytest.raises(PolicyError, match="central-queue: replicas fail"):
        ls.simulate_fleet(w, "amin", replicas=gone, router="central-queue", memory=10)
    with pytest.raises(InputError, match="a stream cannot send requests again"):
        ls.stream([w], "amin", replicas=gone, memory=10)
    with pytest.raises(InputError, match=r"has to fail before: fails_at=None"):
        ls.Replica(returns_at=3.0)
    with pytest.raises(InputError, match="fails_at='now' is no time"):
        ls.Replica(fails_at="now")
