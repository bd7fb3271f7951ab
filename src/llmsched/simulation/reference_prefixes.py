"""Section 7 of model.md in the readable engine: prefixes that stay in the cache."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable

from .blocks import blocks_of, full_blocks
from .prefix_cache import Block, BlockPool, Name
from .problem import Problem
from .reference import Request
from .reference_as_processed import SlotsAsProcessed


class PrefixesCached(SlotsAsProcessed):
    """With prefixes="cached": a request holds blocks, which others that begin alike may hold with it, and which stay in
    the cache when it has left, until they are needed."""

    def __init__(self, problem: Problem, record: Collection[str]) -> None:
        super().__init__(problem, record)
        self.pool = BlockPool(full_blocks(problem.memory, problem.block))

    def need(self) -> int:
        return self.pool.held * self.problem.block

    def name(self, r: Request, j: int) -> Name:
        """What its block j is called."""
        names = self.problem.names
        assert names is not None
        return names.name(r.index, j) if j < names.size[r.index] else (r.index, j)

    def in_cache(self, names: Iterable[Name]) -> int:
        """How many of the first blocks of these names are there."""
        return len(list(itertools.takewhile(self.pool.find, names)))

    def hits(self, r: Request) -> list[Block]:
        """The blocks of a waiting request that are in the cache."""
        found: list[Block] = []
        for j in range(full_blocks(max(r.prompt + r.generated, 1) - 1, self.problem.block)):
            block = self.pool.find(self.name(r, j))
            if block is None:
                break
            found.append(block)
        return found

    def slots_for(self, r: Request, tokens: int) -> int:
        return (blocks_of(r.cached + tokens, self.problem.block) - len(r.blocks)) * self.problem.block

    def fits(self, candidate: Request, capacity: int) -> bool:
        if len(self.running) >= self.problem.max_batch or self.budget_left == 0 or not self.on_pace(candidate):
            return False
        hits = self.hits(candidate)
        self.count_as_processed(candidate, hits)
        tokens = self.unprocessed(candidate) if self.policy.reserve == "prompt" else self.next_tokens(candidate)
        taken = self.slots_for(candidate, tokens) - sum(block.holders > 0 for block in hits) * self.problem.block
        return self.need() + taken <= capacity

    def count_as_processed(self, r: Request, hits: list[Block]) -> None:
        r.cached = len(hits) * self.problem.block
        r.to_prefill = r.prompt + r.generated - r.cached

    def admit(self, r: Request) -> None:
        hits = self.hits(r)
        for block in hits:
            self.pool.hold(block)
        r.blocks = hits
        if r.hit is None:
            r.hit = len(hits) * self.problem.block
        self.count_as_processed(r, hits)
        super().admit(r)

    def serve(self, r: Request, tokens: int) -> None:
        super().serve(r, tokens)
        block = self.problem.block
        full = full_blocks(r.cached, block)
        while len(r.blocks) * block < r.cached + tokens:
            r.blocks.append(self.pool.take())
        for j in range(full, full_blocks(r.cached + tokens, block)):
            self.pool.call(r.blocks[j], self.name(r, j))

    def stop_running(self, r: Request) -> None:
        super().stop_running(r)
        for block in reversed(r.blocks):
            self.pool.give_back(block)
        r.blocks = []
