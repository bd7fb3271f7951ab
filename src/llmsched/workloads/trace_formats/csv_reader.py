"""Traces that are CSV: Azure's, BurstGPT and the plain format."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import TraceError
from ...settings_files import number
from . import formats, timestamps
from .formats import Format
from .row_checks import Columns, Row, certainly_good, may_hold_tiny_numbers, shortened
from .text_lines import decoded, encoding_error, line_blocks
from .trace_builder import TraceBuilder


def read_header(path: str, raw: Iterator[bytes], line: int, delimiter: str = ",") -> tuple[list[str], int]:
    """The names of the columns, and the number of lines they take."""
    reader = csv.reader(map(decoded, raw), strict=True, delimiter=delimiter)
    try:
        names = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise TraceError(f"is not CSV: {error}", path, line) from None
    if bad := encoding_error(",".join(names)):
        raise TraceError(bad, path, line)
    return names, reader.line_num


def read(
    builder: TraceBuilder, stream: io.BufferedReader, header: list[str], line: int, start: bytes = b""
) -> Iterator[None]:
    """Read `start`, which follows the header and begins with line number `line`, and the rest of `stream`, a block at a
    time."""
    for block in line_blocks(stream, start):
        columns = parsed(builder, block, header)
        if columns is not None:
            builder.add_columns(columns)
        elif block.isspace():
            pass
        elif b'"' in block:
            # A quoted field may go on in the next block, so the careful reader keeps the rest of the file.
            lines = itertools.chain(io.BytesIO(block), stream)
            yield from builder.add_rows(_rows(builder, lines, header, line))
        else:
            yield from builder.add_rows(_rows(builder, io.BytesIO(block), header, line))
        line += block.count(b"\n")
        yield


def _rows(builder: TraceBuilder, raw: Iterable[bytes], header: list[str], line: int) -> Iterator[Row]:
    positions = [(name, header.index(name)) for name in builder.column_names.values()]
    unread = map(decoded, raw)
    again: list[str] = []  # lines to be read once more, the next one last
    taken: list[str] = []  # lines of the row being read

    def lines() -> Iterator[str]:
        while (text := again.pop() if again else next(unread, None)) is not None:
            taken.append(text)
            yield text

    reader = csv.reader(lines(), strict=True, delimiter=builder.format.delimiter)
    while True:
        taken.clear()
        try:
            cells = _cells(next(reader), header, positions)
        except StopIteration:
            return
        except csv.Error as error:
            cells = f"is not CSV: {error}"
        if isinstance(cells, str) and len(taken) > 1:
            # A quote that is never closed swallows the good lines after it: only its own line is bad.
            cells = f"a quoted field does not end on this line: {shortened(repr(taken[0].strip()))}"
            again += reversed(taken[1:])
            del taken[1:]
            reader = csv.reader(lines(), strict=True, delimiter=builder.format.delimiter)
        if cells is not None:
            yield line, cells
        line += len(taken)


def _cells(row: list[str], header: list[str], positions: list[tuple[str, int]]) -> dict[str, object] | str | None:
    """The cells of a row that are of use, or what is wrong with it; None if it is blank."""
    if bad := encoding_error(",".join(row)):
        return bad
    if len(row) <= 1 and not "".join(row).strip():
        return None
    if len(row) != len(header):
        found = shortened(repr(",".join(row)))
        return f"number of fields is {len(row)}, expected {len(header)} as in the header: {found}"
    if any("\n" in row[at] for _, at in positions):
        return "a number has a line break in it"
    return {name: _cell(row[at]) for name, at in positions}


def _cell(text: str) -> int | float | str:
    """A CSV field as a number if it is one. Only what C calls a number: no underscores, no digits beyond ASCII. One too
    small for a float is none, and not 0."""
    text = text.strip()
    if text.isascii() and "_" not in text:
        with contextlib.suppress(ValueError):  # Python's `int` takes 4,300 digits at most, leading zeros included
            return int(text.lstrip("0") or "0") if text.isdigit() else number(text)
    return text


def parsed(builder: TraceBuilder, block: bytes, header: list[str]) -> Columns | None:
    """The columns of a block of lines, or None if the careful reader has to look at it."""
    if not block.isascii() or block.isspace() or b'"' in block or b"\0" in block:
        return None
    if block.count(b"\r") != block.count(b"\r\n"):
        return None
    if may_hold_tiny_numbers(block):
        return None
    lines = block.decode("ascii").split("\n")
    if max(map(len, lines)) > csv.field_size_limit():
        return None
    meanings = {name: meaning for meaning, name in builder.column_names.items()}
    dtypes = [_dtype(builder.format, meanings.get(name)) for name in header]
    row = np.dtype([(str(at), dtype) for at, dtype in enumerate(dtypes)])
    try:
        table = np.loadtxt(lines, row, delimiter=builder.format.delimiter, comments=None, ndmin=1)
    except ValueError:
        return None
    columns: Columns = {}
    for meaning, name in builder.column_names.items():
        column = np.ascontiguousarray(table[str(header.index(name))])
        numbers = timestamps.parse_many(column) if builder.format.is_date(meaning) else column
        if numbers is None:
            return None
        columns[meaning] = numbers
    return columns if certainly_good(builder.format, columns) else None


def _dtype(format: Format, meaning: str | None) -> str:
    """The dtype to read a column with; one that is of no use is read all the same, so that fields are counted."""
    if meaning is None:
        return "S1"
    return f"S{timestamps.WIDTH}" if format.is_date(meaning) else "f8"


def file_pieces(columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    """The bytes of a CSV file, in pieces; `repr` of a float is the shortest text that reads back as the same one."""
    yield (",".join(columns) + "\n").encode()
    n = len(next(iter(columns.values())))
    for start in range(0, n, formats.ROWS_AT_ONCE):
        cells = [map(repr, column[start : start + formats.ROWS_AT_ONCE].tolist()) for column in columns.values()]
        yield "".join(f"{','.join(row)}\n" for row in zip(*cells, strict=True)).encode()
