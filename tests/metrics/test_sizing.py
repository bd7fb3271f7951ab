"""Sizing: the answer of a machine, what holds it, and what is told before anything is simulated."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

import llmsched as ls
from llmsched import errors
from llmsched.metrics import service

MACHINE = ls.machines["llama2-70b-2xa100"].replace(block=16)
ASKED: dict[str, Any] = {"slo": {"ttft": 2.0, "tpot": 0.15}, "rate": 2.0, "replications": 4, "requests": 150}


@pytest.fixture(scope="module")
def workload() -> ls.Workload:
    return ls.generate.lmsys(300, 1)


@pytest.fixture(scope="module")
def found(workload: ls.Workload) -> ls.Sizing:
    return ls.size(workload, "vllm", machine=MACHINE, model="llama-2-70b", **ASKED)


def test_the_answer_is_that_of_the_search_with_the_machine_s_clock_and_blocks(workload, found):
    same = ls.capacity.smallest_memory(workload, "vllm", clock="llama2-70b-2xa100", block=16, **ASKED)
    assert found.capacity.record() == same.record()
    assert found.tokens % 16 == 0
    assert found.capacity.low <= found.tokens <= found.capacity.high
    assert found.share == found.tokens / 16_492


def test_more_memory_than_found_meets_the_targets_too(workload, found):
    from llmsched.workloads.random_streams import raw_stream

    for factor in (1.2, 2, 5):
        shares = []
        for own in raw_stream(0, "capacity", 4).tolist():
            drawn = ls.generate.poisson(ls.generate.resample(workload, 150, own), 2.0, own)
            memory = int(found.tokens * factor)
            result = ls.simulate(drawn, "vllm", memory=memory, clock=MACHINE.clock, block=16, seed=own, record="tokens")
            shares.append(service.metrics(result, ASKED["slo"]).goodput)
        assert sum(shares) / 4 >= 0.9


def test_the_gpus_hold_the_answer_and_the_upper_end_of_its_interval(found):
    assert found.fits
    for fits, tokens in ((found.fits, found.tokens), (found.safe_fits, found.capacity.high)):
        assert list(fits) == ls.kv_cache.gpus_for(int(tokens), "llama-2-70b", block=16)
        for fit in fits:
            assert ls.kv_cache.tokens_of_cache("llama-2-70b", fit.gpu, fit.count) >= tokens
    text = str(found)
    assert text.startswith(f"{found.tokens:,.0f} tokens of cache (95 % CI {found.capacity.low:,.0f} to ")
    assert f"{found.share:.0%} of it" in text
    assert all(str(fit) in text for fit in found.fits)
    json.dumps(found.record())


def test_one_gpu_alone_may_be_asked_about(workload):
    found = ls.size(workload, "vllm", machine=MACHINE, model="llama-2-70b", gpu="h200", **ASKED)
    assert {fit.gpu for fit in found.fits} == {"h200"}
    own = ls.size(workload, "vllm", machine=MACHINE, model="llama-2-70b", gpu=ls.kv_cache.GPU(2.0**38), **ASKED)
    assert [fit.count for fit in own.fits] == [1]


def test_where_no_cache_is_enough_it_says_so(workload):
    found = ls.size(workload, "vllm", machine=MACHINE, model="llama-2-70b", **{**ASKED, "slo": {"ttft": 1e-6}})
    assert math.isinf(found.tokens)
    assert found.fits == found.safe_fits == ()
    assert "no cache is enough on llama2-70b-2xa100" in str(found)
    assert found.record()["share"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"machine": "llama2-70b"}, "no machine 'llama2-70b'"),
        ({"model": "llama-2-7"}, "no model 'llama-2-7'; did you mean 'llama-2-7b'"),
        ({"model": "llama-2-7b", "gpu": "h10"}, "no GPU 'h10'; did you mean 'h100'"),
        ({"gpu": "h100"}, "give the model, too"),
        ({"model": "llama-2-7b", "dtype": "fp7"}, "no number format 'fp7'"),
        ({"slo": {}}, "give at least one target"),
    ],
)
def test_mistakes_are_told_before_the_first_simulation(workload, options, message):
    def never(done: int, total: int) -> None:
        raise AssertionError

    with pytest.raises(errors.InputError, match=message):
        ls.size(workload, "vllm", **{"machine": MACHINE, **ASKED, "progress": never} | options)
