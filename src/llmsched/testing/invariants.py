"""check(): does a scheduler keep the rules? On the standard workloads and on random ones, each run several times."""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import SchedulerError
from ..simulation.blocks import down_to_blocks
from ..workloads.argument_checks import whole
from ..workloads.columns import IntArray
from .cases import STANDARD, Case, cases_of, random_case
from .drive import Decided, Driven, Resume, Scheduler, driven, label_of, not_finished

#: Stirs hashes and the order in which objects are made, in the second run of each workload.
_SALT = 0x5BD1E995

_BY_CHANCE = (
    "Nothing but chance had changed: do not read the global random generators, id(), or the order of a set; break "
    "ties by request.rank. If the scheduler remembers something from round to round, give its class, so that each run "
    "begins with a new object"
)
_BY_THE_FUTURE = (
    "Nothing but outputs of requests that had not completed in round {cut} had changed: the scheduler knows the "
    "future. Let it read predictions, or say truth=True if that is meant"
)


@dataclasses.dataclass(frozen=True)
class Checked:
    """What `check` looked at, and found nothing wrong with.

    Attributes
    ----------
    scheduler
        Its name.
    workloads, runs, rounds
        How many there were.
    invariants
        What held in all of them.
    """

    scheduler: str
    workloads: int
    runs: int
    rounds: int
    invariants: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Checked({self.scheduler}: {', '.join(self.invariants)} hold in {self.runs:,} runs of "
            f"{self.workloads:,} workloads, {self.rounds:,} rounds)"
        )


def check(
    decide: Scheduler,
    *,
    workloads: Mapping[str, Case] = STANDARD,
    random_workloads: int = 100,
    seed: int = 0,
    limits: bool = False,
    resume: Resume = "restart",
    truth: bool = False,
) -> Checked:
    """Hold a scheduler to the rules of the model, on `workloads` and on random ones; raises where it breaks one.

    - **memory**: no round needs more than there is, and no limit of the machine is broken;
    - **membership**: only those that wait are admitted, only those that run are evicted;
    - **completion**: every request completes, however often it is evicted;
    - **determinism**: a second run decides the same, although the global generators of `random` and NumPy stand
      elsewhere, and the requests are other objects with other hashes, made in another order;
    - **no future knowledge**: with other outputs for those that have not completed by some round, all decisions up to
      that round are the same. (What a function took from elsewhere, a workload that it knows by heart, cannot be seen.)

    Parameters
    ----------
    decide
        As for `run`.
    workloads
        Name -> `Case`.
    random_workloads
        How many of `random_case` there are beside them.
    seed
        Of the first of these; the next has the next seed.
    limits
        Whether the scheduler keeps `State.max_batch` and `State.prefill_budget`: some random workloads have them then.
    resume
        As for `run`.
    truth
        Whether requests show their true output. Then there is nothing to be said of future knowledge.

    Raises
    ------
    SchedulerError
        Says the workload, the round, the request, what was wrong and what to do. What the function itself raises comes
        with a note of workload and round.
    InputError
        An argument is impossible.
    """
    first, count = whole("seed", seed, 0), whole("random_workloads", random_workloads, 0)
    drawn = {f"random_case({k})": random_case(k, limits=limits) for k in range(first, first + count)}
    cases = cases_of(workloads) | drawn
    runs = rounds = 0
    for name, case in cases.items():
        with _named(name):
            for engine in _checked_runs(decide, case, {"resume": resume, "truth": truth}):
                runs += 1
                rounds += engine.round
    held = ("memory", "membership", "completion", "determinism", "no future knowledge")
    return Checked(label_of(decide), len(cases), runs, rounds, held[: 4 if truth else 5])


@contextlib.contextmanager
def _named(case: str) -> Iterator[None]:
    """Whatever goes wrong is said of this workload."""
    try:
        yield
    except SchedulerError as error:
        raise SchedulerError(f"workload {case!r}, {error}", error.round, error.request) from None
    except Exception as error:
        error.add_note(f"on the workload {case!r}")
        raise


def _checked_runs(decide: Scheduler, case: Case, options: dict[str, Any]) -> Iterator[Driven]:
    """All runs of one workload, checked."""
    engine = driven(decide, case.workload, **case.machine(), **options)
    while engine.goes_on():
        engine.run_round()
    if engine.unfinished:
        stuck = next(r.index for r in engine.requests if r.completion is None)
        raise SchedulerError(str(not_finished(engine, label_of(decide))), engine.round, stuck)
    yield engine
    # Decisions before these rounds are taken again without knowing what comes after; the first has seen nothing.
    cuts = sorted({0, engine.round // 3, 2 * engine.round // 3}) if len(case.workload) and not options["truth"] else []
    with _other_generators():
        again = driven(decide, case.workload, **case.machine(), **options, salt=_SALT)
        outputs = {}
        while again.goes_on():
            if again.round in cuts:
                outputs[again.round] = _other_outputs(again, case)
            again.run_round()
            _same(engine.decided, again.decided, _BY_CHANCE)
        yield again
    for cut, output in outputs.items():
        changed = driven(decide, case.workload.replace(output=output), **case.machine(), **options)
        while changed.round <= cut:
            changed.run_round()
            _same(engine.decided, changed.decided, _BY_THE_FUTURE.format(cut=cut))
        yield changed


@contextlib.contextmanager
def _other_generators() -> Iterator[None]:
    """The global generators stand elsewhere for a while."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  the global one is the point
    random.seed(_SALT)
    np.random.seed(_SALT)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _other_outputs(engine: Driven, case: Case) -> IntArray:
    """Outputs that nobody can tell from the true ones before the coming round has run.

    Of those that have not completed, one half has a token more than they ever had, the others fill the cache.
    """
    output = case.workload.output.copy()
    memory = down_to_blocks(case.memory, case.block)
    for r in engine.requests:
        if r.completion is None:
            short = (r.index + engine.round) % 2 == 0
            output[r.index] = r.known + 1 if short else memory - r.prompt
    return output


def _same(first: list[Decided], second: list[Decided], why: str) -> None:
    """Whether the last decision is that of the first run."""
    new = second[-1]
    old = first[new.round] if new.round < len(first) else Decided(new.round, (), ())
    if old == new:
        return
    apart = set(old.admit).symmetric_difference(new.admit) | set(old.evict).symmetric_difference(new.evict)
    request = min(apart or {*old.admit, *old.evict})
    raise SchedulerError(
        f"round {new.round}: the scheduler {_in_words(old)}, and in another run {_in_words(new)} (look at request "
        f"{request}). {why}",
        new.round,
        request,
    )


def _in_words(decided: Decided) -> str:
    parts = [f"{what} {', '.join(map(str, who))}" for what, who in (("evicted", decided.evict),) if who]
    parts += [f"admitted {', '.join(map(str, decided.admit))}"] if decided.admit else []
    return " and ".join(parts) or "changed nothing"
