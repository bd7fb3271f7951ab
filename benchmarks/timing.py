"""Timing on machines that others use too: the sides of a comparison take turns, and the fastest of many counts."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Name = TypeVar("Name")

_LEAST_TURNS = 5
_MOST_REPEATS = 50


def alternating(
    functions: Mapping[Name, Callable[[], Any]], seconds: float = 1.0, clock: Callable[[], float] = time.thread_time
) -> dict[Name, float]:
    """The least time of each function, in seconds, from turns of all of them for about `seconds` in all.

    In a turn each runs about as long as the slowest (at most 50 times), and there are at least 5 turns. `clock` is by
    default the processor time of the calling thread, which leaves out the times when others had the processor.
    """

    def timed(function: Callable[[], Any]) -> float:
        began = clock()
        function()
        return clock() - began

    for function in functions.values():  # the first call may import modules: it says nothing of those that follow
        function()
    once = {name: timed(function) for name, function in functions.items()}
    longest = max(once.values())
    repeats = {name: max(1, min(_MOST_REPEATS, int(longest / max(t, 1e-9)))) for name, t in once.items()}
    best = once
    began, turns = time.perf_counter(), 0
    collected = gc.isenabled()
    gc.disable()
    try:
        while turns < _LEAST_TURNS or time.perf_counter() - began < seconds:
            for name, function in functions.items():
                best[name] = min([best[name], *(timed(function) for _ in range(repeats[name]))])
            turns += 1
    finally:
        if collected:
            gc.enable()
    return best
