"""model.md, section 5: orders of admission and eviction, and what decides among equals. Worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.byhand import ENGINES, GREEDY, POINT, URGENT, rows, splitmix64

import llmsched as ls
from llmsched.policy import CHOICES, EVICTION_RULES
from llmsched.simulation import problem

PRIORITY = dataclasses.replace(ls.policies["vllm-priority"], slots="ahead", margin=0.01)


@pytest.mark.parametrize(
    ("order", "sequence"),
    [
        ("arrival", [0, 3, 2, 1]),
        ("queue", [0, 3, 2, 1]),
        ("bound", [0, 2, 1, 3]),
        ("area", [0, 2, 1, 3]),
        ("upper", [0, 1, 3, 2]),
        ("point", [0, 1, 2, 3]),
        ("output", [0, 2, 3, 1]),
        ("volume", [0, 3, 1, 2]),
        ("priority", [0, 2, 3, 1]),
        ([0, -1.5, 1e300, -2], [0, 3, 1, 2]),
        (np.array([9, 3, 1, 2]), [0, 2, 3, 1]),
    ],
)
def test_admission_orders(run, order, sequence):
    """Request 0 comes first; the others arrive while it runs. No two fit together: their prompts are too long."""
    w = ls.Workload(
        [30, 20, 30, 21], [10, 9, 7, 8],
        lower=[1, 2, 1, 3], upper=[9, 7, 9, 8], point=[9, 4, 5, 6], arrival=[0, 3, 2, 1],
        priority=[5, 0, -1, 0],
    )  # fmt: skip
    assert problem.volume(w).tolist() == [355, 225, 238, 204]
    r = run(w, ls.Policy(order=order, reserve="output", evict="progress", refine="none"), 40)
    assert np.argsort(r.start, kind="stable").tolist() == sequence
    assert sorted(r.start) == [0, *np.cumsum(w.output[sequence[:-1]])]


def test_an_area_grows_with_the_bound(run):
    # One at a time. 0, whose rectangle is the smallest, (1 + 2)·2, is stopped after 2 tokens and grows to (1 + 4)·4:
    # behind 1 with (9 + 1)·1, before 2 with (6 + 3)·3.
    w = ls.Workload([1, 9, 6], [3, 1, 3], lower=[2, 1, 3], upper=9)
    policy = ls.Policy(order="area", reserve="upper", cap="bound", cap_refine="double")
    assert run(w, policy, 15).completion.tolist() == [6, 3, 9]


@pytest.mark.parametrize("seed", [None, 0, 3])
def test_vllm_serves_in_order_of_arrival_preempted_ones_first(seed):
    """Nobody is admitted while somebody who came before waits: that is what the front of the queue means."""
    w = ls.generate.poisson(ls.generate.lmsys(300, seed=4), rate=3, seed=4)
    result = ls.simulate(w, "vllm", memory=1500, seed=seed, record="tokens")
    assert result.total_evictions > 100
    assert not overtaken(result)
    assert overtaken(ls.simulate(w, "fcfs", memory=1500, seed=seed, record="tokens"))  # why vllm pauses


def overtaken(result):
    """Requests that waited in a round in which one that arrived later was admitted."""
    n = len(result)
    tie = range(n) if result.seed is None else np.random.default_rng(result.seed).permutation(n)
    turn = np.empty(n, int)
    turn[np.lexsort((tie, result.workload.arrival))] = np.arange(n)
    log = result.tokens
    columns = log.first_round, log.first_round + log.generated - log.kept, turn[log.request]
    stays = list(zip(*(column.tolist() for column in columns), strict=True))
    done = np.searchsorted(result.tokens.round_end, result.completion[np.argsort(turn)]) + 1  # rounds until it is
    found = set()
    for first, _, mine in stays:
        running = {other for begin, end, other in stays if begin <= first < end}
        found |= {other for other in range(mine) if other not in running and done[other] > first}
    return found


def test_queue_sends_a_request_that_left_to_the_back(run):
    # 0 is capped at 2 and joins again at 2; 1 has waited since 1
    w = ls.Workload([0, 4], [5, 1], lower=[2, 1], upper=[5, 1], arrival=[0, 1])
    assert run(w, "aell", 5).completion.tolist() == [8, 3]
    assert run(w, dataclasses.replace(ls.policies["aell"], order="arrival"), 5).completion.tolist() == [7, 8]


@pytest.mark.parametrize("n", [1, 2, 3, 100, 4097])
@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**64 - 1])
def test_admission_ties_are_broken_by_one_rank_per_request(n, seed):
    rank = np.random.default_rng(seed).permutation(n)
    for engine in ENGINES if n <= 100 else ENGINES[1:]:
        r = ls.simulate(ls.Workload(0, [1] * n), "hsf", memory=1, seed=seed, engine=engine)
        assert np.array_equal(r.start, rank)


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 40, 2500])
@pytest.mark.parametrize(
    "values", [(3,), (1, 2), (0, 2047), (0, 2048), (0, 7, 2**32, 2**40, 2**62), (-1e300, -0.0, 0.0, 5)]
)
def test_few_and_many_of_any_spread_are_sorted_as_numpy_does(n, values):
    keys = np.random.default_rng(n).choice(np.array(values), n)
    ranks = np.random.default_rng(4).permutation(n)
    policy = ls.Policy(order=keys, reserve="none", evict="newest", refine="none")
    r = ls.simulate(ls.Workload([0] * n, 1), policy, memory=1, seed=4)
    assert np.argsort(r.completion).tolist() == np.lexsort((ranks, keys)).tolist()


def test_without_a_seed_ties_go_by_index(run):
    assert run(ls.Workload(0, [1] * 9), "hsf", 1).start.tolist() == list(range(9))


#: Eviction rule -> evictions and completions of the two requests below.
EVICTED = {
    "bound": ([1, 0], [6, 3]),
    "progress": ([0, 1], [3, 5]),
    "newest": ([0, 1], [3, 5]),
    "all": ([1, 1], [5, 4]),
    "random": ([1, 1], [5, 4]),  # each leaves with probability 1
    "priority": ([1, 0], [6, 3]),
}


@pytest.mark.parametrize("evict", CHOICES["evict"])
def test_each_eviction_rule_by_hand(run, evict):
    # Request 0 is older and has more tokens and the smaller bound. Round 2 would need 3+2 > 4.
    evictions, completion = EVICTED[evict]
    w = ls.Workload(0, [3, 2], lower=[1, 3], arrival=[0, 1], priority=[1, -1])
    policy = ls.Policy(order="arrival", reserve="none", refine="none", evict=evict, beta=1)
    r = run(w, policy, 4)
    assert r.evictions.tolist() == evictions
    assert r.completion.tolist() == completion


def test_of_the_least_urgent_the_latest_arrival_leaves_first(run):
    # M=6: 3+3+2 in round 2, 4+4 in round 3; request 2 starts again in round 4, request 1 in round 5
    w = ls.Workload(0, 4, priority=[0, 1, 1], arrival=[0, 0, 1])
    r = run(w, dataclasses.replace(GREEDY, evict="priority"), 6)
    assert rows(r, "evictions")[0][:5] == [0, 0, 1, 1, 0]
    assert np.flatnonzero(r.evictions == 0).tolist() == [0]


def test_by_priority_the_oldest_yields_to_the_most_urgent_keeping_tokens(run):
    # M=10. Round 2 would need 7 + 4: request 0 leaves with two tokens, and waits until request 1 has completed.
    w = ls.Workload([4, 2], [6, 3], arrival=[0, 1], priority=[1, 0])
    r = run(w, PRIORITY, 10)
    assert r.completion.tolist() == [8, 4]
    assert r.evictions.tolist() == [1, 0]
    assert rows(r, "memory", "waiting") == [[5, 9, 4, 5, 7, 8, 9, 10], [0, 0, 1, 1, 0, 0, 0, 0]]


def test_by_priority_nobody_passes_a_more_urgent_one_that_does_not_fit(run):
    w = ls.Workload([6, 8, 1], [4, 1, 1], arrival=[0, 1, 1], priority=[0, 0, 1])
    assert run(w, PRIORITY, 10).start.tolist() == [0, 4, 5]


def test_the_least_urgent_leaves_wherever_it_stands_giving_back_what_it_was_served(run):
    # M=6, a slot in the round after the token. Round 1: 3 + 2. Round 2: request 0 is served its fourth slot, request 1
    # needs a third, and there is none: request 0 leaves, whose 4 tokens then fit no sooner than in round 5.
    w = ls.Workload([2, 2], [4, 4], priority=[1, 0], arrival=[0, 1])
    r = run(w, "vllm-priority", 6)
    assert r.evictions.tolist() == [1, 0]
    assert r.completion.tolist() == [7, 5]
    assert rows(r, "memory", "batch") == [[2, 5, 3, 4, 5, 4, 5], [1, 2, 1, 1, 1, 1, 1]]


def test_behind_one_that_leaves_in_its_own_turn_nobody_is_served(run):
    # M=5. Round 2: request 0 needs a fourth slot, there is none, and it is the least urgent. Request 1 keeps its two.
    w = ls.Workload([2, 2], [3, 3], priority=[1, 0], arrival=[0, 1])
    r = run(w, "vllm-priority", 5)
    assert r.evictions.tolist() == [1, 0]
    assert r.completion.tolist() == [6, 5]
    assert rows(r, "memory", "batch") == [[2, 5, 2, 3, 4, 4], [1, 2, 0, 1, 1, 1]]


def test_progress_counts_kept_tokens_not_time_in_the_batch(run):
    # M=12. 1 leaves in round 3 (10+3 > 12) with two tokens, kept. 2 starts in round 4; 1 comes back in round 5, the
    # newest, but with two tokens to 2's one. In round 9 they hold 7+6 > 12: 1 is the newest, 2 has fewer tokens.
    w = ls.Workload([6, 0, 0], [5, 9, 8], arrival=[0, 1, 4])
    greedy = dataclasses.replace(GREEDY, fill="skip", resume="recompute")
    progress, newest = (run(w, dataclasses.replace(greedy, evict=evict), 12) for evict in ("progress", "newest"))
    assert progress.evictions.tolist() == [0, 1, 1]
    assert progress.completion.tolist() == [5, 12, 15]
    assert newest.evictions.tolist() == [0, 2, 0]
    assert newest.completion.tolist() == [5, 15, 12]


@pytest.mark.parametrize(
    "policy",
    [
        *(ls.policies["amin"], POINT, URGENT),
        *(dataclasses.replace(GREEDY, evict=word) for word, rule in EVICTION_RULES.items() if rule.ranks),
    ],
    ids=lambda policy: f"{policy.reserve}-{policy.evict}",
)
@pytest.mark.parametrize("seed", [*range(8), 2**63, 2**64 - 1])
def test_one_eviction_among_three_equals(run, policy, seed):
    # Round 2 would need 9 > 6. The list of equals is in order of admission, which is by rank; one of three is drawn,
    # leaves, and starts again at 3, when the other two are done.
    admitted = np.argsort(np.random.default_rng(seed).permutation(3))
    x = next(splitmix64(seed)) >> 32
    victim = admitted[x * 3 // 2**32]
    r = run(ls.Workload(0, [3, 3, 3], lower=1, point=1, priority=7), policy, 6, seed)
    assert r.evictions.tolist() == [int(i == victim) for i in range(3)]
    assert r.completion.tolist() == [6.0 if i == victim else 3.0 for i in range(3)]


@pytest.mark.parametrize("seed", [None, *range(8)])
def test_draws_among_five_equals_the_last_takes_the_place_of_the_victim(run, seed):
    # Round 1 would need 10 > 5: three leave, one after the other, from a list that the last closes.
    draws = splitmix64(seed or 0)
    equals = list(range(5)) if seed is None else np.argsort(np.random.default_rng(seed).permutation(5)).tolist()
    victims = []
    for k in (5, 4, 3):
        at = 0 if seed is None else (next(draws) >> 32) * k // 2**32
        victims.append(equals[at])
        equals[at] = equals[-1]
        equals.pop()
    if seed is None:
        assert victims == [0, 4, 3]
    r = run(ls.Workload(0, [2] * 5, lower=1), "amin", 5, seed)
    assert np.flatnonzero(r.evictions).tolist() == sorted(victims)
    # the evicted now believe in 2 tokens: two start at 2, the third at 3 (2+2+1 <= 5)
    assert sorted(r.completion) == [2, 2, 4, 4, 5]
    assert sorted(r.completion[equals]) == [2, 2]


def test_one_that_completes_is_replaced_by_the_last_of_its_list(run):
    # [0, 1, 2, 3] becomes [3, 1, 2] when 0 completes: in round 2 (9 > 6) member 0 is request 3
    r = run(ls.Workload(0, [1, 3, 3, 3], lower=1), "amin", 6)
    assert r.evictions.tolist() == [0, 0, 0, 1]
    assert r.completion.tolist() == [1, 3, 3, 6]


def test_a_single_candidate_draws_nothing(run):
    # Round 2 evicts the only request with the smallest bound without a draw; only then two of bound 2 are drawn from.
    w = ls.Workload(0, [3, 3, 3, 3], lower=[1, 2, 2, 2])
    for seed in range(8):
        order = np.argsort(np.random.default_rng(seed).permutation(3 + 1)).tolist()
        order.remove(0)
        victim = order[(next(splitmix64(seed)) >> 32) * 3 // 2**32]
        r = run(w, "amin", 8, seed)  # 4, 8, then 12 > 8: 0 leaves (9 > 8), then one of three
        assert np.flatnonzero(r.evictions).tolist() == sorted([0, victim])


@pytest.mark.parametrize("seed", [None, *range(12)])
def test_clearing_repeats_passes_until_it_fits(run, seed):
    """Four requests overflow in round 1 (8 > 6): each leaves with probability 0.3, in passes over those that remain."""
    draws = splitmix64(seed or 0)
    running = list(range(4)) if seed is None else np.argsort(np.random.default_rng(seed).permutation(4)).tolist()
    while 2 * len(running) > 6:
        running = [i for i in running if not (next(draws) >> 11) * 2.0**-53 < 0.3]
    assert running, "no seed here evicts everybody, which would start all over"
    r = run(ls.Workload(0, [2] * 4), dataclasses.replace(GREEDY, evict="random", beta=0.3), 6, seed)
    assert np.flatnonzero(r.evictions == 0).tolist() == sorted(running)
    assert set(r.completion[running]) == {2.0}
    assert set(r.completion[r.evictions > 0]) == {4.0}
