"""llmsched: which scheduling policy, which length predictor and how much KV cache does an LLM service need?

A workload goes in, a policy decides, an engine runs rounds, a result comes out.
"""

from typing import TYPE_CHECKING

from ._lazy import lazy
from ._version import version as __version__

if TYPE_CHECKING:
    from . import errors, predict, serving, study, testing
    from .experiments.adversarial import Adversary, adversarial_search
    from .experiments.predictor_value import predictor_value
    from .fleet.disaggregated import Disaggregated, Transfer, simulate_disaggregated
    from .fleet.replica import Replica
    from .fleet.result import FleetResult
    from .fleet.router import Router, routers
    from .fleet.simulate_fleet import simulate_fleet
    from .fleet.stream import StreamResult, stream
    from .metrics import capacity, energy, foreign_result, gates, perfetto, plots, service, steady_state
    from .metrics.compare import Comparison, compare
    from .metrics.fleet_mix import cheapest_mix
    from .metrics.sizing import Sizing, size
    from .metrics.sweep import Sweep, sweep
    from .optimum import theory
    from .optimum.exact import optimal
    from .optimum.lower_bounds import LowerBound, lower_bound
    from .optimum.planner import best_known
    from .optimum.schedule import Schedule
    from .policy import Policy, policies
    from .predict import intervals
    from .progress import show_progress
    from .simulation import kv_cache, live
    from .simulation.batch import Batch, simulate_batch
    from .simulation.clock import Clock, clocks
    from .simulation.machine import Machine, machines
    from .simulation.result import Result
    from .simulation.run import simulate
    from .simulation.timeline import Timeline
    from .workloads import generate, traces
    from .workloads.length_table import LengthTable
    from .workloads.prefixes import Prefixes
    from .workloads.workload import Workload

__all__ = [
    "Adversary",
    "Batch",
    "Clock",
    "Comparison",
    "Disaggregated",
    "FleetResult",
    "LengthTable",
    "LowerBound",
    "Machine",
    "Policy",
    "Prefixes",
    "Replica",
    "Result",
    "Router",
    "Schedule",
    "Sizing",
    "StreamResult",
    "Sweep",
    "Timeline",
    "Transfer",
    "Workload",
    "__version__",
    "adversarial_search",
    "best_known",
    "capacity",
    "cheapest_mix",
    "clocks",
    "compare",
    "energy",
    "errors",
    "foreign_result",
    "gates",
    "generate",
    "get_include",
    "intervals",
    "kv_cache",
    "live",
    "lower_bound",
    "machines",
    "optimal",
    "perfetto",
    "plots",
    "policies",
    "predict",
    "predictor_value",
    "routers",
    "service",
    "serving",
    "show_progress",
    "simulate",
    "simulate_batch",
    "simulate_disaggregated",
    "simulate_fleet",
    "size",
    "steady_state",
    "stream",
    "study",
    "sweep",
    "testing",
    "theory",
    "traces",
]

# Every name is imported when it is first used: `import llmsched` costs a millisecond, not NumPy's hundred, and Ctrl-C
# finds the command line ready for it.
__getattr__, _ = lazy(
    __name__,
    {
        "Adversary": "experiments.adversarial",
        "Batch": "simulation.batch",
        "Clock": "simulation.clock",
        "Comparison": "metrics.compare",
        "Disaggregated": "fleet.disaggregated",
        "FleetResult": "fleet.result",
        "LengthTable": "workloads.length_table",
        "LowerBound": "optimum.lower_bounds",
        "Machine": "simulation.machine",
        "Policy": "policy",
        "Prefixes": "workloads.prefixes",
        "Replica": "fleet.replica",
        "Result": "simulation.result",
        "Router": "fleet.router",
        "Schedule": "optimum.schedule",
        "StreamResult": "fleet.stream",
        "Sizing": "metrics.sizing",
        "Sweep": "metrics.sweep",
        "Timeline": "simulation.timeline",
        "Transfer": "fleet.disaggregated",
        "Workload": "workloads.workload",
        "adversarial_search": "experiments.adversarial",
        "best_known": "optimum.planner",
        "capacity": "metrics.capacity",
        "clocks": "simulation.clock",
        "cheapest_mix": "metrics.fleet_mix",
        "compare": "metrics.compare",
        "energy": "metrics.energy",
        "errors": "errors",
        "foreign_result": "metrics.foreign_result",
        "gates": "metrics.gates",
        "generate": "workloads.generate",
        "intervals": "predict.intervals",
        "kv_cache": "simulation.kv_cache",
        "live": "simulation.live",
        "lower_bound": "optimum.lower_bounds",
        "machines": "simulation.machine",
        "optimal": "optimum.exact",
        "perfetto": "metrics.perfetto",
        "plots": "metrics.plots",
        "policies": "policy",
        "predict": "predict",
        "predictor_value": "experiments.predictor_value",
        "routers": "fleet.router",
        "service": "metrics.service",
        "serving": "serving",
        "show_progress": "progress",
        "simulate": "simulation.run",
        "simulate_batch": "simulation.batch",
        "simulate_disaggregated": "fleet.disaggregated",
        "simulate_fleet": "fleet.simulate_fleet",
        "size": "metrics.sizing",
        "steady_state": "metrics.steady_state",
        "stream": "fleet.stream",
        "study": "study",
        "sweep": "metrics.sweep",
        "testing": "testing",
        "theory": "optimum.theory",
        "traces": "workloads.traces",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)


def get_include() -> str:
    """The directory to give to Cython and to the C compiler, so that ``cimport llmsched._core`` compiles.

    It holds ``llmsched/_core.pxd`` and the headers that it needs; see ``examples/downstream`` in the sources.
    """
    import os.path

    return os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
