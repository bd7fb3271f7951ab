"""score(): a scheduler beside named policies on the standard workloads, as a table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..errors import NotFinishedError
from ..html_tables import number, share, table
from ..metrics.compare import Row, compare
from ..optimum.lower_bounds import lower_bound
from ..policy import Policy
from ..progress import with_seconds
from ..simulation.dataframes import Columns
from .cases import STANDARD, Case, cases_of
from .drive import Resume, Scheduler, label_of, run

#: What a scheduler is scored beside when nothing is said.
AGAINST = ("vllm", "amin", "mcsf")

#: Columns of a score card, and how they are shown: (column, header, how).
_SHOWN = (
    ("workload", "workload", str),
    ("scheduler", "scheduler", str),
    ("mean_latency", "mean", number),
    ("p99_latency", "p99", number),
    ("ratio", "vs hsf", lambda value: f"{value:.2f}"),
    ("gap", "gap", share),
    ("evictions", "evicted", number),
    ("wasted_share", "wasted", share),
    ("decisions", "decisions", number),
    ("requests_looked_at", "looked at", number),
)
_COUNTERS = ("decisions", "requests_looked_at", "admissions", "evictions")
_NOTE = (
    "vs hsf: ratio of mean latencies to the scheduler that knows the future; gap: mean latency is at most so far above "
    "the best possible; wasted: share of generated tokens; looked at: requests taken from the state, over all decisions"
)


@dataclasses.dataclass(frozen=True, repr=False)
class ScoreCard(Columns):
    """What `score` found: a row for each workload and scheduler.

    Attributes
    ----------
    scheduler
        The name of the one that was scored.
    rows
        Of each: ``workload``, ``scheduler``, ``unit`` (of times), ``mean_latency``, ``p99_latency``, ``ratio`` (of mean
        latency to that of `hsf`), ``gap`` (total latency is at most this share above that of any schedule),
        ``evictions``, ``wasted_share``, of the scheduler itself ``decisions`` and ``requests_looked_at``, and ``error``
        where it did not finish. None for what there is not.
    """

    scheduler: str
    rows: tuple[Mapping[str, Any], ...]

    @property
    def ratios(self) -> dict[str, float]:
        """Scheduler -> geometric mean of its ratios to `hsf` over the workloads, best first; NaN if one is missing."""
        names = dict.fromkeys(row["scheduler"] for row in self.rows)
        found = {name: _geometric_mean(row["ratio"] for row in self.rows if row["scheduler"] == name) for name in names}
        return dict(sorted(found.items(), key=lambda item: (math.isnan(item[1]), item[1])))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, ready for JSON."""
        ratios = {name: None if math.isnan(ratio) else ratio for name, ratio in self.ratios.items()}
        return {"scheduler": self.scheduler, "ratios": ratios, "rows": [dict(row) for row in self.rows]}

    def columns(self) -> dict[str, Any]:
        """The rows as columns, for `to_pandas`, `to_polars` and `to_arrow`."""
        return {name: [row[name] for row in self.rows] for name in (self.rows[0] if self.rows else ())}

    def __repr__(self) -> str:
        lines = [[header for _, header, _ in _SHOWN], *self._texts()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(cells))
            for cells in (list(zip(line, widths, strict=True)) for line in lines)
        ]
        errors = [f"{row['workload']}, {row['scheduler']}: {row['error']}" for row in self.rows if row["error"]]
        return "\n".join([*(line.rstrip() for line in text), *errors, self._summary()])

    def _repr_html_(self) -> str:
        return table(
            f"{self.scheduler} beside named policies",
            self._texts(),
            header=[header for _, header, _ in _SHOWN],
            note=f"{self._summary()}. {_NOTE}",
        )

    def _texts(self) -> list[list[str]]:
        return [["–" if row[name] is None else how(row[name]) for name, _, how in _SHOWN] for row in self.rows]

    def _summary(self) -> str:
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in self.ratios.items())
        return f"geometric mean vs hsf: {ratios}"


@with_seconds("scoring")
def score(
    decide: Scheduler,
    against: Iterable[str | Policy] | Mapping[str, str | Policy] = AGAINST,
    *,
    workloads: Mapping[str, Case] = STANDARD,
    seed: int | None = 0,
    resume: Resume = "restart",
    truth: bool = False,
    label: str | None = None,
) -> ScoreCard:
    """Run a scheduler and named policies on the same workloads, and put what they did side by side.

    Parameters
    ----------
    decide, seed, resume, truth
        As for `run`.
    against
        Names or policies, or a mapping from a label to either, as for `llmsched.compare`. Ratios refer to `hsf`, the
        policy that knows the outputs, whether it is among them or not.
    workloads
        Name -> `Case`.
    label
        What the scheduler is called in the table; by default its own name, with "(own)" if a policy has that.

    Raises
    ------
    SchedulerError
        The scheduler decided what cannot be. (If it does not finish, its row says so.)
    PolicyError, WorkloadError, InputError
        The input cannot be simulated by any policy.
    """
    name = label_of(decide) if label is None else label
    policies = against if isinstance(against, (Mapping, str, Policy)) else list(against)
    rows: list[Mapping[str, Any]] = []
    for title, case in cases_of(workloads).items():
        compared = compare(case.workload, policies, **case.machine(), seed=seed)
        mine = f"{name} (own)" if label is None and any(row.policy == name for row in compared) else name
        own = _own_row(decide, case, mine, compared.baseline_latency, seed=seed, resume=resume, truth=truth)
        unit = "rounds" if case.clock is None else "seconds"
        rows += [_values(title, unit, row) for row in (own, *compared)]
    return ScoreCard(name, tuple(rows))


def _own_row(decide: Scheduler, case: Case, label: str, baseline: float, **options: Any) -> Row:
    n = len(case.workload)
    try:
        result = run(decide, case.workload, **case.machine(), label=label, **options)
    except NotFinishedError as error:
        return Row(label, n, None, error)
    bound = lower_bound(case.workload, memory=case.memory, iterations=0, clock=case.clock)
    gap = bound.gap(result.total_latency, result.policy) if n else math.nan
    return Row(label, n, result, None, result.mean_latency / baseline, gap)


def _values(workload: str, unit: str, row: Row) -> dict[str, Any]:
    record = row.record()
    names = ("mean_latency", "p99_latency", "ratio", "gap", "evictions", "wasted_share")
    work = row.result.work if row.result is not None else {}
    counters = {name: work.get(name) for name in _COUNTERS[:2]}
    values = {"workload": workload, "scheduler": row.policy, "unit": unit, **{name: record[name] for name in names}}
    return values | counters | {"error": record["error"]}


def _geometric_mean(values: Iterable[float | None]) -> float:
    numbers = [math.nan if value is None else value for value in values]
    return float(np.exp(np.mean(np.log(numbers)))) if numbers else math.nan
