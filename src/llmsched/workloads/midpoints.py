"""Point predictions where there are intervals alone: their middles."""

from __future__ import annotations

from ..errors import InputError
from .workload import Workload


def with_midpoints(workload: Workload) -> Workload:
    """The same workload with the middle of each interval, rounded up, as the point prediction.

    Raises InputError if it has no interval.
    """
    lower, upper = workload.lower, workload.upper
    if lower is None or upper is None:
        raise InputError("the workload has no intervals to take the middle of: add them with with_intervals(...)")
    return workload.replace(point=lower + (upper - lower + 1) // 2)
