"""sweep(): latency and time to first token against load, for several policies, and the knee of each.

    swept = ls.sweep(workload, ["fcfs", "amin"], rates=[1, 2, 3, 4, 5], **ls.machines["llama2-70b-2xa100"].options())
    swept.knee("amin")      # requests/s

At each rate, requests are drawn from the workload and arrive in a Poisson process, in several replications: the same
draws for every policy and every rate, and the same gaps but for their scale. The warm-up of each run is cut off by
`llmsched.steady_state.warm_up` (MSER-5 on latencies in the order of arrival); where it does not end in the first half,
the first half goes.

The knee is the load from which on latency is no longer a matter of chance but of how long the load lasts: the rate that
can be served for ever. It is measured at the lowest rate tried at which requests pile up (`llmsched.service.Overload`)
in at least half of the replications, as what these serve per unit of time while requests wait: neither while the first
batches fill nor while the last ones empty. Short runs do not show a load above capacity at once, so that the knee may
lie below rates at which nothing seemed to pile up: points beyond it are not steady, whatever the runs show.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from .._logging import logger
from ..errors import InputError, NotFinishedError, nearest, number_of
from ..fleet.replica import Replica
from ..fleet.router import Router
from ..fleet.router import labelled as labelled_routers
from ..fleet.simulate_fleet import check_columns, simulate_fleet
from ..html_tables import share, table
from ..policy import Policy
from ..policy import named as named_policy
from ..progress import with_bar
from ..simulation.clock import Clock
from ..simulation.clock import named as named_clock
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads import generate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.random_streams import raw_stream
from ..workloads.workload import Workload
from . import service, steady_state
from .compare import crossed
from .confidence import mean_and_half_width
from .figure_style import light_grid, machine_of, requests_of, styles_of
from .plots import axes_or_new

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_log = logger(__name__)

__all__ = ["MEASURES", "Point", "Sweep", "parse_rates", "sweep"]

#: What is measured at each point, and in words. Times are in seconds with a clock, else in rounds.
MEASURES: Mapping[str, str] = {
    "latency_mean": "mean latency",
    "latency_p99": "p99 of latency",
    "ttft_mean": "mean time to first token",
    "ttft_p99": "p99 of the time to first token",
    "goodput": "share of requests that meet the targets",
}

#: Rates that "1:10" stands for.
_STEPS = 10
#: Requests in a replication, at least: a warm-up cannot be told in fewer.
LEAST = 100

#: Called now and then with (simulations done, simulations in all).
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Point:
    """One policy, or one router, at one rate.

    Attributes
    ----------
    policy, rate
        Its label (where routers are compared, that of the router), and requests per second (per round without a clock).
    means, half_widths
        By name (see `MEASURES`): the mean over replications, and half the width of its 95 % confidence interval
        (Student's t; NaN for fewer than two replications). Without targets there is no goodput.
    warm_up
        Share of the requests that was cut off, the mean over replications.
    replications
        Those that finished.
    overloaded
        In how many of them requests pile up: their times grow with the length of the run.
    stable_rate
        What those could serve for ever, their mean; NaN if there are none.
    """

    policy: str
    rate: float
    means: Mapping[str, float]
    half_widths: Mapping[str, float]
    warm_up: float
    replications: int
    overloaded: int
    stable_rate: float

    @property
    def steady(self) -> bool:
        """Whether requests pile up in fewer than half of the replications, and all of them finished."""
        return 2 * self.overloaded < self.replications

    def record(self) -> dict[str, Any]:
        """Plain values; None for what is not known."""
        values: dict[str, Any] = {"policy": self.policy, "rate": self.rate}
        for name, mean in self.means.items():
            values |= {name: mean, f"{name}_ci95": self.half_widths[name]}
        values |= {"warm_up": self.warm_up, "replications": self.replications}
        values |= {"overloaded": self.overloaded, "stable_rate": self.stable_rate}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sweep:
    """What `sweep` found.

    Attributes
    ----------
    points
        Policy by policy, rates ascending.
    workload, memory, clock, max_batch, block, prefill_budget, slo, requests, replications, seed
        What was asked; `memory` is that of one replica.
    replicas, router
        How many replicas there are, None if there is no fleet; the name of the router that all points have, if they do.
    """

    points: tuple[Point, ...]
    workload: Workload
    memory: int
    clock: Clock | None
    max_batch: int | None
    block: int
    prefill_budget: int | None
    slo: Mapping[str, float]
    requests: int
    replications: int
    seed: int
    replicas: int | None = None
    router: str | None = None

    @property
    def policies(self) -> tuple[str, ...]:
        """Their labels, as asked."""
        return tuple(dict.fromkeys(point.policy for point in self.points))

    @property
    def unit(self) -> str:
        """Of time: "s", or "round" without a clock."""
        return "round" if self.clock is None else "s"

    @property
    def measures(self) -> tuple[str, ...]:
        """Names of what was measured, of `MEASURES`."""
        return tuple(name for name in MEASURES if name != "goodput" or self.slo)

    def of(self, policy: str) -> tuple[Point, ...]:
        """The points of one policy, rates ascending."""
        return tuple(point for point in self.points if point.policy == policy)

    def knee(self, policy: str) -> float:
        """The rate that the policy can serve for ever (see the module); infinite if it is above all that were tried.

        NaN if no replication finished at the first rate that does not settle.
        """
        first = next((point for point in self.of(policy) if not point.steady), None)
        return math.inf if first is None else first.stable_rate

    def is_steady(self, point: Point) -> bool:
        """Whether the load of a point can be served for ever; beyond the knee, times grow with the run."""
        return point.steady and not point.rate > self.knee(point.policy)

    def records(self) -> list[dict[str, Any]]:
        """A record per point."""
        return [point.record() | {"steady": self.is_steady(point)} for point in self.points]

    def plot(self, measure: str = "latency_mean", *, ax: Axes | None = None) -> Axes:
        """One of `measures` against the rate: a line per policy with its confidence band and knee.

        Draws on `ax`, or on a new figure of pyplot's, and returns the axes. Hollow points are loads beyond the knee.
        Raises InputError for an unknown measure, MissingExtraError without matplotlib.
        """
        if measure not in self.measures:
            raise InputError(f"{measure!r} was not measured; {nearest(measure, self.measures)}")
        axes = axes_or_new(ax, 6.5, 4)
        draw(self, measure, axes)
        axes.legend(frameon=False, handlelength=2.6)
        return axes

    def _repr_html_(self) -> str:
        names = self.measures
        rows = []
        for point in self.points:
            values = [share(point.means[name]) if name == "goodput" else point.means[name] for name in names]
            rows.append([point.policy, point.rate, *values, "yes" if self.is_steady(point) else "no"])
        knees = ", ".join(f"{name} {self.knee(name):.3g}" for name in self.policies)
        return table(
            f"{requests_of(self.workload, self.requests)}, Poisson arrivals; {machine_of(self.memory, self.clock)}",
            rows,
            header=["policy", f"requests/{self.unit}", *(MEASURES[name] for name in names), "steady"],
            note=f"knees in requests/{self.unit}: {knees}; {number_of(self.replications, 'replication')}",
        )

    def __repr__(self) -> str:
        knees = ", ".join(f"{name} {self.knee(name):.3g}" for name in self.policies)
        return f"Sweep({len(self.points)} points; knees in requests/{self.unit}: {knees})"


def draw(swept: Sweep, name: str, axes: Axes) -> None:
    """One measure against the rate, without a legend."""
    styles = styles_of(swept.policies)
    for policy in swept.policies:
        _line(axes, name, swept, policy, styles[policy])
        _mark_knee(axes, swept, policy, styles[policy][0])
    if name == "goodput":
        axes.set_ylabel("requests that meet the targets (%)")
    else:
        axes.set_yscale("log")
        axes.set_ylabel(f"{MEASURES[name]} ({'seconds' if swept.clock is not None else 'rounds'})")
    light_grid(axes)
    axes.set_xlabel(f"requests/{swept.unit}")


def _line(axes: Axes, name: str, swept: Sweep, policy: str, style: tuple[str, str]) -> None:
    known = [point for point in swept.of(policy) if math.isfinite(point.means[name])]
    if not known:
        return
    colour, dash = style
    scale = 100 if name == "goodput" else 1
    rates = [point.rate for point in known]
    mean = scale * np.array([point.means[name] for point in known])
    half = scale * np.nan_to_num(np.array([point.half_widths[name] for point in known]))
    low, high = np.maximum(mean - half, 0.2 * mean), mean + half  # above 0: most axes are logarithmic
    if name == "goodput":
        low, high = np.clip(mean - half, 0, 100), np.clip(high, 0, 100)
    axes.fill_between(rates, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(rates, mean, color=colour, linestyle=dash, linewidth=1.6, label=_label(swept, policy))
    for steady, face in ((True, colour), (False, "white")):
        mine = [k for k, point in enumerate(known) if swept.is_steady(point) == steady]
        axes.plot(
            [rates[k] for k in mine], mean[mine], "o", color=colour, markerfacecolor=face, markersize=4.5, zorder=3
        )


def _label(swept: Sweep, policy: str) -> str:
    knee = swept.knee(policy)
    where = (
        f"above {swept.points[-1].rate:.3g}" if math.isinf(knee) else "not known" if math.isnan(knee) else f"{knee:.3g}"
    )
    return f"{policy}, knee {where}/{swept.unit}"


def _mark_knee(axes: Axes, swept: Sweep, policy: str, colour: str) -> None:
    knee = swept.knee(policy)
    first, last = swept.points[0].rate, swept.points[-1].rate
    if first <= knee <= last:
        axes.axvline(knee, color=colour, linestyle="--", linewidth=0.9, zorder=1)


def parse_rates(text: str) -> list[float]:
    """Rates as on the command line: ``1:10`` (ten equal steps), ``1:10:4``, ``0.5,1,2``, or one number.

    Raises InputError, saying the forms, for anything else.
    """
    try:
        if ":" in text:
            first, last, *steps = text.split(":")
            count = int(steps[0]) if steps else _STEPS
            if len(steps) > 1 or count < 2 or not -math.inf < float(first) < float(last) < math.inf:
                raise ValueError
            rates = np.linspace(float(first), float(last), count).tolist()
        else:
            rates = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise InputError(
            f"rates {text!r}: expected FIRST:LAST, the smaller first, FIRST:LAST:STEPS or a list, such as 1:10, "
            "1:10:19 or 0.5,1,2"
        ) from None
    return _checked_rates(rates)


def _checked_rates(rates: Iterable[float]) -> list[float]:
    checked = sorted({float(rate) for rate in rates})
    if not checked:
        raise InputError("give at least one rate")
    for rate in checked:
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f"a rate is a number greater than 0, not {rate:g}")
    return checked


@with_bar("sweeping", "simulations")
def sweep(
    workload: Workload,
    policies: Iterable[str | Policy] | Mapping[str, str | Policy] = ("fcfs", "amin", "hsf"),
    *,
    rates: Iterable[float],
    memory: int,
    replicas: int | Sequence[Replica] | None = None,
    router: str | Router | Sequence[str | Router] | Mapping[str, str | Router] = "least-requests",
    slo: Mapping[str, float] | None = None,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    requests: int | None = None,
    replications: int = 5,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Latency, time to first token and goodput of several policies at several rates of Poisson arrivals.

    Parameters
    ----------
    workload
        Requests to draw from, with replacement: neither their arrivals nor their order count.
    policies
        Names or policies, or a mapping from a label to either.
    rates
        Requests per second (per round without a clock), in any order.
    memory, clock, max_batch, block, prefill_budget
        As for `llmsched.simulate`; of a fleet, those of each replica.
    replicas, router
        As for `llmsched.compare`: a fleet at each point; several routers with one policy are a line each.
    slo
        Targets (see `llmsched.service.METRICS`) for the goodput.
    requests
        Requests in a replication, at least 100; by default as many as in the workload. The nearer to the knee, the more
        it takes to see a steady state.
    replications
        At least 1; confidence intervals need 2.
    seed
        Governs draws, gaps and ties.
    threads
        Simulations at a time; None for one per processor. The answer does not depend on it.
    progress
        Called now and then with (simulations done, simulations in all).

    Raises
    ------
    InputError
        A number is out of range, a target unknown, or there are no requests or policies.
    MissingPredictionError, MemoryTooSmallError
        As `llmsched.simulate`. A policy that does not finish lacks replications instead.
    """
    if not isinstance(workload, Workload):
        raise InputError(f"expected a llmsched.Workload, not {type(workload).__name__}")
    if not len(workload):
        raise InputError("there is nothing to serve: the workload has no requests")
    routers = labelled_routers(router)
    chosen = crossed(_labelled(policies), routers, replicas)
    if replicas is not None:
        for one in routers.values():
            check_columns(workload, one)
    tried = _checked_rates(rates)
    targets = service.limits(slo)
    n = whole("requests", max(len(workload), LEAST) if requests is None else requests, LEAST)
    replications = whole("replications", replications, 1)
    seeds = [int(s) for s in raw_stream(whole("seed", seed, 0, LARGEST_SEED), "sweep", replications)]
    limits: dict[str, Any] = {"clock": named_clock(clock), "max_batch": max_batch, "block": block}
    limits |= {"prefill_budget": prefill_budget}
    asked = {"memory": memory, "record": "tokens", **limits}
    drawn = [generate.resample(workload, n, one) for one in seeds]
    jobs = [(policy, rate, k) for policy in chosen for rate in tried for k in range(replications)]

    def run(job: tuple[str, float, int]) -> _Run | None:
        label, rate, k = job
        arriving = generate.poisson(drawn[k], rate, seeds[k])
        try:
            result = simulated(arriving, *chosen[label], replicas, seed=seeds[k], **asked)
        except NotFinishedError:
            return None
        return _measured(result, service.metrics(result, targets))

    runs: list[_Run | None] = []
    with ThreadPoolExecutor(
        os.cpu_count() or 1 if threads is None else whole("threads", threads, 1), thread_name_prefix="llmsched"
    ) as pool:
        for found in pool.map(run, jobs):
            runs.append(found)
            label, rate, k = jobs[len(runs) - 1]
            _log.info("%s at rate %g, replication %d: %s", label, rate, k, _said(found))
            if progress is not None:
                progress(len(runs), len(jobs))
    points = [
        _point(policy, rate, [one for one in runs[at : at + replications] if one is not None], bool(targets))
        for at, (policy, rate, _) in list(enumerate(jobs))[::replications]
    ]
    fleet: dict[str, Any] = {}
    if replicas is not None:
        fleet["replicas"] = len(replicas) if isinstance(replicas, Sequence) else replicas
        fleet["router"] = next(iter(routers.values())).name if len(routers) == 1 else None
    return Sweep(
        tuple(points), workload, memory, **limits, slo=targets, requests=n, replications=replications, seed=seed,
        **fleet,
    )  # fmt: skip


def simulated(
    workload: Workload, policy: Policy, router: Router, replicas: int | Sequence[Replica] | None, **options: Any
) -> Result:
    """The simulation of one machine, or of a fleet if there are replicas."""
    if replicas is None:
        return simulate(workload, policy, **options)
    return simulate_fleet(workload, policy, replicas=replicas, router=router, **options)


def _said(run: _Run | None) -> str:
    """What became of a run, for the log."""
    if run is None:
        return "does not finish"
    return f"mean latency {run.values['latency_mean']:.4g}, {run.warm_up:.0%} cut off as warm-up"


@dataclasses.dataclass(frozen=True)
class _Run:
    """What one replication saw."""

    values: Mapping[str, float]
    warm_up: float
    stable_rate: float


def _measured(result: Result, seen: service.Service) -> _Run:
    """The measures of a run over the requests that arrive after its warm-up."""
    order = np.argsort(result.workload.arrival, kind="stable")
    dropped = steady_state.warm_up(steady_state.latencies(result))
    kept = order[len(order) // 2 if dropped is None else dropped :]
    latency, ttft = result.latency[kept], seen.ttft[kept]
    values = {
        "latency_mean": float(latency.mean()),
        "latency_p99": float(np.quantile(latency, 0.99)),
        "ttft_mean": float(ttft.mean()),
        "ttft_p99": float(np.quantile(ttft, 0.99)),
        "goodput": float(seen.met[kept].mean()),
    }
    return _Run(values, 1 - len(kept) / len(order), seen.stable_rate)


def _point(policy: str, rate: float, runs: Sequence[_Run], with_goodput: bool) -> Point:
    names = [name for name in MEASURES if name != "goodput" or with_goodput]
    found = {name: mean_and_half_width([run.values[name] for run in runs]) for name in names}
    stable = [run.stable_rate for run in runs if not math.isnan(run.stable_rate)]
    return Point(
        policy,
        rate,
        {name: mean for name, (mean, _) in found.items()},
        {name: half for name, (_, half) in found.items()},
        float(np.mean([run.warm_up for run in runs])) if runs else math.nan,
        len(runs),
        len(stable),
        float(np.mean(stable)) if stable else math.nan,
    )


def _labelled(policies: Iterable[str | Policy] | Mapping[str, str | Policy]) -> dict[str, Policy]:
    if isinstance(policies, Mapping):
        chosen = {label: named_policy(policy) for label, policy in policies.items()}
    else:
        given = [policies] if isinstance(policies, (str, Policy)) else policies
        chosen = {one if isinstance(one, str) else one.name: named_policy(one) for one in given}
    if not chosen:
        raise InputError("give at least one policy")
    return chosen
