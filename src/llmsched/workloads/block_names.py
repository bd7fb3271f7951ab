"""What the blocks of a cache are called: by the hashes of a workload, or by its sessions (model.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from ..errors import WorkloadError
from .columns import IntArray
from .prefixes import Prefixes
from .workload import Workload


def prefixes_of_sessions(workload: Workload, block: int) -> Prefixes:
    """What the sessions of a workload say: a turn whose prompt is no shorter than prompt and output of the turn
    before begins with them; with a shorter one it begins a history of its own. Raises WorkloadError without them.
    """
    if workload.session is None:
        raise WorkloadError(
            "nothing says which prompts begin alike: the workload has neither block hashes (a trace with hash_ids, "
            "or workload.with_prefixes(...)) nor sessions (workload.replace(session=...))"
        )
    session = workload.session
    order = np.argsort(session, kind="stable")
    prompt = np.maximum(workload.prompt, 1)[order]  # who has no prompt processes one token all the same
    tokens = prompt + workload.output[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (session[order][1:] != session[order][:-1]) | (prompt[1:] < tokens[:-1])
    history = np.cumsum(begins) - 1
    last_turn = np.append(np.flatnonzero(begins)[1:], len(order)) - 1
    blocks = tokens[last_turn] // block if len(order) else np.empty(0, np.int64)
    first, size = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    first[order] = (np.cumsum(blocks) - blocks)[history]
    size[order] = tokens // block
    return Prefixes.of_arrays(np.arange(blocks.sum(), dtype=np.int64), first, size, block, generated=True)


class BlockNames:
    """What the blocks of requests are called that others may ask for, in a cache with blocks of one size.

    Block j of request i, j < size[i], is called ids[first[i] + h]·stride + j - f, h being the hash in which it ends and
    f the first block that ends in that one.
    """

    __slots__ = ("block", "first", "hashed", "ids", "size", "stride")

    def __init__(self, workload: Workload, block: int) -> None:
        given = workload.prefixes
        if given is None:
            given = prefixes_of_sessions(workload, block)
        tokens = np.maximum(workload.prompt, 1) + workload.output if given.generated else workload.prompt
        ids = given.ids if given.generated else np.unique(given.ids, return_inverse=True)[1]  # small numbers
        self.ids: IntArray = np.ascontiguousarray(ids, np.int64)
        self.first: IntArray = np.ascontiguousarray(given.first)
        self.size: IntArray = np.minimum(tokens, given.size * given.block) // block
        self.block = block
        self.hashed = given.block
        self.stride = min(given.block, int(tokens.max(initial=0))) // block + 2

    def name(self, i: int, j: int) -> int:
        """The name of block j of request i, j < size[i]."""
        h = ((j + 1) * self.block - 1) // self.hashed
        return int(self.ids[self.first[i] + h]) * self.stride + j - h * self.hashed // self.block


def common_block(blocks: Iterable[int]) -> int:
    """The largest block of which all these are multiples."""
    return math.gcd(*blocks)
