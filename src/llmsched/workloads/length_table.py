"""LengthTable: quantiles of a request's output given the tokens it has generated, from the outputs of served requests.

    table = LengthTable.from_outputs(outputs, classes)      # what was served before, by predicted class
    workload = workload.with_lengths(table, predicted)      # what is to be served, by predicted class

Read by `reserve="conditional"` and `order="table"`.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, WorkloadError, nearest
from .argument_checks import decimal_fraction
from .columns import IntArray, true_outputs

#: The longest output that a table can hold (tokens): a row has a number for each token.
LONGEST = 2**20


class LengthTable:
    """The outputs that were seen of each class of requests, and their quantiles given that an output exceeds g.

    Made by `from_outputs`; never changes.

    Attributes
    ----------
    classes
        The classes, sorted. A table without classes has one, called ``"all"``.
    """

    __slots__ = ("_outputs", "_quantiles", "classes")

    classes: tuple[Any, ...]

    def __init__(self, outputs: Mapping[Any, IntArray]) -> None:
        self.classes = tuple(outputs)
        self._outputs = tuple(outputs.values())
        self._quantiles: dict[Fraction, IntArray] = {}

    @classmethod
    def from_outputs(cls, outputs: npt.ArrayLike, classes: npt.ArrayLike | None = None) -> LengthTable:
        """The table of requests that were served: their true outputs (tokens) and, if known, their predicted classes.

        Parameters
        ----------
        outputs
            Shape (n,), whole numbers from 1 to 2**20.
        classes
            Shape (n,), a label for each: whole numbers, text or truth values. None: all are of one class.

        Raises
        ------
        InputError
            There are no outputs, one is out of range, or the labels are not one for each.
        """
        lengths = true_outputs(outputs)
        if len(lengths) == 0:
            raise InputError("a table of lengths needs at least one output to learn from")
        if lengths.max() > LONGEST:
            i = int(np.argmax(lengths > LONGEST))
            raise InputError(f"request {i}: output is {lengths[i]}, and a table of lengths holds up to {LONGEST}")
        if classes is None:
            return cls({"all": _sorted(lengths)})
        labels = _labels(classes, len(lengths))
        return cls({label: _sorted(lengths[labels == label]) for label in np.unique(labels).tolist()})

    def __repr__(self) -> str:
        seen = sum(map(len, self._outputs))
        return f"LengthTable({seen} outputs, classes: {', '.join(map(str, self.classes))})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LengthTable):
            return NotImplemented
        return self.classes == other.classes and all(map(np.array_equal, self._outputs, other._outputs))

    def __reduce__(self) -> tuple[Any, ...]:
        return LengthTable, (dict(zip(self.classes, self._outputs, strict=True)),)

    def rows(self, classes: npt.ArrayLike | None, n: int) -> IntArray:
        """Which class (its place in `classes`) each of `n` requests is of; None where the table has but one.

        Raises
        ------
        WorkloadError
            A request is of a class that the table does not know (names the request), or has none.
        """
        if classes is None:
            if len(self.classes) > 1:
                known = ", ".join(map(str, self.classes))
                raise WorkloadError(f"the table of lengths has classes: say which each request is of ({known})")
            return np.zeros(n, dtype=np.int64)
        labels = _labels(classes, n)
        place: Mapping[Hashable, int] = {label: k for k, label in enumerate(self.classes)}
        rows = np.empty(n, dtype=np.int64)
        for i, label in enumerate(labels.tolist()):
            if label not in place:
                known = nearest(str(label), map(str, self.classes))
                raise WorkloadError(f"request {i}: its class {label!r} is not in the table of lengths; {known}", i)
            rows[i] = place[label]
        return rows

    def quantile(self, q: float) -> IntArray:
        """The q-quantile of the output given that it exceeds g: shape (classes, longest output), a row for each class.

        Column g is the least length that a share q or more of the outputs above g do not exceed, q as the decimal that
        was written; it never falls as g rises. Where a class has no output above g, column g is its longest.
        """
        share = decimal_fraction(q)
        if not 0 <= share <= 1:
            raise InputError(f"a quantile must be from 0 to 1, not {q}")
        if share not in self._quantiles:
            longest = max(int(outputs[-1]) for outputs in self._outputs)
            table = np.array([_quantiles(outputs, share, longest) for outputs in self._outputs])
            table.flags.writeable = False
            # No lock: a process that forks while another thread holds one never gets it. Two threads may both compute
            # the table, which is the same, and all get the first.
            self._quantiles.setdefault(share, table)
        return self._quantiles[share]


def _sorted(lengths: IntArray) -> IntArray:
    ascending: IntArray = np.sort(lengths)
    ascending.flags.writeable = False
    return ascending


def _labels(classes: npt.ArrayLike, n: int) -> np.ndarray[Any, Any]:
    labels = np.asarray(classes)
    if labels.ndim == 0:
        labels = np.full(n, labels)
    if labels.shape != (n,):
        raise WorkloadError(f"classes must be one label per request: shape {labels.shape} for {n} requests")
    if labels.dtype.kind not in "biuSU":
        if labels.dtype.kind != "O" or not all(isinstance(label, str) for label in labels.tolist()):
            raise WorkloadError(f"classes must be whole numbers or text, not {labels.dtype}")
        labels = labels.astype(str)
    return labels


def _quantiles(outputs: IntArray, share: Fraction, longest: int) -> IntArray:
    """For each g from 0 to longest - 1, the quantile of those of the ascending outputs that exceed g."""
    n = len(outputs)
    exceeding = n - np.searchsorted(outputs, np.arange(longest), side="right")
    counts, where = np.unique(exceeding, return_inverse=True)
    index = [n - k + max(-(-share.numerator * k // share.denominator), 1) - 1 if k else n - 1 for k in counts.tolist()]
    return outputs[np.array(index, dtype=np.int64)[where.reshape(-1)]]
