"""Timeline: memory, batch, queue and evictions of every round, run-length compressed so that a million rounds fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclasses.dataclass(frozen=True, eq=False)
class Timeline:
    """What happened round by round, in segments of rounds between which nothing but the cache grew.

    A segment of `rounds` rounds starts at `time`; its first round occupies `memory` tokens and every later one `batch`
    tokens more. All attributes are arrays with one value per segment.

    Attributes
    ----------
    time
        Start of the segment's first round (float64).
    rounds
        Rounds in the segment (>= 1).
    memory
        Tokens of cache occupied during its first round.
    batch
        Requests running in each of its rounds.
    waiting
        Requests waiting during each of its rounds.
    evictions
        Requests that left before completing (overflow and caps) at the start of its first round; later ones: none.
    """

    time: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.int64]
    memory: npt.NDArray[np.int64]
    batch: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.int64]
    evictions: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.time)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return all(np.array_equal(a, b) for a, b in zip(self.columns().values(), other.columns().values(), strict=True))

    __hash__ = None  # type: ignore[assignment]

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The segments as named columns."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def expand(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per round instead of per segment: time, memory, batch, waiting, evictions."""
        later = np.arange(self.rounds.sum()) - np.repeat(np.cumsum(self.rounds) - self.rounds, self.rounds)
        batch = np.repeat(self.batch, self.rounds)
        return {
            "time": np.repeat(self.time, self.rounds) + later,
            "memory": np.repeat(self.memory, self.rounds) + later * batch,
            "batch": batch,
            "waiting": np.repeat(self.waiting, self.rounds),
            "evictions": np.where(later == 0, np.repeat(self.evictions, self.rounds), 0),
        }


def merged(
    epoch: npt.ArrayLike,
    offset: npt.ArrayLike,
    rounds: npt.ArrayLike,
    memory: npt.ArrayLike,
    batch: npt.ArrayLike,
    waiting: npt.ArrayLike,
    evictions: npt.ArrayLike,
) -> Timeline:
    """The shortest Timeline of the given pieces, so that engines that cut time differently give the same one.

    `epoch` is the time of the last idle jump before a piece, `offset` the rounds since then: it starts at their sum.
    """
    jump = np.asarray(epoch, np.float64)
    since, length, used, size, queue, left = (
        np.asarray(column, np.int64) for column in (offset, rounds, memory, batch, waiting, evictions)
    )
    starts = np.ones(len(jump), bool)
    starts[1:] = (
        (jump[1:] != jump[:-1])
        | (size[1:] != size[:-1])
        | (queue[1:] != queue[:-1])
        | (used[1:] != used[:-1] + length[:-1] * size[:-1])
        | (left[1:] != 0)
    )
    first = np.flatnonzero(starts)
    total = np.add.reduceat(length, first) if len(first) else length
    return Timeline((jump + since)[first], total, used[first], size[first], queue[first], left[first])
