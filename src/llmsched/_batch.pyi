from typing import Any

import numpy as np

from .lowering import Problem

TOTALS: np.dtype[Any]
OUT_OF_MEMORY: int

class Stop:
    def set(self) -> None: ...

def run_many(
    problems: list[Problem],
    seeds: list[int | None],
    stop: Stop,
    kept: list[tuple[Any, Any, Any]] | None = None,
) -> np.ndarray[Any, Any] | None: ...
