"""Whether a study is complete: what its directory holds of the simulations that it asks for."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import StudyError, number_of
from . import statistics, summary

if TYPE_CHECKING:
    import pyarrow

__all__ = ["check_has_results", "simulations_wanted", "what_is_missing"]


def check_has_results(results: pyarrow.Table, failures: pyarrow.Table, directory: object) -> None:
    """Raise StudyError if there is no result to show, which says why."""
    if len(results):
        return
    if not len(failures):
        raise StudyError("the study has no results yet: run it first", str(directory))
    what = "the only simulation" if len(failures) == 1 else f"all {len(failures):,} simulations"
    raise StudyError(
        f"{what} failed: to see why, llmsched study results {directory} --failures",
        str(directory),
    )


def what_is_missing(described: Mapping[str, Any], results: pyarrow.Table, failures: pyarrow.Table) -> str:
    """A sentence that says how much is missing of what was asked for; nothing if nothing is."""
    done, asked = len(results) + len(failures), simulations_wanted(described, results, failures)
    if done >= asked:
        return ""
    return f"{done:,} of {number_of(asked, 'simulation')}: the study is not finished; run it again to go on"


def simulations_wanted(described: Mapping[str, Any], results: pyarrow.Table, failures: pyarrow.Table) -> int:
    """Simulations that the study asks for. With a precision, as many as are known to be needed so far."""
    cells, replications = [tuple(cell) for cell in described["cells"]], described["replications"]
    if not isinstance(replications, Mapping):
        return len(cells) * int(replications)
    fields = {field.name for field in dataclasses.fields(statistics.Precision)}
    rule = statistics.Precision(**{key: value for key, value in replications.items() if key in fields})
    found = summary.Cells.of(results, [replications["metric"]])
    place = {key: k for k, key in enumerate(found.keys)}
    failed: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    columns = [failures[name].to_pylist() for name in (*found.factors, "replication")]
    for *key, replication in zip(*columns, strict=True):
        failed[tuple(key)].append(replication)
    return sum(_replications_wanted(found, place.get(cell), np.array(failed[cell], np.int64), rule) for cell in cells)


def _replications_wanted(cells: summary.Cells, cell: int | None, failed: Any, rule: statistics.Precision) -> int:
    """Replications of one cell, asked for in the steps in which a run asks for them: see `WorkList.ask_for_more`."""
    if cell is None:
        there, known, values = failed, np.empty(0, np.int64), np.empty(0)
    else:
        there = np.append(cells.replication[cells.begins[cell] : cells.begins[cell + 1]], failed)
        known, values = cells.values(cell, cells.metrics[0])
    asked = rule.first
    while (there < asked).sum() == asked and (now := values[known < asked]).size:
        more = min(statistics.replications_needed(now, rule) + asked - len(now), rule.most)
        if more <= asked:
            break
        asked = more
    return asked
