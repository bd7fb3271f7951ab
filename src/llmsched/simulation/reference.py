"""The readable engine: model.md in Python, section by section. The compiled engine must agree with it exactly.

Time is kept as (epoch, rounds since): `now` is their sum, so that a run of rounds is one addition and both engines get
the same double. Nothing here is clever; everything here is checked.
"""

from __future__ import annotations

import bisect
import math
import numbers
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import FormulaValueError, LlmschedError, PolicyError
from ..formula import Formula, whole_tokens
from ..policy import CHOICES, EVICTION_RULES, ORDERS, RESERVES, check_words
from .blocks import whole_blocks
from .endless import bound_passed, nobody_drawn
from .limits import LARGEST_BOUND, MOST_VAIN_DRAWS
from .outcome import Outcome
from .prefix_cache import Block
from .problem import Problem, admission_limit
from .staggered import slice_width
from .timeline import Piece, merged
from .token_log import Tokens

_MASK = 2**64 - 1
_STEP = 0x9E3779B97F4A7C15


#: What every scheduler sees of a request.
VISIBLE = ("index", "prompt", "generated", "arrival", "joined", "evictions")


class RequestView(SimpleNamespace):
    """A request as a policy in Python sees it: `VISIBLE`, and what the policy's `reads` adds."""

    def __getattr__(self, name: str) -> float:
        known = ", ".join(vars(self))
        raise AttributeError(f"a request shows {known}, not {name!r}: add it to the `reads` of the policy's class")


class Request:
    """One request and where it stands. It is either yet to arrive, waiting, running or complete."""

    __slots__ = (
        "admission", "arrival", "believed", "blocks", "bound", "cached", "capped", "completion", "eviction_key",
        "evictions", "first_round", "generated", "hit", "index", "joined", "kept", "key", "known", "level", "output",
        "prompt", "rank", "reserved", "shed_at", "start", "to_prefill", "upper",
    )  # fmt: skip

    def __init__(self, problem: Problem, i: int, rank: int) -> None:
        self.index = i
        self.prompt = int(problem.prompt[i])  # s
        self.output = int(problem.output[i])  # o
        self.arrival = float(problem.arrival[i])  # a
        self.bound = 1 if problem.bound is None else int(problem.bound[i])  # õ
        self.upper = 0 if problem.upper is None else int(problem.upper[i])  # u
        self.believed = 0 if problem.believed is None else int(problem.believed[i])  # a column that `reserve` reads
        self.key = None if problem.keys is None else problem.keys[i].item()  # `order`, unless that changes
        self.level = 0 if problem.levels is None else int(problem.levels[i])  # place by priority, then arrival
        self.capped = problem.capped is None or bool(problem.capped[i])  # whether a cap stops it
        self.rank = rank  # breaks admission ties
        self.generated = self.known = 0  # g, and the most it ever was: the output exceeds that
        self.to_prefill = 0  # tokens of the prompt, and of those it kept, that are still to be prefilled
        self.first_round = self.kept = 0  # round of the last admission, and the tokens it had then
        self.joined = self.arrival  # when it last joined the waiting set
        self.start: float | None = None
        self.completion: float | None = None
        self.evictions = 0
        self.shed_at = 0  # with shed="lottery": tokens at which it is stopped
        self.reserved = 0  # while it runs: tokens of cache that were believed at its admission to be enough
        self.admission = -1  # admission number
        self.cached = 0  # with slots="processed": tokens that are in the cache, which each have a slot
        self.eviction_key = 0  # the list of equals it is in while it runs, where the rule ranks
        self.blocks: list[Block] = []  # with prefixes="cached": the blocks that it holds, in order,
        self.hit: int | None = None  # and the tokens of it that were in the cache at its first admission


class ReferenceEngine:
    def __init__(self, problem: Problem, record: Collection[str]) -> None:
        self.problem, self.policy = problem, problem.policy
        self.n = self.unfinished = len(problem.output)
        self.requests = [Request(problem, i, rank) for i, rank in enumerate(_ranks(self.n, problem.seed))]
        self.next_turn: dict[int, Request] = {}  # with think times: request -> the turn after it
        if problem.turn_before is not None:
            self.next_turn = {i: self.requests[k] for k, i in enumerate(problem.turn_before.tolist()) if i >= 0}
        later = {r.index for r in self.next_turn.values()}
        coming = (r for r in self.requests if r.index not in later)
        self.to_arrive = sorted(coming, key=lambda r: r.arrival, reverse=True)
        self.waiting: list[Request] = []
        self.formulas = self.policy.formulas
        self.failures: dict[int, LlmschedError] = {}  # request -> why the run cannot go on because of it, in this round
        self.columns = {name: column.tolist() for name, column in problem.columns.items()}
        self.key_of = _CHANGING_KEYS.get(self.policy.order) if isinstance(self.policy.order, str) else None
        self.believed_by = _BELIEVED.get(self.policy.reserve, _BELIEVED["upper"])  # a formula's value is a column
        self.running: list[Request] = []  # in order of admission number
        self.eviction_key = EVICTION_KEYS.get(self.policy.evict)  # None where the rule does not rank
        self.ties: dict[int, list[Request]] = {}  # eviction key -> running requests that have it
        self.admissions = 0
        self.round = 0
        self.epoch, self.epoch_round = 0.0, 0  # the last idle jump
        self.idle = 0.0
        self.time = 0.0  # now, with a clock
        self.prefilled = self.swapped = self.admitted_this_round = 0  # tokens, and requests, in this round
        self.pace_start = 0  # the last round in which somebody was admitted while nobody ran
        self.slice = self.slice_width = 0  # with slices: õ of those that run, at most M, and how many of them may run
        self.last_change = self.admissions_then = 0  # round of the last completion, arrival or rise of a bound
        self.peak_memory = self.wasted_tokens = 0
        self.evictions_this_round = 0
        self.stream = splitmix64(problem.seed or 0)
        self.vain_draws = 0  # of random eviction, since a pass in which somebody left
        self.ratio_start, self.ratio_round = problem.ratio.start if problem.ratio else 0.0, 0
        self.recent: deque[int] = deque(maxlen=self.policy.window)  # lengths of the last completed requests
        self.pieces: list[Piece] | None = [] if "timeline" in record else None
        self.attempts: list[tuple[int, int, int, int, int]] | None = [] if "tokens" in record else None
        self.chunks: list[tuple[int, int, int]] = []
        self.round_end: list[float] = []
        for r in self.requests:
            self.begin_to_wait(r)
        self.check_failures()

    @property
    def now(self) -> float:
        return self.time if self.problem.clock else self.epoch + (self.round - self.epoch_round)

    def changed(self) -> None:
        """Something changed for good: a completion, an arrival, the rise of a bound."""
        self.last_change, self.admissions_then = self.round, self.admissions

    def stalled(self) -> bool:
        idle = self.round - self.last_change >= self.problem.stall_limit
        admissions = self.admissions - self.admissions_then
        return idle or (self.problem.may_cycle and admissions >= admission_limit(self.unfinished))

    # Section 3: one round, in this order ---------------------------------------------------------------------------

    def run_round(self) -> None:
        self.decide()
        self.generation()

    def decide(self) -> None:
        """Who leaves and who starts in the coming round."""
        self.evictions_this_round = self.prefilled = self.swapped = self.admitted_this_round = 0
        self.arrivals()
        self.caps()
        evicted = self.overflow()
        self.check_failures()
        if not (evicted and self.policy.pause == "overflow"):
            self.admission(self.waiting)
        self.waiting += evicted
        if not self.running:
            self.admission(self.waiting)

    def arrivals(self) -> None:
        if not self.running and not self.waiting and self.to_arrive[-1].arrival > self.now:
            self.idle += self.to_arrive[-1].arrival - self.now
            self.time = self.epoch = self.to_arrive[-1].arrival
            self.epoch_round = self.round
            self.restart_ratio(None)
        while self.to_arrive and self.to_arrive[-1].arrival <= self.now:
            self.waiting.append(self.to_arrive.pop())
            self.changed()

    def caps(self) -> None:
        if self.policy.cap != "none":
            self.stop([r for r in self.running if r.capped and r.generated >= r.bound], self.policy.cap_refine)
        elif self.policy.shed == "lottery":
            self.stop([r for r in self.running if r.generated >= r.shed_at], "progress")

    def stop(self, reached: list[Request], rule: str) -> None:
        for r in reached:
            self.leave(r, rule)
            self.waiting.append(r)

    def overflow(self) -> list[Request]:
        evicted: list[Request] = []
        for r in self.victims():
            self.leave(r, self.policy.refine)
            evicted.append(r)
        if evicted:
            self.restart_ratio(self.running)
        return evicted

    def admission(self, candidates: list[Request]) -> None:
        if "order" in self.formulas and self.formulas["order"].changes_over_time:
            for r in candidates:
                r.key = self.value(self.formulas["order"], r)
            self.check_failures()
        for r in sorted(candidates, key=self.admission_key):
            if self.feasible(r) if "feasible" not in self.policy.methods else self.feasible_by_method(r):
                candidates.remove(r)
                self.admit(r)
            elif self.policy.fill == "break":
                break

    def prefill(self) -> None:
        """Process prompts and kept tokens, first admitted first, with what generating leaves of the budget."""
        budget = self.problem.prefill_budget - sum(not r.to_prefill for r in self.running)
        for r in self.running:
            chunk = min(r.to_prefill, budget)
            r.to_prefill -= chunk
            budget -= chunk
            self.prefilled += chunk
            if chunk and self.problem.chunked:
                self.chunks.append((r.index, self.round, chunk))

    def generation(self) -> None:
        self.prefill()
        self.peak_memory = max(self.peak_memory, self.need())
        if self.pieces is not None:
            self.pieces.append(self.piece())
        if self.problem.clock is not None:
            work = self.batch(), self.context(), self.prefilled, self.swapped
            self.time += self.problem.clock.duration(*work)
        self.round += 1
        if self.attempts is not None:
            self.round_end.append(self.now)
        if self.eviction_key is not None:  # by "progress", who got no token is now as far behind as who starts next
            for r in [r for r in self.running if r.to_prefill]:
                if self.eviction_key(r, self.round) != r.eviction_key:
                    self.leave_eviction_order(r)
                    self.enter_eviction_order(r)
        for r in self.generating():
            r.generated += 1
            r.known = max(r.known, r.generated)
            if r.generated == r.output:
                r.completion = self.now
                self.recent.append(r.output)
                self.stop_running(r)
                self.unfinished -= 1
                self.changed()
                if r.index in self.next_turn:
                    self.begin_to_think(self.next_turn[r.index])

    def begin_to_think(self, r: Request) -> None:
        """The turn before it has just completed: it is known now when it arrives."""
        assert self.problem.think is not None
        r.arrival = r.joined = self.now + float(self.problem.think[r.index])
        if isinstance(self.policy.order, str) and self.policy.order == "arrival":
            r.key = r.arrival
        bisect.insort(self.to_arrive, r, key=lambda other: -other.arrival)

    def batch(self) -> int:
        """Requests that the round serves."""
        return len(self.running)

    def generating(self) -> list[Request]:
        """Those that get a token in this round, which has just run."""
        return [r for r in self.running if not r.to_prefill]

    def context(self) -> int:
        """Tokens of context that the clock charges for, held before this round's tokens."""
        clock = self.problem.clock
        prompts = sum(r.prompt for r in self.running) if clock and clock.context == "all" else 0
        return prompts + sum(r.generated for r in self.running)

    def piece(self) -> Piece:
        counts = self.batch(), len(self.waiting), self.evictions_this_round
        work = (self.context(), self.prefilled, self.swapped) if self.problem.clock else (0, 0, 0)
        return Piece(self.epoch, self.now, 1, self.need(), *counts, *work)

    # Entering and leaving ------------------------------------------------------------------------------------------

    def admit(self, r: Request) -> None:
        if r.start is None:
            r.start = self.now
        if not self.running:
            self.pace_start = self.round
            if self.policy.slices == "staggered":
                self.slice = self.slice_of(r)
                self.slice_width = slice_width(self.problem.memory, self.slice)
        self.admitted_this_round += 1
        if self.policy.resume == "swap" and r.admission >= 0:
            self.swapped += r.prompt + r.generated - r.to_prefill
        elif self.comes_with_cache(r):
            r.to_prefill = 0
        else:
            r.to_prefill = r.prompt + r.generated - r.cached  # nothing is, unless prefixes are cached
        r.first_round, r.kept = self.round, r.generated
        if self.policy.looks_ahead:
            r.reserved = whole_blocks(r.prompt + self.believed_length(r), self.problem.block)
        if self.policy.shed == "lottery":
            r.shed_at = self.lottery_length(r)
        r.admission = self.admissions
        self.admissions += 1
        self.enter_eviction_order(r)
        self.running.append(r)

    def comes_with_cache(self, r: Request) -> bool:
        """Whether another machine has processed its prompt, and it did not lose that yet."""
        return self.policy.prompts == "moved" and r.admission < 0

    def stop_running(self, r: Request) -> None:
        """Take it out of the batch."""
        self.running.remove(r)
        if self.attempts is not None:
            self.attempts.append((r.index, r.first_round, self.round - r.first_round, r.kept, r.generated))
        self.leave_eviction_order(r)

    def enter_eviction_order(self, r: Request) -> None:
        """By a rule that ranks, it joins the end of its list of equals (section 5)."""
        if self.eviction_key is not None:
            r.eviction_key = self.eviction_key(r, self.round)
            self.ties.setdefault(r.eviction_key, []).append(r)

    def leave_eviction_order(self, r: Request) -> None:
        """In its list of equals the last one takes its place."""
        if self.eviction_key is None:
            return
        equals = self.ties[r.eviction_key]
        place = next(k for k, other in enumerate(equals) if other is r)
        equals[place] = equals[-1]
        equals.pop()
        if not equals:
            del self.ties[r.eviction_key]

    def leave(self, r: Request, rule: str) -> None:
        self.stop_running(r)
        r.evictions += 1
        self.evictions_this_round += 1
        r.joined = self.now
        self.refine(r, rule)
        if self.policy.resume == "restart":
            self.wasted_tokens += r.generated
            r.generated = 0
        elif self.policy.resume == "swap":
            self.swapped += r.prompt + r.generated - r.to_prefill
        self.begin_to_wait(r)

    def begin_to_wait(self, r: Request) -> None:
        """What formulas say of it as long as it waits."""
        if "order" in self.formulas and not self.formulas["order"].changes_over_time:
            r.key = self.value(self.formulas["order"], r)
        if "reserve" in self.formulas:
            r.believed = whole_tokens(self.value(self.formulas["reserve"], r))

    def refine(self, r: Request, rule: str) -> None:
        if self.problem.bound is None:  # nothing reads õ
            return
        old, new = r.bound, _REFINED[rule](r)
        if new > LARGEST_BOUND:
            error = bound_passed(self.policy, r.index, self.round, self.unfinished)
            self.failures.setdefault(r.index, error)
            return
        r.bound = new
        if min(r.bound, self.problem.memory) > old:  # a rise beyond M changes no believed length
            self.changed()

    # Section 4: feasibility of an admission ------------------------------------------------------------------------

    def need(self) -> int:
        return sum(whole_blocks(r.prompt + r.generated + 1, self.problem.block) for r in self.running)

    def believed_length(self, r: Request) -> int:
        return min(self.believed_by(self, r), self.problem.memory - r.prompt)

    def feasible(self, candidate: Request) -> bool:
        capacity = self.problem.capacity if self.running else self.problem.memory
        batch = [*self.running, candidate]
        if len(batch) > self.problem.max_batch or not self.on_pace(candidate):
            return False
        if self.problem.chunked and sum(max(r.to_prefill, 1) for r in self.running) >= self.problem.prefill_budget:
            return False
        coming = sum(whole_blocks(r.prompt + r.generated + 1, self.problem.block) for r in batch)
        if not self.policy.looks_ahead or coming > capacity:
            return coming <= capacity
        if self.policy.hold != "growth":
            peak = whole_blocks(candidate.prompt + self.believed_length(candidate), self.problem.block)
            return sum(map(self.reserved, self.running)) + peak <= capacity
        if self.policy.reserve == "ratio":
            return self.ratio_fits(candidate, capacity)
        length = np.array([self.believed_length(r) for r in batch])
        generated = np.array([r.generated for r in batch])
        held = np.array([r.prompt for r in batch]) + generated
        d = (length - generated)[:, None]
        occupied = whole_blocks(held + d, self.problem.block)
        return bool((occupied * (generated + d <= length)).sum(axis=1).max() <= capacity)

    def on_pace(self, candidate: Request) -> bool:
        """Whether `slices` and `rate_limit` let it start in this round. Where nobody runs, both begin anew."""
        if not self.running:
            return True
        t = self.round - self.pace_start
        if self.policy.slices == "staggered":
            before, after = (-(-rounds * self.slice_width // self.slice) for rounds in (t, t + 1))
            if self.slice_of(candidate) != self.slice or self.admitted_this_round >= after - before:
                return False
        limit = self.policy.rate_limit
        return limit == 0 or self.admitted_this_round < math.ceil(float(t + 1) * limit) - math.ceil(float(t) * limit)

    def slice_of(self, r: Request) -> int:
        return min(r.bound, self.problem.memory)

    # Section 8: beliefs that move while a request runs -------------------------------------------------------------

    def length_of_its_class(self, r: Request) -> int:
        """The quantile of the output given that it exceeds what is known; beyond the table's end, its last number."""
        assert self.problem.lengths is not None
        assert self.problem.classes is not None
        row = self.problem.lengths[self.problem.classes[r.index]]
        return max(int(row[min(r.known, len(row) - 1)]), r.known + 1)

    def drawn_length(self, r: Request) -> int:
        """One of the last completed lengths that exceed what is known of r: one draw per request and round."""
        lengths = sorted(self.recent)
        longer = lengths[bisect.bisect_right(lengths, r.known) :]
        if not longer:
            return max(r.believed, r.known + 1)
        of_this_round = _mixed((self.problem.seed or 0) + (self.round + 1) * _STEP)
        return longer[(_mixed(of_this_round + (r.index + 1) * _STEP) >> 32) * len(longer) >> 32]

    def reserved(self, r: Request) -> int:
        """Tokens of cache set aside for a running request, where the policy holds its peak."""
        if self.policy.hold == "peak":
            return r.reserved
        return max(r.reserved, whole_blocks(r.prompt + r.generated + 1, self.problem.block))

    def lottery_length(self, r: Request) -> int:
        """The tokens at which it is stopped: it survives from i tokens past its bound to j with chance (s+i)/(s+j)."""
        least = max(r.bound, r.generated + 1)
        stream = _mixed(~(self.problem.seed or 0))
        drawn = _mixed(_mixed(stream + (r.evictions + 1) * _STEP) + (r.index + 1) * _STEP)
        held = math.ceil((r.prompt + least) / (((drawn >> 11) + 1) * 2.0**-53))
        return max(least, held - r.prompt - 1)

    def ratio_fits(self, candidate: Request, capacity: int) -> bool:
        now = [r for r in self.running if r.first_round == self.round] + [candidate]
        before = [r for r in self.running if r.first_round < self.round]
        tokens = sum(whole_blocks(r.prompt + r.generated, self.problem.block) for r in before)
        tokens += sum(whole_blocks(r.prompt + r.generated + self.clipped_rest(r), self.problem.block) for r in now)
        return float(tokens) + self.ratio() * float(sum(self.clipped_rest(r) for r in before)) <= capacity

    def clipped_rest(self, r: Request) -> int:
        return min(self.believed_length(r) - r.generated, self.policy.clip)

    def ratio(self) -> float:
        assert self.problem.ratio is not None
        return max(
            self.ratio_start - self.problem.ratio.step * (self.round - self.ratio_round), self.problem.ratio.least
        )

    def restart_ratio(self, remaining: list[Request] | None) -> None:
        """After an overflow, r is what those that remain show; after an idle time (None) it starts anew."""
        if self.problem.ratio is None:
            return
        self.ratio_start, self.ratio_round = self.problem.ratio.start, self.round
        if remaining is not None:
            generated = sum(r.generated for r in remaining) + self.policy.headroom * len(remaining)
            self.ratio_start = min(1.0, float(generated) / float(sum(map(self.believed_length, remaining)) + 1))

    # Section 5: orders and ties ------------------------------------------------------------------------------------

    def admission_key(self, r: Request) -> tuple[float, int]:
        if "admission_key" in self.policy.methods:
            return self.key_by_method(r), r.rank
        key = r.key if self.key_of is None else self.key_of(self, r)
        assert key is not None
        return key, r.rank

    def victims(self) -> Iterator[Request]:
        """Who leaves while the cache overflows; each has left before the next is chosen."""
        if self.need() <= self.problem.memory:
            return
        while self.too_full():
            yield from self.next_victims()
            self.check_failures()

    def next_victims(self) -> list[Request]:
        if "victims" in self.policy.methods:
            return self.victims_by_method()
        return _VICTIMS.get(self.policy.evict, ReferenceEngine.first_by_formula)(self)

    def first_in_rank(self) -> list[Request]:
        """By a rule that ranks: one of the equals with the smallest key."""
        return [self.one_of(self.ties[min(self.ties)])]

    def first_by_formula(self) -> list[Request]:
        """One of those for whom the formula of `evict` is smallest."""
        values = [self.value(self.formulas["evict"], r) for r in self.running]
        least = min(values)
        self.check_failures()
        return [self.one_of([r for r, value in zip(self.running, values, strict=True) if value == least])]

    def one_of(self, equals: list[Request]) -> Request:
        """Drawn, or one with the longest prompt, as `tie` says."""
        if self.policy.tie == "prompt":
            longest = max(r.prompt for r in equals)
            equals = [r for r in equals if r.prompt == longest]
        if self.policy.tie == "last":
            return max(equals, key=lambda r: r.rank)
        return equals[self.drawn_member(len(equals))]

    def one_pass(self) -> list[Request]:
        """Each running request with probability beta; after too many draws that named nobody, an error."""
        drawn = [r for r in self.running if (next(self.stream) >> 11) * 2.0**-53 < self.policy.beta]
        self.vain_draws = 0 if drawn else self.vain_draws + len(self.running)
        if self.vain_draws >= MOST_VAIN_DRAWS:
            self.check_failures()
            raise nobody_drawn(self.policy, self.round, self.unfinished)
        return drawn

    def too_full(self) -> bool:
        """Whether there is less room than `headroom` for each; with one request left there is always enough."""
        tokens = sum(
            whole_blocks(r.prompt + r.generated + self.policy.headroom, self.problem.block) for r in self.running
        )
        return len(self.running) > 1 and tokens > self.problem.memory

    def drawn_member(self, k: int) -> int:
        if k == 1 or self.problem.seed is None:
            return 0
        return (next(self.stream) >> 32) * k >> 32

    # Formulas (docs/reference/formulas.md) --------------------------------------------------------------------------

    def value(self, formula: Formula, r: Request) -> float:
        """Its value for a request as it stands; 0, and a note of the failure, where it has none."""
        now = {
            "bound": r.bound,
            "generated": r.generated,
            "joined": r.joined,
            "now": self.now,
            "evictions": r.evictions,
        }
        values = {name: self.columns[name][r.index] if name in self.columns else now[name] for name in formula.reads}
        try:
            return formula.value(values, r.index)
        except FormulaValueError as error:
            self.failures.setdefault(r.index, error)
            return 0.0

    def check_failures(self) -> None:
        """Of those for whom a formula has no value, or whose bound would pass the largest, the first is named."""
        if self.failures:
            raise self.failures[min(self.failures)]

    # Policies in Python: what their methods say is checked ------------------------------------------------------------

    def seen(self, r: Request) -> RequestView:
        """A request as the methods of a policy see it."""
        values: dict[str, float] = {name: getattr(r, name) for name in VISIBLE}
        values |= {name: self.columns[name][r.index] for name in self.policy.reads if name in self.columns}
        if "bound" in self.policy.reads:
            values["bound"] = r.bound
        return RequestView(**values)

    def key_by_method(self, r: Request) -> float:
        key = self.asked("admission_key", self.seen(r), self.now)
        if not isinstance(key, numbers.Real) or math.isnan(key):
            raise self.refused("admission_key", f"{key!r} for request {r.index}, expected a number")
        return float(key)

    def feasible_by_method(self, candidate: Request) -> bool:
        """What the method says, if the coming round has room for one more. Where nobody runs, the first is admitted."""
        if not self.running:
            return True
        batch = [*self.running, candidate]
        coming = sum(whole_blocks(r.prompt + r.generated + 1, self.problem.block) for r in batch)
        prefill = sum(max(r.to_prefill, 1) for r in self.running)
        if coming > self.problem.memory or len(batch) > self.problem.max_batch or not self.on_pace(candidate):
            return False
        if prefill >= self.problem.prefill_budget:
            return False
        running = [self.seen(r) for r in self.running]
        return bool(self.asked("feasible", running, self.seen(candidate), self.now, answer=bool))

    def victims_by_method(self) -> list[Request]:
        running = {r.index: r for r in self.running}
        chosen = self.asked("victims", [self.seen(r) for r in self.running], self.need(), self.now, answer=list)
        indices = [getattr(victim, "index", None) for victim in chosen]
        if not chosen or len({*indices}) < len(indices) or not running.keys() >= {*indices}:
            raise self.refused("victims", f"{chosen!r}, expected at least one request of the batch, each of them once")
        return [running[index] for index in indices if index is not None]

    def asked(self, method: str, *arguments: Any, answer: Callable[[Any], Any] = lambda given: given) -> Any:
        """What a method of the policy says, as an `answer`. Raises PolicyError, with the line, where it raises."""
        try:
            return answer(getattr(self.policy, method)(*arguments))
        except Exception as error:
            frames = traceback.extract_tb(error.__traceback__, limit=2)[1:]  # the first is this one
            where = f" ({frames[0].filename}:{frames[0].lineno})" if frames else ""
            raise PolicyError(f"{self.called(method)} raised {type(error).__name__}: {error}{where}") from error

    def refused(self, method: str, answer: str) -> PolicyError:
        return PolicyError(f"{self.called(method)} returned {answer}")

    def called(self, method: str) -> str:
        return f"{type(self.policy).__name__}.{method} in round {self.round}"

    # ---------------------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        def column(values: Iterable[float | None]) -> np.ndarray:
            return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

        timeline = tokens = None
        if self.pieces is not None:
            columns = list(zip(*self.pieces, strict=True)) or [()] * len(Piece._fields)
            timeline = merged(columns, self.problem.clock)
        if self.attempts is not None:
            log = np.array(self.attempts, dtype=np.int64).reshape(-1, 5).T
            chunks = np.array(self.chunks, dtype=np.int64).reshape(-1, 3).T if self.problem.chunked else ()
            tokens = Tokens(np.array(self.round_end, dtype=np.float64), *log, *chunks)
        return Outcome(
            completion=column(r.completion for r in self.requests),
            start=column(r.start for r in self.requests),
            evictions=np.array([r.evictions for r in self.requests], dtype=np.int64),
            rounds=self.round,
            peak_memory=self.peak_memory,
            wasted_tokens=self.wasted_tokens,
            unfinished=self.unfinished,
            timeline=timeline,
            tokens=tokens,
            work={},
            idle=self.idle,
            arrival=column(r.arrival for r in self.requests) if self.problem.think is not None else None,
            cached=np.array([r.hit or 0 for r in self.requests], dtype=np.int64) if self.problem.names else None,
        )


# What the engine knows of each policy field ---------------------------------------------------------------------------

#: `order` -> the key of a request that joins the waiting set, where it may change.
_CHANGING_KEYS: dict[str, Callable[[ReferenceEngine, Request], float]] = {
    "queue": lambda engine, r: r.joined,
    "bound": lambda engine, r: r.bound,
    "area": lambda engine, r: float(r.prompt + r.bound) * r.bound,  # rounded in the same way by both engines
    "table": lambda engine, r: engine.length_of_its_class(r),
}
#: `reserve` -> what a request is believed to reach, more than what is known of it.
_BELIEVED: dict[str, Callable[[ReferenceEngine, Request], int]] = {
    "bound": lambda engine, r: max(r.bound, r.generated + 1),
    **{
        word: lambda engine, r: max(r.believed, r.generated + 1)
        for word, rule in RESERVES.items()
        if rule.kind == "column" or word == "ratio"
    },
    "conditional": lambda engine, r: engine.length_of_its_class(r),
    "history": lambda engine, r: engine.drawn_length(r),
}
#: `refine` and `cap_refine` -> õ of a request that leaves.
_REFINED: dict[str, Callable[[Request], int]] = {
    "none": lambda r: r.bound,
    "progress": lambda r: max(r.bound, r.generated + 1),
    "double": lambda r: max(2 * r.bound, r.generated + 1),
    "upper": lambda r: r.upper if r.bound < r.upper else 2 * r.bound,
}
#: `evict`, where it ranks -> the key of a running request before a round; the smallest leaves first. It may not change
#: while all that run grow by a token.
EVICTION_KEYS: dict[str, Callable[[Request, int], int]] = {
    "bound": lambda r, t: r.bound,
    "progress": lambda r, t: r.generated - t,
    "priority": lambda r, t: -r.level,
}
#: `evict` -> who leaves next.
_VICTIMS: dict[str, Callable[[ReferenceEngine], list[Request]]] = {
    "newest": lambda engine: engine.running[-1:],
    "all": lambda engine: list(engine.running),
    "random": ReferenceEngine.one_pass,
    **dict.fromkeys(EVICTION_KEYS, ReferenceEngine.first_in_rank),
}

check_words("reference._CHANGING_KEYS", _CHANGING_KEYS, [word for word, rule in ORDERS.items() if rule.changes])
check_words("reference._BELIEVED", [*_BELIEVED, "none", "prompt"], CHOICES["reserve"])
check_words("reference._REFINED", _REFINED, CHOICES["refine"] + CHOICES["cap_refine"])
check_words("reference.EVICTION_KEYS", EVICTION_KEYS, [word for word, rule in EVICTION_RULES.items() if rule.ranks])
check_words("reference._VICTIMS", _VICTIMS, CHOICES["evict"])
for _field, _words in {  # what the methods of `ReferenceEngine` compare with
    "fill": ("break", "skip"),
    "cap": ("none", "bound", "advised"),
    "resume": ("restart", "recompute", "swap"),
    "pause": ("none", "overflow"),
    "hold": ("growth", "peak", "rising"),
    "shed": ("none", "lottery"),
    "tie": ("drawn", "prompt", "last"),
    "slices": ("none", "staggered"),
    "slots": ("ahead", "processed"),
    "prefixes": ("none", "cached"),
    "prompts": ("processed", "moved"),
}.items():
    check_words(f"reference.ReferenceEngine, {_field}", _words, CHOICES[_field])


# Draws ----------------------------------------------------------------------------------------------------------------


def _ranks(n: int, seed: int | None) -> list[int]:
    return list(range(n)) if seed is None else np.random.default_rng(seed).permutation(n).tolist()


def splitmix64(state: int) -> Iterator[int]:
    """Vigna's splitmix64: 64-bit outputs, for ever."""
    while True:
        state += _STEP
        yield _mixed(state)


def _mixed(state: int) -> int:
    """What splitmix64 gives out in this state."""
    z = state & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
