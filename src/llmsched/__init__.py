"""llmsched: which scheduling policy, which length predictor and how much KV cache does an LLM service need?

A workload goes in, a policy decides, an engine runs rounds, a result comes out.
"""

import importlib
from typing import TYPE_CHECKING, Any

from . import errors, generate, intervals
from ._version import version as __version__
from .batch import Batch, simulate_batch
from .clock import Clock, clocks
from .policy import Policy, policies
from .result import Result
from .simulation import simulate
from .timeline import Timeline
from .workload import Workload

if TYPE_CHECKING:
    from . import traces

__all__ = [
    "Batch",
    "Clock",
    "Policy",
    "Result",
    "Timeline",
    "Workload",
    "__version__",
    "clocks",
    "errors",
    "generate",
    "get_include",
    "intervals",
    "policies",
    "simulate",
    "simulate_batch",
    "traces",
]

# Modules that are imported when they are first used, so that `import llmsched` stays light.
_LATER = frozenset({"traces"})


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_include() -> str:
    """The directory to give to Cython and to the C compiler, so that ``cimport llmsched._core`` compiles.

    It holds ``llmsched/_core.pxd`` and the headers that it needs; see ``examples/downstream`` in the sources.
    """
    import os.path

    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
