"""Prefixes: which prompts begin alike, by hashes of their blocks or the history of a session (model.md, section 7)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import WorkloadError, shown
from .columns import LARGEST, IntArray


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
