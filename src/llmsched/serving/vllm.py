"""vLLM's settings as arguments of `llmsched.simulate`."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import InputError
from ..policy import policies
from ..workloads.workload import Workload

__all__ = ["as_scheduled", "settings"]


def settings(
    *,
    num_gpu_blocks: int,
    block_size: int = 16,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    watermark: float = 0.0,
    scheduling_policy: str = "fcfs",
) -> dict[str, Any]:
    """Keyword arguments for `llmsched.simulate`, from vLLM's own parameters.

    Parameters
    ----------
    num_gpu_blocks
        Blocks that requests can use.
    block_size, max_num_seqs, max_num_batched_tokens, watermark, scheduling_policy
        As vLLM has them.

    Raises InputError for a scheduling policy that vLLM does not have.
    """
    names = {"fcfs": "vllm", "priority": "vllm-priority"}
    if scheduling_policy not in names:
        raise InputError(f"scheduling_policy={scheduling_policy!r} is unknown, expected fcfs or priority")
    return {
        "policy": dataclasses.replace(policies[names[scheduling_policy]], margin=watermark),
        "memory": num_gpu_blocks * block_size,
        "block": block_size,
        "max_batch": max_num_seqs,
        "prefill_budget": max_num_batched_tokens,
    }


def as_scheduled(workload: Workload) -> Workload:
    """The requests with the slots that vLLM has for them: that of a token is taken a step after it is generated."""
    return workload.replace(prompt=(workload.prompt - 1).clip(0))
