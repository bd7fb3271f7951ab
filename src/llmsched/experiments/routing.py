"""Route (arXiv 2607.09248): `rect` and `response` take turns, so that a constant ratio is kept on any requests.

    routed = route(workload, memory=16_492)
    routed.mean_latency, routed.stages

Requests are large (s > M/4), prompt-heavy (o <= s) or response-heavy (o > s). `rect` is within a constant of the
optimum on the first two, `response` on the third, neither on a mixture. Which a small request is shows only as it runs:
it counts as prompt-heavy until it has generated s tokens.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ..errors import InputError
from ..policy import policies
from ..progress import with_seconds
from ..simulation.problem import problem_of
from ..simulation.run import ENGINES, EngineName
from ..workloads.columns import FloatArray
from ..workloads.workload import Workload

__all__ = ["Routed", "route"]


@dataclasses.dataclass(frozen=True)
class Routed:
    """What Route came to. All requests arrive at 0, so latencies are completions.

    Attributes
    ----------
    workload
        The requests.
    completion
        When each completed (rounds), in the workload's order.
    stages
        Stages begun: the last one's turns had 2^(stages-1) rounds.
    rounds
        Rounds in all.
    """

    workload: Workload
    completion: FloatArray
    stages: int
    rounds: int

    @property
    def total_latency(self) -> float:
        """Sum of latencies (rounds)."""
        return float(self.completion.sum())

    @property
    def mean_latency(self) -> float:
        """Mean latency (rounds); NaN without requests."""
        return self.total_latency / len(self.completion) if len(self.completion) else float("nan")


@with_seconds("routing")
def route(workload: Workload, memory: int, *, seed: int | None = 0, engine: EngineName = "compiled") -> Routed:
    """Run Route on requests that are all there at 0 and whose outputs are not known (arXiv 2607.09248, Algorithm 4).

    In stage r = 0, 1, 2, ... three turns of 2^r rounds follow each other: `rect` on the small requests that may be
    prompt-heavy, `response` on those that generated as many tokens as their prompt has, `rect` on the large ones. Each
    turn begins anew: what runs at its end loses its tokens. A turn ends early when nobody is left for it, and is
    skipped where nobody is. The stages, the order of turns and when a request changes sides are the paper's as its
    summaries tell them; that turns begin anew, and end early, is our reading.

    `seed` breaks ties, as in `simulate`. `engine` as there.

    Raises
    ------
    InputError
        A request does not arrive at 0, or `memory` or `seed` is not usable.
    MemoryTooSmallError
        A request can never fit.
    """
    problem_of(workload, policies["response"], memory, seed)  # refuses what no turn could run
    if workload.arrival.any():
        raise InputError("Route is defined for requests that are all there at 0: workload.replace(arrival=0)")
    large = 4 * workload.prompt > memory
    certified = ~large & (workload.prompt == 0)  # to have o > s
    completion = np.full(len(workload), np.nan)
    now = stage = 0
    while np.isnan(completion).any():
        for branch, policy in enumerate(("rect", "response", "rect")):
            unfinished = np.isnan(completion)
            members = np.flatnonzero(unfinished & (large if branch == 2 else ~large & (certified == (branch == 1))))
            if not len(members):
                continue
            outputs = workload.output[members]
            if branch == 0:  # it is known to be response-heavy as soon as it has as many tokens as its prompt
                outputs = np.minimum(outputs, workload.prompt[members])
            turn = problem_of(
                Workload(workload.prompt[members], outputs), policies[policy], memory, seed, max_rounds=2**stage
            )
            outcome = ENGINES[engine](turn, (), None)
            through = ~np.isnan(outcome.completion)
            done = through & (outputs == workload.output[members])
            completion[members[done]] = now + outcome.completion[done]
            certified[members[through & ~done]] = True
            now += outcome.rounds
        stage += 1
    return Routed(workload, completion, stage, now)
