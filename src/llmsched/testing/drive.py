"""run(): drives a scheduler of somebody's own round by round, by the rules of model.md.

The round itself (arrivals, prefill, tokens, clock, recording) is that of the readable engine; who leaves and who starts
is what the scheduler decides, and every decision is checked.
"""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, NamedTuple

from ..errors import InputError, NotFinishedError, SchedulerError, number_of, shown
from ..metrics.foreign_result import ForeignResult
from ..policy import Policy
from ..simulation.clock import Clock
from ..simulation.clock import named as named_clock
from ..simulation.limits import LARGEST_BOUND, STALL_FACTOR, STALL_START
from ..simulation.live import Decision
from ..simulation.problem import Problem, problem_of
from ..simulation.reference import ReferenceEngine
from ..simulation.reference import Request as Served
from ..simulation.run import result_of
from ..workloads.midpoints import with_midpoints
from ..workloads.workload import Workload, refuse_think_times
from .state import OPTIONAL, Looks, Request, Requests, State

__all__ = ["Decide", "Decision", "Scheduler", "label_of", "run"]

Resume = Literal["restart", "recompute", "swap"]
#: What is asked before each round.
Decide = Callable[[State], Decision]
#: That, or a class: then each run has an object of its own, which is called.
Scheduler = Decide | type[Any]


class Decided(NamedTuple):
    """What was decided before one round, by index."""

    round: int
    admit: tuple[int, ...]
    evict: tuple[int, ...]


class Driven(ReferenceEngine):
    """The readable engine, with the decisions of section 3 (caps, overflow, admission) taken by a function."""

    def __init__(
        self,
        problem: Problem,
        record: Collection[str],
        workload: Workload,
        decide: Decide,
        *,
        truth: bool = False,
        salt: int = 0,
    ) -> None:
        super().__init__(problem, record)
        self.workload = workload
        self.function, self.looks, self.decided = decide, Looks(), list[Decided]()
        self.inside: set[int] = set()
        bounded = not (workload.lower is None or workload.upper is None)
        seen = with_midpoints(workload) if workload.point is None and bounded else workload
        columns = {name: getattr(seen, name) for name in (*OPTIONAL, *(["output"] if truth else []))}
        known = {name: column.tolist() for name, column in columns.items() if column is not None}
        made = {
            r.index: Request(r, {name: values[r.index] for name, values in known.items()}, problem.block, salt)
            for r in (reversed(self.requests) if salt else self.requests)
        }
        self.views = [made[i] for i in range(self.n)]
        limits = (problem.max_batch, problem.prefill_budget)
        self.max_batch, self.prefill_budget = (None if limit == LARGEST_BOUND else limit for limit in limits)
        prefill = problem.memory // problem.prefill_budget + 1
        self.stall_limit = STALL_START + STALL_FACTOR * (workload.extent.output + prefill)

    def run_round(self) -> None:
        self.evictions_this_round = self.prefilled = self.swapped = self.admitted_this_round = 0
        self.arrivals()
        self.waiting.sort(key=lambda r: (r.joined, r.rank))
        decision = self.ask()
        evict, admit = self.indices(decision.evict, "evict"), self.indices(decision.admit, "admit")
        for i in evict:
            self.evict(i)
        for i in admit:
            self.start(i)
        self.decided.append(Decided(self.round, admit, evict))
        self.check_batch(admit)
        self.generation()

    def goes_on(self) -> bool:
        """Whether there is a round to run."""
        return self.unfinished > 0 and self.round < self.problem.max_rounds and not self.stalled()

    def stalled(self) -> bool:
        """For a hundred times the longest output nobody completed, arrived, or left with more tokens than ever."""
        return self.round - self.last_change >= self.stall_limit

    # The decision ----------------------------------------------------------------------------------------------------

    def ask(self) -> Decision:
        state = State(
            self.round,
            self.now,
            self.problem.memory,
            Requests(self.waiting, self.views, self.looks),
            Requests(self.running, self.views, self.looks),
            self.need(),
            self.problem.block,
            self.max_batch,
            self.prefill_budget,
        )
        try:
            decision = self.function(state)
        except Exception as error:
            error.add_note(f"the scheduler was asked before round {self.round}, at {self.now:.6g}")
            raise
        if not isinstance(decision, Decision):
            raise self.wrong(f"the scheduler returned {shown(decision)}", "return Decision(admit=(...), evict=(...))")
        if decision.process:
            raise self.wrong(
                "the decision says what to process, which is for slots='processed' alone",
                "leave it away: every request that runs generates a token",
            )
        return decision

    def indices(self, named: Iterable[Any], what: str) -> tuple[int, ...]:
        """The requests of a decision by index, each of them there and named once."""
        found: dict[int, None] = {}
        remedy = f"{what} takes requests of the state, or their index"
        if isinstance(named, str) or not isinstance(named, Iterable):
            raise self.wrong(f"{what} is {shown(named)}", f"{what} takes a tuple: {remedy}")
        for one in named:
            i = -1
            with contextlib.suppress(TypeError):
                i = one.index if isinstance(one, Request) else operator.index(one)
            if isinstance(one, bool) or not 0 <= i < self.n:
                raise self.wrong(f"{what} names {shown(one)}, which is no request", remedy)
            if i in found:
                raise self.wrong(f"{what} names request {i} twice", "name it once", i)
            found[i] = None
        return tuple(found)

    def evict(self, i: int) -> None:
        if i not in self.inside:
            raise self.wrong(
                f"request {i} is to be evicted, but it {self.standing(i)}", "evict only those in state.running", i
            )
        r = self.requests[i]
        self.leave(r, "none")
        self.waiting.append(r)
        if r.known > self.views[i].reached:
            object.__setattr__(self.views[i], "_reached", r.known)
            self.changed()

    def start(self, i: int) -> None:
        r = self.requests[i]
        if r not in self.waiting:
            raise self.wrong(
                f"request {i} is to be admitted, but it {self.standing(i)}", "admit only those in state.waiting", i
            )
        if self.max_batch is not None and len(self.running) >= self.max_batch:
            raise self.wrong(
                f"request {i} is to be admitted, but {len(self.running)} run, and max_batch is {self.max_batch}",
                "admit nobody while len(state.running) is that much",
                i,
            )
        if self.prefill_budget is not None:
            left = sum(max(other.to_prefill, 1) for other in self.running)
            if left >= self.prefill_budget:
                raise self.wrong(
                    f"request {i} is to be admitted, but those that run have {left} tokens to process in this round, "
                    f"and prefill_budget is {self.prefill_budget}",
                    "admit only while the sum of max(to_prefill, 1) is less than the budget",
                    i,
                )
        self.waiting.remove(r)
        self.admit(r)

    def check_batch(self, admitted: tuple[int, ...]) -> None:
        """The coming round has to fit, and to serve somebody."""
        need, memory = self.need(), self.problem.memory
        if need > memory:
            before = need - sum(self.views[i].tokens for i in admitted)
            for i in admitted:
                before += self.views[i].tokens
                if before > memory:
                    raise self.wrong(
                        f"with request {i}, which takes {self.views[i].tokens} tokens of cache, the round needs "
                        f"{before}, and memory is {memory}",
                        "admit a request only if request.tokens still fits beside state.need",
                        i,
                    )
            raise self.wrong(
                f"the {number_of(len(self.running), 'request')} that run need {need} tokens of cache in this round, "
                f"and memory is {memory}",
                "evict until state.need, less the tokens of those that leave, is no more than state.memory",
            )
        if not self.running:
            first = self.waiting[0].index
            raise self.wrong(
                f"nobody runs and {number_of(len(self.waiting), 'request')} wait, request {first} the longest, but "
                "nobody is admitted: it would stay so for ever",
                "admit somebody: any request fits an empty cache",
                first,
            )

    def standing(self, i: int) -> str:
        r = self.requests[i]
        if i in self.inside:
            return "runs"
        if r.completion is not None:
            return f"completed at {r.completion:.6g}"
        return "waits" if r.arrival <= self.now else f"arrives at {r.arrival:.6g}"

    def wrong(self, what: str, remedy: str, request: int | None = None) -> SchedulerError:
        return SchedulerError(f"round {self.round}: {what}. {remedy[:1].upper()}{remedy[1:]}", self.round, request)

    # Who is inside ---------------------------------------------------------------------------------------------------

    def admit(self, r: Served) -> None:
        super().admit(r)
        self.inside.add(r.index)

    def stop_running(self, r: Served) -> None:
        super().stop_running(r)
        self.inside.remove(r.index)

    # ---------------------------------------------------------------------------------------------------------------

    def work(self) -> dict[str, int]:
        """What it cost, in steps that depend on no machine."""
        return {
            "decisions": len(self.decided),
            "requests_looked_at": self.looks.count,
            "admissions": self.admissions,
            "evictions": sum(r.evictions for r in self.requests),
        }


def run(
    decide: Scheduler,
    workload: Workload,
    *,
    memory: int,
    seed: int | None = 0,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    resume: Resume = "restart",
    truth: bool = False,
    record: str | Collection[str] = (),
    max_rounds: int | None = None,
    label: str | None = None,
) -> ForeignResult:
    """Schedule `workload` by `decide`, which is asked before every round, by the rules of docs/background/model.md.

    A round is: requests arrive; `decide` is given a `State` and returns a `Decision`; those it evicts leave and those
    it admits start, in its order; everybody who runs generates a token. One that decides as a named policy does gives
    the result of `llmsched.simulate`, to the last bit. The readable engine runs it: every round costs a call, and
    a pass over the batch.

    Parameters
    ----------
    decide
        A function (Python or Cython) from `State` to `Decision`, or a class whose objects can be called so: each run
        makes its own, with no argument, so that nothing is left of the run before.
    workload, memory, clock, max_batch, block, prefill_budget, max_rounds
        As for `llmsched.simulate`.
    seed
        Of `Request.rank`, which breaks ties as in `simulate`: 0 <= seed < 2**64; None: by index.
    resume
        What an eviction costs: ``"restart"`` all tokens, ``"recompute"`` the cache alone, ``"swap"`` a move of the
        cache out and in (`llmsched.Policy`).
    truth
        Whether requests show their true `output`.
    record
        ``"timeline"``, ``"tokens"`` or both, as for `simulate`.
    label
        What the result is called; by default the name of the function or class.

    Returns
    -------
    ForeignResult
        A `llmsched.Result` of which everything is known. `Result.work` counts ``decisions`` (how often it was asked),
        ``requests_looked_at`` (requests taken from the state's sequences), ``admissions`` and ``evictions``.

    Raises
    ------
    SchedulerError
        The scheduler decided what cannot be: says the round, the request, what was wrong and what to do.
    NotFinishedError
        Requests evict each other without end, or `max_rounds` is reached.
    WorkloadError, InputError
        The input cannot be simulated by any scheduler, or the workload has think times.
    """
    engine = driven(
        decide,
        workload,
        memory=memory,
        seed=seed,
        clock=clock,
        max_batch=max_batch,
        block=block,
        prefill_budget=prefill_budget,
        resume=resume,
        truth=truth,
        record=(record,) if isinstance(record, str) else record,
        max_rounds=max_rounds,
    )
    while engine.goes_on():
        engine.run_round()
    return finished(engine, label_of(decide) if label is None else label)


def driven(
    decide: Scheduler,
    workload: Workload,
    *,
    memory: int,
    seed: int | None = 0,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    resume: Resume = "restart",
    truth: bool = False,
    record: Collection[str] = (),
    max_rounds: int | None = None,
    salt: int = 0,
) -> Driven:
    """The engine of `run` before its first round. `salt` stirs what no scheduler may depend on."""
    refuse_think_times(workload, "a scheduler of one's own")
    policy = Policy(order="arrival", reserve="none", evict="newest", refine="none", resume=resume)
    problem = problem_of(
        workload,
        policy,
        memory,
        seed,
        max_rounds,
        clock=named_clock(clock),
        max_batch=max_batch,
        block=block,
        prefill_budget=prefill_budget,
    )
    if isinstance(decide, str) or not callable(decide):
        raise InputError(
            f"the scheduler is {shown(decide)}, expected a function from a state to a Decision, or a class of such "
            "objects (llmsched.simulate runs a policy)"
        )
    function = decide() if isinstance(decide, type) else decide
    return Driven(problem, record, workload, function, truth=truth, salt=salt)


def finished(engine: Driven, label: str) -> ForeignResult:
    """The result of a run that came to its end; NotFinishedError of one that did not."""
    if engine.unfinished:
        raise not_finished(engine, label)
    result = result_of(engine.workload, engine.problem, engine.outcome()._replace(work=engine.work()), "readable")
    return ForeignResult(**vars(result), label=label)


def not_finished(engine: Driven, label: str) -> NotFinishedError:
    """Why it was stopped."""
    left = [r for r in engine.requests if r.completion is None]
    if engine.stalled():
        why = (
            f"nobody has completed, arrived, or left with more tokens than ever since round {engine.last_change}. "
            f"Request {left[0].index} was evicted {number_of(left[0].evictions, 'time')}: let who is far on stay"
        )
    else:
        why = f"max_rounds={engine.problem.max_rounds} is reached"
    return NotFinishedError(
        f"{label} stopped at round {engine.round} with {len(left)} of {engine.n} requests left: {why}",
        label,
        engine.round,
        len(left),
    )


def label_of(decide: Scheduler) -> str:
    """What tables call it: the name of the function or class, or of the object's class."""
    return str(getattr(decide, "__name__", None) or type(decide).__name__)
