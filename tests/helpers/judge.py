"""A judge that is no engine: it derives every round from docs/background/model.md, in exact numbers where it can, and
holds what an engine did against that, round by round. Written from the page alone; slow and simple.

This is the judge of `slots="ahead"`; judge_as_processed.py has that of `slots="processed"`. `judge_runs.judge` takes a
Result with its timeline and token log, `judge_fleets.judge_fleet` a FleetResult. A judge can also be driven, a round
at a time, beside a live scheduler.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np

import llmsched as ls

MASK, GAMMA = 2**64 - 1, 0x9E3779B97F4A7C15
NEVER = 2**62


def mix(z: int) -> int:
    """f of splitmix64 (Vigna)."""
    z &= MASK
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & MASK
    return z ^ (z >> 31)


def whole_tokens(value: float) -> int:
    """Of a formula: rounded up, but for less than 2^-20 of a token, and 1 at least."""
    value = min(value, float(NEVER))
    return max(math.floor(value) if value - math.floor(value) < 2.0**-20 else math.ceil(value), 1)


class Stream:
    """splitmix64 started at a seed."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def next(self) -> int:
        self.state += GAMMA
        return mix(self.state)

    def member(self, k: int) -> int:
        return (self.next() >> 32) * k >> 32


class Request:
    """One request of a judge: section 1, and where it stands."""

    def __init__(self, index: int, prompt: int, arrival: float, rank: int, **known: Any) -> None:
        self.i, self.s, self.a, self.rank, self.known = index, prompt, arrival, rank, known
        self.bound = 0
        self.g = self.k = 0  # tokens that it has, and the most that it ever had
        self.joined = arrival
        self.start: float | None = None
        self.left = 0  # how often it left
        self.to_prefill = 0
        self.ran = False
        self.chunk = 0  # of its prompt and kept tokens, processed in this round
        self.admitted_in = -1
        self.reserved = self.stop_at = self.slice = 0
        self.value: dict[str, float] = {}  # of formulas, since it began to wait
        # Of slots="processed": tokens processed, as the round began, in this round, in hits; blocks that it holds.
        self.c = self.had = self.got = self.hit = self.blank = 0
        self.held: list[Any] = []

    def __repr__(self) -> str:
        return f"request {self.i}"


class Judge:
    """The state that section 3 speaks of. `decide` is steps 2 to 4, `generate` step 5."""

    def __init__(
        self, policy: ls.Policy, memory: int, seed: int | None, *, block: int = 1, max_batch: int | None = None,
        prefill_budget: int | None = None, table: Any = None,
    ) -> None:  # fmt: skip
        self.policy, self.memory, self.seed, self.block = policy, memory, seed, block
        self.max_batch = math.inf if max_batch is None else max_batch
        self.budget = math.inf if prefill_budget is None else prefill_budget
        kept = math.floor((1 - Fraction(str(policy.margin))) * memory)
        self.capacity = kept // block * block
        self.table = table
        self.waiting: list[Request] = []
        self.running: list[Request] = []  # in order of admission
        self.lists: dict[Any, list[Request]] = {}
        self.stream = Stream(seed or 0)
        self.round = self.emptied = 0
        self.completed: list[int] = []
        self.r_start, self.r_round = policy.ratio, 0
        self.now = 0.0
        self.prefilled = self.moved = 0

    # Sections 1 and 8: what is known and believed ---------------------------------------------------------------------

    def first_bound(self, r: Request) -> int:
        word = self.policy.bound
        if word == "one":
            return 1
        if word == "prompt":
            return 1 << (max(r.s, 1) - 1).bit_length()
        return int(r.known.get(word) or 0)

    def blocks(self, tokens: int) -> int:
        return -(-tokens // self.block) * self.block

    def from_table(self, r: Request) -> int:
        row = self.table[r.known["row"]]
        return max(int(row[min(r.k, len(row) - 1)]), r.k + 1)

    def length(self, r: Request) -> int:
        """L."""
        word = self.policy.reserve
        if "reserve" in self.policy.formulas:
            b = whole_tokens(r.value["reserve"])
            least = r.g + 1
        elif word == "conditional":
            b, least = self.from_table(r), r.k + 1
        elif word == "history":
            longer = sorted(o for o in self.completed[-self.policy.window :] if o > r.k)
            b, least = r.known["upper"], r.k + 1
            if longer:
                of_round = mix((self.seed or 0) + (self.round + 1) * GAMMA)
                b = longer[(mix(of_round + (r.i + 1) * GAMMA) >> 32) * len(longer) >> 32]
        else:
            b = r.bound if word == "bound" else r.known["upper" if word == "ratio" else word]
            least = r.g + 1
        return min(max(b, least), self.memory - r.s)

    # Arrivals and leaving ---------------------------------------------------------------------------------------------

    def formula(self, name: str, r: Request) -> float:
        formula = self.policy.formulas[name]
        values = {
            "bound": float(r.bound), "generated": float(r.g), "joined": r.joined, "now": self.now,
            "evictions": float(r.left), "memory": float(self.memory), "prompt": float(r.s), "arrival": r.a,
            **{word: float(value) for word, value in r.known.items() if value is not None},
        }  # fmt: skip
        return formula.value({word: values[word] for word in formula.reads}, r.i)

    def begins_to_wait(self, r: Request) -> None:
        r.value = {
            name: self.formula(name, r)
            for name, formula in self.policy.formulas.items()
            if name != "evict" and "now" not in formula.reads
        }

    def arrive(self, r: Request) -> None:
        r.bound = self.first_bound(r)
        self.begins_to_wait(r)
        self.waiting.append(r)

    def leave(self, r: Request, rule: str) -> None:
        self.stop(r)
        r.left += 1
        r.joined = self.now
        if rule == "progress":
            r.bound = max(r.bound, r.g + 1)
        elif rule == "double":
            r.bound = max(2 * r.bound, r.g + 1)
        elif rule == "upper":
            r.bound = 2 * r.bound if r.bound >= r.known["upper"] else r.known["upper"]
        assert r.bound <= NEVER or not self.policy.tracks_bound, f"õ of {r} passed 2^62 and the run went on"
        if self.policy.resume == "swap":
            self.moved += r.s + r.g - r.to_prefill
        if self.policy.resume == "restart":
            r.g = 0
        self.begins_to_wait(r)

    def stop(self, r: Request) -> None:
        self.running.remove(r)
        for equals in self.lists.values():
            if r in equals:
                equals[equals.index(r)] = equals[-1]
                equals.pop()

    # Section 3, steps 2 and 3 -----------------------------------------------------------------------------------------

    def caps(self) -> list[Request]:
        policy = self.policy
        if policy.cap == "none":
            reached = [r for r in self.running if policy.shed == "lottery" and r.g >= r.stop_at]
            rule = "progress"
        else:
            advised = (3 - math.sqrt(5)) / 2
            mine = [
                r for r in self.running
                if policy.cap == "bound" or r.known["lower"] / r.known["upper"] < advised
            ]  # fmt: skip
            reached, rule = [r for r in mine if r.g >= r.bound], policy.cap_refine
        for r in reached:
            self.leave(r, rule)
            self.waiting.append(r)
        return reached

    def need(self) -> int:
        return sum(self.blocks(r.s + r.g + 1) for r in self.running)

    def overflow(self) -> list[Request]:
        gone: list[Request] = []
        if self.need() <= self.memory:
            return gone
        room = self.policy.headroom
        while len(self.running) > 1 and sum(self.blocks(r.s + r.g + room) for r in self.running) > self.memory:
            for r in self.victims():
                self.leave(r, self.policy.refine)
                gone.append(r)
        if gone:
            generated = sum(r.g for r in self.running) + room * len(self.running)
            if self.policy.reserve == "ratio":
                self.r_start = min(1.0, generated / (sum(map(self.length, self.running)) + 1))
                self.r_round = self.round
        return gone

    def victims(self) -> list[Request]:
        policy = self.policy
        if "evict" in policy.formulas:
            values = {r: self.formula("evict", r) for r in self.running}
            return [self.one_of([r for r in self.running if values[r] == min(values.values())])]
        if policy.evict == "newest":
            return [self.running[-1]]
        if policy.evict == "all":
            return list(self.running)
        if policy.evict == "random":
            return [r for r in self.running if (self.stream.next() >> 11) / 2**53 < policy.beta]
        some = [equals for equals in self.lists.values() if equals]
        return [self.one_of(min(some, key=lambda equals: self.urgency(equals[0])))]

    def urgency(self, r: Request) -> Any:
        """By a rule that ranks: the smallest leaves first."""
        if self.policy.evict == "bound":
            return r.bound
        if self.policy.evict == "progress":
            return r.g
        return -r.known["priority"], -r.a

    def one_of(self, equals: list[Request]) -> Request:
        if self.policy.tie == "prompt":
            longest = max(r.s for r in equals)
            equals = [r for r in equals if r.s == longest]
        if self.policy.tie == "last":
            return max(equals, key=lambda r: r.rank)
        alone = len(equals) == 1 or self.seed is None
        return equals[0 if alone else self.stream.member(len(equals))]

    # Sections 3, step 4, and 4 ----------------------------------------------------------------------------------------

    def admission(self, gone: list[Request]) -> list[Request]:
        started: list[Request] = []
        if not (gone and self.policy.pause == "overflow"):
            self.consider(started)
        self.waiting += gone
        if not self.running:
            self.consider(started)
        return started

    def consider(self, started: list[Request]) -> None:
        keys = {r: self.key(r) for r in self.waiting}
        for r in sorted(self.waiting, key=lambda r: (keys[r], r.rank)):
            if self.feasible(r, started):
                self.admit(r)
                started.append(r)
            elif self.policy.fill == "break":
                return

    def key(self, r: Request) -> Any:
        order = self.policy.order
        if not isinstance(order, str):
            return float(order[r.i])
        if "order" in self.policy.formulas:
            return r.value["order"] if "order" in r.value else self.formula("order", r)
        if order == "volume":
            return r.s * r.known["output"] + r.known["output"] * (r.known["output"] + 1) // 2
        keys = {"arrival": lambda: r.a, "queue": lambda: r.joined, "bound": lambda: r.bound}
        keys |= {"area": lambda: float(r.s + r.bound) * r.bound, "table": lambda: self.from_table(r)}
        keys |= {"priority": lambda: (r.known["priority"], r.a)}
        return keys[order]() if order in keys else r.known[order]

    def feasible(self, new: Request, started: list[Request]) -> bool:
        policy, batch = self.policy, [*self.running, new]
        if len(batch) > self.max_batch:
            return False
        if sum(max(r.to_prefill, 1) for r in self.running) >= self.budget:
            return False
        if self.running and not self.on_pace(new, len(started)):
            return False
        capacity = self.capacity if self.running else self.memory
        if sum(self.blocks(r.s + r.g + 1) for r in batch) > capacity:
            return False
        if policy.reserve in ("none", "prompt"):
            return True
        length = {r: self.length(r) for r in batch}
        if policy.hold in ("peak", "rising"):
            held = [
                r.reserved if policy.hold == "peak" else max(r.reserved, self.blocks(r.s + r.g + 1))
                for r in self.running
            ]
            return sum(held) + self.blocks(new.s + length[new]) <= capacity
        if policy.reserve == "ratio":
            rest = {r: min(length[r] - r.g, policy.clip) for r in batch}
            whole = [r for r in batch if r is new or r.admitted_in == self.round]
            others = [r for r in batch if r not in whole]
            tokens = sum(self.blocks(r.s + r.g + rest[r]) for r in whole) + sum(self.blocks(r.s + r.g) for r in others)
            floor = policy.ratio * policy.ratio_floor
            step = (policy.ratio - floor) / policy.ratio_rounds
            ratio = max(self.r_start - step * (self.round - self.r_round), floor)
            return float(tokens) + ratio * float(sum(rest[r] for r in others)) <= capacity
        ends = {length[r] - r.g for r in batch}  # what is occupied is largest where somebody ends
        return all(
            sum(self.blocks(r.s + r.g + d) for r in batch if r.g + d <= length[r]) <= capacity for d in ends if d >= 1
        )

    def on_pace(self, new: Request, admitted: int) -> bool:
        t, limit = self.round - self.emptied, self.policy.rate_limit
        if limit and admitted >= math.ceil((t + 1) * limit) - math.ceil(t * limit):
            return False
        if self.policy.slices == "none":
            return True
        tau = min(new.bound, self.memory)
        if any(r.slice != tau for r in self.running):
            return False
        k = self.width(tau)
        return admitted < math.ceil(Fraction((t + 1) * k, tau)) - math.ceil(Fraction(t * k, tau))

    def width(self, tau: int) -> int:
        short = min(tau, self.memory - tau)
        fits = (
            k for k in itertools.count(1) if short * k + Fraction(tau * k + tau + k - math.gcd(tau, k), 2) > self.memory
        )
        return next(fits) - 1

    def admit(self, r: Request) -> None:
        policy = self.policy
        self.waiting.remove(r)
        if not self.running:
            self.emptied = self.round
        if r.start is None:
            r.start = self.now
        self.bring(r)
        r.ran = True
        r.admitted_in = self.round
        r.slice = min(r.bound, self.memory)
        if policy.reserve not in ("none", "prompt"):
            r.reserved = self.blocks(r.s + self.length(r))
        if policy.shed == "lottery" and policy.cap == "none":
            m = max(r.bound, r.g + 1)
            x = mix(mix(mix(~(self.seed or 0)) + (r.left + 1) * GAMMA) + (r.i + 1) * GAMMA)
            r.stop_at = max(m, math.ceil((r.s + m) / (((x >> 11) + 1) * 2.0**-53)) - r.s - 1)
        self.running.append(r)
        self.lists.setdefault(self.list_of(r), []).append(r)

    def bring(self, r: Request) -> None:
        """What of its tokens comes with it, and what is left to process."""
        if self.policy.resume == "swap" and r.ran:
            self.moved += r.s + r.g - r.to_prefill
        else:
            r.to_prefill = 0 if self.policy.prompts == "moved" and not r.ran else r.s + r.g

    def list_of(self, r: Request) -> Any:
        """Equals stay so while all that run grow by a token."""
        return r.g - self.round if self.policy.evict == "progress" else self.urgency(r) if self.ranks else None

    @property
    def ranks(self) -> bool:
        return self.policy.evict in ("bound", "priority")

    # A round ----------------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> tuple[list[Request], list[Request]]:
        """Who leaves and who starts in the round that begins now."""
        self.now = now
        self.prefilled = self.moved = 0
        capped = self.caps()
        gone = self.overflow()
        return capped + gone, self.admission(gone)

    def generate(self) -> list[Request]:
        """The round: who got a token. Nobody completes yet: say `complete`."""
        budget = self.budget - sum(not r.to_prefill for r in self.running)
        for r in self.running:
            r.chunk = int(min(r.to_prefill, budget))
            r.to_prefill -= r.chunk
            budget -= r.chunk
            self.prefilled += r.chunk
        self.round += 1
        generated = [r for r in self.running if not r.to_prefill]
        for r in generated:
            r.g += 1
            r.k = max(r.k, r.g)
        if self.policy.evict == "progress":  # who got none is as far on as one admitted now, behind those in the list
            for r in self.running:
                if r.to_prefill:
                    for equals in self.lists.values():
                        if r in equals:
                            equals[equals.index(r)] = equals[-1]
                            equals.pop()
                    self.lists.setdefault(self.list_of(r), []).append(r)
        return generated

    def complete(self, r: Request) -> None:
        self.stop(r)
        self.completed.append(r.g)

    def abort(self, r: Request) -> None:
        """Of a live scheduler: it goes away."""
        self.waiting.remove(r) if r in self.waiting else self.stop(r)

    @property
    def served(self) -> list[Request]:
        return list(self.running)

    def context(self, everything: bool) -> int:
        """Of the round that was decided."""
        return sum(r.g + (r.s if everything else 0) for r in self.running)

    def idle_until(self, now: float) -> None:
        self.now = now
        self.r_start, self.r_round = self.policy.ratio, self.round


def requests_of(workload: ls.Workload, policy: ls.Policy, seed: int | None) -> list[Request]:
    n = len(workload)
    ranks = range(n) if seed is None else np.random.default_rng(seed).permutation(n).tolist()
    names = ("output", "lower", "upper", "point", "priority", "deadline")
    columns = {name: getattr(workload, name) for name in names}
    made = []
    for i in range(n):
        known = {name: None if column is None else column[i].item() for name, column in columns.items()}
        if known["point"] is None and known["lower"] is not None and known["upper"] is not None:
            known["point"] = known["lower"] + -(-(known["upper"] - known["lower"]) // 2)
        known["row"] = None if workload.classes is None else int(workload.classes[i])
        made.append(Request(i, int(workload.prompt[i]), float(workload.arrival[i]), ranks[i], **known))
    return made
