"""vLLM: its scheduler with our policies. Nothing imports vllm until the scheduler is asked for."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """`Scheduler`, for vLLM's ``--scheduler-cls llmsched.serving.vllm.Scheduler``."""
    if name == "Scheduler":
        from .vllm_scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
