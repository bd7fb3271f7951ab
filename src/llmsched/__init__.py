"""llmsched: which scheduling policy, which length predictor and how much KV cache does an LLM service need?

A workload goes in, a policy decides, an engine runs rounds, a result comes out.
"""

from pathlib import Path

from . import errors, generate, intervals, traces
from ._version import version as __version__
from .batch import Batch, simulate_batch
from .clock import Clock, clocks
from .policy import Policy, policies
from .result import Result
from .simulation import simulate
from .timeline import Timeline
from .workload import Workload

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


def get_include() -> str:
    """The directory to give to Cython and to the C compiler, so that ``cimport llmsched._core`` compiles.

    It holds ``llmsched/_core.pxd`` and the headers that it needs; see ``examples/downstream`` in the sources.
    """
    return str(Path(__file__).parent.parent)
