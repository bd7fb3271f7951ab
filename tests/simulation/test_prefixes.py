"""Prefixes that stay in the cache and sessions whose turns arrive a think time later (model.md, sections 3 and 7)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, MissingPredictionError, PolicyError

ENGINES = ("compiled", "reference")
CACHED = "vllm, prefixes=cached"
CHAT = ls.Workload([9, 9, 9], 2, arrival=[0, 0, 5]).with_prefixes(ls.Prefixes([[7, 8], [7, 9], [7, 8]], 4))


@pytest.mark.parametrize("engine", ENGINES)
def test_the_example_of_the_page(engine):
    r = ls.simulate(CHAT, CACHED, memory=24, block=4, seed=None, engine=engine, record=("timeline", "tokens"))
    assert r.cached.tolist() == [0, 4, 8]
    assert r.completion.tolist() == [2, 2, 7]
    assert r.tokens.chunk_tokens.tolist() == [9, 5, 1]
    assert r.timeline.expand()["memory"].tolist() == [20, 20, 12, 12]  # 3 + 3 - 1 blocks, then 3
    assert r.hit_share == r.summary()["hit_share"] == 12 / 27
    assert r.columns()["cached"] is r.cached


@pytest.mark.parametrize("engine", ENGINES)
def test_free_blocks_are_lost_least_recently_used_and_the_end_of_a_prompt_first(engine):
    """Of 5 blocks the first request leaves 2 with names; the second takes 4, so that the end of the first is lost."""
    hashes = ls.Prefixes([[1, 2], [3, 4, 5], [1, 2]], 4)
    w = ls.Workload([9, 13, 9], 1, arrival=[0, 10, 20]).with_prefixes(hashes)
    options = {"block": 4, "seed": None, "engine": engine}
    assert ls.simulate(w, CACHED, memory=20, **options).cached.tolist() == [0, 0, 4]
    assert ls.simulate(w, CACHED, memory=24, **options).cached.tolist() == [0, 0, 8]
    assert ls.simulate(w, CACHED, memory=16, **options).cached.tolist() == [0, 0, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_block_of_a_prompt_that_is_all_there_is_processed_again(engine):
    w = ls.Workload([8, 8], 1, arrival=[0, 10]).with_prefixes(ls.Prefixes([[1, 2], [1, 2]], 4))
    r = ls.simulate(w, CACHED, memory=24, block=4, engine=engine, record="tokens")
    assert r.cached.tolist() == [0, 4]
    assert r.tokens.chunk_tokens.tolist() == [8, 4]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_request_that_left_meets_its_own_blocks_again(engine):
    """Two that outgrow the cache together: the second leaves and need not process what is still there of it."""
    w = ls.Workload([8, 8], [20, 20], session=[0, 1])
    clock = ls.Clock(base=1.0, per_prompt_token=1.0)
    results = [
        ls.simulate(w, policy, memory=40, block=4, seed=None, engine=engine, clock=clock, record="tokens")
        for policy in ("vllm", CACHED)
    ]
    assert [r.total_evictions for r in results] == [1, 1]
    again = [r.tokens.chunk_tokens[r.tokens.chunk_round > 0].sum() for r in results]
    assert again[1] < again[0]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("policy", ["fcfs", "amin", "hsf", "sglang", CACHED])
def test_a_turn_arrives_a_think_time_after_the_one_before(engine, policy):
    w = ls.Workload([3, 9, 15, 4], 2, 2, 4, arrival=[0, 1, 1, 2], session=[0, 0, 0, 1], think=[0, 1, 2.5, 0])
    r = ls.simulate(w, policy, memory=40, engine=engine)
    assert r.workload.arrival.tolist() == [0, r.completion[0] + 1, r.completion[1] + 2.5, 2]
    assert (r.latency == r.completion - r.workload.arrival).all()
    if policy == CACHED:
        assert r.cached.tolist() == [0, 4, 10, 0]  # prompt and output before, without the last token


@examples(200)
@given(data=st.data())
def test_a_closed_loop_is_the_open_one_of_its_arrivals(data):
    n = data.draw(st.integers(1, 20))
    small = st.integers(1, 8)
    columns = {name: data.draw(st.lists(small, min_size=n, max_size=n)) for name in ("prompt", "output")}
    session = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    think = data.draw(st.lists(st.sampled_from([0.0, 0.25, 3.0]), min_size=n, max_size=n))
    w = ls.Workload(**columns, lower=1, upper=9, session=session, think=think)
    policy = data.draw(st.sampled_from(["fcfs", "amin", "hsf", "aell", "vllm", CACHED, "s3"]))
    clock = data.draw(st.sampled_from([None, ls.Clock(base=0.3, per_request=0.1, per_prompt_token=0.02)]))
    r = ls.simulate(w, policy, memory=24, clock=clock, seed=3, record="timeline")
    again = ls.simulate(r.workload.replace(think=None), policy, memory=24, clock=clock, seed=3, record="timeline")
    for name in ("completion", "start", "evictions"):
        assert (getattr(r, name) == getattr(again, name)).all()
    assert r.timeline == again.timeline
    assert r.idle == again.idle


@examples(100)
@given(shared=st.integers(0, 6), n=st.integers(2, 12), memory=st.integers(12, 60))
def test_prompts_that_begin_alike_take_the_cache_once(shared, n, memory):
    """A common prefix of `shared` blocks and one own: no more is in use than that once, and 2 blocks for each."""
    prompt = 4 * shared + 4
    w = ls.Workload([prompt] * n, 2).with_prefixes(ls.Prefixes([[*range(shared), 100 + i] for i in range(n)], 4))
    r = ls.simulate(w, CACHED, memory=4 * memory, block=4)
    assert r.peak_memory <= 4 * (shared + 2 * n)
    assert sorted(r.cached.tolist()) == [0] + [4 * shared] * (n - 1)


@pytest.mark.parametrize("memory", [40, 80, 400])
def test_without_common_beginnings_the_cache_changes_nothing(memory):
    rng = np.random.default_rng(3)
    w = ls.Workload(rng.integers(1, 20, 60), rng.integers(1, 20, 60), arrival=np.arange(60.0), session=np.arange(60))
    results = [ls.simulate(w, policy, memory=memory, block=4, record="timeline") for policy in ("vllm", CACHED)]
    if not results[0].total_evictions:
        assert (results[0].completion == results[1].completion).all()
        assert results[0].timeline == results[1].timeline
    assert results[1].cached.sum() == 0


def test_what_a_batch_says_of_them_is_what_simulate_says():
    w = ls.Workload([3, 9, 15, 4], 2, arrival=[0, 1, 1, 2], session=[0, 0, 0, 1], think=[0, 1, 2, 0])
    batch = ls.simulate_batch(
        [w, CHAT], [CACHED, "vllm"], memory=24, block=3, seeds=[0, 1], keep=True, percentiles=[50]
    )
    for job, result, median in zip(batch.jobs, batch.results, batch.totals["p50_latency"], strict=True):
        policy = (CACHED, "vllm")[job.policy]
        alone = ls.simulate((w, CHAT)[job.workload], policy, memory=24, block=3, seed=job.seed)
        assert result.summary() == alone.summary()
        assert result.workload == alone.workload
        assert median == np.median(alone.latency)
    assert batch.totals["total_latency"].tolist() == [result.total_latency for result in batch.results]


@pytest.mark.parametrize(
    ("workload", "policy", "error", "message"),
    [
        (ls.Workload([1], [1]), CACHED, MissingPredictionError, "needs block hashes, or sessions in their order"),
        (
            CHAT.replace(priority=0, session=0, think=0),
            "vllm-priority",
            PolicyError,
            "nobody knows when a turn arrives",
        ),
        (CHAT.replace(session=0, think=0), "fcfs, order=arrival + prompt", PolicyError, "by 'arrival' in a formula"),
        (CHAT.replace(session=0, think=0), "fcfs, evict=joined", PolicyError, "by 'joined' in a formula"),
    ],
)
def test_what_is_not_defined_is_refused(workload, policy, error, message):
    with pytest.raises(error, match=message):
        ls.simulate(workload, policy, memory=100)


@pytest.mark.parametrize("engine", ENGINES)
def test_who_waits_starts_in_the_round_that_names_its_missing_block(engine):
    """In round 2 the first turn fills its second block: the next turn lacks one less. In round 3 it takes a third."""
    w = ls.Workload([6, 1, 24], [18, 4, 1], arrival=[0, 0, 1], session=[0, 1, 0])
    r = ls.simulate(w, CACHED, memory=28, block=4, seed=None, engine=engine)
    assert r.start.tolist() == [0, 0, 2]
    assert r.cached.tolist() == [0, 0, 8]


def test_a_cache_of_too_many_blocks_is_refused():
    with pytest.raises(InputError, match="blocks of 1, more than the"):
        ls.simulate(CHAT, CACHED, memory=2**40)


def test_prefixes_need_slots_that_are_taken_as_tokens_are_processed():
    for name in ("fcfs", "amin"):
        with pytest.raises(PolicyError, match="prefixes='cached' with slots='ahead'"):
            dataclasses.replace(ls.policies[name], prefixes="cached")
    with pytest.raises(PolicyError, match="whoever drives the engine has a cache of its own"):
        ls.live.Scheduler(CACHED, memory=100)


def test_bounds_hold_where_prompts_are_shared_and_turns_wait_for_each_other():
    rng = np.random.default_rng(1)
    w = ls.Workload(rng.integers(40, 60, 30), rng.integers(1, 9, 30), session=np.repeat([0, 1, 2], 10))
    hashes = ls.Prefixes([[1, 2, 3, 4, 5]] * 30, 8)
    for workload in (w.with_prefixes(hashes), w.with_prefixes(hashes).replace(think=1.0), w.replace(think=0.0)):
        for clock in (None, ls.Clock(base=0.1, per_prompt_token=0.01)):
            compared = ls.compare(workload, [CACHED, "vllm", "fcfs"], memory=160, block=8, clock=clock)
            assert all(row.gap >= 0 for row in compared)
            assert compared[CACHED].record()["hit_share"] == compared[CACHED].result.hit_share > 0
            assert compared["fcfs"].record()["hit_share"] is None


def test_who_waits_first_is_looked_up_once_and_not_in_every_round():
    """The cache is full of a long request and of one before it: a look-up for each block, and not for each round."""
    shared, blocks = list(range(50)), 50
    prompt = 4 * blocks
    w = ls.Workload([8, *[prompt] * 20], [400, *[40] * 20], arrival=[0, *range(1, 21)])
    w = w.with_prefixes(
        ls.Prefixes([[900, 901], *[[*shared[:40], *range(100 + 10 * i, 110 + 10 * i)] for i in range(20)]], 4)
    )
    r = ls.simulate(w, CACHED, memory=420, block=4, engine="compiled")
    again = ls.simulate(w, CACHED, memory=420, block=4, engine="reference")
    assert (r.completion == again.completion).all()
    assert (r.cached == again.cached).all()
    assert r.rounds > 10 * r.work["admissions"]
    assert r.work["feasibility_tests"] < 3 * r.work["admissions"]
    assert r.work["points_scanned"] < 2 * blocks * r.work["admissions"]
