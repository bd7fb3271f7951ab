"""A real vLLM with a tiny Llama of random weights, in this process, a step at a time. Needs vllm; no network."""

from __future__ import annotations

import copy
import json
import os
import time
from pathlib import Path
from typing import Any

import llmsched as ls

BLOCK = 32
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64, "intermediate_size": 64,
    "num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 1, "vocab_size": 128,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "float32",
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip


def engine(folder: Path, blocks: int, **settings: Any) -> Any:
    """An engine whose requests can use so many blocks of cache, with vLLM's own scheduler. It takes some 20 seconds."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}  # the model is that small
    from vllm import EngineArgs, LLMEngine

    (folder / "config.json").write_text(json.dumps(MODEL))
    chosen: dict[str, Any] = {
        "model": str(folder),
        "skip_tokenizer_init": True,
        "load_format": "dummy",
        "dtype": "float32",
        "enforce_eager": True,
        "gpu_memory_utilization": 0.2,
        "block_size": BLOCK,
        "max_model_len": BLOCK * min(blocks, 32),
        "num_gpu_blocks_override": blocks + 1,  # one is vLLM's own
        "enable_prefix_caching": True,
        "async_scheduling": False,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 512,
        "scheduling_policy": "priority",
        "disable_log_stats": True,
    }
    return LLMEngine.from_engine_args(EngineArgs(**(chosen | settings)))


def schedule_by(engine: Any, llmsched: dict[str, Any], *, prefix_caching: bool = False, **settings: Any) -> Any:
    """Puts our scheduler into an idle engine, as it would have been made with other settings; returns it.

    `settings` are fields of vLLM's SchedulerConfig.
    """
    from llmsched.serving.vllm_scheduler import Scheduler

    core = engine.engine_core.engine_core
    old = core.scheduler
    config = copy.copy(old.vllm_config)
    config.additional_config = {"llmsched": llmsched}
    config.scheduler_config = copy.copy(config.scheduler_config)
    for name, value in settings.items():
        setattr(config.scheduler_config, name, value)
    config.cache_config = copy.copy(config.cache_config)
    config.cache_config.enable_prefix_caching = prefix_caching
    core.scheduler = Scheduler(
        vllm_config=config,
        kv_cache_config=old.kv_cache_config,
        structured_output_manager=old.structured_output_manager,
        block_size=old.block_size,
        hash_block_size=old.hash_block_size,
    )
    return core.scheduler


def close(engine: Any) -> None:
    """So that another can be made in this process."""
    import gc

    from vllm.distributed import cleanup_dist_env_and_memory

    engine.engine_core.shutdown()
    del engine
    gc.collect()
    cleanup_dist_env_and_memory()


def scheduler_of(engine: Any) -> Any:
    return engine.engine_core.engine_core.scheduler


def prompt_of(workload: ls.Workload, i: int) -> list[int]:
    return [3 + (i * 7 + k) % 120 for k in range(int(workload.prompt[i]))]


def serve(
    engine: Any, workload: ls.Workload, most_steps: int = 20_000, told: list[dict[str, Any]] | None = None
) -> dict[str, list[int]]:
    """Sends each request before the step of its arrival; the steps in which each started and completed, preemptions.

    With ``lower``, ``upper`` and ``point`` they are sent too, or what is `told` of each; max_tokens is the true output.
    """
    from vllm import SamplingParams

    n = len(workload)
    scheduler = scheduler_of(engine)
    start, completion, preemptions, lengths = [-1] * n, [-1] * n, [0] * n, [0] * n
    to_come = sorted(range(n), key=lambda i: (workload.arrival[i], i), reverse=True)
    requests: dict[int, Any] = {}
    step, began = 0, time.time()
    while to_come or engine.has_unfinished_requests():
        assert step < most_steps, "the engine does not come to an end"
        while to_come and workload.arrival[to_come[-1]] <= step:
            i = to_come.pop()
            names = ("lower", "upper", "point")
            given = {name: int(getattr(workload, name)[i]) for name in names if getattr(workload, name) is not None}
            given = given if told is None else told[i]
            parameters = SamplingParams(
                max_tokens=int(workload.output[i]), ignore_eos=True, temperature=0.0, detokenize=False,
                extra_args={"llmsched": given},
            )  # fmt: skip
            priority = 0 if workload.priority is None else int(workload.priority[i])
            before = {*scheduler.requests}
            when = began + 1e-6 * float(workload.arrival[i])
            engine.add_request(
                str(i), {"prompt_token_ids": prompt_of(workload, i)}, parameters, priority=priority, arrival_time=when
            )
            (name,) = {*scheduler.requests} - before
            requests[i] = scheduler.requests[name]
        finished = [int(output.request_id.split("-")[0]) for output in engine.step() if output.finished]
        check(scheduler)
        for i, request in requests.items():
            if start[i] < 0 and (request.num_computed_tokens > 0 or i in finished):
                start[i] = step
        step += 1
        for i in finished:
            completion[i] = step
            preemptions[i] = requests[i].num_preemptions
            lengths[i] = requests[i].num_output_tokens
            del requests[i]
    return {"start": start, "completion": completion, "evictions": preemptions, "output": lengths}


def check(scheduler: Any) -> None:
    """What must hold after every step: nobody is lost, and the policy does not think of less cache than is taken."""
    running = {r.request_id for r in scheduler.running}
    waiting = {r.request_id for r in scheduler.waiting}
    assert not running & waiting
    assert {*scheduler.requests} == running | waiting
    if hasattr(scheduler, "core"):
        assert scheduler.core.running + scheduler.core.waiting == len(scheduler.core)
        assert {*scheduler.requests} <= {id for id in scheduler.requests if id in scheduler.core}
