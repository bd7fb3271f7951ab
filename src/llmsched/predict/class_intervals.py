"""ClassIntervals: intervals for the labels of any classifier, from a table or calibrated."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, nearest
from ..workloads.argument_checks import whole
from ..workloads.columns import IntArray
from ..workloads.workload import Workload
from . import conformal
from .conformal import Number, Side

_SHOWN = 10  # classes that an error lists

Bounds = tuple[int | None, int | None]


@dataclass(frozen=True)
class ClassIntervals:
    """Class -> interval of output tokens. Made by `from_table` and `from_classes`, not by hand.

    It is a predictor whose features are the classes: ``workload.with_predictions(table, classes)``.

    Attributes
    ----------
    rows
        (class, lower, upper) of every class; None for a bound that is not predicted.
    pooled
        The interval of a class that is not in the table, or None if that is an error.
    """

    rows: tuple[tuple[Hashable, int | None, int | None], ...]
    pooled: Bounds | None = None

    def predict_interval(self, classes: npt.ArrayLike | Sequence[Hashable]) -> tuple[IntArray | None, IntArray | None]:
        """The bounds (lower, upper) for one class per request: int64 arrays of the same length, or None for no bound.

        Raises InputError for a class that the table lacks (names the request), unless it was made with
        ``unseen="pooled"``.
        """
        labels = _labels(classes, "request")
        table = {label: (lower, upper) for label, lower, upper in self.rows}
        for i, label in enumerate(labels):
            if self.pooled is None and label not in table:
                raise InputError(f"request {i} has the class {label!r}, which has no interval; {_known(table)}")
        found = [table.get(label, self.pooled) for label in labels]
        lower, upper = (
            None if one is None else np.array([bounds[k] for bounds in found if bounds is not None], dtype=np.int64)
            for k, one in enumerate(self.rows[0][1:])  # a bound is there for all classes or for none
        )
        return lower, upper


def from_table(table: Mapping[Any, tuple[int, int]]) -> ClassIntervals:
    """A predictor from class -> (lower, upper) in tokens, both included.

    Raises InputError unless there is a class, and 1 <= lower <= upper for each (names the class).
    """
    if not table:
        raise InputError("the table of classes is empty: give it at least one class")
    rows: list[tuple[Any, int, int]] = []
    for label, bounds in table.items():
        try:
            lower, upper = bounds
        except (TypeError, ValueError):
            raise InputError(f"class {label!r}: expected (lower, upper), not {bounds!r}") from None
        lower, upper = whole(f"class {label!r}: lower", lower, 1), whole(f"class {label!r}: upper", upper, 1)
        if lower > upper:
            raise InputError(f"class {label!r}: lower is {lower} and upper is {upper}, expected lower <= upper")
        rows.append((label, lower, upper))
    labels = _labels([label for label, _, _ in rows], "entry")
    rows = [(label, *row[1:]) for label, row in zip(labels, rows, strict=True)]
    return ClassIntervals(tuple(rows))


def from_classes(
    classes: npt.ArrayLike | Sequence[Hashable],
    outputs_for_calibration: npt.ArrayLike,
    coverage: Number,
    *,
    side: Side = "both",
    unseen: str = "raise",
) -> ClassIntervals:
    """Calibrated intervals from the labels of any classifier, whatever they mean.

    Of new requests, each class's interval contains the true output with probability `coverage` or a little more, if
    they are exchangeable with the calibration rows: the exact statement, and what happens where many outputs have the
    same length, is at `llmsched.predict.conformal.interval`. Use rows that the classifier was not trained on.

    Parameters
    ----------
    classes
        One label per calibration row: numbers or strings.
    outputs_for_calibration
        The true output of each, in tokens.
    coverage
        Probability that the interval contains the truth, 0 < coverage < 1, for each class.
    side
        ``"lower"`` or ``"upper"`` for that bound alone, with this coverage of its own; A_min needs no more than the
        lower one.
    unseen
        What becomes of a class that no calibration row has: ``"raise"`` an error, or the interval of all rows
        ``"pooled"``, which holds on average over requests but for no class.

    Raises
    ------
    InputError
        Coverage, side or unseen are not usable, a label is missing, or a class has too few rows for the coverage (says
        how many are needed).
    WorkloadError
        An output is not a whole number of tokens, or there is not one per label.
    """
    share, side_ = conformal.coverage_of(coverage), conformal.side_of(side)
    if unseen not in ("raise", "pooled"):
        raise InputError(f"unseen={unseen!r} is unknown; {nearest(str(unseen), ('raise', 'pooled'))}")
    labels = _labels(classes, "row")
    outputs = Workload(prompt=0, output=outputs_for_calibration).output
    if len(labels) != len(outputs):
        raise InputError(f"there are {len(labels)} classes for {len(outputs)} outputs: give one per calibration row")
    if not labels:
        raise InputError("there are no calibration rows")
    of_class: dict[Any, list[int]] = {}
    for i, label in enumerate(labels):
        of_class.setdefault(label, []).append(i)
    rows = [
        (label, *conformal.interval(outputs[of_class[label]], share, side_, f"class {label!r}: "))
        for label in sorted(of_class, key=lambda label: (isinstance(label, str), label))
    ]
    pooled = conformal.interval(outputs, share, side_) if unseen == "pooled" else None
    return ClassIntervals(tuple(rows), pooled)


def _labels(classes: npt.ArrayLike | Sequence[Hashable], what: str) -> list[Any]:
    """The labels as plain hashable values, or an error that names the first missing one."""
    given: Any = classes if isinstance(classes, (list, tuple)) else np.asarray(classes)
    if isinstance(given, np.ndarray) and given.ndim != 1:
        raise InputError(f"expected a list of classes, not an array of shape {given.shape}")
    labels = [label.item() if isinstance(label, np.generic) else label for label in given]
    for i, label in enumerate(labels):
        if label is not None and not isinstance(label, (str, int, float)):
            raise InputError(f"{what} {i}: a class is a number or a string, not {label!r}")
        if label is None or label != label or label == "":
            raise InputError(f"{what} {i} has no class: leave it out, or give such requests a class of their own")
    return labels


def _known(table: Iterable[Hashable]) -> str:
    labels = list(table)
    shown = ", ".join(map(repr, labels[:_SHOWN]))
    return f"there are: {shown}{', ...' if len(labels) > _SHOWN else ''}"
