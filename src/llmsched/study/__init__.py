"""Monte Carlo studies: policies × workloads × intervals × memories × replications, from one file (extra `study`).

    study = ls.study.Study.load("study.toml")
    study.run("results")
    table = ls.study.results("results")  # Arrow: one row per simulation

Results do not depend on the number of workers, the order of the work, or on how often it was interrupted.
"""

from typing import TYPE_CHECKING

from .._lazy import lazy

if TYPE_CHECKING:
    from .file_entries import (
        CellsEntry,
        IntervalsEntry,
        PolicyEntry,
        PowerEntry,
        PrecisionEntry,
        ServiceEntry,
        SteadyStateEntry,
        WorkloadEntry,
    )
    from .plan import Cell, Plan
    from .runner import Status
    from .store import failures, results
    from .study import Study

__all__ = [
    "Cell",
    "CellsEntry",
    "IntervalsEntry",
    "Plan",
    "PolicyEntry",
    "PowerEntry",
    "PrecisionEntry",
    "ServiceEntry",
    "Status",
    "SteadyStateEntry",
    "Study",
    "WorkloadEntry",
    "failures",
    "results",
]

# The study file needs pydantic and the results pyarrow.
__getattr__, __dir__ = lazy(
    __name__,
    {
        **dict.fromkeys([name for name in __all__ if name.endswith("Entry")], "file_entries"),
        **dict.fromkeys(["Cell", "Plan"], "plan"),
        **dict.fromkeys(["failures", "results"], "store"),
        "Status": "runner",
        "Study": "study",
    },
)
