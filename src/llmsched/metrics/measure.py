"""measure(): any metrics of the catalogue, of one simulation."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..fleet.replica import Replica
from ..fleet.result import FleetResult
from ..optimum.lower_bounds import LowerBound, lower_bound
from ..simulation.result import Result
from . import energy, service, steady_state
from .catalogue import Bounded, Metric, Source

__all__ = ["measure"]


def measure(
    result: Result,
    metrics: Iterable[Metric],
    *,
    slo: Mapping[str, float] | None = None,
    warmup: float = 0.0,
    drain: float = 0.0,
    power: energy.Power | None = None,
    bound: LowerBound | None = None,
    steady: Mapping[str, Any] | None = None,
) -> dict[str, float]:
    """Metric name -> its value. Only what the metrics are computed from is computed.

    Raises InputError if the run was not recorded as the metrics need it, or there is no power model or clock.

    Parameters
    ----------
    result
        The simulation, recorded with ``record=catalogue.recorded_for(metrics)``.
    slo, warmup, drain
        As for `llmsched.service.metrics`.
    power
        Needed for metrics of energy.
    bound
        That of the simulation, if it is known; else `llmsched.lower_bound` finds it.
    steady
        Arguments of `llmsched.steady_state.estimate` for the metrics of the steady state, and ``last``, the share of
        requests at the end that it leaves out. If given, service metrics leave out the warm-up that it finds as well.
    """
    wanted = list(metrics)

    def totals() -> dict[str, Any]:
        spread = {m.name: float(result.percentile(m.percentile)) for m in wanted if m.percentile is not None}
        return {**result.summary(), **spread, "output_tokens": int(result.workload.output.sum())}

    def spent() -> energy.Energy:
        if power is None:
            raise InputError("joules need a power model: power=...")
        return energy.metrics(result, power)

    def bounded() -> Bounded:
        known = bound or _bound(result)
        return Bounded(known, result.total_latency, result.policy)

    @functools.cache
    def settled() -> steady_state.Estimate:
        options = dict(steady or {})
        series = steady_state.latencies(result)
        return steady_state.estimate(series[: len(series) - int(options.pop("last", 0.0) * len(series))], **options)

    def served() -> service.Service:
        cut = warmup
        if steady is not None:
            arrivals = np.sort(result.workload.arrival)
            cut = max(warmup, float(arrivals[settled().dropped] - arrivals[0]))
        return service.metrics(result, slo, warmup=cut, drain=drain)

    computed: Mapping[Source, Callable[[], Any]] = {
        "totals": totals,
        "bound": bounded,
        "result": lambda: result,
        "steady": settled,
        "service": served,
        "energy": spent,
    }
    found = {source: computed[source]() for source in {metric.source for metric in wanted}}
    values = ((metric, found[metric.source]) for metric in wanted)
    return {metric.name: math.nan if known is None else float(metric.value(known)) for metric, known in values}


def _bound(result: Result) -> LowerBound:
    if isinstance(result, FleetResult):
        machines = [Replica(memory=one.memory, clock=one.clock) for one in result.outcomes]
        return lower_bound(result.workload, iterations=0, replicas=machines)
    return lower_bound(result.workload, memory=result.memory, iterations=0, clock=result.clock)
