from collections.abc import Callable

from .lowering import Problem
from .outcome import Outcome

def run(problem: Problem, record: bool = False, progress: Callable[[int, int], None] | None = None) -> Outcome: ...
