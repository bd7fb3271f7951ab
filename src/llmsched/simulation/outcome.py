"""Outcome: what an engine hands back, before it becomes a Result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..workloads.columns import FloatArray, IntArray
from .timeline import Timeline
from .token_log import Tokens


class Outcome(NamedTuple):
    """The raw outcome of one run; attributes as in `Result`."""

    completion: FloatArray
    start: FloatArray
    evictions: IntArray
    rounds: int
    peak_memory: int
    wasted_tokens: int
    unfinished: int  # requests left when the run was stopped; 0 for a run that finished
    timeline: Timeline | None
    tokens: Tokens | None
    work: Mapping[str, int]
    idle: float  # time in which no round ran, before the last request completed
    arrival: FloatArray | None = None  # when requests arrived, where think times decided
    cached: IntArray | None = None  # with prefixes="cached": tokens that were in the cache at the first admission
