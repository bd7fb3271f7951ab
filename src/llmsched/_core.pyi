from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .lowering import Problem
from .outcome import Outcome

def run(problem: Problem, record: bool = False, progress: Callable[[int, int], None] | None = None) -> Outcome: ...
def total_difference(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float: ...
