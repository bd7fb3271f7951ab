"""A scheduler for an engine that serves: the policies of a simulation, run by the same compiled code, round by round.

    scheduler = ls.live.Scheduler("amin-recompute", memory=10_000)
    scheduler.submit("a", prompt=100, lower=20, upper=200)
    decision = scheduler.decide(now=0.0)                    # Decision(admit=("a",), evict=())
    scheduler.advance(finished=[])                          # the round ran: everybody who runs has one token more

Times are whatever the engine says they are; the lengths of answers need not be known.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from ..errors import InputError, MemoryTooSmallError, MissingPredictionError, PolicyError, WorkloadError, nearest
from ..policy import ORDERS, RESERVES, Policy, named
from ..workloads.argument_checks import whole
from ..workloads.columns import COLUMNS, LARGEST, LATEST
from ..workloads.length_table import LengthTable
from ..workloads.workload import Workload
from ._live import Driven
from .blocks import whole_blocks
from .problem import ADVISED_BELOW, problem_of

__all__ = ["Decision", "Scheduler"]

#: A policy that reads priorities takes those from minus this to this.
LARGEST_PRIORITY = 2**23 - 1
_LARGEST_TIE = 2**31 - 1


class Decision(NamedTuple):
    """What has to happen before the coming round: first some leave the batch, then some start, in this order.

    Who leaves may start again in the same round. With ``slots="processed"`` the scheduler also says how many tokens of
    whom the round processes, in order of admission: of a prompt, or one to generate the next. Who is not there gets
    nothing in this round. Else `process` is empty, and everybody who runs generates a token.
    """

    admit: tuple[Hashable, ...]
    evict: tuple[Hashable, ...]
    process: Mapping[Hashable, int] = MappingProxyType({})


class Scheduler:
    """Decides round after round which requests run, knowing of their outputs no more than what is predicted.

    A round is: `decide`, then the engine generates one token for every running request, then `advance` says which of
    them were complete with it. Told the lengths of a workload in that way, it takes the decisions of `simulate`, to the
    bit, for every policy that does not read the truth. All methods must be called from one thread at a time.

    Parameters
    ----------
    policy
        The name of a policy (see `llmsched.policies`) or a `Policy`.
    memory
        M, tokens of KV cache.
    block, max_batch, prefill_budget
        As in `simulate`: tokens in a block of cache, most requests that run at once, most tokens a round processes.
    seed
        For what is drawn at evictions; None: the first of equals leaves. Equals wait in the order of `submit`.
    lengths
        The table for a policy that asks one (``reserve="conditional"``, ``order="table"``).

    Raises
    ------
    PolicyError
        The policy reads true outputs, decides in Python, or orders by one number per request of a workload.
    InputError
        A number is out of range, or the policy needs `lengths`.
    """

    def __init__(
        self,
        policy: str | Policy = "amin",
        *,
        memory: int,
        block: int = 1,
        max_batch: int | None = None,
        prefill_budget: int | None = None,
        seed: int | None = 0,
        lengths: LengthTable | None = None,
    ) -> None:
        self.policy = named(policy)
        _refuse(self.policy)
        self._table = lengths
        self._rows = {} if lengths is None else {label: row for row, label in enumerate(lengths.classes)}
        columns: dict[str, Any] = dict.fromkeys(("output", *COLUMNS), np.empty(0, np.int64))
        del columns["think"]  # whoever drives the engine says when requests come
        nobody = Workload(**columns)
        if lengths is not None:
            nobody = nobody.with_lengths(lengths, np.empty(0, np.int64))
        elif "lengths" in self.policy.needs:
            raise MissingPredictionError(f"policy {self.policy.name} needs a table of lengths: lengths=...", "lengths")
        problem = problem_of(
            nobody, self.policy, memory, seed, max_batch=max_batch, block=block, prefill_budget=prefill_budget
        )
        self.memory, self.block, self.seed = problem.memory, problem.block, problem.seed
        self._driven = Driven(problem)
        self._reads = [name for name in self.policy.needs if name != "lengths"]
        self._formula_columns = [name for name in problem.columns if name != "memory"]
        self._slots: dict[Hashable, int] = {}
        self._submitted = 0
        self._now = -math.inf
        self._decided = False  # a round was, and has not run yet

    def submit(
        self,
        id: Hashable,
        prompt: int,
        *,
        lower: int | None = None,
        upper: int | None = None,
        point: int | None = None,
        priority: int | None = None,
        deadline: float | None = None,
        arrival: float | None = None,
        length_class: Hashable = None,
        tie: int | None = None,
    ) -> None:
        """A request comes: `prompt` tokens, and what the policy reads of the rest (as in `Workload`).

        Parameters
        ----------
        arrival
            When it begins to wait, by the clock of `decide`; a time to come is waited for. By default the time of the
            last decision, 0 before the first.
        point
            By default the middle of the interval, rounded up, as in a workload.
        length_class
            Its class in the table of lengths.
        tie
            Its rank among equals in the admission order, the smallest first: 0 <= tie < 2**31. By default requests are
            equal to others in the order of their submission. (A simulation shuffles them by its seed.)

        Raises
        ------
        InputError
            There is a request of that id already; WorkloadError, where a value is impossible; MissingPredictionError,
            where the policy reads one that is not given; MemoryTooSmallError, where the prompt and a token do not fit
            the cache; FormulaValueError, where a formula has no value for it.
        """
        if id in self._slots:
            raise InputError(f"there is a request {id!r} already: an id can be used again once it finished")
        given = {"lower": lower, "upper": upper, "point": point, "priority": priority, "deadline": deadline}
        prompt = whole(f"request {id!r}: prompt", prompt, 0)
        values = self._checked(id, given)
        needed = whole_blocks(prompt + 1, self.block)
        if needed > self.memory:
            raise MemoryTooSmallError(
                f"request {id!r} needs prompt {prompt} + 1 tokens of cache, but memory is {self.memory}: it can never "
                "generate a token",
                self._submitted,
                needed,
            )
        arrival = max(self._now, 0.0) if arrival is None else _time(id, "arrival", arrival)
        values |= {"prompt": prompt, "arrival": arrival, "memory": self.memory}
        policy, belief = self.policy, RESERVES.get(self.policy.reserve)
        order = policy.order if isinstance(policy.order, str) else ""
        capped = policy.cap != "advised" or values["lower"] / values["upper"] < ADVISED_BELOW
        rank = self._submitted & _LARGEST_TIE if tie is None else whole(f"request {id!r}: tie", tie, 0, _LARGEST_TIE)
        self._slots[id] = self._driven.submit(
            id,
            self._submitted,
            rank,
            prompt,
            arrival,
            _first_bound(policy, values) if policy.tracks_bound else 1,
            values.get("upper", 0),
            values[belief.reads] if belief is not None and belief.reads in values else 0,
            values[order] if order in ORDERS and order in values and order in ("upper", "point") else 0,
            capped,
            values.get("priority", 0),
            self._row(id, length_class),
            {name: float(values[name]) for name in self._formula_columns} | {"memory": float(self.memory)},
        )
        self._submitted += 1

    def decide(self, now: float) -> Decision:
        """The coming round, which starts now: those whose arrival has come wait, some leave, some start.

        Raises
        ------
        InputError
            `now` is before the last decision, or the round that was decided last has not run (`advance`).
        MemoryTooSmallError
            The whole cache is not enough for one more token of a running request: the message names it. Nothing was
            decided; `cancel` it, or say that it finished, and ask again.
        FormulaValueError
            A formula has no value for a request (named). The scheduler is of no further use then.
        NotFinishedError
            The bound of a request (named) would pass 2**62, or random eviction drew nobody (model.md, sections 3 and
            5). The scheduler is of no further use then.
        """
        if not now >= self._now:
            raise InputError(f"now is {now!r}, but a decision was taken at {self._now!r}: time does not run back")
        if self._decided:
            raise InputError("the round that was decided has not run: advance() comes first")
        decided = self._driven.decide(now)
        if decided is None:
            id, number, prompt, generated = self._driven.too_large()
            raise MemoryTooSmallError(
                f"request {id!r} has {prompt} + {generated} tokens, and memory={self.memory} holds no more: it can "
                "never finish. Cancel it",
                number,
                whole_blocks(prompt + generated + 1, self.block),
            )
        self._now = now
        self._decided = self._driven.running > 0
        return Decision(tuple(decided[0]), tuple(decided[1]), decided[2])

    def advance(self, finished: Iterable[Hashable] = (), delayed: Iterable[Hashable] = ()) -> None:
        """The round ran: each running request generated a token, and those `finished` were complete with it.

        Those `delayed` generated none, as the engine was still reading their prompt, say: they count as admitted a
        round later, which moves the end of what is believed of them. Where nobody runs there is no round.

        Raises
        ------
        InputError
            One of them does not run, or is named twice, or is delayed with ``slots="processed"``, where the scheduler
            itself knows how far a prompt is; nothing has changed then.
        """
        done = self._running(finished, "finished")
        late = self._running(delayed, "delayed")
        if not done.keys().isdisjoint(late):
            twice = next(id for id in done if id in late)
            raise InputError(f"request {twice!r} cannot have finished and been delayed in the same round")
        if late and self.policy.slots == "processed":
            raise InputError(
                f"request {next(iter(late))!r} cannot be delayed: with slots='processed' the scheduler knows how much "
                "of a prompt each round processes (prefill_budget, Policy.chunk)"
            )
        if not self._decided:
            if done or late:
                raise InputError("no round was decided: decide() comes first")
            return
        self._decided = False
        self._driven.advance(list(done.values()), list(late.values()))
        for id in done:
            del self._slots[id]

    def cancel(self, id: Hashable) -> None:
        """The request is gone, whether it runs, waits, or is yet to arrive. Raises InputError if there is none."""
        self._driven.cancel(self._slot(id))
        del self._slots[id]

    def turn_back(self, id: Hashable) -> None:
        """The engine could not run a request of the batch: it waits again, with the tokens it has, as if not admitted.

        Between `decide` and `advance`, or after both. Raises InputError if it does not run.
        """
        self._driven.turn_back(self._running((id,), "turn_back")[id])

    def hasten(self, id: Hashable) -> None:
        """From now on the request goes before all others whenever it waits, and none that waits passes it.

        Where evicted requests keep their tokens, a request that is hastened completes, however many others come.
        Raises InputError if there is none of that id.
        """
        self._driven.hasten(self._slot(id))

    def __contains__(self, id: object) -> bool:
        return id in self._slots

    def __len__(self) -> int:
        """Requests that were submitted and are not gone."""
        return len(self._slots)

    def is_running(self, id: Hashable) -> bool:
        """Whether the request is in the batch. Raises InputError if there is none of that id."""
        return self._driven.is_running(self._slot(id))

    @property
    def running(self) -> int:
        """Requests in the batch."""
        return self._driven.running

    @property
    def waiting(self) -> int:
        """Requests that arrived and do not run."""
        return self._driven.waiting

    @property
    def need(self) -> int:
        """Tokens of cache that the coming round takes, in whole blocks."""
        return self._driven.need

    @property
    def rounds(self) -> int:
        """Rounds that ran."""
        return self._driven.rounds

    @property
    def work(self) -> dict[str, int]:
        """What it cost so far, in steps that do not depend on the machine, and ``bytes``, the memory that it holds."""
        return self._driven.work

    def __repr__(self) -> str:
        return f"Scheduler({self.policy.name!r}, memory={self.memory}: {self.running} running, {self.waiting} waiting)"

    def _slot(self, id: Hashable) -> int:
        try:
            return self._slots[id]
        except KeyError:
            known = f"; {nearest(str(id), map(str, self._slots))}" if 0 < len(self._slots) <= 20 else ""
            raise InputError(f"there is no request {id!r}{known}") from None

    def _running(self, ids: Iterable[Hashable], what: str) -> dict[Hashable, int]:
        """id -> slot of running requests."""
        found: dict[Hashable, int] = {}
        for id in ids:
            slot = self._slot(id)
            if id in found or not self._driven.is_running(slot):
                raise InputError(f"{what}: request {id!r} {'is named twice' if id in found else 'does not run'}")
            found[id] = slot
        return found

    def _row(self, id: Hashable, label: Hashable) -> int:
        """The row of a class in the table of lengths."""
        if self._table is None or (label is None and len(self._rows) == 1):
            return 0
        if label not in self._rows:
            known = nearest(str(label), map(str, self._rows))
            raise WorkloadError(f"request {id!r}: its class {label!r} is not in the table of lengths; {known}")
        return self._rows[label]

    def _checked(self, id: Hashable, given: dict[str, Any]) -> dict[str, Any]:
        """What is given, and the point between two bounds, as numbers. Raises WorkloadError, MissingPredictionError."""
        values: dict[str, Any] = {}
        for name, value in given.items():
            if value is None:
                continue
            if name == "deadline":
                values[name] = _time(id, name, value)
            elif name == "priority":
                values[name] = whole(f"request {id!r}: priority", value, -LARGEST_PRIORITY, LARGEST_PRIORITY)
            else:
                values[name] = whole(f"request {id!r}: {name}", value, 1, LARGEST)
        if "lower" in values and "upper" in values:
            if values["lower"] > values["upper"]:
                raise WorkloadError(f"request {id!r}: lower is {values['lower']}, more than upper, {values['upper']}")
            values.setdefault("point", values["lower"] + (values["upper"] - values["lower"] + 1) // 2)
        for name in self._reads:
            if name not in values:
                raise MissingPredictionError(
                    f"request {id!r}: policy {self.policy.name} reads {name!r}: submit(..., {name}=...)", name
                )
        return values


def _first_bound(policy: Policy, values: dict[str, Any]) -> int:
    """õ as it begins, as in `problem_of`."""
    if policy.bound == "prompt":
        return 1 << (max(int(values["prompt"]), 1) - 1).bit_length()
    return int(values.get(policy.bound, 1))


def _time(id: Hashable, name: str, value: object) -> float:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and 0 <= value <= LATEST:
        return float(value)
    raise WorkloadError(f"request {id!r}: {name} is {value!r}, expected a time from 0 to {LATEST}")


def _refuse(policy: Policy) -> None:
    """Raise PolicyError for one that cannot decide while requests run."""
    if policy.clairvoyant:
        raise PolicyError(
            f"policy {policy.name} reads the true output lengths, which nobody knows while requests run: take one that "
            "reads predictions (amax, amin, mcsf, ...)"
        )
    if policy.prefixes == "cached":
        raise PolicyError(
            f"policy {policy.name} keeps prefixes in the cache: whoever drives the engine has a cache of its own, and "
            'the engine does not know its blocks; prefixes="none"'
        )
    if policy.methods:
        raise PolicyError(
            f"policy {policy.name} decides in Python ({', '.join(policy.methods)}), which the compiled engine does not "
            "call: say it with a formula (docs/reference/formulas.md)"
        )
    if not isinstance(policy.order, str):
        raise PolicyError(
            f"policy {policy.name} orders the requests of one workload by a number for each: use a formula"
        )
