"""The judge of `slots="processed"`: section 7 of docs/background/model.md from "Slots that are taken" to its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llmsched as ls

from .judge import Judge, Request

#: (request, j) -> the name of its block j.
Names = Callable[[int, int], Any]


class Block:
    """One block of the cache."""

    def __init__(self) -> None:
        self.holders = 0
        self.name: Any = None


class Cache:
    """Blocks that somebody holds, free ones without a name, and free ones with names, in a list."""

    def __init__(self, blocks: int) -> None:
        self.size = blocks
        self.free = [Block() for _ in range(blocks)]
        self.listed: list[Block] = []
        self.named: dict[Any, list[Block]] = {}  # in the order in which they got the name

    @property
    def held(self) -> int:
        return self.size - len(self.free) - len(self.listed)

    @property
    def room(self) -> int:
        return self.size - self.held

    def names(self) -> frozenset[Any]:
        return frozenset(name for name, blocks in self.named.items() if blocks)

    def take(self) -> Block:
        if self.free:
            block = self.free.pop()
        else:
            block = self.listed.pop(0)
            self.named[block.name].remove(block)
            block.name = None
        block.holders = 1
        return block

    def call(self, block: Block, name: Any) -> None:
        block.name = name
        self.named.setdefault(name, []).append(block)

    def hit(self, block: Block) -> None:
        if not block.holders:
            self.listed.remove(block)
        block.holders += 1

    def give_back(self, blocks: list[Block]) -> None:
        for block in reversed(blocks):
            block.holders -= 1
            if not block.holders:
                (self.free if block.name is None else self.listed).append(block)


class JudgeAsProcessed(Judge):
    """A judge whose requests hold slots for the tokens that were processed. `decide` is steps 2 to 4."""

    def __init__(
        self, policy: ls.Policy, memory: int, seed: int | None, names: Names | None = None, **more: Any
    ) -> None:
        super().__init__(policy, memory, seed, **more)
        self.names = names  # None: nothing is cached
        self.cache = Cache(memory // self.block)
        self.left_of_budget = self.budget
        self.alone = False

    def need(self) -> int:
        return self.cache.held * self.block

    # Step 3 -----------------------------------------------------------------------------------------------------------

    def decide(self, now: float) -> tuple[list[Request], list[Request]]:
        self.left_of_budget = self.budget
        self.alone = len(self.running) + len(self.waiting) == 1
        for r in self.running:
            r.got = r.chunk = 0
        return super().decide(now)

    def overflow(self) -> list[Request]:
        """Serving, in which some leave."""
        gone: list[Request] = []
        for r in list(self.running):
            if r not in self.running:  # it left as another needed its slots
                continue
            if self.left_of_budget <= 0:
                break
            n = self.share(r, r.c)  # not more where somebody gives a share back
            while self.cache.room < self.block_count(r.c + n) - len(r.held):
                for victim in self.victims():
                    self.leave(victim, self.policy.refine)
                    gone.append(victim)
                if r not in self.running:
                    return gone
            self.serve(r, n)
        return gone

    def block_count(self, tokens: int) -> int:
        return self.blocks(tokens) // self.block

    def tokens(self, r: Request) -> int:
        """t, those that it has. Who is admitted with none is as if it had a prompt of one, until it leaves."""
        return r.s + r.g + r.blank

    def share(self, r: Request, done: int) -> int:
        """What a round processes of one of which so many tokens are."""
        most = self.tokens(r) - done
        return int(min(most, self.left_of_budget, most if self.alone else self.policy.chunk))

    def serve(self, r: Request, n: int) -> None:
        r.had, r.got = r.c, n
        self.left_of_budget -= n
        prefilled = min(n, r.to_prefill)
        r.to_prefill -= prefilled
        r.chunk = prefilled
        self.prefilled += prefilled
        self.grow(r, r.c + n)

    def grow(self, r: Request, processed: int) -> None:
        """It takes the slots up to so many tokens, and blocks that are full get their names."""
        r.c = processed
        while len(r.held) * self.block < processed:
            r.held.append(self.cache.take())
        for j, block in enumerate(r.held):
            if self.names is not None and block.name is None and (j + 1) * self.block <= processed:
                self.cache.call(block, self.names(r.i, j))

    def victims(self) -> list[Request]:
        """Where a rule ranks, of the equals in order of admission one."""
        if self.policy.evict not in ("bound", "progress", "priority"):
            return super().victims()
        least = min(map(self.urgency, self.running))
        return [self.one_of([r for r in self.running if self.urgency(r) == least])]

    def stop(self, r: Request) -> None:
        super().stop(r)
        self.left_of_budget += r.got
        self.prefilled -= r.chunk
        r.got = r.chunk = 0
        self.cache.give_back(r.held)
        r.held, r.c = [], 0

    def begins_to_wait(self, r: Request) -> None:
        super().begins_to_wait(r)
        r.blank = int(r.s + r.g == 0)

    # Step 4 -----------------------------------------------------------------------------------------------------------

    def hits(self, r: Request) -> list[Block]:
        found: list[Block] = []
        if self.names is not None:
            for j in range((self.tokens(r) - 1) // self.block):
                of_name = self.cache.named.get(self.names(r.i, j))
                if not of_name:
                    break
                found.append(of_name[0])
        return found

    def there(self, r: Request, hits: list[Block]) -> int:
        """What counts as processed of one that is admitted."""
        if self.policy.prompts == "moved" and not r.ran:
            return self.tokens(r) - 1
        return len(hits) * self.block

    def feasible(self, new: Request, started: list[Request]) -> bool:
        if len(self.running) >= self.max_batch or self.left_of_budget <= 0:
            return False
        if self.running and not self.on_pace(new, len(started)):
            return False
        capacity = self.capacity if self.running else self.memory
        hits = self.hits(new)
        there = self.there(new, hits)
        tokens = self.tokens(new) if self.policy.reserve == "prompt" else there + self.share(new, there)
        free_hits = sum(not block.holders for block in hits)
        return self.cache.held + free_hits + self.block_count(tokens) - len(hits) <= capacity // self.block

    def bring(self, r: Request) -> None:
        hits = self.hits(r)
        there = self.there(r, hits)
        r.hit = r.hit if r.ran else len(hits) * self.block
        moved = self.policy.prompts == "moved" and not r.ran
        r.to_prefill = 0 if moved else r.s + r.g - there
        for block in hits:
            self.cache.hit(block)
        r.held = hits
        n = self.share(r, there)
        self.grow(r, there)
        self.serve(r, n)

    # Step 5 -----------------------------------------------------------------------------------------------------------

    @property
    def served(self) -> list[Request]:
        return [r for r in self.running if r.got]

    def context(self, everything: bool) -> int:
        return sum(r.had if everything else max(r.had - r.s, 0) for r in self.served)

    def generate(self) -> list[Request]:
        self.round += 1
        generated = [r for r in self.served if r.c == self.tokens(r)]
        for r in generated:
            r.g += 1
            r.k = max(r.k, r.g)
        return generated


def names_of(workload: ls.Workload, block: int) -> Names:
    """What the blocks of its requests are called."""
    given = workload.prefixes
    prompt, output = workload.prompt.tolist(), workload.output.tolist()
    if given is not None and not given.generated:
        ids = [given[i].tolist() for i in range(len(workload))]

        def by_hash(i: int, j: int) -> Any:
            end = (j + 1) * block
            known = end <= prompt[i] and (end - 1) // given.block < len(ids[i])
            return ("hash", ids[i][(end - 1) // given.block], j) if known else ("own", i, j)

        return by_hash
    history: list[int] = []
    last: dict[int, int] = {}
    for i, session in enumerate(workload.session.tolist()):
        before = last.get(session)
        goes_on = before is not None and prompt[i] >= max(prompt[before], 1) + output[before]
        history.append(history[before] if goes_on else i)
        last[session] = i
    return lambda i, j: ("history", history[i], j)
