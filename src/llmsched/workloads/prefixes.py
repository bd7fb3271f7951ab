"""Prefixes: which prompts begin alike, by hashes of their blocks or the history of a session (model.md, section 7)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import WorkloadError, shown
from .columns import LARGEST, IntArray

if TYPE_CHECKING:
    from .workload import Workload


class Prefixes:
    """Hashes of the blocks of each request, as traces with `hash_ids` have them for prompts.

    Parameters
    ----------
    hashes
        For each request the ids of its blocks (whole, 0 <= id <= 2**53), of the first `block` tokens, of the next, and
        so on. Two requests that have the same id at the same place have the same tokens from the beginning up to the
        end of that block (or of the prompt, in its last block). There may be fewer than there are blocks.
    block
        Tokens in a block (512 in Mooncake's traces).

    Raises
    ------
    WorkloadError
        An id is negative, not whole or too large (names the request), or `block` is not whole or less than 1.
    """

    __slots__ = ("block", "first", "generated", "ids", "size")

    ids: IntArray
    first: IntArray  # (n,): request i has the ids from first[i] on; requests may share a stretch of them,
    size: IntArray  # (n,): and so many
    block: int
    generated: bool  # whether they are of prompts and what was generated; else of prompts alone

    def __init__(self, hashes: Iterable[Sequence[int]], block: int = 512) -> None:
        lists = [np.asarray(ids) for ids in hashes]
        for i, ids in enumerate(lists):
            if ids.ndim != 1 or (ids.size and (ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() > LARGEST)):
                raise WorkloadError(f"request {i}: block hashes are whole numbers from 0 to {LARGEST}", i)
        size = np.array([len(ids) for ids in lists], np.int64)
        flat = np.concatenate([np.empty(0, np.int64), *(ids.astype(np.int64) for ids in lists)])
        if isinstance(block, bool) or not isinstance(block, (int, np.integer)) or not 1 <= block <= LARGEST:
            raise WorkloadError(f"the block of hashes is {shown(block)}, expected a whole number of tokens, at least 1")
        self._fill(flat, np.cumsum(size) - size, size, int(block), False)

    @classmethod
    def of_arrays(cls, ids: IntArray, first: IntArray, size: IntArray, block: int, generated: bool = False) -> Prefixes:
        """Those in arrays, which are taken as they are."""
        made = object.__new__(cls)
        made._fill(ids, first, size, block, generated)
        return made

    @classmethod
    def of_sessions(cls, workload: Workload, block: int) -> Prefixes:
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
        return cls.of_arrays(np.arange(blocks.sum(), dtype=np.int64), first, size, block, generated=True)

    def _fill(self, ids: IntArray, first: IntArray, size: IntArray, block: int, generated: bool) -> None:
        for name, array in (("ids", ids), ("first", first), ("size", size)):
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "block", block)
        object.__setattr__(self, "generated", generated)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Prefixes never change")

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, i: int) -> IntArray:
        """The ids of one request."""
        return self.ids[self.first[i] : self.first[i] + self.size[i]]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Prefixes):
            return NotImplemented
        if (self.block, self.generated) != (other.block, other.generated) or not np.array_equal(self.size, other.size):
            return False
        return all(np.array_equal(self[i], other[i]) for i in range(len(self)))

    __hash__ = None  # type: ignore[assignment]  # as arrays

    def __repr__(self) -> str:
        return f"Prefixes({len(self)} requests, {len(np.unique(self.ids))} hashes of {self.block} tokens)"

    def __reduce__(self) -> tuple[Any, ...]:
        return Prefixes.of_arrays, (self.ids, self.first, self.size, self.block, self.generated)

    def take(self, index: npt.NDArray[Any] | slice) -> Prefixes:
        """Those of the requests at `index` (integers, booleans or a slice), in that order."""
        return Prefixes.of_arrays(self.ids, self.first[index], self.size[index], self.block, self.generated)


class BlockNames:
    """What the blocks of requests are called that others may ask for, in a cache with blocks of one size.

    Block j of request i, j < size[i], is called ids[first[i] + h]·stride + j - f, h being the hash in which it ends and
    f the first block that ends in that one.
    """

    __slots__ = ("block", "first", "hashed", "ids", "size", "stride")

    def __init__(self, workload: Workload, block: int) -> None:
        given = workload.prefixes
        if given is None:
            given = Prefixes.of_sessions(workload, block)
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
