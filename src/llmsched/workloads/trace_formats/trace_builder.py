"""A trace while it is being read: what it is, what has come of it so far, and the Workload that it becomes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...errors import TraceError, closest
from ..workload import Workload
from . import formats
from .formats import Format
from .row_checks import BadRow, Columns, Row, brief, values_of

_LIKE = 0.8  # how much alike the names of columns are of which one is the other misspelt: "prompt" is no prompt_tokens


@dataclass
class Reading:
    """A trace while it is being read: what it is, and what has come of it so far."""

    path: str
    form: Format
    skip: bool
    names: dict[str, str] = field(default_factory=dict)  # meaning -> name, of the columns that are there
    misspelt: dict[str, str] = field(default_factory=dict)  # name of a column that is not read -> what it may mean
    pieces: list[Columns] = field(default_factory=list)
    dropped: int = 0
    skipped: int = 0
    first_skipped: str | None = None

    def find_columns(self, header: list[str], line: int | None) -> None:
        """Note which of the format's columns are in `header`; an error if one is missing, or there twice."""
        columns = self.form.columns
        self.names = {meaning: name for meaning, name in columns.items() if name in header}
        for meaning in self.form.required:
            if meaning not in self.names:
                found = brief(", ".join(header))
                message = f"no column {columns[meaning]!r}, which {self.form.name} needs; found {found}"
                raise TraceError(message, self.path, line)
        for name in self.names.values():
            if header.count(name) > 1:
                raise TraceError(f"column {name!r} is there {header.count(name)} times", self.path, line)
        if "clock" in self.names and "arrival" in self.names:
            both = f"{columns['clock']!r} and {columns['arrival']!r}"
            raise TraceError(f"columns {both} both say when a request arrives: keep one", self.path, line)
        timed = "clock" in self.names or "arrival" in self.names
        absent = [name for meaning, name in columns.items() if meaning not in self.names]
        absent = [name for name in absent if not (timed and name in (columns.get("clock"), columns.get("arrival")))]
        close = {name: closest(name.lower(), absent, _LIKE) for name in header if name not in self.names.values()}
        self.misspelt = {name: meant for name, meant in close.items() if meant is not None}

    def keep(self, columns: Columns) -> None:
        """Add rows that are known to be good."""
        if self.form.failures:
            answered = columns["output"] > 0
            self.dropped += int(np.count_nonzero(~answered))
            columns = {meaning: column[answered] for meaning, column in columns.items()}
        self.pieces.append(columns)

    def keep_rows(self, rows: Iterator[Row]) -> None:
        """The careful way: check row by row, and add the good ones."""
        while batch := list(itertools.islice(rows, formats.BATCH)):
            good = [values for line, cells in batch if (values := self._checked(line, cells)) is not None]
            by_column = zip(*good, strict=True) if good else [()] * len(self.names)
            dtypes = (self.dtype(meaning) for meaning in self.names)
            pairs = zip(self.names, by_column, dtypes, strict=True)
            self.keep({meaning: np.array(values, dtype) for meaning, values, dtype in pairs})

    def dtype(self, meaning: str) -> type[np.int64] | type[np.float64]:
        # Nanoseconds since 1970 need all the digits of an int64; anything else is checked to be exact as a double.
        return np.int64 if self.form.is_date(meaning) else np.float64

    def _checked(self, line: int, cells: Mapping[str, object] | str) -> list[float] | None:
        """The values of a row in the order of `names`; None if it is skipped."""
        try:
            if isinstance(cells, str):
                raise BadRow(cells)
            return values_of(self.form, self.names, cells)
        except BadRow as bad:
            if self.form.layout == "parquet":
                error = TraceError(f"row {line}: {bad}", self.path)
            else:
                error = TraceError(str(bad), self.path, line)
        if not self.skip:
            raise error
        self.skipped += 1
        self.first_skipped = self.first_skipped or str(error)
        return None

    def workload(self) -> Workload:
        columns: Columns = {"prompt": np.empty(0), "output": np.empty(0)}  # what an empty file has
        for meaning in self.names:
            pieces = [piece.pop(meaning) for piece in self.pieces]
            columns[meaning] = np.concatenate([np.empty(0, self.dtype(meaning)), *pieces])
        clock = columns.pop("clock", None)
        if clock is not None:
            columns["arrival"] = (clock - clock.min()) / self.form.per_second if clock.size else clock
        source = {
            "path": self.path,
            "format": self.form.name or None,
            "rows": len(columns["output"]),
            "dropped": self.dropped,
            "skipped": self.skipped,
            "first_skipped": self.first_skipped,
        }
        return Workload(**columns, source=source | ({"misspelt": self.misspelt} if self.misspelt else {}))
