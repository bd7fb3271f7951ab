"""Run the readable engine: `ReferenceEngine`; `SlotsAsProcessed`; or with cached prefixes `PrefixesCached`."""

from __future__ import annotations

from collections.abc import Callable, Collection

from .outcome import Outcome
from .problem import Problem
from .reference import ReferenceEngine
from .reference_as_processed import SlotsAsProcessed
from .reference_prefixes import PrefixesCached


def run(problem: Problem, record: Collection[str] = (), progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Simulate `problem` round by round (model.md, section 3); `Outcome.unfinished` > 0 if it had to be stopped.

    `record` holds "timeline", "tokens", both or neither: what the outcome keeps of them.
    """
    engine = engine_of(problem)(problem, record)
    while engine.unfinished:
        if engine.round >= problem.max_rounds or engine.stalled():
            break
        engine.run_round()
        if progress is not None and engine.round % 256 == 0:
            progress(engine.n - engine.unfinished, engine.n)
    return engine.outcome()


def engine_of(problem: Problem) -> type[ReferenceEngine]:
    """The engine that runs such a problem."""
    if problem.names is not None:
        return PrefixesCached
    return ReferenceEngine if problem.policy.slots == "ahead" else SlotsAsProcessed
