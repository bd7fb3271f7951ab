"""Options of `llmsched compare` for other people's results, and for conditions at which a CI job is to fail."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import InputError, NotFinishedError
from ..metrics import foreign_result, gates
from ..metrics.compare import Comparison
from ..metrics.foreign_result import ForeignResult
from ..metrics.gates import Gate
from ..policy import Policy
from ..workloads.workload import Workload
from .options import Setup


@dataclass(frozen=True)
class ResultOptions:
    """Results that somebody else's scheduler had, as rows of their own, and conditions on all rows."""

    results: Annotated[
        list[str] | None,
        typer.Option(
            "--result",
            metavar="[NAME=]FILE",
            help="A CSV file of what another scheduler did with these requests (start, completion, evictions): "
            "checked, and a row of its own. Repeat for several.",
        ),
    ] = None
    fail_if: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-if",
            metavar="CONDITION",
            help="Exit with code 1 if this holds, such as 'amin.mean > 1.05 * hsf.mean'. Repeat for several.",
        ),
    ] = None

    def conditions(self, policies: Collection[str]) -> list[Gate]:
        """What --fail-if says, checked before anything runs.

        Raises InputError if it is no condition, or reads a row that there will not be.
        """
        found = [gates.parse(text) for text in self.fail_if or ()]
        rows = [*policies, *(label for label, _ in self._labelled())]
        for gate in found:
            gate.check(rows)
        return found

    @staticmethod
    def check_known(conditions: Iterable[Gate], results: Sequence[ForeignResult], measured: Collection[str]) -> None:
        """Raise InputError if a condition reads what is not known of one of the results, before anything runs.

        `measured` are columns that come of the tokens of a simulation, which nobody else's result has.
        """
        unknown = {result.label: {*result.unknown, *measured} for result in results}
        for result in results:
            if result.clock is not None:
                unknown[result.label].add("gap")
        for gate in conditions:
            gate.check_known(unknown)

    def read(self, workload: Workload, setup: Setup, policies: Mapping[str, Policy]) -> list[ForeignResult]:
        """The results, checked; their tokens take cache as late as those of any of the policies.

        Raises InputError for what cannot be, or if two rows have the same name.
        """
        taken, found = set(policies), []
        late = any(policy.slots == "processed" for policy in policies.values())
        assert setup.memory is not None  # `compare` looks for none
        for label, file in self._labelled():
            if label in taken:
                raise InputError(f"--result {file}: there is a row {label!r} already; name it: --result NAME={file}")
            taken.add(label)
            found.append(
                foreign_result.read(
                    file,
                    workload,
                    memory=setup.memory,
                    clock=setup.clock,
                    slots="processed" if late else "ahead",
                    label=label,
                )
            )
        return found

    def _labelled(self) -> list[tuple[str, str]]:
        """Label and file of each --result."""
        pairs = []
        for text in self.results or ():
            name, equals, file = text.partition("=")
            if not equals or os.path.exists(text):
                name, file = os.path.splitext(os.path.basename(text))[0], text
            if not name.strip() or not file:
                raise InputError(f"--result {text!r}: expected a file, or NAME=FILE")
            pairs.append((name.strip(), file))
        return pairs


def added(comparison: Comparison, results: Iterable[ForeignResult]) -> Comparison:
    """The comparison with these rows more."""
    for result in results:
        comparison = foreign_result.added(comparison, result)
    return comparison


def notes(results: Sequence[ForeignResult], timed: bool) -> list[str]:
    """What is not known of results of others."""
    found = []
    if results and timed:
        names = " and ".join(result.label for result in results)
        found.append(
            f"{names}: mean and p99 are over all requests; when tokens came is not known, so that other times are not"
        )
    for result in results:
        if "peak_memory" in result.unknown and result.least_peak:
            share = result.least_peak / result.memory
            found.append(f"{result.label}: at least {share:.0%} of the cache was in use at once; more is not known")
    return found


def judged(
    conditions: Iterable[Gate], comparison: Comparison, records: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Of each condition: what was asked, whether it holds, and the numbers it read.

    A condition on a policy that does not finish counts as if it held: a gate fails closed. Raises InputError for any
    other number that there is not.
    """
    rows = {record["policy"]: record for record in records}
    unfinished = {row.policy for row in comparison if isinstance(row.error, NotFinishedError)}
    found = []
    for gate in conditions:
        try:
            holds, why = gate.holds(rows), gate.explain(rows)
        except InputError as error:
            if not unfinished & {value.policy for value in gate.values}:
                raise
            holds, why = True, f"{error}"
        found.append({"condition": gate.text, "holds": holds, "explained": why})
    return found


def verdicts(judged: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line on each condition."""
    return [f"{'FAILED' if gate['holds'] else 'passed'}: {gate['explained']}" for gate in judged]
