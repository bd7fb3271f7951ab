"""What a router reads of requests, as arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..predict.intervals import with_midpoints
from ..simulation._compiled import formula_values, whole_tokens
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from .router import PREDICTIONS, Router


def _column(workload: Workload, name: str) -> IntArray | FloatArray:
    if name == "point" and workload.point is None:
        workload = with_midpoints(workload)
    column: IntArray | FloatArray = getattr(workload, name)
    return column


def work_of(workload: Workload, router: Router) -> IntArray:
    """What is believed of each request's output, in tokens; empty where the router does not look at it."""
    if not router.sees_work:
        return np.empty(0, np.int64)
    formula = router.work_formula
    if formula is None:
        return np.ascontiguousarray(_column(workload, router.work), dtype=np.int64)
    given = {name: np.ascontiguousarray(_column(workload, name), dtype=np.float64) for name in formula.reads}
    values = formula_values(formula, given, len(workload))
    if np.isnan(values).any():
        i = int(np.argmax(np.isnan(values)))
        formula.value({name: float(given[name][i]) for name in formula.reads}, i)  # says what is wrong there
    return whole_tokens(values)


def request_columns(workload: Workload, router: Router) -> dict[str, FloatArray]:
    """Name -> what a router's formula reads of each request."""
    if router.formula is None or router.rule != "least":
        return {}
    names = ("prompt", *PREDICTIONS, "arrival", "priority", "deadline")
    return {
        name: np.ascontiguousarray(_column(workload, name), dtype=np.float64)
        for name in router.formula.reads
        if name in names
    }


def class_bounds(workload: Workload, router: Router, sizes: list[int]) -> IntArray:
    """The largest value of each class but the last, so that the believed work of a class is as its replicas' share.

    Work is measured in token-rounds, s·L + L(L+1)/2 with L the `by` of a request (its prompt's classes: the point).
    """
    values = _column(workload, router.by)
    length = _column(workload, "point") if router.by == "prompt" else values
    volume = workload.prompt * length.astype(np.float64) + length * (length + 1.0) / 2
    order = np.argsort(values, kind="stable")
    done = np.cumsum(volume[order])
    shares = np.cumsum(sizes[:-1]) / sum(sizes)
    at = np.searchsorted(done, shares * (done[-1] if len(done) else 0.0))
    bounds: IntArray = values[order][np.minimum(at, len(values) - 1)].astype(np.int64)
    return bounds


def classes_of(workload: Workload, router: Router, bounds: IntArray) -> npt.NDArray[np.int32]:
    """The first and the last class of each request (n, 2), from 0 for the short ones.

    They differ for who is exactly as long as a bound: with few distinct predictions there are so many of those that
    neither class could take them all.
    """
    values = _column(workload, router.by)
    sides = [np.searchsorted(bounds, values, side=side) for side in ("left", "right")]
    return np.ascontiguousarray(np.stack(sides, axis=1), dtype=np.int32)
