"""Schedules of a real vLLM, as tests/serving/record.py writes them, against what a simulation makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

import llmsched as ls

#: What of the engine's line `ls.serving.vllm.settings` is told.
SETTINGS = (
    "num_gpu_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "watermark", "scheduling_policy",
    "scheduler_reserve_full_isl", "long_prefill_token_threshold", "async_scheduling", "enable_prefix_caching",
    "enable_chunked_prefill",
)  # fmt: skip


def workload_of(schedule: dict[str, Any]) -> ls.Workload:
    """Its requests, which arrive in steps."""
    names = ("prompt", "output", "arrival", "priority", "session", "think")
    workload = ls.Workload(**{name: schedule[name] for name in names if name in schedule})
    if "hash_ids" in schedule:
        workload = workload.with_prefixes(ls.Prefixes(schedule["hash_ids"], schedule["hash_block"]))
    return workload


def differences(schedule: dict[str, Any], engine: str = "compiled") -> list[str]:
    """In what the simulation of the same requests differs, in words; nothing if it is the same step for step."""
    settings = ls.serving.vllm.settings(**{name: schedule["engine"][name] for name in SETTINGS})
    result = ls.simulate(workload_of(schedule), **settings, engine=engine, record=("timeline", "tokens"))
    rounds = result.timeline.expand()
    prefilled = np.bincount(result.tokens.chunk_round, result.tokens.chunk_tokens, result.rounds)
    simulated = {
        "first_step": result.start,
        "last_step": result.completion - 1,
        "preemptions": result.evictions,
        "step": rounds["time"],
        "batch": rounds["batch"],
        "prefilled": prefilled,
        "preempted": rounds["evictions"],
        "waiting": rounds["waiting"],
        "arrived": result.workload.arrival,
        "cached": np.zeros(len(result)) if result.cached is None else result.cached,
    }
    found = []
    for name, values in simulated.items():
        if name not in schedule:
            continue
        measured = np.array(schedule[name], dtype=float)
        if len(measured) != len(values):
            found.append(f"{name}: {len(measured)} recorded, {len(values)} simulated")
        elif (measured != values).any():
            at = int(np.argmax(measured != values))
            found.append(f"{name}[{at}]: {measured[at]:g} recorded, {values[at]:g} simulated")
    return found
