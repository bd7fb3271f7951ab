"""Rows of a log while it is read: where each stands, what may be wrong with it, and what is left out."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeGuard

import numpy as np

from ..errors import InputError, TraceError
from ..input_limits import open_text
from ..settings_files import json_value
from ..workloads.columns import FloatArray
from .records import Requests

OnError = Literal["raise", "skip"]
#: No number of a log is larger, so that the sum of two is a whole number that NumPy holds.
MOST = float(2**61)
_SKIP = "or leave such rows out with --on-error skip"


class Reading:
    """One file that is being read: bad rows end it, or are counted, as `on_error` says."""

    def __init__(self, path: str, on_error: OnError) -> None:
        if on_error not in ("raise", "skip"):
            raise InputError(f"on_error={on_error!r} is unknown, expected 'raise' or 'skip'")
        self.path, self.on_error = path, on_error
        self.bad: list[TraceError] = []
        self.notes: list[str] = []

    def wrong(self, message: str, line: int | None, skippable: bool = True) -> None:
        """A row is bad. Raises TraceError, unless such rows are left out."""
        advice = f": {_SKIP}" if skippable else ""
        error = TraceError(f"{message}{advice}", self.path, line)
        if self.on_error == "raise" or not skippable:
            raise error
        self.bad.append(error)

    def all_notes(self) -> tuple[str, ...]:
        """What was decided and left out."""
        left_out = [f"{len(self.bad):,} bad rows left out, the first: {self.bad[0]}"] if self.bad else []
        return tuple(self.notes + left_out)

    def objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The objects of a JSON Lines file, each with its line."""
        with open_text(self.path, errors="surrogateescape") as file:
            ended = True
            for line, text in enumerate(file, 1):
                ended = text.endswith("\n")
                if not text.strip():
                    continue
                value = self._parsed(text, line, ended)
                if isinstance(value, dict):
                    yield line, value

    def _parsed(self, text: str, line: int, ended: bool) -> Any:
        try:
            value = json_value(text)
        except ValueError as error:
            cut = "" if ended else ": the file is cut off here, as when its writer is killed; delete this line"
            self.wrong(f"not JSON ({error}){cut}", line)
            return None
        if not isinstance(value, dict):
            self.wrong(f"expected an object in braces, found {text.strip()[:40]!r}", line)
        return value

    def document(self) -> dict[str, Any]:
        """The one object of a JSON file. Raises TraceError where it is cut off or no object."""
        with open_text(self.path, "document", lines=False, errors="surrogateescape") as file:
            text = file.read()
        try:
            value = json_value(text)
        except json.JSONDecodeError as error:
            line = error.lineno
            if error.msg.startswith("Extra data"):
                raise TraceError(
                    "there are several runs in this file: give each a file of its own", self.path, line
                ) from None
            cut = error.pos >= len(text.rstrip()) - 1 or error.msg.startswith("Unterminated")
            why = "the file is cut off: copy it again, or let the benchmark end before reading it" if cut else error.msg
            raise TraceError(f"not JSON, column {error.colno}: {why}", self.path, line) from None
        except ValueError as error:
            raise TraceError(f"not JSON: {error}", self.path) from None
        if not isinstance(value, dict):
            raise TraceError("expected an object in braces", self.path)
        return value

    def number(self, row: Mapping[str, Any], key: str, line: int | None, least: float = -MOST) -> float:
        """A number of a row; NaN, and the row is bad, where there is none."""
        value = row.get(key)
        if number(value) and least <= value <= MOST:
            return float(value)
        bound = "" if least == -MOST else f" of at least {least:g}"
        shown = "is not there" if key not in row else f"is {value!r:.40}"
        self.wrong(f"{key} {shown}, expected a number{bound}", line)
        return math.nan

    def part(self, row: Mapping[str, Any], key: str, line: int | None) -> dict[str, Any]:
        """The object under a key of a row, empty where there is none. Where it is anything else, the row is bad."""
        value = row.get(key)
        if value is None or isinstance(value, dict):
            return value or {}
        self.wrong(f"{key} is {value!r:.40}, expected an object in braces", line)
        return {}

    def objects_in(self, row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
        """The objects of the list under a key, none where it is not there. Anything else in it is bad."""
        value = row.get(key)
        if value is not None and not isinstance(value, list):
            self.wrong(f"{key} is {value!r:.40}, expected a list", None)
        values = value if isinstance(value, list) else []
        for k, member in enumerate(values):
            if not isinstance(member, dict):
                self.wrong(f"{key}[{k}] is {member!r:.40}, expected an object in braces", None)
        return [member for member in values if isinstance(member, dict)]


def number(value: Any) -> TypeGuard[int | float]:
    """Whether it is a number, and finite."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -MOST <= value <= MOST


def requests_of(
    reading: Reading, rows: Sequence[tuple[int, Mapping[str, float]]], *, known_units: bool = False
) -> Requests:
    """The requests in rows of (line, prompt, output, arrival, first_token, completion), checked, by arrival.

    Raises TraceError if times run backwards within a row, or are in other units than those of the rest.
    """
    rows = [(line, row) for line, row in rows if not any(math.isnan(row[key]) for key in _NEEDED)]
    if not rows:
        raise TraceError("there are no completed requests in it", reading.path)
    if not known_units:
        rows = _same_units(reading, rows)
    good = [row for line, row in rows if _in_order(reading, line, row)]
    if not good:
        raise TraceError("there are no usable requests in it", reading.path)
    columns = {key: np.array([row[key] for row in good], np.float64) for key in (*_NEEDED, "first_token")}
    order = np.argsort(columns["arrival"], kind="stable")
    begin = columns["arrival"].min()
    return Requests(
        prompt=columns["prompt"][order].astype(np.int64),
        output=columns["output"][order].astype(np.int64),
        arrival=columns["arrival"][order] - begin,
        first_token=columns["first_token"][order] - begin,
        completion=columns["completion"][order] - begin,
    )


_NEEDED = ("prompt", "output", "arrival", "completion")


def _in_order(reading: Reading, line: int, row: Mapping[str, float]) -> bool:
    """Whether a request came before its first token, and that before its last."""
    times = [(key, row[key]) for key in ("arrival", "first_token", "completion") if not math.isnan(row[key])]
    for (before, early), (after, late) in itertools.pairwise(times):
        if late < early:
            reading.wrong(
                f"the clock runs back: {after} is {early - late:.6g} s before {before}. Times of one clock are needed",
                line,
            )
            return False
    if row["output"] < 1:
        reading.wrong("a completed request generated no token", line)
        return False
    return True


def _same_units(
    reading: Reading, rows: Sequence[tuple[int, Mapping[str, float]]]
) -> list[tuple[int, Mapping[str, float]]]:
    """The rows whose times are in the units of most rows: a factor of a thousand gives others away."""
    good = list(rows)
    for key in ("arrival", "first_token", "completion"):
        values = np.array([row[key] for _, row in good], np.float64)
        strange = unlike(values)
        for k in np.flatnonzero(strange):
            factor = 1000 ** round(math.log(abs(values[k] / np.nanmedian(values)), 1000))
            reading.wrong(
                f"{key} is {values[k]:.6g}, about {factor:g} times that of other rows: the units are mixed. "
                "Write all times in seconds",
                good[k][0],
            )
        good = [row for row, odd in zip(good, strange, strict=True) if not odd]
    return good


def unlike(values: FloatArray) -> Any:
    """Whether a value is a power of a thousand times the median, within a third: seconds among milliseconds, say.

    Only where values are that large (a clock that started long ago), as small ones spread by themselves.
    """
    there = ~np.isnan(values)
    middle = float(np.median(np.abs(values[there]))) if there.any() else 0.0
    if not middle > 1000:
        return np.zeros(len(values), bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        power = np.log(np.abs(values) / middle) / np.log(1000)
        near = np.abs(power - np.round(power)) < math.log(4 / 3) / math.log(1000)
    return near & (np.abs(np.round(power)) >= 1)


def check_order(reading: Reading, lines: Sequence[int], values: Sequence[float], what: str) -> None:
    """Raise TraceError (or note it) where a clock or a counter runs back."""
    for k in range(1, len(values)):
        if values[k] < values[k - 1]:
            reading.wrong(
                f"{what} runs back, from {values[k - 1]:.10g} to {values[k]:.10g}: two runs in one file, or a clock "
                "that was set. Cut the file here",
                lines[k],
            )


def check_gaps(reading: Reading, lines: Sequence[int], numbers: Sequence[int], what: str) -> None:
    """Raise TraceError (or note it) where numbers that count up by one leave some out."""
    for k in range(1, len(numbers)):
        missing = numbers[k] - numbers[k - 1] - 1
        if missing > 0:
            reading.wrong(
                f"a gap: {what} {numbers[k]} follows {numbers[k - 1]}, {missing} are missing. A clock can be "
                "calibrated from the rest, as each row stands for itself",
                lines[k],
            )
