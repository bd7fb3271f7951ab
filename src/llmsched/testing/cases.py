"""Workloads to test schedulers on: the standard ones, the same for everybody, and small random ones full of edges."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import InputError, shown
from ..predict import intervals
from ..simulation.blocks import whole_blocks
from ..workloads import generate
from ..workloads.argument_checks import whole
from ..workloads.workload import Workload


@dataclasses.dataclass(frozen=True)
class Case:
    """A workload, and the machine that serves it: the fields are the arguments of `llmsched.simulate`."""

    workload: Workload
    memory: int
    clock: str | None = None
    max_batch: int | None = None
    block: int = 1
    prefill_budget: int | None = None

    def machine(self) -> dict[str, Any]:
        """All fields but the workload, as keyword arguments of `llmsched.simulate`, `compare` and `testing.run`."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "workload"}


def cases_of(workloads: object) -> dict[str, Case]:
    """The workloads that somebody gave by name. Raises InputError for what is no `Case`."""
    if not isinstance(workloads, Mapping):
        raise InputError(f"workloads is {shown(workloads)}, expected name -> Case(workload, memory=...)")
    for name, case in workloads.items():
        if not isinstance(case, Case):
            raise InputError(f"workload {name!r} is {shown(case)}, expected Case(workload, memory=...)")
    return dict(workloads)


def _standard() -> dict[str, Case]:
    buckets = intervals.buckets(100)
    chats = [generate.lmsys(300, seed=k) for k in range(4)]
    two_lengths = generate.two_point(200, 20, 400, prompt=20, seed=4)
    return {
        "at once": Case(chats[0].with_intervals(buckets), 5000),
        "nothing known": Case(chats[1].with_intervals(intervals.constant(1, 1000)), 5000),
        "two lengths": Case(two_lengths, 5000),
        "arriving": Case(generate.poisson(chats[2], 0.3, seed=2).with_intervals(intervals.realistic()), 3000),
        "on a machine": Case(
            generate.poisson(chats[3], 7, seed=3).with_intervals(buckets),
            3000,
            clock="llama2-70b-2xa100",
            block=16,
        ),
    }


#: The standard workloads, name -> `Case`. All have intervals, and points by their middle.
#:
#: - ``at once``: 300 conversations, all there at the start; intervals are buckets of 100 tokens.
#: - ``nothing known``: the same kind, every interval [1, 1000].
#: - ``two lengths``: outputs of 20 tokens, and one in five of 400, all with the interval [20, 400].
#: - ``arriving``: 300 conversations as a Poisson process that a small cache can hardly serve, with the errors of a
#:   real predictor.
#: - ``on a machine``: seconds of two A100, and blocks of 16 tokens.
STANDARD: Mapping[str, Case] = MappingProxyType(_standard())


def random_case(seed: int, *, limits: bool = False) -> Case:
    """A workload of 1 to 12 requests in a cache of up to 60 tokens, placed around the edges, the same for a seed.

    Prompts of no token, outputs of one, equal requests, requests that fill the cache alone, intervals that miss the
    truth, arrivals at the same moment and long after everybody left; some with a clock, some with blocks. With `limits`
    some have a `max_batch` or a `prefill_budget` too. All columns of a workload are there but `session`. Raises
    InputError unless seed >= 0.
    """
    draw = np.random.default_rng(whole("seed", seed, 0))
    n, memory = int(draw.integers(1, 13)), int(draw.integers(2, 61))
    prompt = np.where(draw.random(n) < 0.4, 0, draw.integers(0, memory // 2 + 1, n))
    most = memory - prompt
    output = np.minimum(draw.integers(1, memory // 2 + 2, n), most)
    kind = draw.random(n)
    output = np.where(kind < 0.15, 1, np.where(kind > 0.9, most, output))
    if draw.random() < 0.5:  # equals, for ties
        same = draw.random(n) < 0.5
        prompt, output = np.where(same, prompt[0], prompt), np.where(same, output[0], output)
    bounds = np.sort(draw.integers(1, 2 * output + 3, (2, n)), axis=0)
    exact = draw.random(n) < 0.5
    lower, upper = np.where(exact, output, bounds[0]), np.where(exact, output, bounds[1])
    grain = draw.choice([0.0, 0.25, 1.0, 7.0])
    workload = Workload(
        prompt,
        output,
        lower,
        upper,
        arrival=grain * draw.integers(0, 41, n),
        priority=draw.integers(-2, 3, n),
        deadline=draw.choice([0.0, 3.0, 1e6], n),
    )
    block = int(draw.choice([1, 1, 4]))
    clock = None if draw.random() < 0.6 else "llama2-70b-2xa100"
    most_running = int(draw.integers(1, 5)) if limits and draw.random() < 0.5 else None
    budget = int(draw.integers(1, 20)) if limits and draw.random() < 0.5 else None
    return Case(workload, whole_blocks(memory, block), clock, most_running, block, budget)
