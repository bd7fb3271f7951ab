"""KV cache from a model and a GPU: parameter counts, bytes per token, and what engines reported."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError
from llmsched.simulation import kv_cache
from llmsched.simulation.kv_cache import GIB, GPU, Model

#: Numbers in the weights, as the index of each checkpoint on Hugging Face counts them.
PARAMETERS = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
}


@pytest.mark.parametrize("name", kv_cache.models)
def test_the_shapes_give_the_published_numbers_of_parameters(name):
    assert kv_cache.models[name].parameters == PARAMETERS[name]
    assert "config.json" in kv_cache.models[name].source


@pytest.mark.parametrize(
    ("model", "gib"),  # huggingface.co/blog/llama31, "Inference Memory Requirements": 128k tokens at 16 bits
    [("llama-3.1-8b", 15.62), ("llama-3.1-70b", 39.06), ("llama-3.1-405b", 123.05 / 2)],
)
def test_bytes_per_token_are_those_of_the_llama_3_1_announcement(model, gib):
    """Its figures for 405B are those of 4 bytes a number, as readers noted there."""
    assert kv_cache.models[model].bytes_per_token() * 128_000 / GIB == pytest.approx(gib, rel=1e-3)


A100_40, A10 = GPU(39.50 * GIB), GPU(22.07 * GIB)
#: (model, GPU, count, options, tokens reported, error allowed). The reserve of logs that print it is theirs.
REPORTED = {
    "vLLM PR 2031, Llama-2-7B on an A100": ("llama-2-7b", "a100-80gb", 1, {}, 7351 * 16, 0.005),
    "vLLM log, 54.93 GiB left of 79.14": ("llama-3.1-8b", GPU(79.14 * GIB), 1, {}, int(54.93 * GIB / 2**17), 0.005),
    "vLLM PR 2031, Llama-2-70B on 4 A100, before": ("llama-2-70b", "a100-80gb", 4, {}, 31615 * 16, 0.02),
    "vLLM issue 12330": ("llama-3.1-8b", A100_40, 1, {"reserve": 9.47 * GIB}, 5691 * 16, 0.01),
    "vLLM log, A10": ("llama-3.1-8b", A10, 1, {"reserve": 0.27 * GIB}, 2356 * 16, 0.01),
    "vLLM 0.7.2 log": ("qwen2.5-1.5b", GPU(22.06 * GIB), 1, {"reserve": 1.45 * GIB}, 36332 * 16, 0.01),
    "vLLM log, T4": ("qwen2.5-1.5b", GPU(14.56 * GIB), 1, {"reserve": 2.03 * GIB, "utilization": 0.5}, 88_272, 0.01),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTED)
def test_tokens_are_what_engines_reported(name):
    model, gpu, count, options, tokens, error = REPORTED[name]
    assert kv_cache.tokens_of_cache(model, gpu, count, **options) == pytest.approx(tokens, rel=error)


def test_tokens_are_what_vllm_recorded_on_the_shared_4090(data_file):
    recorded = json.loads(data_file("engines/rtx4090_llama31_8b/meta.json").read_text())["kv_cache"]
    found = kv_cache.tokens_of_cache(
        "llama-3.1-8b", "rtx-4090", utilization=recorded["gpu_memory_utilization"], block=recorded["block_size"]
    )
    assert found == pytest.approx(recorded["num_gpu_blocks"] * recorded["block_size"], rel=0.02)


def test_where_the_default_reserve_is_far_off_the_page_says_how_far():
    """The errors that docs/how-to/size-the-cache.md owns up to."""
    wrong = {
        "8b, 40 GB": kv_cache.tokens_of_cache("llama-3.1-8b", A100_40) / (5691 * 16),
        "8b, 22 GB": kv_cache.tokens_of_cache("llama-3.1-8b", A10) / (2356 * 16),
        "70b, 4 GPUs": kv_cache.tokens_of_cache("llama-2-70b", "a100-80gb", 4) / (20865 * 16),
        "70b, 2 GPUs": kv_cache.tokens_of_cache("llama-2-70b", "a100-80gb", 2) / 16_492,
    }
    assert {name: round(100 * (share - 1)) for name, share in wrong.items()} == {
        "8b, 40 GB": 74,
        "8b, 22 GB": -21,
        "70b, 4 GPUs": 49,
        "70b, 2 GPUs": 128,
    }


def test_the_paper_s_cache_is_that_of_a_reserve_of_4_5_gib():
    assert kv_cache.tokens_of_cache("llama-2-70b", "a100-80gb", 2, reserve=4.479 * GIB, block=1) == pytest.approx(
        16_492, rel=1e-4
    )


@given(st.sampled_from(sorted(kv_cache.models)), st.sampled_from([1, 2, 4]), st.sampled_from(["bfloat16", "fp8"]))
def test_the_parts_add_up_to_the_memory(model, count, dtype):
    if kv_cache.models[model].heads % count:
        return
    there = kv_cache.room(model, GPU(1000 * GIB), count, dtype=dtype)
    assert there.weights + there.reserve + there.cache + there.unused == pytest.approx(there.memory)
    used = there.tokens * there.bytes_per_token
    assert used <= there.cache < used + 16 * there.bytes_per_token * (1 + 1e-9)
    assert f"{there.tokens:,} tokens" in str(there)


def test_kv_heads_are_repeated_on_more_gpus_than_there_are():
    eight, sixteen = (kv_cache.room("llama-3.1-70b", "h200", count) for count in (8, 16))
    assert eight.bytes_per_token == sixteen.bytes_per_token


def test_a_cache_in_fp8_holds_twice_the_tokens():
    whole, half = (kv_cache.room("llama-3.1-8b", "h100", cache_dtype=d, block=1).tokens for d in ("bfloat16", "fp8"))
    assert half in (2 * whole, 2 * whole + 1)
    for dtype in ("int4", "fp8", "float16"):  # of the weights: the cache stays at 16 bits
        assert kv_cache.room("llama-3.1-8b", "h100", dtype=dtype).bytes_per_token == 2**17


@given(st.integers(1, 3_000_000))
def test_gpus_for_are_the_fewest_and_their_utilization_is_just_enough(tokens):
    for fit in kv_cache.gpus_for(tokens, "llama-3.1-70b"):
        assert fit.tokens >= tokens
        assert fit.tokens == kv_cache.tokens_of_cache("llama-3.1-70b", fit.gpu, fit.count)
        assert 0 < fit.utilization <= 0.9
        at = kv_cache.room(
            "llama-3.1-70b", fit.gpu, fit.count, utilization=min(fit.utilization * (1 + 1e-12), 1), block=1
        )
        assert -(-tokens // 16) * 16 <= at.tokens <= -(-tokens // 16) * 16 + 1
        if fit.count > 1:
            try:
                fewer = kv_cache.tokens_of_cache("llama-3.1-70b", fit.gpu, fit.count // 2)
            except InputError:
                fewer = 0
            assert fewer < tokens


def test_gpus_for_leaves_out_what_is_never_enough_and_sorts():
    found = kv_cache.gpus_for(200_000, "llama-3.1-70b")
    assert [fit.count for fit in found] == sorted(fit.count for fit in found)
    assert "rtx-4090" not in {fit.gpu for fit in found}
    assert kv_cache.gpus_for(10**9, "llama-3.1-70b") == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kv_cache.room("llama-3-8b", "h100"), "no model 'llama-3-8b'; did you mean 'llama-3.1-8b'"),
        (lambda: kv_cache.room("llama-3.1-8b", "rtx4090"), "no GPU 'rtx4090'; did you mean 'rtx-4090'"),
        (lambda: kv_cache.room("llama-3.1-8b", "h100", 3), "32 attention heads cannot be shared by 3"),
        (lambda: kv_cache.room("llama-3.1-8b", "h100", 0), "count must be a whole number from 1"),
        (lambda: kv_cache.room("llama-3.1-8b", "h100", utilization=90), "utilization=90 must be"),
        (lambda: kv_cache.room("llama-3.1-8b", "h100", reserve=math.nan), "reserve is nan"),
        (lambda: kv_cache.room("llama-3.1-8b", "h100", dtype="fp16"), "no number format 'fp16'; did you mean 'fp8'"),
        (lambda: kv_cache.room("llama-3.1-70b", "h100"), r"no room for a cache: .*GiB are missing"),
        (lambda: kv_cache.gpus_for(100, "llama-3.1-8b", dtype="fp16"), "no number format 'fp16'"),
        (lambda: Model(0, 1, 1, 1, 1, 1), "model layers must be"),
        (lambda: GPU(-1), "memory of a GPU is -1"),
    ],
)
def test_impossible_questions_are_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_it_is_public():
    assert ls.kv_cache.tokens_of_cache is kv_cache.tokens_of_cache
