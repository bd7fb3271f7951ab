"""Timeline: memory, batch, queue and evictions of every round, run-length compressed so that a million rounds fit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..html_tables import curve, table
from .clock import Clock


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Timeline:
    """What happened round by round, in segments of rounds between which nothing but the cache grew.

    A segment of `rounds` rounds starts at `time`; its first round occupies `memory` tokens and every later one `batch`
    tokens more. All attributes but `clock` are arrays with one value per segment.

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
    context, prefilled, swapped
        What the clock charges its first round for, in tokens; every later round has `batch` more of context, and none
        of the others. All 0 without a clock.
    clock
        The clock of the run, or None: a round lasts 1.
    """

    time: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.int64]
    memory: npt.NDArray[np.int64]
    batch: npt.NDArray[np.int64]
    waiting: npt.NDArray[np.int64]
    evictions: npt.NDArray[np.int64]
    context: npt.NDArray[np.int64]
    prefilled: npt.NDArray[np.int64]
    swapped: npt.NDArray[np.int64]
    clock: Clock | None = None

    def __len__(self) -> int:
        return len(self.time)

    def __repr__(self) -> str:
        if not len(self):
            return "Timeline(0 rounds)"
        unit = "rounds" if self.clock is None else "s"
        return (
            f"Timeline({self.rounds.sum()} rounds in {len(self)} segments, the first at {self.time[0]:.6g}, the last "
            f"from {self.time[-1]:.6g} {unit})"
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return self.clock == other.clock and all(
            np.array_equal(a, b) for a, b in zip(self.columns().values(), other.columns().values(), strict=True)
        )

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The segments as named columns."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "clock"}

    def memory_over_time(self, pieces: int = 240) -> list[float]:
        """The largest memory in each of so many equal pieces of time, 0 where no round ran, in tokens."""
        rows = self.expand()
        begin, end = rows["time"], rows["time"] + rows["duration"]
        edges = np.linspace(0.0, float(end[-1]) if len(end) else 0.0, pieces + 1)
        most = np.zeros(pieces)
        first = np.clip(np.searchsorted(edges, begin, side="right") - 1, 0, pieces - 1)
        np.maximum.at(most, first, rows["memory"])
        lasting = np.searchsorted(begin, edges[:-1], side="right") - 1  # the round that runs at an edge
        runs = (lasting >= 0) & (end[lasting] > edges[:-1])
        np.maximum(most, np.where(runs, rows["memory"][lasting], 0), out=most)
        values: list[float] = most.tolist()
        return values

    def _repr_html_(self) -> str:
        if not len(self):
            return table("Timeline: 0 rounds", [])
        unit = "rounds" if self.clock is None else "s"
        over_time = self.memory_over_time()
        most = max(over_time)
        label = f"tokens in the cache over {self.time[-1]:.6g} {unit}; dotted: the most, {most:,.0f}"
        rows = [
            ("requests running", int(self.batch.max())),
            ("requests waiting", int(self.waiting.max())),
            ("evictions in a round", int(self.evictions.max())),
        ]
        return table(f"Timeline: {int(self.rounds.sum()):,} rounds; the most of each", rows) + curve(
            over_time, most, label
        )

    def expand(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per round instead of per segment: time, duration, memory, batch, waiting, evictions."""
        first = np.cumsum(self.rounds) - self.rounds
        later = np.arange(self.rounds.sum()) - np.repeat(first, self.rounds)
        batch = np.repeat(self.batch, self.rounds)
        begins = later == 0
        duration = self._durations(later, batch)
        return {
            "time": self._times(first, later, duration),
            "duration": duration,
            "memory": np.repeat(self.memory, self.rounds) + later * batch,
            "batch": batch,
            "waiting": np.repeat(self.waiting, self.rounds),
            "evictions": np.where(begins, np.repeat(self.evictions, self.rounds), 0),
        }

    def _durations(self, later: npt.NDArray[np.int64], batch: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        if self.clock is None:
            return np.ones(len(later))
        begins = later == 0
        context = np.repeat(self.context, self.rounds) + later * batch
        prefilled = np.where(begins, np.repeat(self.prefilled, self.rounds), 0)
        swapped = np.where(begins, np.repeat(self.swapped, self.rounds), 0)
        return self.clock.duration(batch, context, prefilled, swapped)

    def _times(
        self, first: npt.NDArray[np.int64], later: npt.NDArray[np.int64], duration: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Starts of the rounds, summed in the engine's order, so that they are its own doubles."""
        if self.clock is None:
            return np.repeat(self.time, self.rounds) + later
        time = np.repeat(self.time, self.rounds)
        for start, count in zip(first[self.rounds > 1].tolist(), self.rounds[self.rounds > 1].tolist(), strict=True):
            steps = duration[start : start + count].copy()
            steps[1:], steps[0] = steps[:-1].copy(), time[start]
            time[start : start + count] = np.add.accumulate(steps)
        return time


class Piece(NamedTuple):
    """Some rounds of a timeline, not yet merged with their neighbours. `epoch` is the time of the last idle jump."""

    epoch: float
    time: float
    rounds: int
    memory: int
    batch: int
    waiting: int
    evictions: int
    context: int
    prefilled: int
    swapped: int


def merged(columns: Sequence[npt.ArrayLike], clock: Clock | None) -> Timeline:
    """The shortest Timeline of pieces, so that engines that cut time differently give the same one.

    `columns` holds one array for each field of `Piece`.
    """
    epoch, time = (np.asarray(column, np.float64) for column in columns[:2])
    counts = (np.asarray(column, np.int64) for column in columns[2:])
    rounds, memory, batch, waiting, evictions, context, prefilled, swapped = counts
    grown = rounds * batch
    starts = np.ones(len(epoch), bool)
    starts[1:] = (
        (epoch[1:] != epoch[:-1])
        | (batch[1:] != batch[:-1])
        | (waiting[1:] != waiting[:-1])
        | (memory[1:] != (memory + grown)[:-1])
        | (evictions[1:] != 0)
        | (prefilled[1:] != 0)
        | (swapped[1:] != 0)
    )
    if clock is not None:
        starts[1:] |= context[1:] != (context + grown)[:-1]
    first = np.flatnonzero(starts)
    total = np.add.reduceat(rounds, first) if len(first) else rounds
    memory, batch, waiting, evictions = memory[first], batch[first], waiting[first], evictions[first]
    context, prefilled, swapped = context[first], prefilled[first], swapped[first]
    return Timeline(time[first], total, memory, batch, waiting, evictions, context, prefilled, swapped, clock)
