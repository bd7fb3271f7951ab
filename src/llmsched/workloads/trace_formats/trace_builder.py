"""TraceBuilder: collects the rows of a trace while it is read, and makes the Workload of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import TraceError, closest
from ..prefixes import Prefixes
from ..workload import Workload
from . import formats
from .formats import Format
from .row_checks import BadRow, Columns, Row, hash_list, row_values, shortened

# Names that are so much alike count as one and its misspelling: "prompt" is no prompt_tokens.
_MISSPELT = 0.8


@dataclass
class TraceBuilder:
    """The format of a trace and the rows that were read so far."""

    path: str
    format: Format
    skip: bool
    column_names: dict[str, str] = field(default_factory=dict)  # meaning -> name, of the columns that are there
    misspelt: dict[str, str] = field(default_factory=dict)  # name of a column that is not read -> what it may mean
    read_as: dict[str, str] = field(default_factory=dict)  # name of a column that is read under another -> that
    parts: list[Columns] = field(default_factory=list)  # good rows, as they came,
    hashes: list[list[list[int]]] = field(default_factory=list)  # and the hashes of their prompts' blocks
    dropped: int = 0
    skipped: int = 0
    first_skipped: str | None = None
    origin: Any = None  # of the clock: the earliest request

    @property
    def rows(self) -> int:
        """Good rows that were read since the last `workload`."""
        return sum(len(part["output"]) for part in self.parts)

    def find_columns(self, header: list[str], line: int | None) -> None:
        """Note which of the format's columns are in `header`. Raises TraceError if one is missing, or there twice."""
        columns = self.format.columns
        self.column_names = {meaning: name for meaning, name in columns.items() if name in header}
        for meaning in self.format.required:
            if meaning not in self.column_names:
                found = shortened(", ".join(header))
                message = f"no column {columns[meaning]!r}, which {self.format.name} needs; found {found}"
                raise TraceError(message, self.path, line)
        for name in self.column_names.values():
            if header.count(name) > 1:
                raise TraceError(f"column {name!r} is there {header.count(name)} times", self.path, line)
        if "clock" in self.column_names and "arrival" in self.column_names:
            both = f"{columns['clock']!r} and {columns['arrival']!r}"
            raise TraceError(f"columns {both} both say when a request arrives: keep one", self.path, line)
        timed = "clock" in self.column_names or "arrival" in self.column_names
        absent = [name for meaning, name in columns.items() if meaning not in self.column_names]
        absent = [name for name in absent if not (timed and name in (columns.get("clock"), columns.get("arrival")))]
        unused = [name for name in header if name not in self.column_names.values()]
        close = {name: closest(name.lower(), absent, _MISSPELT) for name in unused}
        self.misspelt = {name: meant for name, meant in close.items() if meant is not None}

    def add_columns(self, columns: Columns, hashes: list[list[int]] | None = None) -> None:
        """Add rows that are known to be good, with the hashes of each, if the format has any."""
        if self.format.failures:
            answered = columns["output"] > 0
            self.dropped += int(np.count_nonzero(~answered))
            columns = {meaning: column[answered] for meaning, column in columns.items()}
        self.parts.append(columns)
        if hashes is not None:
            self.hashes.append(hashes)

    def add_rows(self, rows: Iterator[Row]) -> Iterator[None]:
        """Check row by row, and add the good ones, a batch at a time."""
        while batch := list(itertools.islice(rows, formats.ROWS_AT_ONCE)):
            checked = [row for line, cells in batch if (row := self._checked(line, cells)) is not None]
            good = [values for values, _ in checked]
            by_column = zip(*good, strict=True) if good else [()] * len(self.column_names)
            dtypes = (self._dtype(meaning) for meaning in self.column_names)
            pairs = zip(self.column_names, by_column, dtypes, strict=True)
            columns = {meaning: np.array(values, dtype) for meaning, values, dtype in pairs}
            self.add_columns(columns, [hashes for _, hashes in checked] if self.format.hashes else None)
            yield

    def _dtype(self, meaning: str) -> type[np.int64] | type[np.float64]:
        # Nanoseconds since 1970 need all the digits of an int64; anything else is checked to be exact as a double.
        return np.int64 if self.format.is_date(meaning) else np.float64

    def _checked(self, line: int, cells: Mapping[str, object] | str) -> tuple[list[float], list[int]] | None:
        """The values of a row in the order of `names`, and its hashes; None if it is skipped."""
        try:
            if isinstance(cells, str):
                raise BadRow(cells)
            return row_values(self.format, self.column_names, cells), hash_list(self.format, cells)
        except BadRow as bad:
            if self.format.layout == "parquet":
                error = TraceError(f"row {line}: {bad}", self.path)
            else:
                error = TraceError(str(bad), self.path, line)
        error.is_row = True
        if not self.skip:
            raise error
        self.skipped += 1
        self.first_skipped = self.first_skipped or str(error)
        return None

    def workload(self) -> Workload:
        """The requests that were read since the last call; lets go of the rows."""
        columns: Columns = {"prompt": np.empty(0), "output": np.empty(0)}  # what an empty file has
        for meaning in self.column_names:
            values = [part.pop(meaning) for part in self.parts]
            columns[meaning] = np.concatenate([np.empty(0, self._dtype(meaning)), *values])
        self.parts = []
        clock = columns.pop("clock", None)
        if clock is not None:
            columns["arrival"] = (clock - self._origin(clock)) / self.format.per_second if clock.size else clock
        source = {
            "path": self.path,
            "format": self.format.name or None,
            "rows": len(columns["output"]),
            "dropped": self.dropped,
            "skipped": self.skipped,
            "first_skipped": self.first_skipped,
        }
        names = {"misspelt": self.misspelt, "read_as": self.read_as}
        workload = Workload(**columns, source=source | {key: value for key, value in names.items() if value})
        hashes = list(itertools.chain.from_iterable(self.hashes))
        self.hashes = []
        return workload.with_prefixes(Prefixes(hashes, self.format.hash_block)) if any(hashes) else workload

    def _origin(self, clock: npt.NDArray[Any]) -> Any:
        """The earliest time of all that were read. Raises TraceError if that is not among the first of them."""
        earliest = clock.min()
        if self.origin is None:
            self.origin = earliest
        if earliest < self.origin:
            raise TraceError("is not in order of arrival, and cannot be read in pieces: sort it, or load it", self.path)
        return self.origin
