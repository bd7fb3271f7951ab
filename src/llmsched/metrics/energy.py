"""Joules: what a run costs, who it was spent on, and how much of it evictions wasted.

    result = ls.simulate(workload, "fcfs", memory=16_492, clock="llama2-70b-2xa100", record="tokens")
    spent = ls.energy.metrics(result, ls.energy.Power(idle=120, busy=580, per_token=1.75, limit=800))
    spent.joules_per_token, spent.wasted, spent.per_request

The watts come from a model of the machine, `Power`; those that have a name are in `powers`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, by_name
from ..progress import with_seconds
from ..simulation.clock import Clock
from ..simulation.dataframes import Columns
from ..simulation.result import Result
from ..workloads.columns import FloatArray, IntArray
from .attempts import Attempts, Part, parts
from .catalogue import of_source, values_from

__all__ = ["Energy", "Power", "metrics", "named", "powers"]


@dataclasses.dataclass(frozen=True)
class Power:
    """Watts that the machine draws.

    While a round runs: min(limit, busy + per_request·(batch size) + per_token·(tokens processed in the round)): those
    generated, and those prefilled (prompts, and kept tokens under ``resume="recompute"``). Between rounds: idle.

    Attributes
    ----------
    idle
        Watts while nothing runs.
    busy
        Watts of a round before what it holds; by default as much as `idle`.
    per_request
        Watts for each running request.
    per_token
        Watts for each token processed in the round.
    limit
        The most it can draw, e.g. the rated power of the devices.
    source
        Where the numbers come from.

    Raises
    ------
    InputError
        A number is negative or not finite (`limit` may be infinite), or the limit is below idle or busy.
    """

    idle: float
    per_request: float = 0.0
    per_token: float = 0.0
    busy: float | None = None
    limit: float = math.inf
    source: str = dataclasses.field(default="", compare=False)

    def __post_init__(self) -> None:
        if self.busy is None:
            object.__setattr__(self, "busy", self.idle)
        for name in ("idle", "busy", "per_request", "per_token", "limit"):
            value = getattr(self, name)
            number = math.nan if isinstance(value, (bool, str)) or not hasattr(value, "__float__") else float(value)
            if not (number >= 0 and (number < math.inf or name == "limit")):
                raise InputError(f"power {name}={value!r} must be a number of watts, at least 0")
            object.__setattr__(self, name, number)
        if self.limit < max(self.idle, self.busy_watts):
            raise InputError(f"power limit={self.limit:g} is below idle={self.idle:g} or busy={self.busy_watts:g}")

    @property
    def busy_watts(self) -> float:
        """`busy`, as a number."""
        assert self.busy is not None
        return self.busy

    def watts(self, batch: npt.ArrayLike, tokens: npt.ArrayLike) -> FloatArray:
        """Watts during rounds with `batch` requests and `tokens` processed."""
        drawn = self.busy_watts + self.per_request * np.asarray(batch) + self.per_token * np.asarray(tokens)
        return np.asarray(np.minimum(drawn, self.limit), dtype=np.float64)

    def fields(self) -> dict[str, Any]:
        """The numbers and the source as a plain dict; no limit is None."""
        return {**dataclasses.asdict(self), "limit": None if math.isinf(self.limit) else self.limit}


#: Named power models. What is called an example is one: of the right size, and no more.
powers: Mapping[str, Power] = by_name(
    {
        "example-2xa100": Power(
            idle=120.0,
            busy=580.0,
            per_token=1.75,
            limit=800.0,
            source="an example for Llama-2-70B on two A100 80GB rated 400 W each. From data/perf_model.csv in "
            "github.com/Mutinifni/splitwise-sim (Patel et al., Splitwise, ISCA 2024), reading its power columns as "
            "shares of the rated power: 0.74 on average for a prompt of 512 tokens and 128 generated in a batch of "
            "one, 0.79 in one of 16, peaks of 1.0 from prompts of 128 tokens on. 60 W per idle GPU are assumed",
        ),
    },
    "power model",
)


def named(power: str | Power) -> Power:
    """The power model itself, or the named one. Raises InputError, with the nearest name, for an unknown one."""
    if isinstance(power, Power):
        return power
    if not isinstance(power, str):
        raise InputError(f"a power model is a name or a llmsched.energy.Power, not {type(power).__name__}")
    return powers[power]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Energy(Columns):
    """Where the joules of a run went.

    The joules of a round are shared by time: what a prefill or a move of cache took of the round is spent on the
    request that it was done for, the rest equally on all that ran.

    Attributes
    ----------
    per_request
        Joules spent on each request, what evictions wasted of them included (float64, in the workload's order).
    wasted_per_request
        Those of them that evictions wasted: whole attempts that were lost under ``resume="restart"``; prefill that was
        repeated under ``"recompute"``, and attempts that ended before their prefill did; cache moved out and in under
        ``"swap"``.
    idle
        Joules drawn between rounds, from the first arrival to the last completion; nobody's.
    watts
        What each round drew (one value per round, of a fleet those of one replica after the other).
    seconds
        From the first arrival to the last completion.
    output_tokens
        Tokens that the requests asked for, all together.
    power
        The model.
    """

    per_request: FloatArray
    wasted_per_request: FloatArray
    idle: float
    watts: FloatArray
    seconds: float
    output_tokens: int
    power: Power

    def __len__(self) -> int:
        return len(self.per_request)

    def __repr__(self) -> str:
        return (
            f"Energy({self.total:.4g} J, {self.joules_per_token:.4g} J per output token, "
            f"{self.wasted_share:.1%} wasted, {self.idle:.4g} J idle)"
        )

    @property
    def total(self) -> float:
        """Joules of the whole run, idle time included."""
        return float(self.per_request.sum()) + self.idle

    @property
    def wasted(self) -> float:
        """Joules that evictions wasted."""
        return float(self.wasted_per_request.sum())

    @property
    def wasted_share(self) -> float:
        """Wasted joules as a share of the total, from 0 to 1; 0 when nothing was spent."""
        return self.wasted / self.total if self.total > 0 else 0.0

    @property
    def joules_per_token(self) -> float:
        """All joules over all output tokens; NaN when there are none."""
        return self.total / self.output_tokens if self.output_tokens else math.nan

    @property
    def joules_per_request(self) -> float:
        """All joules over the number of requests; NaN when there is none."""
        return self.total / len(self) if len(self) else math.nan

    @property
    def mean_watts(self) -> float:
        """All joules over the seconds from the first arrival to the last completion; NaN when there are none."""
        return self.total / self.seconds if self.seconds > 0 else math.nan

    @property
    def peak_watts(self) -> float:
        """The most that any round drew; NaN when there is none."""
        return float(self.watts.max()) if len(self.watts) else math.nan

    def summary(self) -> dict[str, Any]:
        """The totals as a plain dict, ready for JSON or a dataframe row."""
        found = values_from("energy", self)
        return {name.removeprefix("energy_"): value for name, value in found.items()} | {"seconds": self.seconds}

    @staticmethod
    def summary_names() -> tuple[str, ...]:
        """The names in every `summary`."""
        return (*(metric.name.removeprefix("energy_") for metric in of_source("energy")), "seconds")

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: joules and wasted joules."""
        return {"joules": self.per_request, "wasted_joules": self.wasted_per_request}


@with_seconds("measuring")
def metrics(result: Result, power: str | Power) -> Energy:
    """What a run recorded with ``record="tokens"`` spent, in joules.

    Of a fleet: the sum over its replicas, which all are on from the first arrival to the last completion anywhere.

    Raises InputError if the run has no log of tokens or no clock (joules need seconds), or there is no such model.
    """
    model = named(power)
    n = len(result)
    seconds = result.makespan - float(result.workload.arrival.min()) if n else 0.0
    joules, wasted, idle, watts = np.zeros(n), np.zeros(n), 0.0, []
    for part in parts(result):
        work, drawn = _rounds(part, model)
        spent, lost = work.joules_of_attempts(drawn)
        joules[part.requests] = _summed_by_request(part.log, spent, len(part.result))
        wasted[part.requests] = _summed_by_request(part.log, lost, len(part.result))
        idle += model.idle * max(0.0, seconds - float(work.seconds.sum()))
        watts.append(drawn)
    return Energy(
        per_request=joules,
        wasted_per_request=wasted,
        idle=idle,
        watts=np.concatenate(watts),
        seconds=seconds,
        output_tokens=int(result.workload.output.sum()),
        power=model,
    )


def _rounds(part: Part, model: Power) -> tuple[_RoundWork, FloatArray]:
    """What the rounds of a replica had to do, and the watts that each drew."""
    clock = part.result.clock
    if clock is None:
        raise InputError("joules need seconds, and the run had no clock: simulate(..., clock=...)")
    work = _RoundWork(part.result, part.log, clock)
    return work, model.watts(work.batch, work.generating + work.prefilled)


def _summed_by_request(log: Attempts, values: FloatArray, n: int) -> FloatArray:
    return np.asarray(np.bincount(log.request, values, n), dtype=np.float64)


class _RoundWork:
    """What the rounds had to do, and for which attempt."""

    def __init__(self, result: Result, log: Attempts, clock: Clock) -> None:
        self.log, self.clock, self.resume = log, clock, result.policy.resume
        rounds = len(log.round_end)
        self.seconds = log.round_end - log.round_begin
        self.batch = log.per_round(log.first_round, log.last_round)
        self.generating = log.per_round(log.first_token, log.last_round)
        moved_in = ~log.is_first & (self.resume == "swap")
        moved_out = ~log.completes & (self.resume == "swap")
        before, after = _prefilled_so_far(log)
        self.came_processed = result.policy.prompts == "moved"
        if self.came_processed:
            before, after = (tokens + result.workload.prompt[log.request] for tokens in (before, after))
        self.swap_in = np.where(moved_in, before + log.kept, 0)  # tokens, of each attempt, in its first round
        self.swap_out = np.where(moved_out, after + log.generated, 0)
        self.moved_out_round = np.minimum(log.last_round + 1, max(rounds - 1, 0))  # the round in which it is moved out
        self.prefilled = np.zeros(rounds, np.int64)
        np.add.at(self.prefilled, log.chunk_round, log.chunk_tokens)
        self.swapped = np.zeros(rounds, np.int64)
        np.add.at(self.swapped, log.first_round, self.swap_in)
        np.add.at(self.swapped, self.moved_out_round, self.swap_out)

    def joules_of_attempts(self, watts: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Joules of each attempt, and those of them that were wasted."""
        clock, log = self.clock, self.log
        own = clock.per_prompt_token * self.prefilled + clock.per_swapped_token * self.swapped
        common = watts * np.maximum(self.seconds - own, 0.0) / np.maximum(self.batch, 1)
        up_to = np.concatenate([[0.0], np.cumsum(common)])
        chunks = watts[log.chunk_round] * clock.per_prompt_token * log.chunk_tokens
        prefill = np.bincount(log.chunk_attempt, chunks, len(log))
        swap = watts[log.first_round] * clock.per_swapped_token * self.swap_in
        swap += watts[self.moved_out_round] * clock.per_swapped_token * self.swap_out
        joules = up_to[log.last_round + 1] - up_to[log.first_round] + prefill + swap
        if self.resume == "restart":
            return joules, np.where(log.completes, 0.0, joules)
        if self.resume == "swap":
            return joules, swap
        useful = log.generated > log.kept
        first = np.zeros(len(log), bool)
        first[np.flatnonzero(useful)[np.unique(log.request[useful], return_index=True)[1]]] = True
        once = first & (not self.came_processed)  # all have to be processed once, but prompts that came so
        return joules, np.where(useful, np.where(once, 0.0, prefill), joules)


def _prefilled_so_far(log: Attempts) -> tuple[IntArray, IntArray]:
    """Tokens of each request prefilled before each of its attempts, and up to the attempt's end."""
    each = np.zeros(len(log), np.int64)
    np.add.at(each, log.chunk_attempt, log.chunk_tokens)
    total = np.cumsum(each)
    earlier = np.maximum.accumulate(np.where(log.is_first, total - each, 0))
    return total - each - earlier, total - earlier
