"""simulate(): makes a problem of its arguments, has an engine solve it, wraps the Result."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Literal

from ..errors import InputError, NotFinishedError, nearest
from ..policy import Policy, named
from ..progress import with_bar
from ..workloads.workload import Workload
from . import _compiled
from .clock import Clock
from .clock import named as named_clock
from .limits import LARGEST_BOUND
from .outcome import Outcome
from .problem import Problem, problem_of
from .result import Result, of_fields

EngineName = Literal["compiled", "reference"]
#: Called now and then during a run with (requests completed, requests in all).
Progress = Callable[[int, int], None]

RECORDS = ("timeline", "tokens")


def _in_python(problem: Problem, keep: Collection[str], progress: Progress | None) -> Outcome:
    from . import readable  # when it is asked for: few ask

    return readable.run(problem, keep, progress)


ENGINES: dict[str, Callable[[Problem, Collection[str], Progress | None], Outcome]] = {
    "compiled": _compiled.run,
    "reference": _in_python,
}


@with_bar("simulating", "requests")
def simulate(
    workload: Workload,
    policy: str | Policy = "amin",
    *,
    memory: int,
    seed: int | None = 0,
    engine: EngineName = "compiled",
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    record: str | Collection[str] | None = None,
    max_rounds: int | None = None,
    progress: Progress | None = None,
) -> Result:
    """Schedule `workload` on one worker with `memory` tokens of KV cache (model.md).

    Parameters
    ----------
    workload
        The requests. A policy that reads a point prediction takes the middle of the interval, rounded up, where a
        workload has both bounds and no point.
    policy
        The name of a policy (see `llmsched.policies`) or a `Policy`. One that decides in Python is run by the readable
        engine, whatever `engine` says (docs/how-to/your-own-policy.md).
    memory
        M, tokens of cache; every prompt + output must fit.
    seed
        Breaks ties and draws random evictions: 0 <= seed < 2**64. The same seed gives the same result. None breaks ties
        by index, which lets a sorted workload tell the policy the truth.
    engine
        ``"compiled"``, or ``"reference"``: the readable one, equal in every number and far slower.
    clock
        A `Clock` or the name of one: rounds last as long as it says, and times are in seconds. None: a round lasts 1.
    max_batch
        Most requests that run at once; None: as many as fit.
    block
        Tokens in a block of cache (16 in vLLM): a request occupies whole blocks, and what `memory` has beyond
        whole blocks is of no use. 1: single tokens.
    prefill_budget
        Most tokens that a round processes, as vLLM's max_num_batched_tokens: one for each request that generates, the
        rest for prompts, which then take several rounds (chunked prefill). None: every prompt takes one round.
    record
        ``"timeline"`` keeps `Result.timeline`, ``"tokens"`` keeps `Result.tokens`; or a collection of both.
    max_rounds
        Stop with an error once so many rounds ran.
    progress
        Called a few times a second with (requests completed, requests in all).

    Raises
    ------
    PolicyError, WorkloadError, InputError
        The input cannot be simulated; the message says why (see `llmsched.errors`).
    NotFinishedError
        The policy does not finish on this input (model.md, section 6), the bound of a request would pass 2**62, random
        eviction draws nobody, or `max_rounds` is reached.
    """
    if not isinstance(workload, Workload):
        raise InputError(f"simulate needs a llmsched.Workload, not {type(workload).__name__}")
    if not isinstance(engine, str) or engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}; {nearest(str(engine), ENGINES)}")
    keep = _words(record)
    for word in keep:
        if word not in RECORDS:
            raise InputError(f"record={word!r} is unknown; {nearest(str(word), RECORDS)}")
    problem = problem_of(
        workload,
        named(policy),
        memory,
        seed,
        max_rounds,
        clock=named_clock(clock),
        max_batch=max_batch,
        block=block,
        prefill_budget=prefill_budget,
    )
    if problem.policy.methods:
        engine = "reference"
    outcome = ENGINES[engine](problem, keep, progress)
    if outcome.unfinished:
        raise not_finished(problem, outcome.rounds, outcome.unfinished)
    return result_of(workload, problem, outcome, engine)


def _words(record: Any) -> Collection[str]:
    if record is None:
        return ()
    return record if isinstance(record, Collection) and not isinstance(record, str) else (record,)


def result_of(workload: Workload, problem: Problem, outcome: Outcome, engine: str) -> Result:
    """The Result of a finished run; its arrays are made read-only."""
    for array in (outcome.completion, outcome.start, outcome.evictions, outcome.cached):
        if array is not None:
            array.setflags(write=False)
    return of_fields(
        workload=workload if outcome.arrival is None else workload.replace(arrival=outcome.arrival),
        completion=outcome.completion,
        start=outcome.start,
        evictions=outcome.evictions,
        rounds=outcome.rounds,
        peak_memory=outcome.peak_memory,
        wasted_tokens=outcome.wasted_tokens,
        policy=problem.policy,
        memory=problem.memory,
        seed=problem.seed,
        engine=engine,
        clock=problem.clock,
        max_batch=None if problem.max_batch == LARGEST_BOUND else problem.max_batch,
        block=problem.block,
        prefill_budget=None if problem.prefill_budget == LARGEST_BOUND else problem.prefill_budget,
        timeline=outcome.timeline,
        tokens=outcome.tokens,
        work=outcome.work,
        idle=outcome.idle,
        cached=outcome.cached,
    )


def not_finished(problem: Problem, rounds: int, unfinished: int) -> NotFinishedError:
    """Why a run was stopped after `rounds` rounds with so many requests unfinished."""
    name = problem.policy.name
    if rounds >= problem.max_rounds:
        why = f"max_rounds={problem.max_rounds} is reached"
    else:
        why = (
            "requests keep evicting each other, and for a hundred attempts none has completed. "
            "Keep a larger margin or more memory, or use another policy"
        )
        if problem.policy.evict == "random":
            why += " (as chance decides who leaves, it might have come to an end later)"
    return NotFinishedError(
        f"policy {name} stopped at round {rounds} with {unfinished} of {len(problem.output)} requests left: {why}",
        name,
        rounds,
        unfinished,
    )
