"""Attempts: the log of a run's tokens put in order, each stay in the batch with what it showed its user.

log = ls.service.attempts(ls.simulate(workload, "fcfs", memory=60_000, record="tokens"))
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..fleet.result import FleetResult
from ..simulation.result import Result
from ..workloads.columns import FloatArray, IntArray


@dataclasses.dataclass(frozen=True, eq=False)
class Attempts:
    """The attempts of a run, by request and then by time, and its rounds. Arrays have one value per attempt.

    Attributes
    ----------
    request
        Index of the request in the workload.
    first_round, last_round
        The rounds it was in, both included, from 0.
    kept, generated
        Tokens the request had when the attempt began, and when it ended: the last `generated` - `kept` of its rounds
        generated one each.
    begin, end
        When it was admitted, and when it completed or left.
    first_new
        The first round that generated a token which the user had not seen before: after a restart the first tokens
        repeat those of earlier attempts. Beyond `last_round` if there is none.
    completes
        Whether the request completed; else it was evicted or stopped.
    round_begin, round_end
        When each round began and ended (one value per round).
    chunk_attempt, chunk_round, chunk_tokens
        Chunks of prompts and kept tokens that were processed: of which attempt (its place here), in which round, how
        many tokens (one value per chunk).
    """

    request: IntArray
    first_round: IntArray
    last_round: IntArray
    kept: IntArray
    generated: IntArray
    begin: FloatArray
    end: FloatArray
    first_new: IntArray
    completes: npt.NDArray[np.bool_]
    round_begin: FloatArray
    round_end: FloatArray
    chunk_attempt: IntArray
    chunk_round: IntArray
    chunk_tokens: IntArray

    def __len__(self) -> int:
        return len(self.request)

    @property
    def is_first(self) -> npt.NDArray[np.bool_]:
        """Whether it is its request's first attempt."""
        is_first = np.ones(len(self), bool)
        is_first[1:] = self.request[1:] != self.request[:-1]
        return is_first

    @property
    def first_token(self) -> IntArray:
        """The round that generated its first token, new or not. Beyond `last_round` if there is none."""
        rounds: IntArray = self.last_round - (self.generated - self.kept) + 1
        return rounds

    def per_round(self, first: IntArray, last: IntArray, amount: npt.ArrayLike = 1) -> npt.NDArray[Any]:
        """In every round, the sum of `amount` over those whose rounds `first` to `last` hold it."""
        value = np.broadcast_to(np.asarray(amount), first.shape)
        steps = np.zeros(len(self.round_end) + 1, value.dtype)
        np.add.at(steps, first, value)
        np.subtract.at(steps, last + 1, value)
        summed: npt.NDArray[Any] = np.cumsum(steps[:-1])
        return summed


class Part(NamedTuple):
    """A replica: the requests that it took (their indices in the workload), what it did, and its attempts."""

    requests: IntArray
    result: Result
    log: Attempts


def parts(result: Result) -> list[Part]:
    """The replicas of a fleet, or the one that a run is. Raises InputError as `attempts` does."""
    if not isinstance(result, FleetResult):
        log = attempts(result)
        return [Part(np.arange(len(result)), result, log)]
    replicas = enumerate(result.replicas)
    return [Part(result.requests_of(k), replica, attempts(replica)) for k, replica in replicas]


def attempts(result: Result) -> Attempts:
    """The attempts of `result`, in order. Raises InputError unless it was recorded with ``record="tokens"``.

    A fleet's are those of its replicas: ``attempts(fleet.replicas[k])``.
    """
    if not isinstance(result, Result):
        raise InputError(f"expected a llmsched.Result, not {type(result).__name__}")
    if isinstance(result, FleetResult):
        raise InputError("a fleet has attempts on each replica: attempts(fleet.replicas[k])")
    log = result.tokens
    if log is None:
        raise InputError('the run has no log of tokens: simulate(..., record="tokens") keeps one')
    order = np.lexsort((log.first_round, log.request))
    request, first, rounds, kept, generated = (
        column[order] for column in (log.request, log.first_round, log.rounds, log.kept, log.generated)
    )
    last = first + rounds - 1
    is_first = np.ones(len(request), bool)
    is_first[1:] = request[1:] != request[:-1]
    end = log.round_end[last]
    round_begin = _round_begins(log.round_end, first[is_first], result.start[request[is_first]])
    begin = round_begin[first]
    shown = _largest_before(generated, request, is_first)  # tokens of the request that the user has seen
    completes = generated == result.workload.output[request]
    first_new = last - (generated - shown) + 1
    if result.prefill_budget is None and result.policy.slots == "ahead":
        chunks = _whole_prompts(result, request, first, kept, is_first)
    else:
        key = len(log.round_end) + 1  # beyond any round
        chunk_attempt = np.searchsorted(request * key + first, log.chunk_request * key + log.chunk_round, "right") - 1
        chunks = chunk_attempt, log.chunk_round, log.chunk_tokens
    return Attempts(
        request, first, last, kept, generated, begin, end, first_new, completes, round_begin, log.round_end, *chunks
    )


def _whole_prompts(
    result: Result, request: IntArray, first: IntArray, kept: IntArray, is_first: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, IntArray]:
    """The chunks of a run without a budget: all at once on admission, but what is moved in, at first or back."""
    computed = np.where(is_first, result.policy.prompts == "processed", result.policy.resume != "swap")
    at = np.flatnonzero(computed)
    return at, first[at], result.workload.prompt[request[at]] + kept[at]


def _round_begins(round_end: FloatArray, first: IntArray, start: FloatArray) -> FloatArray:
    """A round begins when the last one ends, or after an idle jump, when its requests are admitted: at `start`."""
    begins = np.zeros(len(round_end))
    begins[1:] = round_end[:-1]
    begins[first] = start
    return begins


def _largest_before(values: IntArray, group: IntArray, is_first: npt.NDArray[np.bool_]) -> IntArray:
    """The largest of `values` among the earlier ones of the same group; 0 for its first. Groups are in order."""
    if not len(values):
        return values
    offset = group * (int(values.max()) + 1)
    largest = np.maximum.accumulate(values + offset) - offset
    before = np.zeros_like(values)
    before[1:] = largest[:-1]
    before[is_first] = 0
    return before
