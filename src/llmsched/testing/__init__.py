"""Test a scheduler of your own: run it by the rules of the model, check it, score it beside named policies.

A scheduler is a function, in Python or Cython, from a `State` to a `Decision`, asked in every round:

    def first_come(state):
        admit, need = [], state.need
        for request in state.waiting:
            need += request.tokens
            if need > state.memory:
                break
            admit.append(request)
        return ls.testing.Decision(admit=tuple(admit), evict=())

    ls.testing.check(first_come)                            # does it keep the rules?
    ls.testing.score(first_come, against=("vllm", "amin"))  # is it any good?

The same function under a fixture of pytest, `scheduler_benchmark`, makes a test that fails when the scheduler has more
to do than it had (docs/how-to/test-your-scheduler.md).
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from ..simulation.live import Decision
    from .cases import STANDARD, Case, random_case
    from .drive import run
    from .invariants import Checked, check
    from .score_card import ScoreCard, score
    from .state import Request, Requests, State

__all__ = [
    "STANDARD",
    "Case",
    "Checked",
    "Decision",
    "Request",
    "Requests",
    "ScoreCard",
    "State",
    "check",
    "random_case",
    "run",
    "score",
]

# pytest imports this package wherever it runs: see pytest_plugin.py.
__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys(["Request", "Requests", "State"], "state"),
        **dict.fromkeys(["STANDARD", "Case", "random_case"], "cases"),
        **dict.fromkeys(["Checked", "check"], "invariants"),
        **dict.fromkeys(["ScoreCard", "score"], "score_card"),
        "Decision": "drive",
        "run": "drive",
    },
)
