"""Real traces -> Workload, and back: the lengths and times of a request log, in the formats that are published.

Every text format is read twice over by two readers that must agree. The fast one takes a block of lines at once and
gives up (None) at the slightest doubt; the careful one takes row by row, names what is wrong with a row, and is the
definition of the format. The careful one only sees the blocks that the fast one gave up on.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import io
import itertools
import json
import os
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import InputError, LlmschedError, MissingExtraError, TraceError, closest, nearest
from .formats import dates
from .workload import COLUMNS, LARGEST, LATEST, Workload

__all__ = ["FORMATS", "load", "write"]

_Columns = dict[str, npt.NDArray[Any]]
#: A row as the careful reader sees it: its line (or row) number, and its cells by name or what is wrong with it.
_Row = tuple[int, Mapping[str, object] | str]

_BLOCK = 1 << 20  # bytes of text that are parsed at once: large enough to be fast, small enough to bound the memory
_BATCH = 1 << 16  # rows that are held as Python objects at once
_LIKE = 0.8  # how much alike the names of columns are of which one is the other misspelt: "prompt" is no prompt_tokens
_BOM = b"\xef\xbb\xbf"


# --- formats ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Format:
    """What there is to know of a format.

    ``columns`` maps what a column means to its name in the file. The meanings are those of `Workload`, and "clock":
    a reading that says when a request arrived, of which only the differences count.
    """

    name: str
    description: str
    layout: Literal["csv", "jsonl", "parquet"]
    columns: Mapping[str, str]
    required: tuple[str, ...] = ("clock", "prompt", "output")
    per_second: float = 1.0  # units of the clock in a second
    dated: bool = False  # the clock is a date and time of day, read as nanoseconds since 1970
    failures: bool = False  # an output of 0 is a request that failed: dropped, not an error

    def least(self, meaning: str) -> int:
        """The least value that a column may have."""
        return 0 if meaning == "clock" or (meaning == "output" and self.failures) else COLUMNS[meaning]

    def expected(self, meaning: str) -> str:
        """What a value of a column should have been, for messages."""
        if self.is_date(meaning):
            return "a time such as 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00"
        kind = "a number" if _is_time(meaning) else "a whole number"
        return f"{kind} from {self.least(meaning)} to {_most(meaning)}"

    def is_date(self, meaning: str) -> bool:
        return self.dated and meaning == "clock"


# `arrival_s` is a clock as in any trace; `arrival` is a workload's own time, taken as it is (see `write`).
_PLAIN = MappingProxyType(
    {
        "clock": "arrival_s",
        "arrival": "arrival",
        "prompt": "prompt_tokens",
        "output": "output_tokens",
        "lower": "lower",
        "upper": "upper",
        "point": "point",
        "priority": "priority",
    }
)

_FORMATS: Mapping[str, _Format] = {
    form.name: form
    for form in (
        _Format(
            "azure",
            "Azure LLM inference traces of 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens",
            "csv",
            {"clock": "TIMESTAMP", "prompt": "ContextTokens", "output": "GeneratedTokens"},
            per_second=1e9,
            dated=True,
        ),
        _Format(
            "mooncake",
            "Mooncake traces: JSON lines with timestamp (ms), input_length, output_length",
            "jsonl",
            {"clock": "timestamp", "prompt": "input_length", "output": "output_length"},
            per_second=1e3,
        ),
        _Format(
            "burstgpt",
            "BurstGPT: CSV with Timestamp (s), Request tokens, Response tokens; failed requests are dropped",
            "csv",
            {"clock": "Timestamp", "prompt": "Request tokens", "output": "Response tokens"},
            failures=True,
        ),
        _Format(
            "csv",
            "plain CSV with prompt_tokens, output_tokens and optionally arrival_s, lower, upper, point, priority",
            "csv",
            _PLAIN,
            required=("prompt", "output"),
        ),
        _Format(
            "parquet",
            "Parquet with the columns of the plain CSV (needs pyarrow)",
            "parquet",
            _PLAIN,
            required=("prompt", "output"),
        ),
    )
}

_NONE = _Format("", "an empty file, which could be of any format", "csv", {}, required=())

#: The formats that `load` reads: name -> what it is, in a line.
FORMATS: Mapping[str, str] = MappingProxyType({name: form.description for name, form in _FORMATS.items()})


def _is_time(meaning: str) -> bool:
    return meaning in ("clock", "arrival")


# --- load ------------------------------------------------------------------------------------------------------------


def load(
    source: str | os.PathLike[str] | IO[bytes] | IO[str],
    format: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Workload:
    """Read a trace.

    Parameters
    ----------
    source
        A path, ``"-"`` for the standard input, or an open binary or text file (read from where it stands to its end,
        not closed). Gzip is found by its first bytes, whatever the name, and undone.
    format
        One of `FORMATS`; by default it is found from the content.
    on_error
        What to do with a bad row: ``"raise"``, or ``"skip"`` it and count it. A file that is bad as a whole (missing,
        truncated, without a known header) is an error in either case.

    Returns
    -------
    Workload
        The requests in the order of the file. Arrivals are in seconds since the earliest of them, so the least is 0;
        all 0 if the file has none. (Only a column named ``arrival``, which `write` makes, is taken as it is.)
        An empty file makes an empty workload. ``workload.source`` has ``path``, ``format``, ``rows`` (kept),
        ``dropped`` (requests that failed, which `burstgpt` records), ``skipped`` (bad rows) and ``first_skipped``
        (what was wrong with the first of them, or None). If names of columns look misspelt, it has ``misspelt`` too:
        name in the file, which is not read -> the format's.

    Raises
    ------
    TraceError
        The file cannot be read, is of no known format, or has a bad row (names the line, from 1).
    MissingExtraError
        The file is Parquet, and pyarrow is not installed.
    InputError
        `on_error` is neither of the two.
    """
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if format is not None and format not in _FORMATS:
        raise TraceError(f"no trace format {format!r}: {nearest(format, _FORMATS)}")
    with contextlib.ExitStack() as stack:
        path, stream, head = _opened(source, stack)
        if format == "parquet" or (format is None and head == b"PAR1"):
            reading = _Reading(path, _FORMATS["parquet"], on_error == "skip")
            _read_parquet(reading, stream)
        else:
            reading = _read_text(path, stream, format, on_error == "skip")
    return reading.workload()


@dataclass
class _Reading:
    """A trace while it is being read: what it is, and what has come of it so far."""

    path: str
    form: _Format
    skip: bool
    names: dict[str, str] = field(default_factory=dict)  # meaning -> name, of the columns that are there
    misspelt: dict[str, str] = field(default_factory=dict)  # name of a column that is not read -> what it may mean
    pieces: list[_Columns] = field(default_factory=list)
    dropped: int = 0
    skipped: int = 0
    first_skipped: str | None = None

    def find_columns(self, header: list[str], line: int | None) -> None:
        """Note which of the format's columns are in `header`; an error if one is missing, or there twice."""
        columns = self.form.columns
        self.names = {meaning: name for meaning, name in columns.items() if name in header}
        for meaning in self.form.required:
            if meaning not in self.names:
                found = _brief(", ".join(header))
                message = f"no column {columns[meaning]!r}, which {self.form.name} needs; found {found}"
                raise TraceError(message, self.path, line)
        for name in self.names.values():
            if header.count(name) > 1:
                raise TraceError(f"column {name!r} is there {header.count(name)} times", self.path, line)
        if "clock" in self.names and "arrival" in self.names:
            both = f"{columns['clock']!r} and {columns['arrival']!r}"
            raise TraceError(f"columns {both} both say when a request arrives: keep one", self.path, line)
        timed = any(map(_is_time, self.names))
        absent = [name for meaning, name in columns.items() if meaning not in self.names]
        absent = [name for name in absent if not (timed and name in (columns.get("clock"), columns.get("arrival")))]
        close = {name: closest(name.lower(), absent, _LIKE) for name in header if name not in self.names.values()}
        self.misspelt = {name: meant for name, meant in close.items() if meant is not None}

    def keep(self, columns: _Columns) -> None:
        """Add rows that are known to be good."""
        if self.form.failures:
            answered = columns["output"] > 0
            self.dropped += int(np.count_nonzero(~answered))
            columns = {meaning: column[answered] for meaning, column in columns.items()}
        self.pieces.append(columns)

    def keep_rows(self, rows: Iterator[_Row]) -> None:
        """The careful way: check row by row, and add the good ones."""
        while batch := list(itertools.islice(rows, _BATCH)):
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
                raise _BadRow(cells)
            return _values(self.form, self.names, cells)
        except _BadRow as bad:
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
        columns: _Columns = {"prompt": np.empty(0), "output": np.empty(0)}  # what an empty file has
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


# --- where the bytes come from ---------------------------------------------------------------------------------------


class _Source(io.RawIOBase):
    """Anything with a `read` as a raw binary stream: `start`, then what `read` gives. Failures are TraceErrors."""

    def __init__(self, path: str, read: Callable[[int], bytes | str | None], start: bytes = b"") -> None:
        self._path, self._read, self._rest = path, read, memoryview(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(self._piece(len(buffer)))
        n = min(len(buffer), len(self._rest))
        buffer[:n] = self._rest[:n]
        self._rest = self._rest[n:]
        return n

    def _piece(self, size: int) -> bytes:
        try:
            piece = self._read(size)
        except LlmschedError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise TraceError(f"cannot be read: {_reason(error)}", self._path) from error
        # A text file may hold lone surrogates; they come out as bytes that are not UTF-8, which is a bad row later on.
        return piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece or b""


def _opened(source: object, stack: contextlib.ExitStack) -> tuple[str, io.BufferedReader, bytes]:
    """The name of a source, its content without compression, and the first 4 bytes of that."""
    path, read = _reader(source, stack)
    stream, head = _looked_at(path, read, stack)
    if head[:2] == b"\x1f\x8b":
        unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream))
        stream, head = _looked_at(path, unzipped.read, stack)
    return path, stream, head


def _reader(source: object, stack: contextlib.ExitStack) -> tuple[str, Callable[[int], bytes | str | None]]:
    if isinstance(source, str) and source == "-":
        if sys.stdin is None:
            raise TraceError("there is no standard input", "<stdin>")
        return "<stdin>", getattr(sys.stdin, "buffer", sys.stdin).read
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        try:
            return path, stack.enter_context(open(path, "rb")).read
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot be opened: {_reason(error)}", path) from error
    read = getattr(source, "read", None)
    if not callable(read):
        raise TraceError(f"a trace is a path, '-' or an open file, not {type(source).__name__}")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>", read


def _looked_at(
    path: str, read: Callable[[int], bytes | str | None], stack: contextlib.ExitStack
) -> tuple[io.BufferedReader, bytes]:
    # Not `peek`, which may see less than 4 bytes of a pipe.
    stream = stack.enter_context(io.BufferedReader(_Source(path, read), 1 << 18))
    head = stream.read(4)
    return stack.enter_context(io.BufferedReader(_Source(path, stream.read, head), 1 << 18)), head


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _brief(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


# --- text ------------------------------------------------------------------------------------------------------------


def _read_text(path: str, stream: io.BufferedReader, format: str | None, skip: bool) -> _Reading:
    start, line = _first_line(stream)
    if not start:
        return _Reading(path, _NONE if format is None else _FORMATS[format], skip)
    if format == "mooncake" or (format is None and start.lstrip()[:1] == b"{"):
        reading = _Reading(path, _FORMATS["mooncake"], skip, dict(_FORMATS["mooncake"].columns))
        _read_jsonl(reading, stream, start, line)
    else:
        header, lines = _header(path, itertools.chain([start], stream), line)
        reading = _Reading(path, _FORMATS[format] if format else _format_of(header, path, start, line), skip)
        reading.find_columns(header, line)
        _read_csv(reading, stream, header, line + lines)
    return reading


def _first_line(stream: io.BufferedReader) -> tuple[bytes, int]:
    """The first line that is not blank, without a byte order mark, and its number; empty if there is none."""
    for line, raw in enumerate(stream, 1):
        text = raw.removeprefix(_BOM) if line == 1 else raw
        if text.strip():
            return text, line
    return b"", 0


def _blocks(stream: io.BufferedReader, start: bytes = b"") -> Iterator[bytes]:
    """What is left of a stream in blocks of whole lines, `start` put before it."""
    while block := start + stream.read(_BLOCK):
        yield block + stream.readline()
        start = b""


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _bad_byte(text: str) -> str | None:
    """What is wrong if `text` came from bytes that are not UTF-8."""
    bad = re.search("[\udc80-\udcff]", text)
    return bad and f"byte 0x{ord(bad[0]) - 0xDC00:02x} at character {bad.start() + 1}, expected UTF-8 text"


def _format_of(header: list[str], path: str, start: bytes, line: int) -> _Format:
    for form in _FORMATS.values():
        if form.layout == "csv" and all(form.columns[meaning] in header for meaning in form.required):
            return form
    known = "; ".join(f"{name}: {description}" for name, description in FORMATS.items())
    found = _brief(repr(start[:200].strip())[1:])
    raise TraceError(f"starts with {found}, which is no format known ({known})", path, line)


# --- CSV -------------------------------------------------------------------------------------------------------------


def _header(path: str, raw: Iterator[bytes], line: int) -> tuple[list[str], int]:
    """The names of the columns, and the number of lines they take."""
    reader = csv.reader(map(_text, raw), strict=True)
    try:
        names = [name.strip() for name in next(reader)]
    except csv.Error as error:
        raise TraceError(f"is not CSV: {error}", path, line) from None
    if bad := _bad_byte(",".join(names)):
        raise TraceError(bad, path, line)
    return names, reader.line_num


def _read_csv(reading: _Reading, stream: io.BufferedReader, header: list[str], line: int) -> None:
    for block in _blocks(stream):
        columns = _fast_csv(reading, block, header)
        if columns is not None:
            reading.keep(columns)
        elif b'"' in block:
            # A quoted field may go on in the next block, so the careful reader keeps the rest of the file.
            lines = itertools.chain(io.BytesIO(block), stream)
            reading.keep_rows(_csv_rows(reading, lines, header, line))
        else:
            reading.keep_rows(_csv_rows(reading, io.BytesIO(block), header, line))
        line += block.count(b"\n")


def _csv_rows(reading: _Reading, raw: Iterable[bytes], header: list[str], line: int) -> Iterator[_Row]:
    places = [(name, header.index(name)) for name in reading.names.values()]
    fresh = map(_text, raw)
    again: list[str] = []  # lines to be read once more, the next one last
    taken: list[str] = []  # lines of the row being read

    def lines() -> Iterator[str]:
        while (text := again.pop() if again else next(fresh, None)) is not None:
            taken.append(text)
            yield text

    reader = csv.reader(lines(), strict=True)
    while True:
        taken.clear()
        try:
            cells = _csv_cells(next(reader), header, places)
        except StopIteration:
            return
        except csv.Error as error:
            cells = f"is not CSV: {error}"
        if isinstance(cells, str) and len(taken) > 1:
            # A quote that is never closed swallows the good lines after it: only its own line is bad.
            cells = f"a quoted field does not end on this line: {_brief(repr(taken[0].strip()))}"
            again += reversed(taken[1:])
            del taken[1:]
            reader = csv.reader(lines(), strict=True)
        if cells is not None:
            yield line, cells
        line += len(taken)


def _csv_cells(row: list[str], header: list[str], places: list[tuple[str, int]]) -> dict[str, object] | str | None:
    """The cells of a row that are of use, or what is wrong with it; None if it is blank."""
    if bad := _bad_byte(",".join(row)):
        return bad
    if len(row) <= 1 and not "".join(row).strip():
        return None
    if len(row) != len(header):
        found = _brief(repr(",".join(row)))
        return f"number of fields is {len(row)}, expected {len(header)} as in the header: {found}"
    if any("\n" in row[at] for _, at in places):
        return "a number has a line break in it"
    return {name: _cell(row[at]) for name, at in places}


def _cell(text: str) -> int | float | str:
    """A CSV field as a number if it is one. Only what C calls a number: no underscores, no digits beyond ASCII."""
    text = text.strip()
    if text.isascii() and "_" not in text:
        with contextlib.suppress(ValueError):
            return int(text) if text.isdigit() else float(text)
    return text


def _fast_csv(reading: _Reading, block: bytes, header: list[str]) -> _Columns | None:
    """The columns of a block of lines, or None if the careful reader has to look at it."""
    if not block.isascii() or block.isspace() or b'"' in block or b"\0" in block:
        return None
    if block.count(b"\r") != block.count(b"\r\n"):
        return None
    lines = block.decode("ascii").split("\n")
    if max(map(len, lines)) > csv.field_size_limit():
        return None
    meanings = {name: meaning for meaning, name in reading.names.items()}
    kinds = [_kind(reading.form, meanings.get(name)) for name in header]
    dtype = np.dtype([(str(at), kind) for at, kind in enumerate(kinds)])
    try:
        table = np.loadtxt(lines, dtype, delimiter=",", comments=None, ndmin=1)
    except ValueError:
        return None
    columns: _Columns = {}
    for meaning, name in reading.names.items():
        column = np.ascontiguousarray(table[str(header.index(name))])
        parsed = dates.instants(column) if reading.form.is_date(meaning) else column
        if parsed is None:
            return None
        columns[meaning] = parsed
    return columns if _plausible(reading.form, columns) else None


def _kind(form: _Format, meaning: str | None) -> str:
    """The dtype to read a column with; one that is of no use is read all the same, so that fields are counted."""
    if meaning is None:
        return "S1"
    return f"S{dates.WIDTH}" if form.is_date(meaning) else "f8"


# --- JSON lines ------------------------------------------------------------------------------------------------------


def _read_jsonl(reading: _Reading, stream: io.BufferedReader, start: bytes, line: int) -> None:
    for block in _blocks(stream, start):
        columns = _fast_jsonl(reading, block)
        if columns is not None:
            reading.keep(columns)
        else:
            reading.keep_rows(_json_rows(io.BytesIO(block), line))
        line += block.count(b"\n")


def _json_rows(raw: Iterable[bytes], first: int) -> Iterator[_Row]:
    for line, text in enumerate(map(_text, raw), first):
        if bad := _bad_byte(text):
            yield line, bad
        elif text.strip():
            yield line, _json_object(text.strip())


def _json_object(text: str) -> dict[str, object] | str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}: {_brief(text)!r}"
    return value if isinstance(value, dict) else f"is {_brief(text)!r}, expected a JSON object"


def _fast_jsonl(reading: _Reading, block: bytes) -> _Columns | None:
    """As `_fast_csv`. The lines become one JSON list, which is only the same if no object crosses a line.

    That is so if there are as many objects as lines and as braces of either kind, and each line starts with the one
    and ends with the other: then every brace is the border of an object (none is nested, or part of a string).
    """
    try:
        text = block.decode().replace("\r\n", "\n").strip()
    except UnicodeDecodeError:
        return None
    n = text.count("\n") + 1
    if not (text.count("{") == text.count("}") == n and text.count("}\n{") == n - 1 and text[0] == "{"):
        return None
    try:
        rows = json.loads(f"[{text.replace(chr(10), ',')}]")
        lists = {meaning: [row[name] for row in rows] for meaning, name in reading.names.items()}
        if len(rows) != n or any(not set(map(type, values)) <= {int, float} for values in lists.values()):
            return None
        columns: _Columns = {meaning: np.array(values, np.float64) for meaning, values in lists.items()}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return columns if _plausible(reading.form, columns) else None


# --- Parquet ---------------------------------------------------------------------------------------------------------


def _pyarrow(purpose: str) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error


def _read_parquet(reading: _Reading, stream: io.BufferedReader) -> None:
    content = stream.read()
    if not content:
        return
    arrow, parquet = _pyarrow("reading Parquet")
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content))
        reading.find_columns(file.schema_arrow.names, None)
        row = 1
        for batch in file.iter_batches(_BATCH, columns=list(reading.names.values())):
            columns = _fast_batch(reading, batch)
            if columns is not None:
                reading.keep(columns)
            else:
                reading.keep_rows(iter(enumerate(batch.to_pylist(), row)))
            row += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise TraceError(f"is not Parquet that can be read: {_brief(str(error))}", reading.path) from error


def _fast_batch(reading: _Reading, batch: Any) -> _Columns | None:
    arrays = {meaning: batch.column(name).to_numpy(zero_copy_only=False) for meaning, name in reading.names.items()}
    if any(array.dtype.kind not in "iuf" for array in arrays.values()):
        return None
    columns = {meaning: array.astype(np.float64) for meaning, array in arrays.items()}
    return columns if _plausible(reading.form, columns) else None


# --- what makes a row good: for one row, and for many ----------------------------------------------------------------


class _BadRow(Exception):
    """What is wrong with a row."""


def _values(form: _Format, names: Mapping[str, str], cells: Mapping[str, object]) -> list[float]:
    """The values of a row in the order of `names`, or _BadRow."""
    values = {meaning: _value(form, meaning, name, cells) for meaning, name in names.items()}
    if "lower" in values and "upper" in values and values["lower"] > values["upper"]:
        lower, upper = (_shown(values[name]) for name in ("lower", "upper"))
        raise _BadRow(f"lower is {lower} and upper is {upper}, expected lower <= upper")
    return list(values.values())


def _value(form: _Format, meaning: str, name: str, cells: Mapping[str, object]) -> float:
    if name not in cells:
        raise _BadRow(f"no {name!r}, expected {form.expected(meaning)}; found {_brief(', '.join(cells))}")
    value = cells[name]
    is_date, is_time = form.is_date(meaning), _is_time(meaning)
    number = dates.instant(value) if is_date else _number(value, form.least(meaning), _most(meaning), whole=not is_time)
    if number is None:
        raise _BadRow(f"{name} is {_shown(value)}, expected {form.expected(meaning)}")
    return number


def _shown(value: object) -> str:
    """A value for messages: what was written as -1 has been read as -1.0."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return _brief(repr(int(value) if whole else value))  # type: ignore[call-overload]  # a float, if whole


def _most(meaning: str) -> int:
    return LATEST if _is_time(meaning) else LARGEST


def _number(value: object, least: int, most: int, whole: bool) -> float | None:
    """`value` if it is a number that the column may hold, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    in_range = least <= value <= most  # exact for any int; NaN fails it
    return value if in_range and (not whole or value == int(value)) else None


def _plausible(form: _Format, columns: _Columns) -> bool:
    """Whether all rows are good for sure. Not so with the largest value as a double: it may have been rounded."""
    for meaning, column in columns.items():
        if form.is_date(meaning):
            continue
        if not ((column >= form.least(meaning)) & (column < _most(meaning))).all():
            return False
        if not _is_time(meaning) and (column != np.floor(column)).any():
            return False
    return "lower" not in columns or "upper" not in columns or bool((columns["lower"] <= columns["upper"]).all())


# --- write -----------------------------------------------------------------------------------------------------------


def write(workload: Workload, path: str | os.PathLike[str]) -> None:
    """Write a workload as plain CSV (``.csv``, ``.csv.gz``) or Parquet (``.parquet``); `load` gives an equal one back.

    Arrivals go to a column ``arrival_s`` if the first is at 0, as in every trace that was loaded. Otherwise the column
    is called ``arrival``, which `load` takes as it is: a trace's clock would lose the time before the first arrival.

    Raises
    ------
    TraceError
        The name ends in none of these, or the file cannot be written.
    MissingExtraError
        Parquet is asked for, and pyarrow is not installed.
    """
    name = os.fsdecode(path)
    columns = workload.columns()
    arrival = columns.pop("arrival")
    is_clock = not len(arrival) or arrival.min() == 0
    columns = {"clock" if is_clock else "arrival": arrival, **columns}
    named = {_PLAIN[meaning]: column for meaning, column in columns.items()}
    try:
        if name.endswith(".parquet"):
            arrow, parquet = _pyarrow("writing Parquet")
            parquet.write_table(arrow.table(named), name)
        elif name.endswith(".csv"):
            with open(name, "wb") as file:
                file.writelines(_csv_lines(named))
        elif name.endswith(".csv.gz"):
            # No time and no name inside: the same workload makes the same bytes.
            with open(name, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:
                zipped.writelines(_csv_lines(named))
        else:
            raise TraceError("cannot be written: expected a name that ends in .csv, .csv.gz or .parquet", name)
    except OSError as error:
        raise TraceError(f"cannot be written: {_reason(error)}", name) from error


def _csv_lines(columns: Mapping[str, npt.NDArray[Any]]) -> Iterator[bytes]:
    """The file in pieces; `repr` of a float is the shortest text that reads back as the same one."""
    yield (",".join(columns) + "\n").encode()
    n = len(next(iter(columns.values())))
    for start in range(0, n, _BATCH):
        cells = [map(repr, column[start : start + _BATCH].tolist()) for column in columns.values()]
        yield "".join(f"{','.join(row)}\n" for row in zip(*cells, strict=True)).encode()
