"""Prefill in chunks (model.md, section 7): rule by rule, on instances whose every number was worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.byhand import ENGINES, GREEDY
from helpers.examples import examples
from helpers.strategies import compositions, machines, problems, seeds
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.metrics import energy, service
from llmsched.metrics.compare import compare

CLOCK = ls.Clock(base=1.0, per_prompt_token=0.5)


@pytest.fixture(params=ENGINES)
def run(request):
    """simulate() on each engine in turn, with ties by index, a timeline and a log of tokens."""

    def simulate(workload, policy, memory, seed=None, **options):
        record = ("timeline", "tokens")
        return ls.simulate(workload, policy, memory=memory, seed=seed, engine=request.param, record=record, **options)

    return simulate


def memory_of(result):
    return result.timeline.expand()["memory"].tolist()


def chunks_of(result):
    log = result.tokens
    return list(zip(log.chunk_request.tolist(), log.chunk_round.tolist(), log.chunk_tokens.tolist(), strict=True))


# Rule by rule ---------------------------------------------------------------------------------------------------------


def test_the_round_of_the_last_chunk_generates_the_first_token(run):
    r = run(ls.Workload(5, [3]), GREEDY, 8, prefill_budget=2)
    assert chunks_of(r) == [(0, 0, 2), (0, 1, 2), (0, 2, 1)]
    assert (r.start.tolist(), r.completion.tolist()) == ([0], [5])
    assert memory_of(r) == [6, 6, 6, 7, 8]  # the whole prompt and the next token from the first round on
    found = service.metrics(r)
    assert (found.ttft.tolist(), found.tpot.tolist(), found.max_itl.tolist()) == ([3], [1], [1])
    assert found.slowdown.tolist() == [1]  # nor would it be faster alone


def test_a_prompt_that_the_budget_holds_takes_one_round(run):
    assert run(ls.Workload(5, [3]), GREEDY, 8, prefill_budget=5).completion.tolist() == [3]
    assert run(ls.Workload(5, [3]), GREEDY, 8, prefill_budget=4).completion.tolist() == [4]


def test_who_generates_takes_a_token_of_the_budget_before_any_prompt(run):
    r = run(ls.Workload([0, 4], [6, 2], arrival=[0, 1]), GREEDY, 12, prefill_budget=3)
    assert chunks_of(r) == [(1, 1, 2), (1, 2, 2)]
    assert r.completion.tolist() == [6, 4]
    assert memory_of(r) == [1, 7, 8, 10, 5, 6]


def test_nobody_is_admitted_once_the_budget_is_spent(run):
    # Round 0: 4 of 6 tokens. Round 1: the other 2, which leave 2 for the two short prompts.
    r = run(ls.Workload([6, 1, 1, 0], 1), GREEDY, 20, prefill_budget=4)
    assert r.start.tolist() == [0, 1, 1, 2]
    assert r.completion.tolist() == [2, 2, 2, 3]
    assert chunks_of(r) == [(0, 0, 4), (0, 1, 2), (1, 1, 1), (2, 1, 1)]


def test_the_worked_example_of_the_model(run):
    r = run(ls.Workload([5, 0, 0], [3, 2, 2]), GREEDY, 20, prefill_budget=3)
    assert chunks_of(r) == [(0, 0, 3), (0, 1, 2)]
    assert (r.start.tolist(), r.completion.tolist()) == ([0, 1, 2], [4, 3, 4])


def test_a_request_without_a_prompt_takes_a_token_of_the_budget_too(run):
    r = run(ls.Workload(0, [2] * 5), GREEDY, 20, prefill_budget=2)
    assert r.start.tolist() == [0, 0, 2, 2, 4]


def test_a_budget_of_one_token_serves_one_request_at_a_time(run):
    r = run(ls.Workload([3, 2], [2, 1]), GREEDY, 20, prefill_budget=1)
    assert (r.start.tolist(), r.completion.tolist()) == ([0, 4], [4, 6])


def test_who_prefills_counts_as_running(run):
    w = ls.Workload([4, 1], [2, 2])
    assert run(w, GREEDY, 20, prefill_budget=3).start.tolist() == [0, 1]
    assert run(w, GREEDY, 20, prefill_budget=3, max_batch=1).start.tolist() == [0, 3]


def test_the_clock_charges_for_the_chunks_of_each_round(run):
    # Rounds of 1 + 3/2, 1 + 1/2 and 1 s; context is what was generated
    clock = dataclasses.replace(CLOCK, per_context_token=8.0, context="generated")
    r = run(ls.Workload(4, [2]), GREEDY, 20, prefill_budget=3, clock=clock)
    assert r.tokens.round_end.tolist() == [2.5, 4, 13]
    assert r.timeline.expand()["duration"].tolist() == [2.5, 1.5, 9]
    assert r.timeline.prefilled.tolist() == [3, 1]  # the third round differs from the second in that alone
    # The prompt is context as a whole from its first round on
    clock = dataclasses.replace(clock, context="all")
    r = run(ls.Workload(4, [2]), GREEDY, 20, prefill_budget=3, clock=clock)
    assert r.tokens.round_end.tolist() == [34.5, 68, 109]
    assert service.metrics(r).slowdown.tolist() == [1]


@pytest.mark.parametrize(
    ("resume", "chunks", "completion"),
    [
        # Request 1 has prefilled 6 of 9 tokens when request 0 needs the room, and comes back when that has completed.
        ("restart", [3, 3, 4, 4, 1], [6, 10]),
        ("recompute", [3, 3, 4, 4, 1], [6, 10]),
        ("swap", [3, 3, 3], [6, 8]),
    ],
)
def test_an_eviction_loses_what_was_prefilled_unless_it_is_moved_out(run, resume, chunks, completion):
    # M = 14. From round 2 on, 1 holds 10. Request 0 holds 1, 2, 3, 4 and would need 5 in round 4.
    w = ls.Workload([0, 9], [6, 2], arrival=[0, 2])
    policy = dataclasses.replace(GREEDY, resume=resume)
    r = run(w, policy, 14, prefill_budget=4, clock=ls.Clock(base=1.0))
    assert memory_of(r)[:5] == [1, 2, 13, 14, 5]
    assert r.evictions.tolist() == [0, 1]
    assert r.wasted_tokens == 0  # it had generated nothing
    assert [tokens for _, _, tokens in chunks_of(r)] == chunks
    assert r.completion.tolist() == completion
    assert r.tokens.rounds.tolist() == [2, 6, r.rounds - 6]
    if resume == "swap":  # the 6 tokens that it had, out in round 4 and in again in round 6
        assert r.timeline.swapped.sum() == 12
        assert int(r.timeline.swapped[r.timeline.time == 6][0]) == 6


def test_recompute_prefills_kept_tokens_in_chunks_too(run):
    # M = 8: both run for 4 rounds; then they need 10, and 1 leaves with 4 tokens. 0 completes at 6; 4 tokens in chunks.
    w = ls.Workload(0, [6, 6])
    r = run(w, dataclasses.replace(GREEDY, resume="recompute"), 8, prefill_budget=3)
    assert r.evictions.tolist() == [0, 1]
    assert chunks_of(r) == [(1, 6, 3), (1, 7, 1)]
    assert r.completion.tolist() == [6, 9]
    assert memory_of(r) == [2, 4, 6, 8, 5, 6, 5, 5, 6]
    found = service.metrics(r)
    assert found.max_itl.tolist() == [1, 4]  # tokens at 4 and 8
    assert found.ttft.tolist() == [1, 1]


def test_every_round_of_prefill_moves_the_believed_completion_by_one(run):
    # Chunks of 2, 2, 2 and 1 tokens: request 0 was believed to hold 8, 9 and 10 in rounds 0 to 2, and will in rounds 3
    # to 5. In round 3 the budget has room for request 1, which holds 1, 2 and 3: together 9, 11 and 13.
    w = ls.Workload([7, 0], 3)
    policy = ls.Policy(order="arrival", reserve="output", refine="none", evict="progress")
    r = run(w, policy, 13, prefill_budget=2)
    assert r.start.tolist() == [0, 3]
    assert memory_of(r) == [8, 8, 8, 9, 11, 13]
    r = run(w, policy, 12, prefill_budget=2)
    assert r.start.tolist() == [0, 4]
    assert memory_of(r) == [8, 8, 8, 8, 10, 12, 3]


def test_slow_prefill_that_outgrows_its_estimate_overflows_the_cache(run):
    # True lengths are believed, so nobody would ever be evicted, were it not for the prefill of request 1
    w = ls.Workload([0, 9], [12, 1])
    policy = ls.Policy(order="arrival", reserve="output", refine="none", evict="progress")
    assert run(w, policy, 12).total_evictions == 0
    r = run(w, policy, 12, prefill_budget=3)
    assert memory_of(r) == [11, 12, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, *[10] * 3]
    assert r.evictions.tolist() == [0, 1]
    assert r.completion.tolist() == [12, 15]


def test_least_progress_has_who_has_no_token_yet(run):
    # M = 12: in round 3 they need 1 + 3 tokens and 9. Request 1 has none yet, and shares that with nobody.
    w = ls.Workload([0, 8], [5, 4], arrival=[0, 0])
    policy = dataclasses.replace(GREEDY, evict="progress")
    r = run(w, policy, 12, prefill_budget=3)
    assert r.evictions.tolist() == [0, 1]
    assert memory_of(r)[:4] == [10, 11, 12, 4]


def test_blocks_and_chunks_go_together(run):
    # Blocks of 4: 5 + 1 tokens take 8 in all three rounds of prefill, as do 5 + 2 and 5 + 3; the fourth takes 12
    r = run(ls.Workload(5, [4]), GREEDY, 12, prefill_budget=2, block=4)
    assert memory_of(r) == [8, 8, 8, 8, 8, 12]


def test_quiet_rounds_are_skipped_once_nobody_prefills():
    w = ls.Workload([100, 100], [1000, 2000])
    r = ls.simulate(w, "fcfs", memory=10_000, prefill_budget=64)
    assert r.rounds == 2003
    assert r.work["rounds_stepped"] <= 8


# What follows ---------------------------------------------------------------------------------------------------------


@examples(300)
@given(data=st.data())
def test_a_budget_for_all_is_no_budget(data):
    """Every number but the log of chunks is that of the plain model when one round can process everything."""
    workload, memory = data.draw(problems())
    policy = data.draw(compositions(len(workload)))
    machine = data.draw(machines()) | {"prefill_budget": None}
    memory += machine.get("block", 1) - 1
    most = int((workload.prompt + workload.output).sum()) + len(workload)
    results = []
    for budget in (None, most):
        options = machine | {"prefill_budget": budget, "record": ("timeline", "tokens"), "max_rounds": 5000}
        try:
            r = ls.simulate(workload, policy, memory=memory, seed=3, **options)
        except errors.NotFinishedError:
            return
        results.append(r)
    plain, chunked = results
    assert plain.completion.tolist() == chunked.completion.tolist()
    assert (plain.evictions.tolist(), plain.rounds) == (chunked.evictions.tolist(), chunked.rounds)
    assert plain.timeline == chunked.timeline
    assert plain.tokens == dataclasses.replace(
        chunked.tokens, **{name: np.empty(0, int) for name in ("chunk_request", "chunk_round", "chunk_tokens")}
    )
    a, b = (service.attempts(r) for r in results)
    order = np.argsort(b.chunk_attempt, kind="stable")
    for name in ("chunk_attempt", "chunk_round", "chunk_tokens"):
        whole = getattr(a, name)[a.chunk_tokens > 0]
        assert whole.tolist() == getattr(b, name)[order].tolist()


@examples(300)
@given(data=st.data(), budget=st.integers(1, 12))
def test_no_round_exceeds_the_budget_and_every_prompt_is_processed(data, budget):
    workload, memory = data.draw(problems())
    policy = data.draw(compositions(len(workload)))
    try:
        r = ls.simulate(
            workload, policy, memory=memory, seed=data.draw(seeds), record="tokens", prefill_budget=budget,
            max_rounds=5000,
        )  # fmt: skip
    except errors.NotFinishedError:
        return
    log = service.attempts(r)
    generated = log.generated - log.kept
    assert (generated >= 0).all()
    assert ((log.last_round - log.first_round + 1) >= np.maximum(generated, 1)).all()
    generating = log.per_round(log.first_token, log.last_round)
    prefilled = np.bincount(log.chunk_round, log.chunk_tokens, r.rounds).astype(int)
    last = np.zeros(r.rounds, int)  # a last chunk's token is in the budget already
    done = (generated > 0) & np.isin(np.arange(len(log)), log.chunk_attempt)
    ends = done & (np.array([_chunk_in(log, k, log.first_token[k]) for k in range(len(log))], bool))
    np.add.at(last, log.first_token[ends], 1)
    assert (generating - last + prefilled <= budget).all()
    tokens = np.bincount(log.chunk_attempt, log.chunk_tokens, len(log)).astype(int)
    due = workload.prompt[log.request] + log.kept
    moved = policy.prompts == "moved"  # then who never ran comes with its cache
    due[log.first_round <= _first_rounds(log, len(workload))] *= not moved
    if policy.resume == "swap":
        prefilled = np.bincount(log.request, tokens, len(workload)).astype(int)
        assert prefilled.tolist() == (workload.prompt * (not moved)).tolist()
    else:
        assert (tokens[generated > 0] == due[generated > 0]).all()
        assert (tokens[generated == 0] < due[generated == 0]).all()


def _first_rounds(log, n):
    """Of the request of each attempt, the first round of its first one."""
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, log.request, log.first_round)
    return first[log.request]


def _chunk_in(log, attempt, round):
    return bool(((log.chunk_attempt == attempt) & (log.chunk_round == round)).any())


def test_evicted_before_its_prefill_ended_an_attempt_is_wasted_whole():
    w = ls.Workload([0, 9], [6, 2], arrival=[0, 2])
    policy = dataclasses.replace(GREEDY, resume="recompute")
    r = ls.simulate(w, policy, memory=14, seed=None, prefill_budget=4, clock=CLOCK, record="tokens")
    found = energy.metrics(r, energy.Power(idle=0, busy=1))
    assert found.total == r.makespan
    # Two rounds: of each 3/2 s for its chunk, and half of the second that the two requests share
    assert found.wasted_per_request.tolist() == [0, 2 * (1.5 + 0.5)]


@pytest.mark.parametrize("seed", range(4))
def test_engines_agree_where_prefill_takes_many_rounds(seed):
    """Longer prompts and more pressure than hypothesis finds: several evictions of each request."""
    rng = np.random.default_rng(seed)
    for _ in range(60):
        n = int(rng.integers(5, 30))
        prompt, output = rng.integers(0, rng.integers(1, 40), n), rng.integers(1, 20, n)
        lower = np.maximum(1, output - rng.integers(0, 12, n))
        w = ls.Workload(
            prompt, output, lower, np.maximum(lower, output + rng.integers(-8, 16, n)),
            np.maximum(1, output + rng.integers(-8, 8, n)), rng.exponential(rng.choice([1e-9, 1, 5]), n).cumsum(),
            rng.integers(-1, 2, n),
        ).with_lengths(ls.LengthTable.from_outputs(rng.integers(1, 20, 20)))  # fmt: skip
        memory = int((prompt + output).max() * rng.choice([1, 1.3, 2, 4])) + 16
        options = {"prefill_budget": int(rng.choice([1, 2, 3, 5, 8, 13, 40])), "block": int(rng.choice([1, 1, 4, 16]))}
        policy = ls.policies[str(rng.choice(sorted(ls.policies)))]
        resumes = ["restart", "recompute", *(["swap"] if policy.slots == "ahead" else [])]
        policy = dataclasses.replace(policy, resume=str(rng.choice(resumes)))
        assert _numbers(w, policy, memory, seed, "compiled", options) == _numbers(
            w, policy, memory, seed, "reference", options
        )


def _numbers(workload, policy, memory, seed, engine, options):
    try:
        r = ls.simulate(
            workload, policy, memory=memory, seed=seed, engine=engine, record=("timeline", "tokens"), **options
        )
    except errors.NotFinishedError as error:
        return str(error)
    return r.completion.tolist(), r.evictions.tolist(), r.rounds, r.peak_memory, r.timeline, r.tokens


# Bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, -1, 1.5, "many", float("nan"), True])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_budget_that_is_none(engine, budget):
    with pytest.raises(errors.InputError, match="prefill_budget must be a whole number from 1 to"):
        ls.simulate(ls.Workload(1, [1]), "fcfs", memory=9, engine=engine, prefill_budget=budget)


def test_the_budget_travels_with_the_result_and_through_batches():
    w = ls.generate.lmsys(50, seed=1)
    alone = ls.simulate(w, "fcfs", memory=3000, prefill_budget=64)
    assert alone.prefill_budget == alone.provenance["prefill_budget"] == 64
    assert ls.simulate(w, "fcfs", memory=3000).prefill_budget is None
    batch = ls.simulate_batch(w, "fcfs", memory=3000, prefill_budget=64, keep=True)
    assert batch.results[0].completion.tolist() == alone.completion.tolist()
    assert batch.results[0].prefill_budget == 64
    (row,) = compare(w, ["fcfs"], memory=3000, prefill_budget=64, baseline=None)
    assert row.result.completion.tolist() == alone.completion.tolist()
