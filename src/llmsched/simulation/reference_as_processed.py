"""Section 7 of model.md in the readable engine: slots that are taken as tokens are processed."""

from __future__ import annotations

from collections.abc import Collection

from .blocks import whole_blocks
from .problem import Problem
from .reference import EVICTION_KEYS, ReferenceEngine, Request


class SlotsAsProcessed(ReferenceEngine):
    """With slots="processed": a request occupies slots for what the cache holds of it, and for what this round adds."""

    def __init__(self, problem: Problem, record: Collection[str]) -> None:
        super().__init__(problem, record)
        self.eviction_key = None  # nobody is in a list: equals are looked for in order of admission
        self.served: dict[Request, int] = {}  # tokens that this round processes, of those that it serves
        self.budget_left = 0  # tokens that it may still process
        self.alone = False  # whether only one request runs or waits, as it begins
        for r in self.requests:
            if self.comes_with_cache(r):
                r.cached = max(r.prompt, 1) - 1  # the round that admits it processes the last token
            else:
                r.to_prefill = r.prompt

    def overflow(self) -> list[Request]:
        """Serve those that run, first admitted first. Until there are slots for it, others leave, or it itself does:
        then nobody else is served."""
        self.served, self.budget_left = {}, self.problem.prefill_budget
        self.alone = len(self.running) + len(self.waiting) == 1
        evicted: list[Request] = []
        for r in list(self.running):
            if self.budget_left == 0:
                break
            if r in evicted:
                continue
            tokens = self.next_tokens(r)
            while r not in evicted and self.need() + self.slots_for(r, tokens) > self.problem.memory:
                for victim in self.next_victims():
                    self.leave(victim, self.policy.refine)
                    evicted.append(victim)
                self.check_failures()
            if r in evicted:
                break
            self.serve(r, tokens)
        return evicted

    def next_tokens(self, r: Request) -> int:
        """How many tokens of it this round may process."""
        return min(self.unprocessed(r), self.budget_left if self.alone else self.policy.chunk, self.budget_left)

    def unprocessed(self, r: Request) -> int:
        """Tokens of it that are not in the cache; one at least, without a prompt too."""
        return max(r.to_prefill, 1)

    def slots_for(self, r: Request, tokens: int) -> int:
        """Slots, in whole blocks, that so many more tokens of it take."""
        block = self.problem.block
        return whole_blocks(r.cached + tokens, block) - whole_blocks(r.cached, block)

    def need(self) -> int:
        return sum(whole_blocks(r.cached + self.served.get(r, 0), self.problem.block) for r in self.running)

    def serve(self, r: Request, tokens: int) -> None:
        self.served[r] = tokens
        self.budget_left -= tokens

    def next_victims(self) -> list[Request]:
        ranks = EVICTION_KEYS.get(self.policy.evict)
        if ranks is None or "victims" in self.policy.methods:
            return super().next_victims()
        least = min(ranks(r, self.round) for r in self.running)
        return [self.one_of([r for r in self.running if ranks(r, self.round) == least])]

    def feasible(self, candidate: Request) -> bool:
        return self.fits(candidate, self.problem.capacity if self.running else self.problem.memory)

    def feasible_by_method(self, candidate: Request) -> bool:
        if not self.running:
            return True
        running = [self.seen(r) for r in self.running]
        fits = self.fits(candidate, self.problem.memory)
        return fits and bool(self.asked("feasible", running, self.seen(candidate), self.now, answer=bool))

    def fits(self, candidate: Request, capacity: int) -> bool:
        """Whether there is a place, something left of the budget, and slots for this round or for the whole prompt."""
        if len(self.running) >= self.problem.max_batch or self.budget_left == 0 or not self.on_pace(candidate):
            return False
        tokens = self.unprocessed(candidate) if self.policy.reserve == "prompt" else self.next_tokens(candidate)
        return self.need() + whole_blocks(candidate.cached + tokens, self.problem.block) <= capacity

    def admit(self, r: Request) -> None:
        tokens = self.next_tokens(r)
        super().admit(r)
        self.serve(r, tokens)

    def leave(self, r: Request, rule: str) -> None:
        super().leave(r, rule)
        r.cached, r.to_prefill = 0, r.prompt + r.generated

    def stop_running(self, r: Request) -> None:
        self.budget_left += self.served.pop(r, 0)
        super().stop_running(r)
        if self.attempts and self.attempts[-1][2] == 0:  # it got nothing since its last attempt was written
            self.attempts.pop()

    def enter_eviction_order(self, r: Request) -> None:
        pass

    def leave_eviction_order(self, r: Request) -> None:
        pass

    def prefill(self) -> None:
        for r, tokens in self.served.items():
            chunk = min(r.to_prefill, tokens)
            r.to_prefill -= chunk
            self.prefilled += chunk
            if chunk:
                self.chunks.append((r.index, self.round, chunk))

    def batch(self) -> int:
        return len(self.served)

    def context(self) -> int:
        clock = self.problem.clock
        prompts = clock is not None and clock.context == "all"
        return sum(r.cached if prompts else max(r.cached - r.prompt, 0) for r in self.served)

    def generating(self) -> list[Request]:
        served, self.served = self.served, {}
        for r, tokens in served.items():
            r.cached += tokens
        for r in self.running:
            if r not in served and not r.to_prefill:
                self.interrupt(r)
        return [r for r in served if not r.to_prefill]

    def interrupt(self, r: Request) -> None:
        """A round gave it no token: of its attempt, which has one in each, this is the end, and the next begins."""
        ended = self.round - 1
        if self.attempts is not None and ended > r.first_round:
            self.attempts.append((r.index, r.first_round, ended - r.first_round, r.kept, r.generated))
        r.first_round, r.kept = self.round, r.generated
