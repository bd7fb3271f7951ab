"""What the machine itself gives for two workers: two processes that share nothing, beside two threads."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Sequence
from typing import Any

import llmsched as ls

_TURNS = 12


def gains(workload: ls.Workload, policy: str, memory: int, seeds: Sequence[int]) -> dict[str, float]:
    """Seconds on one thread ("one", the median), and how many times as fast are two "threads" and two "processes".

    All take turns; of the ratios within a turn the median counts, as other work comes and goes.
    """
    context = multiprocessing.get_context("spawn")
    arguments = (workload.prompt, workload.output, workload.lower, workload.upper, policy, memory)
    pipes, processes = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=_serve, args=(theirs, arguments), daemon=True))
        processes[-1].start()
        pipes.append(ours)
    halves = [list(seeds[0::2]), list(seeds[1::2])]

    def apart() -> None:
        for pipe, half in zip(pipes, halves, strict=True):
            pipe.send(half)
        for pipe in pipes:
            pipe.recv()

    apart()  # they are there, and warm
    turns = [(_timed(run, 1), _timed(run, 2), _timed(apart)) for run in [_runner(arguments, seeds)] * _TURNS]
    for process in processes:
        process.kill()
        process.join()
    return {
        "one": statistics.median(one for one, _, _ in turns),
        "threads": statistics.median(one / two for one, two, _ in turns),
        "processes": statistics.median(one / two for one, _, two in turns),
    }


def _runner(arguments: tuple[Any, ...], seeds: Sequence[int]) -> Any:
    prompt, output, lower, upper, policy, memory = arguments
    workload = ls.Workload(prompt, output, lower, upper)
    return lambda threads: ls.simulate_batch(workload, policy, memory=memory, seeds=seeds, threads=threads)


def _serve(pipe: Any, arguments: tuple[Any, ...]) -> None:
    while True:
        _runner(arguments, pipe.recv())(1)
        pipe.send(None)


def _timed(function: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began
