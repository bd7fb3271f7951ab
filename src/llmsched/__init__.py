"""llmsched: which scheduling policy, which length predictor and how much KV cache does an LLM service need?

A workload goes in, a policy decides, an engine runs rounds, a result comes out.
"""

import importlib
from typing import TYPE_CHECKING, Any

from ._version import version as __version__

if TYPE_CHECKING:
    from . import capacity, energy, errors, generate, intervals, perfetto, predict, service, study, theory, traces
    from .adversarial import Adversary, adversarial_search
    from .batch import Batch, simulate_batch
    from .bounds import LowerBound, lower_bound
    from .clock import Clock, clocks
    from .lengths import LengthTable
    from .optimum import optimal
    from .planner import best_known
    from .policy import Policy, policies
    from .result import Result
    from .schedule import Schedule
    from .simulation import simulate
    from .timeline import Timeline
    from .workload import Workload

__all__ = [
    "Adversary",
    "Batch",
    "Clock",
    "LengthTable",
    "LowerBound",
    "Policy",
    "Result",
    "Schedule",
    "Timeline",
    "Workload",
    "__version__",
    "adversarial_search",
    "best_known",
    "capacity",
    "clocks",
    "energy",
    "errors",
    "generate",
    "get_include",
    "intervals",
    "lower_bound",
    "optimal",
    "perfetto",
    "policies",
    "predict",
    "service",
    "simulate",
    "simulate_batch",
    "study",
    "theory",
    "traces",
]

# Every name is imported when it is first used: `import llmsched` costs a millisecond, not NumPy's hundred, and Ctrl-C
# finds the command line ready for it.
_HOME = {
    "Adversary": "adversarial",
    "Batch": "batch",
    "Clock": "clock",
    "LengthTable": "lengths",
    "LowerBound": "bounds",
    "Policy": "policy",
    "Result": "result",
    "Schedule": "schedule",
    "Timeline": "timeline",
    "Workload": "workload",
    "adversarial_search": "adversarial",
    "best_known": "planner",
    "clocks": "clock",
    "lower_bound": "bounds",
    "optimal": "optimum",
    "policies": "policy",
    "simulate": "simulation",
    "simulate_batch": "batch",
}
_MODULES = frozenset(
    {
        "capacity",
        "energy",
        "errors",
        "generate",
        "intervals",
        "perfetto",
        "predict",
        "service",
        "study",
        "theory",
        "traces",
    }
)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def get_include() -> str:
    """The directory to give to Cython and to the C compiler, so that ``cimport llmsched._core`` compiles.

    It holds ``llmsched/_core.pxd`` and the headers that it needs; see ``examples/downstream`` in the sources.
    """
    import os.path

    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
