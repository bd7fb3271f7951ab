"""llmsched: which scheduling policy, which length predictor and how much KV cache does an LLM service need?

A workload goes in, a policy decides, an engine runs rounds, a result comes out.
"""

from . import errors, generate, intervals, traces
from ._version import version as __version__
from .batch import Batch, simulate_batch
from .policy import Policy, policies
from .result import Result
from .simulation import simulate
from .timeline import Timeline
from .workload import Workload

__all__ = [
    "Batch",
    "Policy",
    "Result",
    "Timeline",
    "Workload",
    "__version__",
    "errors",
    "generate",
    "intervals",
    "policies",
    "simulate",
    "simulate_batch",
    "traces",
]
