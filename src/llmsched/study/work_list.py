"""The work list of a study: which simulations are wanted, handed out and done, and the means so far. No rows."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._logging import logger
from ..errors import number_of
from ..metrics.confidence import t_quantile
from ..workloads.columns import FloatArray, IntArray
from .plan import Plan
from .statistics import replications_needed
from .worker import WorkUnit

if TYPE_CHECKING:
    from .file_entries import PrecisionEntry

_log = logger(__name__)


class WorkList:
    """The state of a study, in two to ten bytes per simulation.

    Attributes
    ----------
    wanted
        Replications of each cell that there have to be: 0 to wanted - 1. With a precision it grows.
    recorded, failed
        Replications of each cell with a result or a failure, on disk or on their way there; those that failed.
    """

    def __init__(self, plan: Plan, replications: int | None, precision: PrecisionEntry | None) -> None:
        cells = len(plan.cells)
        self.plan = plan
        self.rule = None if precision is None else precision.rule()
        self.metric_index = plan.metrics.index(precision.metric if precision else plan.metrics[0])
        self.wanted: IntArray = np.full(cells, replications or (precision.first if precision else 0), np.int64)
        self.recorded: IntArray = np.zeros(cells, np.int64)
        self.failed: IntArray = np.zeros(cells, np.int64)
        self._handed: npt.NDArray[np.bool_] = np.zeros((cells, 0), bool)
        self._is_recorded: npt.NDArray[np.bool_] = np.zeros((cells, 0), bool)
        self._values: FloatArray = np.zeros((cells if self.rule else 0, 0))
        self._unsettled = self.wanted > 0  # cells that may want more replications
        self._handed_before: IntArray = np.zeros(cells, np.int64)  # all before this are handed out
        self._sums = np.zeros((3, cells))  # count, sum and sum of squares of the values less `_shift`
        self._shift: FloatArray = np.full(cells, np.nan)
        workload = np.array([cell.workload for cell in plan.cells])
        self._cells_of = [np.flatnonzero(workload == w) for w in range(len(plan.workloads))]
        self._widen(int(self.wanted.max(initial=0)))

    def _widen(self, replications: int) -> None:
        more = replications - self._handed.shape[1]
        if more > 0:
            more = max(more, self._handed.shape[1] // 2)
            wider = ((0, 0), (0, more))
            self._handed = np.pad(self._handed, wider)
            self._is_recorded = np.pad(self._is_recorded, wider)
            self._values = np.pad(self._values, wider, constant_values=np.nan)

    @property
    def total(self) -> int:
        """Simulations wanted, as far as is known."""
        return int(self.wanted.sum())

    @property
    def remaining(self) -> int:
        """Simulations wanted that are not recorded."""
        return int(np.maximum(self.wanted - self.recorded, 0).sum())

    def record(self, cells: IntArray, replications: IntArray, values: FloatArray | None) -> None:
        """Note rows: those of failures without values (of the column that the means are of)."""
        if not len(cells):
            return
        self._widen(int(replications.max()) + 1)
        self._handed[cells, replications] = True
        self._is_recorded[cells, replications] = True
        np.add.at(self.recorded, cells, 1)
        if values is None:
            np.add.at(self.failed, cells, 1)
            return
        if self.rule:
            self._values[cells, replications] = values
        fine = np.isfinite(values)
        cells, values = cells[fine], values[fine]
        new = np.isnan(self._shift[cells])
        self._shift[cells[new][::-1]] = values[new][::-1]
        less = values - self._shift[cells]
        for k, amount in enumerate((np.ones(len(less)), less, less * less)):
            self._sums[k] += np.bincount(cells, amount, len(self.wanted))

    def ask_for_more(self) -> None:
        """Ask for more replications of the cells that have all they wanted, and are not known well enough.

        What is asked for depends on the values of replications 0, 1, ... alone: not on when this is called.
        """
        if self.rule is None:
            return
        before, cells = self.total, 0
        for cell in np.flatnonzero(self._unsettled & (self.recorded >= self.wanted)).tolist():
            wanted = int(self.wanted[cell])
            while self._is_recorded[cell, :wanted].all():
                values = self._values[cell, :wanted]
                known = values[np.isfinite(values)]
                lost = wanted - len(known)
                asked = min(replications_needed(known, self.rule) + lost, self.rule.most) if len(known) else 0
                if asked <= wanted:
                    self._unsettled[cell] = False
                    break
                self._widen(asked)
                self.wanted[cell] = wanted = asked
                cells += 1
        if more := self.total - before:
            many = number_of(cells, "cell")
            _log.info("precision: %s more, as %s not known well enough", number_of(more, "simulation"), many)

    # Handing out ------------------------------------------------------------------------------------------------------

    def cells_of(self, workload: int) -> int:
        """The number of cells with this workload."""
        return len(self._cells_of[workload])

    def waiting_workloads(self) -> list[int]:
        """The workloads that have simulations to hand out, the one with the earliest replication first."""
        first = [self._earliest_waiting(w) for w in range(len(self._cells_of))]
        return [w for w in np.argsort(first, kind="stable").tolist() if first[w] >= 0 and self._has_waiting(w)]

    def _has_waiting(self, workload: int) -> bool:
        of = self._cells_of[workload]
        return bool((self._handed_before[of] < self.wanted[of]).any())

    def _earliest_waiting(self, workload: int) -> int:
        """The earliest replication that a cell of a workload waits for; -1 if there is none."""
        of = self._cells_of[workload]
        waiting = of[self._handed_before[of] < self.wanted[of]]
        for cell in waiting[self._handed[waiting, self._handed_before[waiting]]].tolist():  # few: see `hand_out`
            end = int(self.wanted[cell])
            row = self._handed[cell, self._handed_before[cell] : end]
            at = int(np.argmin(row))
            self._handed_before[cell] = end if row[at] else self._handed_before[cell] + at
        earliest = self._handed_before[of][self._handed_before[of] < self.wanted[of]]
        return int(earliest.min()) if len(earliest) else -1

    def hand_out(self, workload: int, most: int) -> WorkUnit:
        """A work unit of about `most` simulations of a workload, at least one; they count as handed out.

        Replications are kept together, as their requests are drawn once for all cells.
        """
        of = self._cells_of[workload]
        first = self._earliest_waiting(workload)
        width = max(1, -(-most // len(of)))
        replications = np.arange(first, min(first + width, int(self.wanted[of].max())))
        mask = ~self._handed[np.ix_(of, replications)] & (replications < self.wanted[of][:, None])
        if len(of) > most:  # some of the cells of a single replication
            mask[np.flatnonzero(mask.any(axis=1))[max(most, 1) :]] = False
        used_cells, used = mask.any(axis=1), mask.any(axis=0)
        whole = replications
        cells, replications, mask = of[used_cells], replications[used], mask[np.ix_(used_cells, used)]
        self._handed[np.ix_(cells, replications)] |= mask
        over = (
            self._handed[np.ix_(of, whole)].all(axis=1)
            & (self._handed_before[of] >= first)
            & (self._handed_before[of] <= whole[-1])
        )
        self._handed_before[of[over]] = whole[-1] + 1
        return WorkUnit(self.plan, workload, cells, replications, np.ascontiguousarray(mask.T))

    # Means ------------------------------------------------------------------------------------------------------------

    def means(self) -> tuple[IntArray, FloatArray, FloatArray]:
        """Of each cell so far: the number of values, their mean, and half the width of its 95 % t interval."""
        count, total, squares = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._shift + total / count
            variance = np.maximum(squares - total * total / count, 0) / (count - 1)
            return count.astype(np.int64), mean, _t95(count - 1) * np.sqrt(variance / count)


_FEW = 30


@functools.cache
def _small_t95() -> FloatArray:
    return np.array([np.nan, *(t_quantile(freedom) for freedom in range(1, _FEW + 1))])


def _t95(freedom: FloatArray) -> FloatArray:
    """The 97.5 % quantile of Student's t without scipy, whose import takes longer than a small study.

    Exact for few degrees of freedom; from 31 on by its expansion (Abramowitz and Stegun 26.7.5), error < 2e-6.
    """
    z = 1.959963984540054
    k = np.maximum(freedom, _FEW)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    expanded = z + first / k + second / k**2 + third / k**3
    return np.where(freedom > _FEW, expanded, _small_t95()[np.clip(freedom, 0, _FEW).astype(np.int64)])
