"""Levels: places by priority that hold from one chunk of a stream to the next."""

from __future__ import annotations

import numpy as np

from ..errors import WorkloadError
from ..workloads.columns import IntArray
from ..workloads.workload import Workload

#: Arrivals at times of their own that a level holds: the priority is above them.
_ARRIVALS_BITS = 39
_LARGEST = (1 << 23) - 1


class Levels:
    """Places by priority, then arrival, that are comparable from one chunk to the next."""

    def __init__(self) -> None:
        self.arrivals, self.latest = 0, -1.0

    def of(self, workload: Workload) -> IntArray:
        """The level of each request of the next chunk."""
        assert workload.priority is not None
        new = np.concatenate([[workload.arrival[0] > self.latest], workload.arrival[1:] > workload.arrival[:-1]])
        arrivals = self.arrivals + np.cumsum(new)
        self.arrivals, self.latest = int(arrivals[-1]), float(workload.arrival[-1])
        if np.abs(workload.priority).max() > _LARGEST:
            i = int(np.argmax(np.abs(workload.priority)))
            raise WorkloadError(
                f"a priority of a stream is from {-_LARGEST} to {_LARGEST}, not {workload.priority[i]}", i
            )
        levels: IntArray = workload.priority * (1 << _ARRIVALS_BITS) + arrivals
        return levels
