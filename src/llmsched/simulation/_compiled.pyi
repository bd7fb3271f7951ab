from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from ..formula import Formula
from ..workloads.columns import FloatArray, IntArray
from .outcome import Outcome
from .problem import Problem

TOTALS: np.dtype[Any]
OUT_OF_MEMORY: int
FAILURES: tuple[int, ...]

class Stop:
    def set(self) -> None: ...

def run(
    problem: Problem, record: Collection[str] = (), progress: Callable[[int, int], None] | None = None
) -> Outcome: ...
def run_many(
    problems: list[Problem],
    seeds: list[int | None],
    stop: Stop,
    kept: list[tuple[Any, Any, Any]] | None = None,
) -> np.ndarray[Any, Any] | None: ...
def formula_values(formula: Formula, columns: Mapping[str, FloatArray], n: int) -> FloatArray: ...
def whole_tokens(values: FloatArray) -> IntArray: ...
