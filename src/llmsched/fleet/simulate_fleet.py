"""simulate_fleet(): requests, a router, replicas; each replica is simulated exactly as `simulate` would."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from .._logging import logger
from ..errors import InputError, MemoryTooSmallError, NotFinishedError, PolicyError, WorkloadError, nearest, number_of
from ..policy import Policy
from ..progress import with_bar
from ..simulation.blocks import down_to_blocks, whole_blocks
from ..simulation.clock import Clock
from ..simulation.limits import LARGEST_BOUND, STALL_FACTOR, STALL_START
from ..simulation.outcome import Outcome as RunOutcome
from ..simulation.problem import Problem, problem_of
from ..simulation.result import Result
from ..simulation.run import ENGINES, RECORDS, EngineName, Progress, simulate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.block_names import common_block, prefixes_of_sessions
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload, turns_before
from ._fleet import Fleet, Stopped
from .failures import Life, Sendings, joined, lives_of, refuse, until_death
from .levels import Levels
from .replica import Replica, machines_of, replicas_of
from .result import OF_A_RESULT, FleetResult, Outcome
from .router import Router
from .router import named as named_router
from .views import class_bounds, classes_of, request_columns, work_of

_log = logger(__name__)


@with_bar("simulating", "requests")
def simulate_fleet(
    workload: Workload,
    policy: str | Policy = "amin",
    *,
    replicas: int | Sequence[Replica],
    router: str | Router = "least-requests",
    memory: int | None = None,
    seed: int | None = 0,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    engine: EngineName = "compiled",
    record: str | Collection[str] | None = None,
    max_rounds: int | None = None,
    progress: Progress | None = None,
) -> FleetResult:
    """Schedule `workload` on replicas behind a router (docs/background/fleets.md).

    Each replica does what `simulate` does with the requests that it takes, to the last bit: ``result.replicas``.

    Parameters
    ----------
    workload
        The requests; for a central queue in order of arrival.
    policy, memory, clock, max_batch, block, prefill_budget
        Of each replica, as in `simulate`; a `Replica` may have its own.
    replicas
        How many, or a `Replica` for each.
    router
        The name of a router (see `llmsched.routers`), a name with other fields (``"least-work,work=upper"``), or a
        `Router`.
    seed
        For what the router draws: 0 <= seed < 2**64. Replicas draw nothing; of equals the request that comes first in
        the workload is first. One replica alone is `simulate` with this seed. None: of equal replicas the first.
    engine
        ``"compiled"``, or ``"reference"``: the readable one, which simulates replicas anew for every request.
    record
        ``"timeline"``, ``"tokens"``, or both: kept in the results of the replicas.
    max_rounds
        Stop with an error once a replica ran so many rounds.
    progress
        Called a few times a second with (requests completed, requests in all).

    Raises
    ------
    PolicyError, WorkloadError, InputError
        The input cannot be simulated; the message says why: no replicas, a request that fits none of them, a router
        that needs a column which is not there.
    NotFinishedError
        A replica does not finish, or `max_rounds` is reached. One that fails has to finish, too, what it had.
    """
    if not isinstance(workload, Workload):
        raise InputError(f"simulate_fleet needs a llmsched.Workload, not {type(workload).__name__}")
    if engine not in ENGINES:
        raise InputError(f"there is no engine {engine!r}; {nearest(str(engine), ENGINES)}")
    chosen = named_router(router)
    keep = _words(record)
    machines = machines_of(
        replicas, policy=policy, memory=memory, clock=clock, max_batch=max_batch, block=block,
        prefill_budget=prefill_budget,
    )  # fmt: skip
    if seed is not None:
        seed = whole("seed", seed, 0, LARGEST_SEED)
    check_columns(workload, chosen)
    workload = _with_names(workload, machines)
    lives = lives_of(replicas_of(replicas))
    _log.debug("%d requests to %d replicas behind %s, %s engine", len(workload), len(machines), chosen.name, engine)
    if any(life.until < math.inf for life in lives):
        _refuse_closed(workload, machines, "replicas that fail")
        return _with_failures(workload, machines, lives, chosen, seed, keep, max_rounds, engine, progress)
    if len(machines) == 1:
        return _alone(workload, machines[0], chosen, seed, keep, max_rounds, progress, engine)
    run = Run(machines, chosen, seed, keep, max_rounds, workload)
    closed = workload.think is not None
    order = None if closed else in_order_of_arrival(workload)
    _refuse_numbered(machines, order, closed)
    if closed and chosen.delay:
        raise InputError(f"router {chosen.name} has a delay: with think times it has to see replicas as they are")
    if chosen.rule == "central":
        _refuse_closed(workload, machines, "a central queue")
        if order is not None:
            raise WorkloadError(
                "a central queue wants requests in order of arrival: "
                "workload.take(numpy.argsort(workload.arrival, kind='stable'))"
            )
    if engine == "reference":
        return _readable(workload, run, seed, keep)
    n = len(workload)
    completion, start, evictions = np.empty(n), np.empty(n), np.zeros(n, np.int64)
    replica = np.zeros(n, np.int32)
    cached = np.zeros(n, np.int64) if _caches(machines) else None
    if n:
        run.fleet.keep_into(completion, start, evictions, cached)
        if closed:
            workload = run.take_turns(workload, replica, progress)
        else:
            run.take(workload if order is None else workload.take(order), replica, order)
            run.send(n, progress)
        run.finish(progress, n)
    if order is not None:
        completion, start, evictions, replica = (_back(a, order) for a in (completion, start, evictions, replica))
        cached = None if cached is None else _back(cached, order)
    outcomes = run.outcomes(replica.astype(np.int64), order)
    return _result(workload, completion, start, evictions, replica.astype(np.int64), chosen, seed, outcomes, cached)


def _words(record: Any) -> Collection[str]:
    keep = () if record is None else record
    keep = keep if isinstance(keep, Collection) and not isinstance(keep, str) else (keep,)
    for word in keep:
        if word not in RECORDS:
            raise InputError(f"record={word!r} is unknown; {nearest(str(word), RECORDS)}")
    return keep


def check_columns(workload: Workload, router: Router) -> None:
    """Raises WorkloadError where the router reads a column that is not there."""
    for column in router.needs:
        both = workload.lower is not None and workload.upper is not None
        if getattr(workload, column) is None and not (column == "point" and both):
            raise WorkloadError(
                f"router {router.name} reads the column {column!r}, which the workload does not have: add it with "
                f"workload.replace({column}=...)"
                + (
                    ""
                    if column in ("session", "priority", "deadline")
                    else ", or workload.with_intervals(intervals.buckets(100))"
                )
            )


def in_order_of_arrival(workload: Workload) -> IntArray | None:
    """Requests in the order in which they arrive, of equals the first in the workload; None if they are already."""
    if len(workload) < 2 or bool((workload.arrival[1:] >= workload.arrival[:-1]).all()):
        return None
    return np.argsort(workload.arrival, kind="stable")


def _caches(machines: Sequence[dict[str, Any]]) -> bool:
    """Whether prefixes stay in the cache of a replica."""
    return any(machine["policy"].prefixes == "cached" for machine in machines)


def _refuse_closed(workload: Workload, machines: Sequence[dict[str, Any]], what: str) -> None:
    """Raises for think times and cached prefixes where a request does not stay with whom it was sent to as it came."""
    if workload.think is not None:
        raise InputError(f"think times are not for {what}: drop the column think, or choose another router")
    if _caches(machines):
        raise PolicyError(
            f"cached prefixes are not for {what}: choose another router, or a policy with prefixes='none'"
        )


def _with_names(workload: Workload, machines: Sequence[dict[str, Any]]) -> Workload:
    """The workload, whose sessions say by hashes which prompts begin alike: so do those of a replica, too, then."""
    if not _caches(machines) or workload.prefixes is not None or workload.session is None:
        return workload
    return workload.with_prefixes(prefixes_of_sessions(workload, common_block(m["block"] for m in machines)))


def _refuse_numbered(machines: Sequence[dict[str, Any]], order: IntArray | None, closed: bool) -> None:
    """A policy that draws by a request's place in the workload needs to know it when it comes."""
    for machine in machines:
        policy = machine["policy"]
        if closed and (policy.shed == "lottery" or policy.reserve == "history"):
            raise WorkloadError(
                f"policy {policy.name} draws by the place of a request in the workload, and with think times nobody "
                "knows it when the request comes to a replica: workload.replace(think=None), or one machine"
            )
        if order is not None and (policy.shed == "lottery" or policy.reserve == "history"):
            raise WorkloadError(
                f"policy {policy.name} draws by the place of a request in the workload: put the requests in order of "
                "arrival, workload.take(numpy.argsort(workload.arrival, kind='stable'))"
            )


def _back(array: np.ndarray[Any, Any], order: IntArray) -> np.ndarray[Any, Any]:
    """The array that was `array[order]`."""
    original = np.empty_like(array)
    original[order] = array
    return original


class Run:
    """The compiled fleet, with what it is made of: kinds of replicas, their problems, and errors in words."""

    def __init__(
        self,
        machines: Sequence[dict[str, Any]],
        router: Router,
        seed: int | None,
        record: Collection[str],
        max_rounds: int | None,
        workload: Workload,
        endless: bool = False,
        lives: Sequence[Life] = (),
        groups: list[list[int]] | None = None,
    ) -> None:
        self.lives = lives  # with failures, of the machines, whose workload is of sendings
        self.endless = endless  # more requests will come than those of `workload`
        self.levels = [Levels() for _ in range(len(machines) if endless else 0)]
        self.router, self.max_rounds = router, max_rounds
        kinds: dict[Any, int] = {}
        self.kind_of = [kinds.setdefault(_key(machine), len(kinds)) for machine in machines]
        self.machines = list(machines)
        self.kinds = [machines[self.kind_of.index(k)] for k in range(len(kinds))]
        for kind in self.kinds:
            _refuse(kind["policy"])
        if router.rule == "central":
            _refuse_central(self.kinds)
        self.largest = max(whole_blocks_down(kind) for kind in self.kinds)
        self.first = workload
        self.problems = self._problems(workload)
        nobody = self._problems(workload.take(slice(0, 0)))
        for problem, whole_one in zip(nobody, self.problems, strict=True):
            problem.may_cycle = whole_one.may_cycle
            problem.stall_limit = whole_one.stall_limit
            if endless and problem.stall_limit < LARGEST_BOUND:  # an output is as long as fits
                problem.stall_limit = STALL_START + STALL_FACTOR * 5 * problem.memory
        self.groups = _groups(len(machines), router.classes) if groups is None else groups
        self.bounds: IntArray | None = None  # between the classes of requests, from the first that came
        self.session_of: dict[int, int] = {}
        self.fleet = Fleet(
            nobody,
            self.kind_of,
            router,
            seed,
            max(kind["memory"] for kind in self.kinds) if endless else max(workload.extent.output, 1),
            list(record),
            [_speed(machine) for machine in machines],
            self.groups,
            [(life.since, life.until) for life in lives or [Life(k) for k in range(len(machines))]],
        )

    def take(
        self, workload: Workload, replica: Any, order: IntArray | None = None, arrival: FloatArray | None = None
    ) -> None:
        """The next requests, in order of arrival. `order` has their places in the user's workload, for ties.

        With think times `arrival` is where it will stand when they arrived, and their order does not matter.
        """
        self.check_fits(workload, order)
        problems = self.problems if workload is self.first else self._problems(workload)
        if self.endless:
            self._level(workload, problems)
        router = self.router
        classes = None
        if router.classes > 1:
            if self.bounds is None:
                self.bounds = class_bounds(workload, router, [len(group) for group in self.groups])
            classes = classes_of(workload, router, self.bounds)
        session = self._sessions(workload) if router.sessions else None
        columns = request_columns(workload, router)
        if arrival is not None and "arrival" in columns:
            columns["arrival"] = arrival
        self.fleet.take(
            problems,
            np.ascontiguousarray(workload.arrival) if arrival is None else arrival,
            work_of(workload, router),
            replica,
            order,
            classes,
            session,
            len(self.session_of),
            columns,
            all(workload.extent.request <= problem.memory for problem in problems)
            and self._blocks_fit(workload)
            and not self.lives,
            not self.endless,
        )

    def take_turns(self, workload: Workload, replica: Any, progress: Progress | None) -> Workload:
        """All requests of a workload with think times. It, with the times at which they arrived."""
        arrival = workload.arrival.copy()
        for problem in self.problems:
            problem.arrival = arrival
        self.take(workload, replica, arrival=arrival)
        assert workload.think is not None
        before, n = turns_before(workload), len(workload)
        after = np.full(n, -1, np.int64)
        after[before[before >= 0]] = np.flatnonzero(before >= 0)
        self.fleet.close_loop(before, after, np.ascontiguousarray(workload.think), arrival)
        with self._naming_replicas():
            while not self.fleet.send_turns(n):
                if progress is not None:
                    progress(self.fleet.completed_requests, n)
        return workload.replace(arrival=arrival)

    def send(self, upto: int, progress: Progress | None = None) -> None:
        """Send the requests up to this id. Raises NotFinishedError."""
        with self._naming_replicas():
            while not self.fleet.send(upto):
                if progress is not None:
                    progress(self.fleet.completed_requests, upto)

    def finish(self, progress: Progress | None, n: int) -> None:
        """Run until all have completed. Raises NotFinishedError."""
        with self._naming_replicas():
            while not self.fleet.finish():
                if progress is not None:
                    progress(self.fleet.completed_requests, n)

    def outcomes(self, replica: IntArray, order: IntArray | None) -> list[Outcome]:
        """What each replica did; logs name requests by their place among those that it took."""
        outcomes = []
        place = None
        for k, machine in enumerate(self.machines):
            values = self.fleet.outcome(k)
            if values["tokens"] is not None:
                place = _places(replica) if place is None else place
                values["tokens"] = _renamed(values["tokens"], place, order)
            values["busy"] = values.pop("end") - values["idle"]
            problem = self.problems[self.kind_of[k]]
            outcomes.append(
                Outcome(
                    policy=machine["policy"],
                    memory=problem.memory,
                    clock=machine["clock"],
                    max_batch=machine["max_batch"],
                    block=machine["block"],
                    prefill_budget=machine["prefill_budget"],
                    **values,
                )
            )
        return outcomes

    def _problems(self, workload: Workload) -> list[Problem]:
        problems = []
        for kind in self.kinds:
            options = {name: kind[name] for name in ("clock", "max_batch", "block", "prefill_budget")}
            problem = problem_of(
                workload, kind["policy"], kind["memory"], None, self.max_rounds, **options, may_not_fit=True
            )
            problems.append(problem)
        return problems

    def _level(self, workload: Workload, problems: Sequence[Problem]) -> None:
        """Places by priority that hold beyond this chunk."""
        for problem, levels in zip(problems, self.levels, strict=False):
            if problem.levels is not None or problem.policy.order == "priority":
                level = levels.of(workload)
                problem.levels = None if problem.levels is None else level
                problem.keys = level if problem.policy.order == "priority" else problem.keys

    def _sessions(self, workload: Workload) -> IntArray:
        """The session of each request, numbered as they first came."""
        assert workload.session is not None  # `check_columns`
        names, place = np.unique(workload.session, return_inverse=True)
        known = self.session_of
        numbers = np.array([known.setdefault(name, len(known)) for name in names.tolist()], np.int64)
        return numbers[place]

    def _blocks_fit(self, workload: Workload) -> bool:
        return all(
            whole_blocks(workload.extent.request, kind["block"]) <= whole_blocks_down(kind) for kind in self.kinds
        )

    def check_fits(self, workload: Workload, order: IntArray | None = None) -> None:
        """Raises MemoryTooSmallError if a request fits no replica. `order` has their places in the user's workload."""
        size = workload.prompt + workload.output
        fits = np.zeros(len(workload), bool)
        needed = 0
        for kind in self.kinds:
            tokens = whole_blocks(size, kind["block"])
            fits |= tokens <= whole_blocks_down(kind)
        if not fits.all():
            lacking = np.flatnonzero(~fits)
            i = int(lacking[0] if order is None else lacking[order[lacking].argmin()])
            at = i if order is None else int(order[i])
            needed = int(min(whole_blocks(int(size.max()), kind["block"]) for kind in self.kinds))
            raise MemoryTooSmallError(
                f"request {at} needs prompt {workload.prompt[i]} + output {workload.output[i]} = {size[i]} tokens of "
                f"cache, and no replica has more than {self.largest}: it can never finish. A replica with "
                f"memory={needed} is enough for every request",
                at,
                needed,
            )

    @contextlib.contextmanager
    def _naming_replicas(self) -> Iterator[None]:
        """Errors of a run that does not finish say on which replica."""
        try:
            yield
        except Stopped as stopped:
            raise self._not_finished(stopped.args[0]) from None
        except NotFinishedError as error:
            raise error.on_replica(self._replica(self.fleet.failed)) from None

    def _replica(self, k: int) -> int:
        return self.lives[k].replica if self.lives else k

    def _not_finished(self, k: int) -> NotFinishedError:
        rounds, unfinished = self.fleet.unfinished(k)
        name, replica = self.machines[k]["policy"].name, self._replica(k)
        limit = self.problems[self.kind_of[k]].max_rounds
        why = (
            f"max_rounds={limit} is reached"
            if rounds >= limit
            else "its requests keep evicting each other, and none has completed for a long time. Keep a larger margin "
            "or more memory, or use another policy"
        )
        return NotFinishedError(
            f"policy {name} on replica {replica} stopped at round {rounds} with {unfinished} of its requests left: "
            f"{why}",
            name,
            rounds,
            unfinished,
        )


def _refuse(policy: Policy) -> None:
    """Raises PolicyError for a policy that a fleet cannot run."""
    if policy.methods:
        raise PolicyError(f"policy {policy.name} decides in Python; a fleet runs policies of fields and formulas")
    if not isinstance(policy.order, str):
        raise PolicyError(
            f"policy {policy.name} orders by one number for each request of a workload; a fleet orders by words and "
            "formulas, which may read a column: priority, say"
        )


#: What a formula may not read of a request that waits in a central queue: it depends on when a replica takes it.
_OF_A_REPLICA = ("arrival", "joined", "now")


def _refuse_central(kinds: Sequence[dict[str, Any]]) -> None:
    """Raises PolicyError for policies whose requests cannot wait in one queue for whoever admits them first."""
    policy = kinds[0]["policy"]
    why = ""
    if any(kind["policy"] != policy for kind in kinds):
        why = "it has one order of requests, and the replicas differ in policy"
    elif policy.fill != "break":
        why = f"only its first request is offered, and policy {policy.name} has fill={policy.fill!r}"
    elif policy.shed == "lottery" or policy.reserve == "history":
        why = f"policy {policy.name} draws by the place of a request among those of its replica"
    elif policy.evict == "priority":
        why = f"policy {policy.name} has evict='priority', which ranks by arrivals that replicas do not know"
    elif policy.slots == "processed" and policy.chunk < Policy.chunk:
        why = f"policy {policy.name} has chunk={policy.chunk}, which is not for whom nobody waits beside it"
    for place, formula in policy.formulas.items():
        read = [name for name in formula.reads if name in _OF_A_REPLICA]
        if place == "order" and len({kind["memory"] for kind in kinds}) > 1 and "memory" in formula.reads:
            read.append("memory")
        if read:
            why = f"the formula of {place} reads {read[0]}, which depends on the replica that takes a request"
    if why:
        raise PolicyError(f"router central-queue: {why}. Choose another router or policy")


def whole_blocks_down(kind: dict[str, Any]) -> int:
    """Tokens of its cache in whole blocks."""
    return down_to_blocks(whole("memory", kind["memory"], 1), whole("block", kind["block"], 1))


def _key(machine: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(machine[name] for name in ("policy", "memory", "clock", "max_batch", "block", "prefill_budget"))


def _speed(machine: dict[str, Any]) -> float:
    clock = machine["clock"]
    return 1.0 if clock is None else 1.0 / (clock.base + clock.per_request)


def _groups(replicas: int, classes: int) -> list[list[int]]:
    if classes > replicas:
        raise InputError(f"the router has {classes} classes of requests for {replicas} replicas: one each at least")
    bounds = [replicas * k // classes for k in range(classes + 1)]
    return [list(range(a, b)) for a, b in itertools.pairwise(bounds)]


def _places(replica: IntArray) -> IntArray:
    """The place of each request among those that its replica took."""
    order = np.argsort(replica, kind="stable")
    counts = np.bincount(replica)
    place = np.empty(len(replica), np.int64)
    place[order] = np.arange(len(replica)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def _renamed(tokens: Any, place: IntArray, order: IntArray | None) -> Any:
    def named(ids: IntArray) -> IntArray:
        return place[ids if order is None else order[ids]]

    return dataclasses.replace(tokens, request=named(tokens.request), chunk_request=named(tokens.chunk_request))


def _alone(
    workload: Workload, machine: dict[str, Any], router: Router, seed: int | None, keep: Collection[str],
    max_rounds: int | None, progress: Progress | None, engine: EngineName,
) -> FleetResult:  # fmt: skip
    options = {name: value for name, value in machine.items() if name != "policy"}
    result = simulate(
        workload, machine["policy"], seed=seed, record=keep, max_rounds=max_rounds, progress=progress, engine=engine,
        **options,
    )  # fmt: skip
    replica = np.zeros(len(workload), np.int64)
    arrays = (result.completion, result.start, result.evictions)
    outcomes = [_outcome_of(result)]
    return _result(result.workload, *arrays, replica, router, seed, outcomes, result.cached, result.engine)


def _readable(workload: Workload, run: Run, seed: int | None, keep: Collection[str]) -> FleetResult:
    from . import reference  # when it is asked for: few ask

    run.check_fits(workload)
    speeds = [_speed(machine) for machine in run.machines]
    if run.router.rule == "central":
        replica, taken_at = reference.ReadableQueue(workload, run.machines, run.max_rounds).run()
        seen = workload.replace(arrival=taken_at)
    else:
        router = reference.ReadableRouter(
            workload, run.machines, run.router, seed, run.groups, speeds, run.lives, run.bounds
        )
        replica, workload = router.run(), router.arrived()
        seen = router.workload
    results = reference.outcomes(seen, run.machines, replica, keep, run.max_rounds, run.lives)
    completion, start = np.empty(len(workload)), np.empty(len(workload))
    evictions = np.zeros(len(workload), np.int64)
    cached = np.zeros(len(workload), np.int64) if _caches(run.machines) else None
    for k, result in enumerate(results):
        at = replica == k
        if cached is not None and result.cached is not None:
            cached[at] = result.cached
        completion[at], start[at], evictions[at] = result.completion, result.start, result.evictions
    outcomes = [_outcome_of(result) for result in results]
    return _result(workload, completion, start, evictions, replica, run.router, seed, outcomes, cached, "reference")


def _with_failures(
    workload: Workload, machines: Sequence[dict[str, Any]], lives: Sequence[Life], router: Router, seed: int | None,
    keep: Collection[str], max_rounds: int | None, engine: EngineName, progress: Progress | None,
) -> FleetResult:  # fmt: skip
    """A fleet of lives: what is sent up to a death first, then with what that one sends back, up to the next."""
    mine = [machines[life.replica] for life in lives]
    refuse(mine, router, keep)
    sendings = Sendings(workload, lives, mine)
    deaths = sorted({life.until for life in lives if life.until < math.inf})
    replica_groups = _groups(len(machines), router.classes)
    groups = [[k for k, life in enumerate(lives) if life.replica in group] for group in replica_groups]
    bounds = class_bounds(workload, router, [len(g) for g in replica_groups]) if router.classes > 1 else None
    fleet = _Lives(mine, lives, router, seed, keep, max_rounds, engine, groups, bounds, progress)
    for death in deaths:
        request, rows = sendings.as_workload(death)
        life, completion, *_ = fleet.run(rows)
        dying = np.array([one.until == death for one in lives])
        again = request[dying[life] & (completion > death)]
        _log.info("replica failed at %g: %s, sent again", death, number_of(len(again), "request"))
        sendings.again(again, death)
    request, rows = sendings.as_workload()
    life, completion, start, evictions, outcomes = fleet.run(rows)
    lost = np.bincount(request, minlength=len(workload)) - 1
    total = np.zeros(len(workload), np.int64)
    for k, one in enumerate(lives):
        at = np.flatnonzero(life == k)
        if one.until < math.inf:
            cut, end, wasted = until_death(rows.take(at), mine[k], one.until, engine, keep)
            outcomes[k] = _cut_off(outcomes[k], cut, end, wasted)
            evictions[at] = cut.evictions
    np.add.at(total, request, evictions)
    last = np.cumsum(lost + 1) - 1  # rows are in order of requests
    of_replicas = [
        _one_of_lives([(outcomes[k], one) for k, one in enumerate(lives) if one.replica == replica], completion[last])
        for replica in range(len(machines))
    ]
    replica = np.array([lives[k].replica for k in life[last].tolist()], dtype=np.int64)
    arrays = (completion[last], start[last], total, replica)
    result = _result(workload, *arrays, router, seed, of_replicas, None, engine)
    lost.flags.writeable = False
    return dataclasses.replace(result, losses=lost)


def _cut_off(whole: Outcome, cut: RunOutcome, end: float, wasted: int) -> Outcome:
    """What a life reports that died after the rounds of `cut`."""
    return dataclasses.replace(
        whole,
        rounds=cut.rounds,
        peak_memory=cut.peak_memory,
        wasted_tokens=cut.wasted_tokens + wasted,
        busy=end - cut.idle,
        idle=cut.idle,
        timeline=cut.timeline,
        work=cut.work,
    )


@dataclasses.dataclass
class _Lives:
    """A fleet whose replicas are lives, as either engine simulates it."""

    machines: list[dict[str, Any]]
    lives: Sequence[Life]
    router: Router
    seed: int | None
    keep: Collection[str]
    max_rounds: int | None
    engine: EngineName
    groups: list[list[int]]
    bounds: IntArray | None
    progress: Progress | None

    def run(self, rows: Workload) -> tuple[Any, Any, Any, Any, list[Outcome]]:
        """The life that took each row; completion, start and evictions of each; what each life did."""
        n = len(rows)
        run = Run(
            self.machines, self.router, self.seed, self.keep, self.max_rounds, rows, False, self.lives, self.groups
        )
        run.bounds = self.bounds
        if self.engine == "reference":
            result = _readable(rows, run, self.seed, self.keep)
            outcomes = list(result.outcomes)
            return result.replica, result.completion, result.start, result.evictions.copy(), outcomes
        completion, start, evictions = np.empty(n), np.empty(n), np.zeros(n, np.int64)
        life = np.zeros(n, np.int32)
        order = in_order_of_arrival(rows)
        if n:
            run.fleet.keep_into(completion, start, evictions)
            run.take(rows if order is None else rows.take(order), life, order)
            run.send(n, self.progress)
            run.finish(self.progress, n)
        if order is not None:
            completion, start, evictions, life = (_back(a, order) for a in (completion, start, evictions, life))
        return life, completion, start, evictions, run.outcomes(life.astype(np.int64), order)


def _one_of_lives(of_lives: list[tuple[Outcome, Life]], completion: FloatArray) -> Outcome:
    """What a replica did in all of its lives. It idles, or is not there, when none of them runs."""
    outcomes, lives = [outcome for outcome, _ in of_lives], [life for _, life in of_lives]
    busy = sum(outcome.busy for outcome in outcomes)
    return dataclasses.replace(
        outcomes[0],
        rounds=sum(outcome.rounds for outcome in outcomes),
        peak_memory=max(outcome.peak_memory for outcome in outcomes),
        wasted_tokens=sum(outcome.wasted_tokens for outcome in outcomes),
        busy=busy,
        idle=max(float(completion.max(initial=0.0)) - busy, 0.0),
        timeline=joined([outcome.timeline for outcome in outcomes]),
        work=_sums([outcome.work for outcome in outcomes]),
        fails_at=lives[0].until if lives[0].until < math.inf else None,
        returns_at=lives[1].since if len(lives) > 1 else None,
    )


def _outcome_of(result: Result) -> Outcome:
    return Outcome(**{name: getattr(result, name) for name in OF_A_RESULT}, busy=result.makespan - result.idle)


def _result(
    workload: Workload, completion: FloatArray, start: FloatArray, evictions: IntArray, replica: IntArray,
    router: Router, seed: int | None, outcomes: Sequence[Outcome], cached: IntArray | None, engine: str = "compiled",
) -> FleetResult:  # fmt: skip
    for array in (completion, start, evictions, replica, cached):
        if array is not None:
            array.flags.writeable = False
    first = outcomes[0]
    return FleetResult(
        workload=workload,
        completion=completion,
        start=start,
        evictions=evictions,
        rounds=sum(outcome.rounds for outcome in outcomes),
        peak_memory=max(outcome.peak_memory for outcome in outcomes),
        wasted_tokens=sum(outcome.wasted_tokens for outcome in outcomes),
        policy=first.policy,
        memory=sum(outcome.memory for outcome in outcomes),
        seed=seed,
        engine=engine,
        clock=first.clock,
        max_batch=first.max_batch,
        block=first.block,
        prefill_budget=first.prefill_budget,
        work=_sums([outcome.work for outcome in outcomes]),
        idle=sum(outcome.idle for outcome in outcomes),
        cached=cached,
        replica=replica,
        router=router,
        outcomes=tuple(outcomes),
    )


def _sums(counters: Sequence[Any]) -> dict[str, int]:
    return {name: sum(counter[name] for counter in counters) for name in counters[0]}
