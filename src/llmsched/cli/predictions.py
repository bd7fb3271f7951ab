"""The predictions that policies read, for a workload that comes without them."""

from __future__ import annotations

from collections.abc import Collection

from ..policy import Policy
from ..predict import intervals
from ..workloads.length_table import LengthTable
from ..workloads.midpoints import with_midpoints
from ..workloads.workload import Workload
from .describe import Spelling, listed
from .options import DEFAULT_INTERVALS


def interval_rule(text: str | None) -> intervals.IntervalRule | None:
    """The rule that --intervals spells, if it is given."""
    return None if text is None else intervals.parse(text)


def with_predictions(
    workload: Workload, rule: intervals.IntervalRule | None, policies: Collection[Policy]
) -> tuple[Workload, Spelling, list[str]]:
    """The workload with every prediction the policies may need, how its intervals are spelled, and notes on that."""
    if rule is None and (workload.lower is not None or workload.upper is not None):
        spelling = Spelling(None)
    else:
        rule = rule or intervals.parse(DEFAULT_INTERVALS)
        workload, spelling = workload.replace(point=None).with_intervals(rule), Spelling(rule)
    notes = []
    readers = {needed: [one.name for one in policies if needed in one.needs] for needed in ("lengths", "point")}
    if readers["lengths"] and len(workload):
        workload = workload.with_lengths(LengthTable.from_outputs(workload.output))
        names = listed(readers["lengths"])
        notes.append(f"{names}: told how the outputs of this very workload are distributed, but not which is whose")
    if not readers["point"] or workload.point is not None or workload.lower is None or workload.upper is None:
        return workload, spelling, notes
    names = listed(readers["point"])
    if rule is not None and rule.name == "realistic":
        notes.append(f"{names}: no point predictions given, so the median of each predicted class is used")
        return workload.replace(point=rule.point(workload.output)), spelling, notes
    notes.append(f"{names}: no point predictions given, so the middle of each interval, rounded up, is used")
    return with_midpoints(workload), spelling, notes
