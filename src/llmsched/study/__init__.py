"""Monte Carlo studies: policies × workloads × intervals × memories × replications, from one file (extra `study`).

    study = ls.study.Study.load("study.toml")
    study.run("results")
    table = ls.study.results("results")  # Arrow: one row per simulation

Results do not depend on the number of workers, the order of the work, or on how often it was interrupted.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .entries import CellsEntry, IntervalsEntry, PolicyEntry, PrecisionEntry, ServiceEntry, WorkloadEntry
    from .plan import Cell, Plan
    from .runner import Status
    from .schema import Study
    from .store import failures, results

__all__ = [
    "Cell",
    "CellsEntry",
    "IntervalsEntry",
    "Plan",
    "PolicyEntry",
    "PrecisionEntry",
    "ServiceEntry",
    "Status",
    "Study",
    "WorkloadEntry",
    "failures",
    "results",
]

# Imported when first used, as the schema needs pydantic and the results pyarrow.
_HOME = {
    **dict.fromkeys(["Cell", "Plan"], "plan"),
    "Status": "runner",
    "Study": "schema",
    **dict.fromkeys(["failures", "results"], "store"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME.get(name, 'entries')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
