"""What can be said of any run or plan once every request has a completion."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from ..workloads.columns import FloatArray
from ..workloads.workload import Workload
from .dataframes import Columns


class Latencies(Columns):
    """Mixed into what has a `workload`, the `completion` of each of its requests and a `total_latency`."""

    if TYPE_CHECKING:  # a property that is really there would be the default of a field of that name

        @property
        def workload(self) -> Workload: ...

        @property
        def completion(self) -> FloatArray: ...

        @property
        def total_latency(self) -> float: ...

    def __len__(self) -> int:
        return len(self.workload)

    @cached_property
    def latency(self) -> FloatArray:
        """Completion minus arrival of each request, queueing included (paper, Section 2)."""
        latency = self.completion - self.workload.arrival
        latency.flags.writeable = False
        return latency

    @property
    def mean_latency(self) -> float:
        """Mean latency of a request; NaN when there is none."""
        return self.total_latency / len(self) if len(self) else float("nan")

    @property
    def makespan(self) -> float:
        """Time at which the last request completes; 0 when there is none."""
        return float(self.completion.max()) if len(self) else 0.0
