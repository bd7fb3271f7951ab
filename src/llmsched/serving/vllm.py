"""vLLM's settings as arguments of `llmsched.simulate`, under which a simulation is its schedule, step for step.

    settings = ls.serving.vllm.settings(num_gpu_blocks=2587, max_num_seqs=256, max_num_batched_tokens=2048)
    result = ls.simulate(workload, **settings)

Of vLLM 0.32 with synchronous scheduling: see docs/background/systems.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from ..errors import InputError, nearest
from ..policy import policies
from ..workloads.argument_checks import whole

__all__ = ["RELEASE", "settings"]

#: The release whose scheduler the settings describe, and against which they are tested.
RELEASE = "0.32"

_POLICIES = {"fcfs": "vllm", "priority": "vllm-priority"}
#: Settings under which vLLM schedules otherwise than a simulation can -> the value that it can, and what would differ.
_FIXED = {
    "async_scheduling": (False, "a step would be scheduled before the one ahead of it has said who is done"),
    "enable_chunked_prefill": (True, "a prompt would wait until a step has room for all of it"),
}


def settings(
    *,
    num_gpu_blocks: int,
    block_size: int = 16,
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    watermark: float = 0.0,
    scheduling_policy: str = "fcfs",
    scheduler_reserve_full_isl: bool = True,
    long_prefill_token_threshold: int = 0,
    async_scheduling: bool = False,
    enable_prefix_caching: bool = False,
    enable_chunked_prefill: bool = True,
) -> dict[str, Any]:
    """Keyword arguments for `llmsched.simulate`, from vLLM's own parameters.

    The policy is among them, as ``policy``, and ``seed=None``: requests that arrive together are served in the order of
    the workload, as vLLM serves them in the order in which they came.

    Parameters
    ----------
    num_gpu_blocks
        Blocks that requests can use: one less than vLLM has, which keeps one for itself.
    block_size
        Tokens in a block.
    max_num_seqs, max_num_batched_tokens
        Most requests that run at once, and most tokens of a step. vLLM's own defaults depend on the GPU: it logs them.
    watermark
        Share of all blocks that an admission leaves free while anything runs (0 <= watermark < 1).
    scheduling_policy
        ``"fcfs"``, or ``"priority"``: then the workload needs a priority.
    scheduler_reserve_full_isl
        Whether a whole prompt must fit when its first chunk is admitted.
    long_prefill_token_threshold
        Most tokens of one prompt in a step that has other requests; 0: no limit.
    enable_prefix_caching
        Whether blocks stay in the cache for requests that begin alike; that needs block hashes or sessions.
    async_scheduling, enable_chunked_prefill
        Only the values that a simulation can express; others are refused.

    Raises
    ------
    InputError
        A number is out of range, the scheduling policy is unknown, or the setting is none that can be expressed.
    """
    given = {
        "async_scheduling": async_scheduling,
        "enable_chunked_prefill": enable_chunked_prefill,
    }
    for name, (value, why) in _FIXED.items():
        if given[name] is not value:
            raise InputError(f"{name}={given[name]!r} cannot be simulated: {why}. Expected {name}={value}")
    if scheduling_policy not in _POLICIES:
        raise InputError(f"scheduling_policy={scheduling_policy!r} is unknown; {nearest(scheduling_policy, _POLICIES)}")
    blocks = whole("num_gpu_blocks", num_gpu_blocks, 1)
    block = whole("block_size", block_size, 1)
    threshold = whole("long_prefill_token_threshold", long_prefill_token_threshold, 0, 2**30)
    policy = policies[_POLICIES[scheduling_policy]]
    return {
        "policy": dataclasses.replace(
            policy,
            margin=_margin(watermark, blocks),
            reserve="prompt" if scheduler_reserve_full_isl else "none",
            chunk=threshold or policy.chunk,
            prefixes="cached" if enable_prefix_caching else "none",
        ),
        "memory": blocks * block,
        "block": block,
        "max_batch": whole("max_num_seqs", max_num_seqs, 1),
        "prefill_budget": whole("max_num_batched_tokens", max_num_batched_tokens, 1),
        "seed": None,
    }


def _margin(watermark: float, blocks: int) -> float:
    """The share of `blocks` that keeps as many free as vLLM's watermark does, a whole number of them.

    vLLM counts its own block among all: int(watermark * num_blocks). Half a block less than that is rounded up to it.
    """
    if not isinstance(watermark, (int, float)) or isinstance(watermark, bool) or not 0 <= watermark < 1:
        raise InputError(f"watermark is {watermark!r}, expected a share of the blocks, 0 <= watermark < 1")
    kept = min(int(watermark * (blocks + 1)), blocks)
    return (kept - 0.5) / blocks if kept else 0.0


def __getattr__(name: str) -> Any:
    """`Scheduler`, for vLLM's ``--scheduler-cls llmsched.serving.vllm.Scheduler``; vllm is imported for it alone."""
    if name == "Scheduler":
        from .vllm_scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
