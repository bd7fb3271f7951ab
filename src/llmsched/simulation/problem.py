"""From (workload, policy, memory, seed) to the plain arrays and numbers that both engines read, checked on the way."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MemoryTooSmallError, MissingPredictionError, PolicyError, WorkloadError
from ..policy import CHOICES, EVICTION_RULES, ORDERS, RESERVES, Policy, check_words
from ..workloads.argument_checks import LARGEST_SEED, decimal_fraction, whole
from ..workloads.block_names import BlockNames
from ..workloads.columns import COLUMNS, LARGEST, FloatArray, IntArray
from ..workloads.midpoints import with_midpoints
from ..workloads.workload import Workload, turns_before
from ._compiled import formula_values, whole_tokens
from .blocks import down_to_blocks, full_blocks, whole_blocks
from .clock import Clock
from .limits import LARGEST_BLOCK, LARGEST_BOUND, LARGEST_POOL, STALL_FACTOR, STALL_START

if TYPE_CHECKING:
    from ..formula import Formula

_HOW_TO_ADD = {
    "lower": "workload.with_intervals(intervals.buckets(100)) or Workload(..., lower=...)",
    "upper": "workload.with_intervals(intervals.buckets(100)) or Workload(..., upper=...)",
    "point": "workload.replace(point=...), or with both bounds of an interval: the point is then its middle",
    "priority": "workload.replace(priority=...)",
    "deadline": "workload.replace(deadline=...)",
    "prefixes": "a trace with hash_ids, workload.with_prefixes(ls.Prefixes(...)), or workload.replace(session=...)",
    "lengths": "workload.with_lengths(LengthTable.from_outputs(outputs that were served))",
}


_NOT_COLUMNS = {
    "lengths": "a table of lengths",
    "prefixes": "block hashes, or sessions in their order (not drawn one by one), to know which prompts begin alike",
}


#: l/u below which stopping at the lower bound has the better guarantee (paper, Theorems 6 and 7).
ADVISED_BELOW = (3 - math.sqrt(5)) / 2


class Ratio(NamedTuple):
    """r of `reserve="ratio"`: starts here, falls to `least`, by `step` each round."""

    start: float
    least: float
    step: float


@dataclasses.dataclass(eq=False, slots=True)  # frozen would triple the time to make one
class Problem:
    """One simulation, as both engines read it. Arrays are over requests, in the workload's order."""

    policy: Policy
    prompt: IntArray  # s
    output: IntArray  # o
    arrival: FloatArray  # a
    bound: IntArray | None  # õ at the start; None where the policy never reads it
    upper: IntArray | None  # u; only where a cap refines to it
    believed: IntArray | None  # the column that the `reserve` rule reads, or a formula's values; None: it reads none
    # Keys of the admission order, those at the start where leaving changes them; None for "queue", which has none then.
    keys: IntArray | FloatArray | None
    capped: npt.NDArray[np.bool_] | None  # who is stopped at õ, where a cap does not do that to everybody
    levels: IntArray | None  # place by priority, then arrival, the same for equals; only where it decides an eviction
    memory: int  # M
    capacity: int  # C while anything runs: floor((1 - margin) M)
    seed: int | None
    clock: Clock | None  # None: a round lasts 1
    max_batch: int  # most requests that run at once
    block: int  # tokens in a block of cache; a request occupies whole blocks
    prefill_budget: int  # most tokens that a round processes
    max_rounds: int
    stall_limit: int  # so many rounds in which nothing changes for good mean that it never ends,
    may_cycle: bool  # and so many admissions, where requests can evict each other in turns: see `admission_limit`
    lengths: IntArray | None = None  # class, tokens seen -> believed length; where the policy reads a table of lengths
    classes: IntArray | None = None  # the row of it that each request has
    ratio: Ratio | None = None  # for reserve="ratio"
    columns: Mapping[str, FloatArray] = dataclasses.field(
        default_factory=dict
    )  # name -> what the policy's formulas read and never changes
    names: BlockNames | None = None  # with prefixes="cached": what blocks are called
    turn_before: IntArray | None = None  # with think times: the request after whose completion each arrives, or -1,
    think: FloatArray | None = None  # and how long after

    @property
    def chunked(self) -> bool:
        """Whether prompts are processed in chunks, over several rounds if need be."""
        return self.prefill_budget < LARGEST_BOUND or self.policy.slots == "processed"


def problem_of(
    workload: Workload,
    policy: Policy,
    memory: int | float,
    seed: int | None,
    max_rounds: int | None = None,
    *,
    clock: Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    may_not_fit: bool = False,
) -> Problem:
    """Check that `policy` can run on `workload` with `memory` tokens, and make a problem of all three.

    Raises
    ------
    InputError
        memory, seed, max_rounds, max_batch, block or prefill_budget is not usable.
    WorkloadError
        Sums of tokens overflow, a custom order has the wrong length, or an arrival is so late that rounds of the clock
        would not move the time.
    MissingPredictionError
        The policy reads a column that the workload lacks. A point is not lacking where both bounds are there: it is
        their middle, rounded up (model.md, section 1).
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    """
    memory = whole("memory", memory, 1)
    if seed is not None:
        seed = whole("seed", seed, 0, LARGEST_SEED)
    limit = LARGEST_BOUND if max_rounds is None else whole("max_rounds", max_rounds, 0, LARGEST_BOUND)
    n = len(workload)
    most = LARGEST_BOUND if max_batch is None else whole("max_batch", max_batch, 1, LARGEST_BOUND)
    block = whole("block", block, 1, LARGEST_BLOCK)
    budget = LARGEST_BOUND if prefill_budget is None else whole("prefill_budget", prefill_budget, 1, LARGEST)
    if "point" in policy.needs and workload.point is None and not (workload.lower is None or workload.upper is None):
        workload = with_midpoints(workload)
    _check_predictions(workload, policy)
    if workload.think is not None:
        _check_closed_loop(policy)
    if policy.prefixes == "cached" and full_blocks(memory, block) > LARGEST_POOL:
        raise InputError(
            f"memory={memory} is {full_blocks(memory, block)} blocks of {block}, more than the {LARGEST_POOL} that can "
            "be looked after one by one: take a larger block"
        )
    if not may_not_fit:  # of a fleet, where another replica takes those that do not
        _check_fits(workload, memory, block)
    if clock is not None:
        _check_time(workload, clock)
    memory = down_to_blocks(memory, block)
    caps_to_upper = policy.cap != "none" and policy.cap_refine == "upper"
    table = workload.lengths.quantile(policy.quantile) if workload.lengths and "lengths" in policy.needs else None
    finishes = n == 0 or _finishes(policy)
    chunk = min(budget, policy.chunk) if policy.slots == "processed" else budget
    chunked = chunk < LARGEST_BOUND
    columns = _columns(workload, policy, memory)
    longest = workload.extent.output + (_longest_prefill(memory, chunk) if chunked else 0)
    return Problem(
        policy=policy,
        prompt=workload.prompt,
        output=workload.output,
        arrival=workload.arrival,
        bound=_bound(workload, policy),
        upper=workload.upper if caps_to_upper else None,
        believed=_believed(workload, policy, columns),
        keys=_keys(workload, policy, columns),
        capped=_advised(workload) if policy.cap == "advised" else None,
        levels=_levels(workload) if policy.evict == "priority" else None,
        memory=memory,
        capacity=_capacity(memory, policy.margin, block),
        seed=seed,
        clock=clock,
        max_batch=most,
        block=block,
        prefill_budget=budget,
        max_rounds=limit,
        may_cycle=not finishes and _may_cycle(policy, chunked),
        stall_limit=LARGEST_BOUND if finishes else STALL_START + STALL_FACTOR * longest,
        lengths=table,
        classes=None if table is None else workload.classes,
        ratio=_ratio(policy) if policy.reserve == "ratio" else None,
        columns=columns,
        names=BlockNames(workload, block) if policy.prefixes == "cached" else None,
        turn_before=None if workload.think is None else turns_before(workload),
        think=workload.think,
    )


def _columns(workload: Workload, policy: Policy, memory: int) -> Mapping[str, FloatArray]:
    """What the policy's formulas and methods read that never changes, as doubles."""
    columns: dict[str, FloatArray] = {}
    if not policy.reads and not policy.formulas:  # as most do
        return columns
    for name in {*policy.reads, *(name for formula in policy.formulas.values() for name in formula.reads)}:
        if name == "memory":
            columns[name] = np.full(len(workload), float(memory))
        elif name in COLUMNS:
            columns[name] = np.ascontiguousarray(getattr(workload, name), dtype=np.float64)
    return columns


def _values_at_start(
    formula: Formula, workload: Workload, policy: Policy, columns: Mapping[str, FloatArray]
) -> FloatArray:
    """The formula's value for each request when it arrives. Raises FormulaValueError (names the request)."""
    n = len(workload)
    given: dict[str, FloatArray] = {
        **dict.fromkeys(("generated", "evictions"), np.zeros(n)),
        "joined": workload.arrival,
        **columns,
    }
    bound = _bound(workload, policy)
    if bound is not None:
        given["bound"] = bound.astype(np.float64)
    values = formula_values(formula, given, n)
    if np.isnan(values).any():
        i = int(np.argmax(np.isnan(values)))
        formula.value({name: float(given[name][i]) for name in formula.reads}, i)  # says what is wrong there
    return values


check_words("problem._bound", ("lower", "upper", "point", "one", "prompt"), CHOICES["bound"])


def _bound(workload: Workload, policy: Policy) -> IntArray | None:
    """Where õ starts; None where nothing reads it."""
    if not policy.tracks_bound:
        return None
    if policy.bound == "one":
        return np.ones(len(workload), np.int64)
    if policy.bound == "prompt":  # the next power of two: slices of requests that double their bounds meet again
        return np.int64(1) << np.frexp(np.maximum(workload.prompt, 1) - 1.0)[1].astype(np.int64)
    column: IntArray = getattr(workload, policy.bound)
    return column


def _believed(workload: Workload, policy: Policy, columns: Mapping[str, FloatArray]) -> IntArray | None:
    if "reserve" in policy.formulas:
        return whole_tokens(_values_at_start(policy.formulas["reserve"], workload, policy, columns))
    rule = RESERVES[policy.reserve]
    if rule.kind in ("none", "bound") or rule.reads == "lengths":
        return None
    column: IntArray = getattr(workload, str(rule.reads))
    return column


def _advised(workload: Workload) -> npt.NDArray[np.bool_]:
    """For whom stopping at the lower bound has the better guarantee."""
    assert workload.lower is not None
    assert workload.upper is not None
    return workload.lower / workload.upper < ADVISED_BELOW


def _ratio(policy: Policy) -> Ratio:
    least = policy.ratio * policy.ratio_floor
    return Ratio(policy.ratio, least, (policy.ratio - least) / policy.ratio_rounds)


def _finishes(policy: Policy) -> bool:
    """Whether every run does: unless requests restart, each round leaves tokens that are never lost.

    Where slots are taken as tokens are processed, a round may leave none; then somebody must be furthest on for good,
    the one admitted first or the most urgent.
    """
    if policy.slots == "processed" and (policy.evict not in ("newest", "priority") or policy.methods):
        return False
    return policy.resume != "restart"


def _may_cycle(policy: Policy, chunked: bool) -> bool:
    """Whether requests may evict each other in turns without end.

    Bounds rise for good where every eviction past a bound that is believed raises it (the paper's A_min): with a
    prefill that takes longer than believed, requests are evicted before they are past it.
    """
    if "evict" in policy.formulas or policy.methods:  # nobody can say whom it evicts last
        return True
    if EVICTION_RULES[policy.evict].may_cycle == "unless bounds rise":
        return policy.reserve != "bound" or policy.refine == "none" or chunked
    return EVICTION_RULES[policy.evict].may_cycle == "always"


def _longest_prefill(memory: int, budget: int) -> int:
    """Rounds in which a whole cache of prompts is prefilled, if nobody completes or is evicted meanwhile.

    Where generating takes no more than half the budget, at least half of it is left: 2 M / budget rounds or so. In any
    other round half a budget of tokens is generated, and as they stay in the cache, that can be no more often.
    """
    return 4 * (memory // budget + 1)


def admission_limit(unfinished: int) -> int:
    """Admissions without a completion, an arrival or a rise of a bound that mean a cycle, with so many unfinished."""
    return STALL_START + STALL_FACTOR * unfinished


@functools.lru_cache(maxsize=256)  # exact decimals take longer than all else here
def _capacity(memory: int, margin: float, block: int) -> int:
    """floor((1 - margin) M), with the margin as the decimal that was written: 0.9 of 10 tokens leave 1, not 0.

    Down to whole blocks, as what is occupied is a whole number of them.
    """
    capacity = memory if margin == 0 else math.floor((1 - decimal_fraction(margin)) * memory)
    return down_to_blocks(capacity, block)


def _check_predictions(workload: Workload, policy: Policy) -> None:
    for column in policy.needs:
        there = getattr(workload, column) is not None
        if column == "prefixes" and not there:  # drawn one by one, turns are no longer in order
            there = workload.session is not None and workload.source.get("generator") not in ("resample", "chunks")
        if not there:
            kind = "column" if column in ("priority", "deadline") else "prediction column"
            what = _NOT_COLUMNS.get(column, f"the {kind} {column!r}")
            raise MissingPredictionError(
                f"policy {policy.name} needs {what}, which the workload does not have: "
                f"add it with {_HOW_TO_ADD[column]}",
                column,
            )


def _check_closed_loop(policy: Policy) -> None:
    """Refuse rules that rank by times of arrival before they are known."""
    ranks = "priority" in [word for word in (policy.order, policy.evict) if isinstance(word, str)]
    read = {name for formula in policy.formulas.values() for name in formula.reads} & {"arrival", "joined"}
    if ranks or read:
        what = "by priority, then arrival" if ranks else f"by {min(read)!r} in a formula"
        raise PolicyError(
            f"policy {policy.name} decides {what}; with think times nobody knows when a turn arrives before the one "
            "ahead of it is done. Use another policy, or workload.replace(think=None)"
        )


def _check_fits(workload: Workload, memory: int, block: int) -> None:
    total, needed, _ = workload.extent
    needed = whole_blocks(needed, block)
    if total > LARGEST:
        raise WorkloadError(f"all prompts and outputs together are {total:.3g} tokens, more than {LARGEST}")
    if needed > memory:
        size = workload.prompt + workload.output
        i = int(np.argmax(whole_blocks(size, block) > memory))
        raise MemoryTooSmallError(
            f"request {i} needs prompt {workload.prompt[i]} + output {workload.output[i]} = {size[i]} tokens of cache, "
            f"{'' if block == 1 else f'in whole blocks of {block}, '}but memory is {memory}: it can never finish. "
            f"memory={needed} is enough for every request",
            i,
            needed,
        )


def _check_time(workload: Workload, clock: Clock) -> None:
    """Refuse arrivals so late that the shortest round hardly moves the time: microseconds taken for seconds, say."""
    latest = float(workload.arrival.max(initial=0.0))
    shortest = clock.base + clock.per_request
    if 4 * np.spacing(latest) > shortest:
        i = int(np.argmax(workload.arrival))
        raise WorkloadError(
            f"request {i} arrives at {latest:g} s, where time has steps of {np.spacing(latest):.1g} s, too coarse for "
            f"rounds of {shortest:.3g} s: let arrivals start near 0, and check that they are in seconds",
            i,
        )


def _keys(workload: Workload, policy: Policy, columns: Mapping[str, FloatArray]) -> IntArray | FloatArray | None:
    order = policy.order
    if isinstance(order, np.ndarray):
        if len(order) != len(workload):
            raise WorkloadError(f"the policy's order has {len(order)} numbers for {len(workload)} requests")
        return order
    if "order" in policy.formulas:
        formula = policy.formulas["order"]
        return None if formula.changes_over_time else _values_at_start(formula, workload, policy, columns)
    if order == "volume":
        return volume(workload)
    if order == "priority":
        return _levels(workload)
    if order == "table":
        assert workload.lengths is not None  # `_check_predictions`
        return np.ascontiguousarray(workload.lengths.quantile(policy.quantile)[workload.classes, 0])
    if ORDERS[str(order)].changes:
        return None
    keys: IntArray | FloatArray = getattr(workload, str(order))  # the others are named after their column
    return keys


def _levels(workload: Workload) -> IntArray:
    """The place of each request by priority, then arrival; the same for equals."""
    priority, arrival = workload.priority, workload.arrival
    assert priority is not None
    order = np.lexsort((arrival, priority))
    urgency, time = priority[order], arrival[order]
    levels = np.empty(len(order), dtype=np.int64)
    levels[order[:1]] = 0
    levels[order[1:]] = np.cumsum((urgency[1:] != urgency[:-1]) | (time[1:] != time[:-1]))
    return levels


def volume(workload: Workload) -> IntArray:
    """s·o + o(o+1)/2 of each request, the token-rounds it occupies; their rank where 64 bits cannot hold them."""
    prompt, output = workload.prompt, workload.output
    if not len(workload) or int(prompt.max()) + int(output.max()) < 2**31:
        return prompt * output + output * (output + 1) // 2
    exact = [s * o + o * (o + 1) // 2 for s, o in zip(prompt.tolist(), output.tolist(), strict=True)]
    place = {value: k for k, value in enumerate(sorted(set(exact)))}
    return np.array([place[value] for value in exact], dtype=np.int64)
