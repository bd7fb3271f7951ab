"""transformers' continuous batching with a policy of llmsched. Runs where transformers and torch are installed."""

from __future__ import annotations

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError, PolicyError

pytest.importorskip("torch")
pytest.importorskip("transformers")

from helpers.tiny_transformers import PAGE, Stepped, manager, prompt_of, serve

# What torch and transformers warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")
BLOCKS = 8


def workload(n: int, seed: int, spread: float = 0.0) -> ls.Workload:
    rng = np.random.default_rng(seed)
    output = rng.integers(2, 50, n)
    lower = np.maximum(1, output - rng.integers(0, 40, n))
    arrival = np.sort(np.floor(rng.random(n) * spread))
    # No prediction is above max_new_tokens, here the true output.
    return ls.Workload(rng.integers(2, 60, n), output, lower, output, arrival=arrival)


def interval_of(w: ls.Workload):
    assert w.lower is not None
    assert w.upper is not None
    return lambda state: {"lower": int(w.lower[int(state.request_id)]), "upper": int(w.upper[int(state.request_id)])}


@pytest.mark.parametrize(
    ("policy", "settings"),
    [
        ("amin", {}),
        ("amin-recompute", {"max_requests_per_batch": 6}),
        ("fcfs", {"max_batch_tokens": 48}),
        ("mcsf", {"max_batch_tokens": 96, "max_requests_per_batch": 8}),
        ("amax", {"max_batch_tokens": 64}),
        ("vllm", {"max_batch_tokens": 64}),
        ("rect", {"max_batch_tokens": 64}),
        ("amin-recompute,order=upper - lower,reserve=(lower + upper) / 2", {"max_batch_tokens": 64}),
    ],
)
def test_the_schedule_of_the_engine_is_the_simulation_s(policy, settings):
    preempted = 0
    for seed, spread in ((0, 0.0), (1, 100.0)):
        w = workload(24, seed, spread)
        stepped = Stepped(manager(BLOCKS, policy=policy, predict=interval_of(w), seed=None, **settings))
        found = serve(stepped, w)
        expected = ls.simulate(
            w, stepped.scheduler.policy, memory=BLOCKS * PAGE, block=PAGE, seed=None,
            max_batch=settings.get("max_requests_per_batch", 16), prefill_budget=settings.get("max_batch_tokens", 512),
        )  # fmt: skip
        for name in ("start", "completion", "evictions"):
            assert found[name] == getattr(expected, name).tolist(), name
        assert [len(tokens) for tokens in found["outputs"]] == w.output.tolist()
        preempted += sum(found["evictions"])
    assert preempted > 0 or policy in ("amax", "mcsf")


def test_what_is_generated_does_not_depend_on_preemptions():
    w = workload(24, 0)
    tight, wide = (serve(Stepped(manager(blocks, predict=interval_of(w))), w) for blocks in (BLOCKS, 100))
    assert sum(tight["evictions"]) > 0 == sum(wide["evictions"])
    assert tight["outputs"] == wide["outputs"]


@pytest.mark.parametrize("sharing", [False, True])
@pytest.mark.parametrize("policy", ["amin-recompute", "sglang", "rect", "vllm"])
def test_nobody_is_lost_whatever_ends_early(policy, sharing):
    """Stop tokens, cancelled requests, prompts with a common beginning, wrong predictions, requests that cannot be."""
    given = [{}, {"lower": 5, "upper": 9}, {"lower": 9, "upper": 5}, {"lowr": 1}, {"point": 10**9}]
    stepped = Stepped(
        manager(
            BLOCKS, policy=policy, predict=lambda state: given[int(state.request_id) % len(given)],
            allow_block_sharing=sharing, max_batch_tokens=64,
        )
    )  # fmt: skip
    rng = np.random.default_rng(0)
    w = workload(45, 2)
    sent, ended, cancelled = 0, {}, set()
    stepped.add("999", [5] * 500, 10)
    for step in range(5000):
        while sent < len(w) and sent <= 2 * step:
            tokens = [*range(3, 60)] * (sent % 2) + prompt_of(w, sent)
            stepped.add(str(sent), tokens, int(w.output[sent]), eos_token_id=[*range(3, 7)])
            sent += 1
        if step % 7 == 3:
            there = [str(i) for i in range(sent) if str(i) not in ended and str(i) not in cancelled]
            if there:
                gone = there[int(rng.integers(len(there)))]
                stepped.manager.cancel_request(gone)
                cancelled.add(gone)
        for output in stepped.step():
            ended[output.request_id] = output
        if sent == len(w) and not stepped.scheduler.has_pending_requests():
            break
    else:
        pytest.fail("the engine does not come to an end")
    assert "the cache holds 256, it could never finish" in ended.pop("999").error
    assert {*ended} | cancelled == {str(i) for i in range(len(w))}
    assert all(output.error is None for output in ended.values())
    assert len(stepped.scheduler.core) == 0
    stepped.scheduler.cache.evict_cached_blocks()
    stepped.scheduler.cache.pool.try_to_free_sectors()
    assert stepped.scheduler.cache.compute_free_capacity() == 1.0


def test_a_request_that_waits_for_long_goes_first():
    """By the shortest first, with an endless stream of short ones, the long one would never start."""
    stepped = Stepped(manager(BLOCKS, policy="amin-recompute,order=upper", patience=0.3))
    for k in range(6):
        stepped.add(f"short{k}", [5] * 60, 4)
    stepped.add("long", [5] * 60, 90)
    k = 6
    for _ in range(4000):
        done = [output.request_id for output in stepped.step()]
        if "long" in done:
            break
        for _id in done:
            stepped.add(f"short{k}", [5] * 60, 4)
            k += 1
    else:
        pytest.fail("the long request is starved")


def test_the_engine_s_own_thread_serves_all():
    w = workload(12, 3)
    made = manager(BLOCKS, predict=interval_of(w))
    made.start()
    try:
        for i in range(len(w)):
            made.add_request(prompt_of(w, i), request_id=str(i), max_new_tokens=int(w.output[i]))
        found = {}
        while len(found) < len(w):
            output = made.get_result(timeout=60)
            assert output is not None, made.background_thread_status.fatal_error
            found[int(output.request_id)] = len(output.generated_tokens)
    finally:
        made.stop(block=True)
    assert found == dict(enumerate(w.output.tolist()))


def test_what_cannot_be_scheduled_is_refused_at_the_start():
    for options, error, message in (
        ({"policy": "hsf"}, PolicyError, "reads the true output lengths"),
        ({"policy": "amn"}, InputError, "did you mean 'amin'"),
        ({"patience": -1}, InputError, "patience is -1, expected seconds"),
    ):
        with pytest.raises(error, match=message):
            manager(BLOCKS, **options)
    with pytest.raises(InputError, match="does not work with safety_margin"):
        Stepped(manager(BLOCKS, safety_margin=0.1))
