"""compare(): several policies on one workload, a row each. A policy that does not finish says so; the others stand.

compare(workload, ["hsf", "amax", "amin"], memory=16492)["amin"].ratio
compare(workload, "fcfs", memory=16492, replicas=8, router=["random", "least-requests"])["least-requests"].ratio
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._logging import logger
from ..errors import InputError, MissingPredictionError, NotFinishedError, UnknownNameError, nearest, number_of
from ..fleet.replica import Replica
from ..fleet.router import Router
from ..fleet.router import labelled as labelled_routers
from ..fleet.simulate_fleet import simulate_fleet
from ..html_tables import bar, share, table
from ..optimum.lower_bounds import LowerBound, lower_bound
from ..policy import Policy, named
from ..progress import with_bar
from ..simulation.clock import Clock
from ..simulation.dataframes import Columns
from ..simulation.result import Result
from ..simulation.run import EngineName, simulate
from ..workloads.workload import Workload
from .figure_style import machine_of, requests_of, styles_of
from .plots import axes_or_new, draw_bars

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_log = logger(__name__)

__all__ = ["COLUMNS", "DEFAULT_POLICIES", "FLEET_COLUMNS", "Comparison", "Row", "compare"]

#: Llama-2-70B on two A100: the value of the companion paper (arXiv 2502.07115); this one prints none.
MEMORY = 16492

#: What is compared when nothing is said: the policies of the paper and its companion, a first-come one, and `hsf` to
#: measure them by. Other named ones are variants of these, or read more of the truth.
DEFAULT_POLICIES = (
    "hsf", "amax", "amin", "amin-doubling", "aell", "mcsf", "mc-benchmark", "fcfs", "protection", "clearing",
)  # fmt: skip

#: The columns of `Row.record`, in order: all rows have all of them.
COLUMNS = (
    "policy",
    "finished",
    "requests",
    "completed",
    "mean_latency",
    "p50_latency",
    "p90_latency",
    "p99_latency",
    "max_latency",
    "total_latency",
    "ratio",
    "gap",
    "makespan",
    "rounds",
    "evictions",
    "evicted_requests",
    "wasted_tokens",
    "wasted_share",
    "peak_memory",
    "peak_share",
    "hit_share",
    "error",
)

#: What `Comparison.records` has of a fleet beside them; see `llmsched.FleetResult.summary`.
FLEET_COLUMNS = ("router", "replicas", "least_busy", "most_busy", "most_requests_share")

#: Called a few times a second with the running policy's label, and (requests completed, requests in all) over all runs.
Progress = Callable[[str, int, int], None]


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """What one policy did.

    Attributes
    ----------
    policy
        Its label: the name, or the key it was given under; where routers are compared, that of the router.
    requests
        Requests in the workload.
    result
        The simulation, or None if the policy could not run to the end.
    error
        Why there is no result: `NotFinishedError` or `MissingPredictionError`.
    ratio
        Mean latency over that of the baseline; NaN where either is missing.
    gap
        Total latency is at most this share above that of any schedule (`llmsched.lower_bound`); NaN without a result.
        A cap on the batch, blocks of cache and chunked prefill only rule schedules out: the bound holds with them too.
        NaN for a fleet.
    """

    policy: str
    requests: int
    result: Result | None
    error: NotFinishedError | MissingPredictionError | None = None
    ratio: float = math.nan
    gap: float = math.nan

    @property
    def completed(self) -> int:
        """How many requests completed."""
        if self.result is not None:
            return len(self.result)
        return self.requests - self.error.remaining if isinstance(self.error, NotFinishedError) else 0

    def record(self) -> dict[str, Any]:
        """The row as plain values under the names of `COLUMNS`; None for what there is not (never NaN)."""
        values: dict[str, Any] = dict.fromkeys(COLUMNS)
        if self.result is not None:
            values |= {k: v for k, v in self.result.summary().items() if k in values}
        elif isinstance(self.error, NotFinishedError):
            values["rounds"] = self.error.round
        values |= {"policy": self.policy, "finished": self.result is not None, "requests": self.requests}
        values |= {"completed": self.completed, "ratio": self.ratio, "gap": self.gap}
        values["error"] = str(self.error) if self.error else None
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Comparison(Columns):
    """Rows of `compare`, in the order the policies were given, and what they were run with. A notebook shows the table.

    `baseline` is the label of the row that ratios refer to, `baseline_latency` its mean latency, NaN if it has none.
    `memory` is that of one replica; `replicas` is how many there are, None if there is no fleet, and `router` the one
    that all rows have, None if each has its own.
    """

    rows: tuple[Row, ...]
    workload: Workload
    memory: int
    seed: int | None
    engine: str
    baseline: str | None
    baseline_latency: float
    replicas: int | None = None
    router: Router | None = None

    def __repr__(self) -> str:
        ranked = self.ranked()
        latencies = ", ".join(f"{row.policy} {_mean_latency(row):.6g}" for row in ranked if row.error is None)
        latencies += "".join(f"; {row.error}" for row in ranked if row.error is not None)
        fleet = "" if self.replicas is None else f"{self.replicas} replicas, "
        ran_on = f"{len(self.workload)} requests, {fleet}memory {self.memory}"
        return f"Comparison({ran_on}: mean latency in {self.unit} {latencies})"

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __getitem__(self, policy: str) -> Row:
        for row in self.rows:
            if row.policy == policy:
                return row
        raise UnknownNameError(f"there is no row {policy!r}; {nearest(policy, [row.policy for row in self])}")

    def ranked(self) -> list[Row]:
        """The rows by mean latency, smallest first; those without a result last."""

        def key(row: Row) -> tuple[bool, float]:
            latency = row.result.mean_latency if row.result is not None else math.nan
            return (row.result is None, 0.0 if math.isnan(latency) else latency)

        return sorted(self.rows, key=key)

    @property
    def unit(self) -> str:
        """Of times: "seconds" with a clock, else "rounds"."""
        timed = any(row.result is not None and row.result.clock is not None for row in self)
        return "seconds" if timed else "rounds"

    def best(self, column: str = "mean_latency") -> Row:
        """The row with the least of a column of `COLUMNS`; of equals the first given.

        Raises InputError for a column that is not there or no number, or if no policy finished.
        """
        values = {row: row.record().get(column) for row in self if row.result is not None}
        known = {row: value for row, value in values.items() if isinstance(value, (int, float))}
        if not values:
            raise InputError("no policy finished, so none is best")
        if not known:
            numbers = [name for name, value in next(iter(values)).record().items() if isinstance(value, (int, float))]
            raise InputError(f"{column!r} is no column of numbers; {nearest(column, numbers)}")
        return min(known, key=lambda row: known[row])

    def columns(self) -> dict[str, list[Any]]:
        """`records` as columns, for `to_pandas`, `to_polars` and `to_arrow`."""
        names = COLUMNS if self.replicas is None else COLUMNS + FLEET_COLUMNS
        records = self.records()
        return {name: [record[name] for record in records] for name in names}

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Mean latency of each policy as bars, the best on top, with its ratio to the baseline beside it.

        Draws on `ax`, or on a new figure of pyplot's, and returns the axes. `llmsched.metrics.figures.comparison` draws
        a whole page. Raises MissingExtraError without matplotlib.
        """
        rows = self.ranked()
        axes = axes_or_new(ax, 6.5, 0.9 + 0.3 * len(rows))
        values = {row.policy: 0.0 if math.isnan(_mean_latency(row)) else _mean_latency(row) for row in rows}
        draw_bars(axes, values, [_beside_bar(row) for row in rows], f"mean latency ({self.unit})")
        if self.baseline and not all(math.isnan(row.ratio) for row in rows):
            axes.set_title(f"mean latency and its ratio to {self.baseline}", fontsize=10, loc="left")
        return axes

    def _repr_html_(self) -> str:
        rows = self.ranked()
        styles = styles_of([row.policy for row in rows])
        most = max((_mean_latency(row) for row in rows if row.result is not None), default=math.nan)
        shown: list[list[object]] = []
        for row in rows:
            first: list[object] = [row.policy, bar(_mean_latency(row), most, styles[row.policy][0])]
            if row.result is None:
                shown.append([*first, _beside_bar(row), *[""] * 7])
                continue
            p50, p99 = (float(value) for value in row.result.percentile([50, 99]))
            numbers: list[object] = [
                row.result.mean_latency,
                p50,
                p99,
                row.ratio,
                share(row.gap),
                row.result.total_evictions,
            ]
            shown.append([*first, *numbers, share(row.result.wasted_share), share(row.result.peak_share)])
        clock = next((row.result.clock for row in rows if row.result is not None), None)
        fleet = "" if self.replicas is None else f"{number_of(self.replicas, 'replica')}, each "
        return table(
            f"{requests_of(self.workload)}; {fleet}{machine_of(self.memory, clock)}; times in {self.unit}",
            shown,
            header=["policy", "", "mean", "p50", "p99", f"vs {self.baseline}", "gap", "evicted", "wasted", "peak"],
            note="\n".join(self._notes()),
        )

    def _notes(self) -> list[str]:
        """What a reader of the table should know."""
        notes = ["gap: mean latency is at most so far above the best possible."]
        why: dict[str, list[str]] = {}
        for row in self:
            if row.error is not None:
                why.setdefault(str(row.error).replace(f"policy {row.policy} ", ""), []).append(row.policy)
        notes += [f"{', '.join(policies)}: {reason}." for reason, policies in why.items()]
        if self.unit == "rounds" and "path" in self.workload.source and self.workload.arrival.any():
            notes.append(
                "Arrival times of the trace count as rounds: a clock makes them seconds (a machine's options)."
            )
        return notes

    def records(self) -> list[dict[str, Any]]:
        """`ranked` as plain dicts, ready for JSON, CSV or a dataframe; of a fleet with `FLEET_COLUMNS`."""
        if self.replicas is None:
            return [row.record() for row in self.ranked()]
        return [row.record() | self._of_fleet(row) for row in self.ranked()]

    def _of_fleet(self, row: Row) -> dict[str, Any]:
        if row.result is None:
            return dict.fromkeys(FLEET_COLUMNS) | {"replicas": self.replicas}
        summary = row.result.summary()
        return {name: summary[name] for name in FLEET_COLUMNS}


@with_bar("comparing", "requests")
def compare(
    workload: Workload,
    policies: Iterable[str | Policy] | Mapping[str, str | Policy] = DEFAULT_POLICIES,
    *,
    memory: int,
    replicas: int | Sequence[Replica] | None = None,
    router: str | Router | Sequence[str | Router] | Mapping[str, str | Router] = "least-requests",
    seed: int | None = 0,
    engine: EngineName = "compiled",
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    record: Collection[str] = (),
    baseline: str | Policy | None = "hsf",
    max_rounds: int | None = None,
    gap: bool = True,
    progress: Progress | None = None,
) -> Comparison:
    """Simulate each policy on `workload` with the same memory and seed; on a fleet, if `replicas` says so.

    Parameters
    ----------
    workload, memory, seed, engine, clock, max_batch, block, prefill_budget, record, max_rounds
        As for `llmsched.simulate`; of a fleet, those of each replica.
    policies
        Names or policies, or a mapping from a label to either. A policy given twice is run once.
    replicas
        How many replicas serve, or a `llmsched.Replica` for each; None: one machine and no router.
    router
        Who chooses among them. Several (names, routers, or a mapping from a label to either) with one policy: a row
        for each router, and ratios refer to the first of them.
    baseline
        Ratios of mean latency refer to this policy; it is run too if it is not among `policies`. None: no ratios.
    gap
        False leaves `Row.gap` NaN: the lower bound can take longer than a few short simulations.
    progress
        Called a few times a second with (label, requests completed, requests in all), counted over all rows.

    Raises
    ------
    PolicyError, WorkloadError, InputError
        The input cannot be simulated by any policy. What concerns one policy alone (`NotFinishedError`,
        `MissingPredictionError`) stands in its row instead. Several routers with several policies are refused.
    """
    wanted = _labelled(policies)
    routers = labelled_routers(router)
    options: dict[str, Any] = {"memory": memory, "seed": seed, "engine": engine, "clock": clock, "record": record}
    options |= {"max_batch": max_batch, "block": block, "prefill_budget": prefill_budget, "max_rounds": max_rounds}
    if len(routers) > 1:
        chosen = crossed(wanted, routers, replicas)
        shown, label = list(routers), None if baseline is None else next(iter(routers))
    else:
        label = None if baseline is None else next(iter(_labelled([baseline])))
        run_too = {} if baseline is None or label in wanted or label is None else {label: named(baseline)}
        chosen = crossed(wanted | run_too, routers, replicas)
        shown = list(wanted)
    rows = _rows(workload, chosen, replicas, options, progress)
    latency = _mean_latency(rows[label]) if label is not None else math.nan
    fleet_of = 1 if replicas is None else replicas
    bound = lower_bound(workload, memory=memory, iterations=0, clock=clock, replicas=fleet_of) if gap else None
    compared = tuple(
        dataclasses.replace(row, ratio=_mean_latency(row) / latency, gap=_gap(row, bound))
        for row in (rows[name] for name in shown)
    )
    fleet: dict[str, Any] = {}
    if replicas is not None:
        fleet["replicas"] = len(replicas) if isinstance(replicas, Sequence) else replicas
        fleet["router"] = next(iter(routers.values())) if len(routers) == 1 else None
    return Comparison(compared, workload, memory, seed, engine, label, latency, **fleet)


def crossed(
    policies: Mapping[str, Policy], routers: Mapping[str, Router], replicas: int | Sequence[Replica] | None
) -> dict[str, tuple[Policy, Router]]:
    """A row for each policy with the one router, or for each router with the one policy: label -> both.

    Raises InputError if there are several of both, or routers and nothing to choose among.
    """
    if len(routers) == 1:
        (router,) = routers.values()
        return {label: (policy, router) for label, policy in policies.items()}
    if replicas is None:
        raise InputError("several routers choose among replicas: say how many, such as replicas=8")
    if len(policies) > 1:
        raise InputError("give several policies or several routers: a row is one of them with one of the other")
    (policy,) = policies.values()
    return {label: (policy, router) for label, router in routers.items()}


def _rows(
    workload: Workload,
    chosen: Mapping[str, tuple[Policy, Router]],
    replicas: int | Sequence[Replica] | None,
    options: Mapping[str, Any],
    progress: Progress | None,
) -> dict[str, Row]:
    """What each of `chosen` does, by label."""
    n = len(workload)
    rows: dict[str, Row] = {}
    for done, (name, (policy, router)) in enumerate(chosen.items()):
        report = None if progress is None else _shifted(progress, name, done * n, n * len(chosen))
        if report is not None:
            report(0, n)
        try:
            if replicas is None:
                result = simulate(workload, policy, progress=report, **options)
            else:
                result = simulate_fleet(
                    workload, policy, replicas=replicas, router=router, progress=report, **options
                )  # fmt: skip
        except (NotFinishedError, MissingPredictionError) as error:
            rows[name] = Row(name, n, None, error)
            _log.info("%s: no result, as %s", name, error)
        else:
            rows[name] = Row(name, n, result)
            _log.info("%s: mean latency %.6g, %d evictions", name, result.mean_latency, result.total_evictions)
        if report is not None:
            report(n, n)
    return rows


def _labelled(policies: Iterable[str | Policy] | Mapping[str, str | Policy]) -> dict[str, Policy]:
    if isinstance(policies, Mapping):
        return {label: named(policy) for label, policy in policies.items()}
    if isinstance(policies, (str, Policy)):
        policies = [policies]
    return {policy if isinstance(policy, str) else policy.name: named(policy) for policy in policies}


def _beside_bar(row: Row) -> str:
    if row.result is None:
        return "does not finish" if isinstance(row.error, NotFinishedError) else "cannot run"
    return "" if math.isnan(row.ratio) else f"{row.ratio:.2f}"


def _shifted(progress: Progress, label: str, before: int, total: int) -> Callable[[int, int], None]:
    return lambda completed, _: progress(label, before + completed, total)


def _gap(row: Row, bound: LowerBound | None) -> float:
    if bound is None or row.result is None or not row.requests:
        return math.nan
    return bound.gap(row.result.total_latency, row.result.policy)


def _mean_latency(row: Row) -> float:
    return math.nan if row.result is None else row.result.mean_latency
