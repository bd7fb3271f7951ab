"""vLLM with a policy of llmsched: the schedule of a simulation, and nothing lost. Runs where vllm is installed."""

from __future__ import annotations

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError

pytest.importorskip("vllm")

from helpers.tiny_vllm import BLOCK, check, close, engine, prompt_of, schedule_by, serve

# What vLLM and torch warn of is theirs.
pytestmark = pytest.mark.filterwarnings("default")
BLOCKS = 8
MACHINE = {"max_num_active_seqs": 16, "max_num_scheduled_tokens": 512}


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory):
    made = engine(tmp_path_factory.mktemp("model"), BLOCKS)
    yield made
    close(made)


@pytest.fixture(scope="module")
def asynchronous(tmp_path_factory):
    made = engine(tmp_path_factory.mktemp("model"), BLOCKS, async_scheduling=True)
    yield made
    close(made)


def workload(n: int, seed: int, spread: float = 0.0, prompt: int = 60, output: int = 50) -> ls.Workload:
    rng = np.random.default_rng(seed)
    outputs = rng.integers(2, output, n)
    lower = np.maximum(1, outputs - rng.integers(0, 40, n))
    return ls.Workload(
        rng.integers(2, prompt, n), outputs, lower, outputs + rng.integers(0, 40, n),
        arrival=np.sort(np.floor(rng.random(n) * spread)), priority=rng.integers(0, 3, n),
    )  # fmt: skip


def seen(w: ls.Workload) -> ls.Workload:
    """As the scheduler sees the predictions: none is above max_tokens, here the true output."""
    w = w.replace(upper=np.minimum(w.upper, w.output), lower=np.minimum(w.lower, w.output))
    return w.replace(point=w.lower + (w.upper - w.lower + 1) // 2)


EXACT = {
    "amin": {},
    "amin-recompute": {"max_num_seqs": 6},
    "fcfs": {"max_num_batched_tokens": 48},
    "mcsf": {"max_num_batched_tokens": 96, "max_num_seqs": 8},
    "amax": {"max_num_batched_tokens": 64},
    "aell": {},
    "vllm": {"max_num_batched_tokens": 64},
    "vllm-priority": {"max_num_batched_tokens": 64},
    "sglang": {"max_num_batched_tokens": 64},
    "s3": {},
    "rect": {"max_num_batched_tokens": 64},
    "past-future": {},
    "amin-recompute,order=upper - lower,reserve=(lower + upper) / 2": {"max_num_batched_tokens": 64},
}


@pytest.mark.parametrize("policy", EXACT)
def test_the_schedule_of_the_engine_is_the_simulation_s(policy, synchronous):
    machine = {"max_num_seqs": 16, "max_num_batched_tokens": 512} | EXACT[policy]
    options = {"max_batch": machine["max_num_seqs"], "prefill_budget": machine["max_num_batched_tokens"]}
    preempted = 0
    # Arrivals are sent in millionths of a second: where a policy compares them with the time, all come at once.
    for seed, spread in ((0, 0.0), (1, 0.0 if policy == "sglang" else 100.0)):
        scheduler = schedule_by(
            synchronous, {"policy": policy, "seed": None},
            max_num_active_seqs=machine["max_num_seqs"], max_num_scheduled_tokens=machine["max_num_batched_tokens"],
        )  # fmt: skip
        w = workload(24, seed, spread)
        found = serve(synchronous, w)
        assert found["output"] == w.output.tolist()
        expected = ls.simulate(
            seen(w), scheduler.core.policy, memory=BLOCKS * BLOCK, block=BLOCK, seed=None, **options
        )  # fmt: skip
        for name in ("start", "completion", "evictions"):
            assert found[name] == getattr(expected, name).tolist(), name
        preempted += sum(found["evictions"])
    assert preempted > 0 or policy in ("amax", "mcsf", "s3", "sglang")


def test_a_predictor_file_says_the_intervals(synchronous, tmp_path):
    """The schedule is that of a simulation with what the file predicts from the features that requests bring."""
    predict = pytest.importorskip("llmsched.predict", reason="needs the extra predict")
    pytest.importorskip("sklearn")
    pytest.importorskip("skops")
    rng = np.random.default_rng(0)
    table = {"prompt_tokens": rng.integers(2, 60, 600), "kind": rng.integers(0, 3, 600)}
    known = rng.poisson(4 + 18 * table["kind"]) + 1
    predictor = predict.IntervalRegressor(0.8, features=predict.RequestFeatures(["prompt_tokens", "kind"]))
    predict.save(predictor.fit(table, known), tmp_path / "lengths.model")

    n = 24
    kind = rng.integers(0, 3, n)
    w = ls.Workload(rng.integers(2, 60, n), rng.poisson(4 + 18 * kind) + 1)
    lower, upper = predictor.predict_interval({"prompt_tokens": w.prompt, "kind": kind})
    assert len({*zip(lower.tolist(), upper.tolist(), strict=True)}) > 5
    options = {"policy": "amin-recompute,order=upper", "seed": None, "predictor": str(tmp_path / "lengths.model")}
    schedule_by(synchronous, options, **MACHINE)
    found = serve(synchronous, w, told=[{"features": {"kind": int(k)}} for k in kind])
    expected = ls.simulate(
        seen(w.replace(lower=lower, upper=upper)), "amin-recompute,order=upper", memory=BLOCKS * BLOCK, block=BLOCK,
        seed=None, max_batch=16, prefill_budget=512,
    )  # fmt: skip
    for name in ("start", "completion", "evictions"):
        assert found[name] == getattr(expected, name).tolist(), name
    assert found["completion"] != serve_by_max_tokens(synchronous, w, options)
    assert sum(found["evictions"]) > 0


HOSTILE = [
    "[" * 100_000, "{" * 100_000, '{"lower": 1, "lower": 2}', "null", 3, [1], {"lower": float("nan")}, {"lower": "5"},
    '{"upper": 1' + "0" * 400 + "}", '{"point": 1' + "0" * 5000 + "}", {"lower": {"a": 1}}, {"deadline": "soon"},
    {"deadline": float("inf")}, {"point": -1}, {"features": [1]}, {"features": "x"}, {"features": None},
    {"features": {"kind": []}}, {"features": {"kind": {}}}, {"features": {"kind": "a", "prompt_tokens": None}},
    {"features": {"kind": 2**63}}, {"features": {"kind": 1e308}},
]  # fmt: skip


@pytest.mark.parametrize("predicts", [False, True])
def test_nothing_that_a_client_sends_ends_the_engine(predicts, synchronous, tmp_path):
    from vllm import SamplingParams

    options = {"policy": "vllm-priority"}
    if predicts:
        predict = pytest.importorskip("llmsched.predict", reason="needs the extra predict")
        pytest.importorskip("skops")
        table = {"prompt_tokens": np.arange(200) % 60, "kind": np.arange(200) % 3}
        predictor = predict.IntervalRegressor(0.8, features=predict.RequestFeatures(["prompt_tokens", "kind"]))
        predict.save(predictor.fit(table, 1 + np.arange(200) % 40), tmp_path / "lengths.model")
        options = {"policy": "amin-recompute", "predictor": str(tmp_path / "lengths.model")}
    schedule_by(synchronous, options, **MACHINE)
    for i, given in enumerate(HOSTILE):
        parameters = SamplingParams(
            max_tokens=5, ignore_eos=True, temperature=0.0, detokenize=False, extra_args={"llmsched": given}
        )
        priority = [0, 2**40, -(2**40)][i % 3]
        synchronous.add_request(str(i), {"prompt_token_ids": [3, 4, 5]}, parameters, priority=priority)
    tokens = {}
    while synchronous.has_unfinished_requests():
        tokens |= {o.request_id: len(o.outputs[0].token_ids) for o in synchronous.step() if o.finished}
    assert tokens == {str(i): 5 for i in range(len(HOSTILE))}


def test_a_request_with_streamed_input_fails_and_no_other(synchronous):
    from vllm.v1.engine import EngineCoreRequest, FinishReason

    scheduler = schedule_by(synchronous, {"policy": "amin-recompute"}, **MACHINE)
    core = synchronous.engine_core.engine_core
    from vllm import SamplingParams

    for id, streamed in (("a", False), ("b", True), ("b", True), ("c", False)):
        asked = EngineCoreRequest(
            request_id=id, prompt_token_ids=[3, 4, 5], mm_features=None, arrival_time=0.0, lora_request=None,
            cache_salt=None, data_parallel_rank=None, resumable=streamed, pooling_params=None,
            sampling_params=SamplingParams(max_tokens=4, ignore_eos=True, temperature=0.0),
        )  # fmt: skip
        core.add_request(core.preprocess_add_request(asked)[0])
    ended = {}
    while scheduler.has_requests():
        for outputs in (core.step_fn()[0] or {}).values():
            ended |= {o.request_id: o.finish_reason for o in outputs.outputs if o.finish_reason is not None}
        check(scheduler)
    assert ended == {"a": FinishReason.LENGTH, "b": FinishReason.ERROR, "c": FinishReason.LENGTH}
    assert len(scheduler.core) == 0


def serve_by_max_tokens(engine, w, options):
    """When requests complete whose features are missing: they are scheduled by their max_tokens."""
    schedule_by(engine, options, **MACHINE)
    return serve(engine, w, told=[{"features": {"knid": 1}}] * len(w))["completion"]


# Where the engine says what became of a step: everything else that vLLM does ------------------------------------------

LOOSE = [
    ("asynchronous", {}),
    ("asynchronous", {"prefix_caching": True, "max_num_scheduled_tokens": 64}),
    ("synchronous", {"prefix_caching": True, "max_num_scheduled_tokens": 48, "max_num_active_seqs": 6}),
    ("synchronous", {"max_num_scheduled_tokens": 64}),
]


@pytest.mark.parametrize(("kind", "settings"), LOOSE, ids=str)
@pytest.mark.parametrize("policy", ["amin-recompute", "sglang", "rect"])
def test_nobody_is_lost_whatever_ends_early(policy, kind, settings, request):
    """Stop tokens, aborted requests, prompts with a common beginning, wrong predictions."""
    serve_what_ends_early(request.getfixturevalue(kind), policy, settings)


LIVE = [name for name, policy in ls.policies.items() if not policy.clairvoyant and "lengths" not in policy.needs]


@pytest.mark.parametrize("policy", LIVE)
def test_under_no_policy_is_anybody_lost(policy, asynchronous):
    """As vLLM runs by default: steps that overlap, prefixes that are shared, prompts in chunks; and priorities."""
    serve_what_ends_early(asynchronous, policy, {"prefix_caching": True, "max_num_scheduled_tokens": 64})


def serve_what_ends_early(vllm, policy, settings):
    """Serves requests of which some stop, some are aborted, some are predicted wrongly; checks that all come to an end,
    with all their tokens, and that the cache is free then."""
    from vllm import SamplingParams

    scheduler = schedule_by(vllm, {"policy": policy}, **settings)
    rng = np.random.default_rng(0)
    w = workload(45, 2, prompt=90)
    sent, finished, aborted = 0, {}, set()
    for step in range(5000):
        while sent < len(w) and sent <= 2 * step:
            given = [{}, {"lower": 5, "upper": 9}, {"lower": 9, "upper": 5}, {"lowr": 1}, "{", {"point": 10**9}][
                sent % 6
            ]
            parameters = SamplingParams(
                max_tokens=int(w.output[sent]), temperature=1.0, detokenize=False,
                stop_token_ids=[*range(3, 7)], extra_args={"llmsched": given},
            )  # fmt: skip
            tokens = [*range(3, 60)] * (sent % 2) + prompt_of(w, sent)
            vllm.add_request(str(sent), {"prompt_token_ids": tokens}, parameters, priority=sent % 3)
            sent += 1
        if step % 7 == 3:
            there = [str(i) for i in range(sent) if str(i) not in finished and str(i) not in aborted]
            if there:
                gone = there[int(rng.integers(len(there)))]
                vllm.abort_request([gone])
                aborted.add(gone)
        for output in vllm.step():
            if output.finished:
                finished[output.request_id] = output.outputs[0]
        assert scheduler.kv_cache_manager.usage <= 1.0
        assert scheduler.core.need <= scheduler.core.memory + BLOCK * scheduler.core.running  # before it decides again
        assert {r.request_id for r in scheduler.running} <= {id for id in scheduler.requests if id in scheduler.core}
        if sent == len(w) and not vllm.has_unfinished_requests():
            break
    else:
        pytest.fail("the engine does not come to an end")
    assert {*finished} | aborted == {str(i) for i in range(len(w))}
    assert any(output.finish_reason == "stop" for output in finished.values())
    for id, output in finished.items():
        if id not in aborted and output.finish_reason == "length":
            assert len(output.token_ids) == w.output[int(id)]
    assert len(scheduler.core) == 0 or not scheduler.requests
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == BLOCKS


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("policy", ["amin", "amin-recompute", "vllm", "sglang", "rect"])
def test_aborts_at_random_lose_nobody(policy, seed, asynchronous):
    """Whoever waits, runs or has just come, in bursts, some twice; once all of them, as if the server were killed."""
    from vllm import SamplingParams

    scheduler = schedule_by(asynchronous, {"policy": policy}, prefix_caching=True, max_num_scheduled_tokens=64)
    rng = np.random.default_rng(seed)
    w = workload(60, seed, prompt=90)
    sent, there, aborted, finished = 0, set(), set(), {}
    again = 0  # how often the server was killed

    def send(i):
        parameters = SamplingParams(max_tokens=int(w.output[i]), temperature=1.0, ignore_eos=True, detokenize=False)
        prompt = {"prompt_token_ids": [*range(3, 60)] * (i % 2) + prompt_of(w, i)}
        asynchronous.add_request(f"{i}.{again}", prompt, parameters, priority=i % 3)
        there.add(f"{i}.{again}")

    def abort(names):
        asynchronous.abort_request(names)
        there.difference_update(names)

    for step in range(5000):
        while sent < len(w) and sent <= 2 * step:
            send(sent)
            sent += 1
        if rng.random() < 0.2 and there:
            names = sorted(there)
            gone = {names[k] for k in rng.integers(0, len(names), int(rng.integers(1, 6)))}
            abort([*gone, *gone][: len(gone) + 1])
            aborted |= {name.split(".")[0] for name in gone}
        if step in (20, 45):  # all go, and who had not completed is sent anew
            left = sorted(there)
            abort(left)
            again += 1
            for name in left:
                send(int(name.split(".")[0]))
        for output in asynchronous.step():
            if output.finished and output.request_id in there:
                there.remove(output.request_id)
                id = output.request_id.split(".")[0]
                assert id not in finished
                finished[id] = output.outputs[0]
        check(scheduler)
        assert scheduler.kv_cache_manager.usage <= 1.0
        assert scheduler.core.need <= scheduler.core.memory + BLOCK * scheduler.core.running
        if sent == len(w) and not asynchronous.has_unfinished_requests():
            break
    else:
        pytest.fail("the engine does not come to an end")
    assert not there
    assert not {*finished} & aborted
    assert {*finished} | aborted == {str(i) for i in range(len(w))}
    assert all(len(output.token_ids) == w.output[int(id)] for id, output in finished.items())
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == BLOCKS


def test_a_request_that_waits_for_long_goes_first(synchronous):
    """By the shortest first, with an endless stream of short ones, the long one would never start."""
    from vllm import SamplingParams

    vllm = synchronous
    schedule_by(vllm, {"policy": "amin-recompute,order=upper", "patience": 0.5})

    def send(name, tokens):
        parameters = SamplingParams(max_tokens=tokens, ignore_eos=True, detokenize=False)
        vllm.add_request(name, {"prompt_token_ids": [5] * 60}, parameters)

    for k in range(6):
        send(f"short{k}", 4)
    send("long", 90)
    k = 6
    for _ in range(4000):
        done = [output.request_id for output in vllm.step() if output.finished]
        if "long" in done:
            break
        for _id in done:
            send(f"short{k}", 4)
            k += 1
    else:
        pytest.fail("the long request is starved")


@pytest.mark.parametrize(
    ("llmsched", "settings", "message"),
    [
        ({"policy": "hsf"}, {}, "reads the true output lengths"),
        ({"policy": "amn"}, {}, "did you mean 'amin'"),
        ({"polcy": "amin"}, {}, "has no key 'polcy'; did you mean 'policy'"),
        ({"patience": -1}, {}, "patience is -1, expected seconds"),
        ({"policy": "conditional"}, {}, "needs a table of lengths"),
        ({}, {"watermark": 0.01}, "does not work with watermark"),
    ],
    ids=str,
)
def test_what_cannot_be_scheduled_is_refused_at_the_start(llmsched, settings, message, synchronous):
    with pytest.raises(InputError, match=message):
        schedule_by(synchronous, llmsched, **settings)
