"""What a prediction is worth: the same policies, told nothing, told what a real predictor says, and told the truth.

    for level in ls.metrics.knowledge.levels(workload, ["amin", "mcsf", "vllm"], memory=6000, clock=clock):
        print(level.words, level.best().policy)

Policies that read no prediction do the same at every level, and are run once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..policy import Policy
from ..predict import intervals
from ..predict.intervals import IntervalRule
from ..progress import with_bar
from ..workloads.length_table import LengthTable
from ..workloads.workload import Workload
from .compare import Comparison, Progress, Row, compare

__all__ = ["FEW", "Level", "candidates", "levels", "reads_intervals", "verdict"]

#: With more requests than this, only the policies that could be best are run at every level.
FEW = 5000


@dataclasses.dataclass(frozen=True)
class Level:
    """What policies are told, and what they make of it.

    Attributes
    ----------
    name
        ``"nothing"``, ``"predictor"`` or ``"truth"``.
    words
        The same in words, for a table.
    rule
        What makes the intervals.
    rows
        The policies that finished, by mean latency, the smallest first; none that reads the truth itself.
    """

    name: str
    words: str
    rule: IntervalRule
    rows: tuple[Row, ...]

    def best(self, by: str = "mean_latency") -> Row:
        """The row with the least of `by`, a column of `Row.record`."""
        return min(self.rows, key=lambda row: row.record()[by])

    def record(self) -> dict[str, Any]:
        """As plain values, ready for JSON."""
        told = {"name": self.name, "intervals": str(self.rule), "known": self.rule.describe()}
        return told | {"policies": [row.record() for row in self.rows]}


def reads_intervals(policy: Policy) -> bool:
    """Whether what it does depends on predictions."""
    return not policy.clairvoyant and bool({"lower", "upper", "point", "lengths"} & set(policy.needs))


def candidates(comparison: Comparison, policies: Mapping[str, Policy]) -> dict[str, Policy]:
    """The policies of a comparison that are worth running at every level.

    Of few requests (`FEW`) all that finished and do not read the truth. Of more the two best in the mean and the best
    by the 99th percentile; and those that read no prediction, which are not run again.
    """
    rows = [row for row in comparison.ranked() if row.result is not None and not policies[row.policy].clairvoyant]
    chosen = [row.policy for row in rows]
    if len(comparison.workload) > FEW:
        steady = min(rows, key=lambda row: row.record()["p99_latency"], default=None)
        best = {*chosen[:2], *([steady.policy] if steady else [])}
        chosen = [name for name in chosen if name in best or not reads_intervals(policies[name])]
    return {name: policies[name] for name in chosen}


@with_bar("comparing", "requests")
def levels(
    workload: Workload,
    policies: Mapping[str, Policy],
    *,
    known: Comparison | None = None,
    seed: int | None = 0,
    progress: Progress | None = None,
    **options: Any,
) -> tuple[Level, ...]:
    """Run the policies told nothing, told what a real predictor says (`intervals.realistic`), and told the truth.

    Parameters
    ----------
    workload
        The requests; predictions that they bring are not used. Told nothing, the bounds are 1 and the longest output.
    policies
        Label -> policy.
    known
        A comparison of the same requests with the same options: what it says of policies that read no prediction is
        taken over, and ratios are to its baseline.
    seed, progress, options
        As for `llmsched.compare`; the seed governs the predictor's errors, too.

    Returns
    -------
    tuple of Level
        In this order; empty without requests, or if no policy reads a prediction.
    """
    if not len(workload) or not any(map(reads_intervals, policies.values())):
        return ()
    longest = int(workload.output.max())
    told = (
        ("nothing", "nothing", intervals.constant(1, longest)),
        ("predictor", "a real predictor", intervals.realistic(seed or 0)),
        ("truth", "the truth", intervals.exact()),
    )
    same = {name: known[name] for name, policy in policies.items() if known and not reads_intervals(policy)}
    changing = {name: policy for name, policy in policies.items() if name not in same}
    found = []
    for name, words, rule in told:
        requests = _told(workload, rule, changing.values())
        compared = compare(requests, changing, seed=seed, baseline=None, progress=progress, **options)
        rows = {row.policy: row for row in (*compared, *same.values()) if row.result is not None}
        if known is not None:
            latency = known.baseline_latency
            rows = {name: dataclasses.replace(row, ratio=_mean(row) / latency) for name, row in rows.items()}
        ranked = sorted(rows.values(), key=_mean)
        if ranked:
            found.append(Level(name, words, rule, tuple(ranked)))
    return tuple(found)


def _told(workload: Workload, rule: IntervalRule, policies: Any) -> Workload:
    """The requests as a rule describes them: bounds, points, and what a table of lengths says where one is asked."""
    told = workload.replace(point=rule.point(workload.output)).with_intervals(rule)
    if any("lengths" in policy.needs for policy in policies):
        told = told.with_lengths(LengthTable.from_outputs(workload.output))
    return told


def _mean(row: Row) -> float:
    assert row.result is not None
    return row.result.mean_latency


_ALIKE = 1.005  # means that differ by no more are as good as equal

_TOLD = {"nothing": "told nothing", "predictor": "with a real predictor", "truth": "told the truth"}


def verdict(found: Sequence[Level], shown: Callable[[float], str], unit: str = "s") -> str:
    """In a sentence, which policy is best, whether that depends on the predictor, and whether p99 says the same.

    Policies whose mean is within half a per cent of the best one's at every level are named as well. `shown` writes a
    latency, `unit` is that of latencies.
    """
    if not found:
        return ""
    best = [(level, level.best(), level.best("p99_latency")) for level in found]
    means = [_mean(mean) for _, mean, _ in best]
    if max(means) <= _ALIKE * min(means):
        who = best[0][1].policy
        return (
            f"knowing lengths changes nothing here: the best mean is {shown(means[0])} {unit} ({who}) without it, too"
            + _as_good(best)
        )
    winners = {mean.policy for _, mean, _ in best}
    if len(winners) == 1:
        each = ", ".join(f"{shown(_mean(mean))} {_TOLD[level.name]}" for level, mean, _ in best)
        text = f"{winners.pop()} has the smallest mean at every level ({unit}): {each}{_as_good(best)}"
    else:
        groups = itertools.groupby(best, key=lambda one: one[1].policy)
        text = "which policy is best depends on the predictor: in the mean " + ", ".join(
            f"{who} {_when(same)} ({_each(shown, [_mean(mean) for _, mean, _ in same])} {unit})"
            for who, same in ((who, list(group)) for who, group in groups)
        )
    differ = [one for one in best if one[2].policy != one[1].policy and _p99(one[2]) < 0.95 * _p99(one[1])]
    others = [
        f"{steady} {_when(same)} ({_each(shown, [_p99(p99) for *_, p99 in same])} {unit}; "
        f"{quick} {_each(shown, [_p99(mean) for _, mean, _ in same])})"
        for (steady, quick), same in (
            (names, list(group))
            for names, group in itertools.groupby(differ, key=lambda one: (one[2].policy, one[1].policy))
        )
    ]
    return text + (f"; but by p99 {', '.join(others)}" if others else "")


def _as_good(best: Sequence[tuple[Level, Row, Row]]) -> str:
    """The policies that are as good as the best at every level, which is one of them."""
    near = [{row.policy for row in level.rows if _mean(row) <= _ALIKE * _mean(mean)} for level, mean, _ in best]
    winners = {mean.policy for _, mean, _ in best}
    names = [row.policy for row in best[0][0].rows if row.policy in set.intersection(*near) - winners]
    return f"; within 0.5 % of it: {', '.join(names)}" if names else ""


def _when(same: Sequence[tuple[Level, Row, Row]]) -> str:
    """At which levels."""
    if len(same) == len(_TOLD):
        return "whatever they are told"
    return " or ".join(_TOLD[level.name] for level, *_ in same)


def _each(shown: Callable[[float], str], values: Sequence[float]) -> str:
    """The values, each once."""
    return ", ".join(dict.fromkeys(map(shown, values)))


def _p99(row: Row) -> float:
    return float(row.record()["p99_latency"])
