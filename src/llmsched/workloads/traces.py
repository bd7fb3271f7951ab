"""Real traces -> Workload, and back: the lengths and times of a request log, in the formats that are published."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import IO, Literal

from ..errors import InputError, TraceError, nearest
from ..progress import with_bar
from .trace_formats import csv_reader, jsonl_reader, parquet_reader
from .trace_formats.formats import EMPTY_FILE, PLAIN_COLUMNS, ROWS_AT_ONCE, TABLE, recognised
from .trace_formats.other_names import delimiter_of, read_as, unknown, with_clock_of, with_names_of
from .trace_formats.row_checks import shortened
from .trace_formats.source_stream import failure_reason, open_stream
from .trace_formats.text_lines import first_line
from .trace_formats.trace_builder import TraceBuilder
from .workload import Workload

__all__ = ["FORMATS", "chunks", "load", "write"]

#: Called with (requests so far, requests in all; None where nobody knows).
Progress = Callable[[int, int | None], None]

_PLAIN = TABLE["csv"]
_ROWS_LOOKED_AT = 20  # of a plain CSV, for what its clock is: one missing time shall not decide

#: The formats that `load` reads: name -> what it is, in a line.
FORMATS: Mapping[str, str] = MappingProxyType({name: format.description for name, format in TABLE.items()})


@with_bar("reading", "requests")
def load(
    source: str | os.PathLike[str] | IO[bytes] | IO[str],
    format: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
    *,
    progress: Progress | None = None,
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
    progress
        Called now and then with (requests read, None: nobody knows how many there are).

    Returns
    -------
    Workload
        The requests in the order of the file. Arrivals are in seconds since the earliest of them, so the least is 0;
        all 0 if the file has none. (Only a column named ``arrival``, which `write` makes, is taken as it is.)
        An empty file makes an empty workload. ``workload.source`` has ``path``, ``format``, ``rows`` (kept),
        ``dropped`` (requests that failed, which `burstgpt` records), ``skipped`` (bad rows) and ``first_skipped``
        (what was wrong with the first of them, or None). If names of columns look misspelt, it has ``misspelt`` too:
        name in the file, which is not read -> the format's. Plain CSV may have semicolons or tabs, dates for arrivals,
        and names as others have them (``input_len``, ``completion_tokens``, ``timestamp``): what is read as what is in
        ``read_as``.

    Raises
    ------
    TraceError
        The file cannot be read, is of no known format, or has a bad row (names the line, from 1).
    MissingExtraError
        The file is Parquet, and pyarrow is not installed.
    InputError
        `on_error` is neither of the two.
    """
    with contextlib.ExitStack() as stack:
        builder, blocks = _opened(source, format, on_error, stack)
        for _ in blocks:
            if progress is not None:
                progress(builder.rows, None)
    return builder.workload()


def chunks(
    source: str | os.PathLike[str] | IO[bytes] | IO[str],
    format: str | None = None,
    on_error: Literal["raise", "skip"] = "raise",
) -> Iterator[Workload]:
    """Read a trace in pieces of some ten thousand requests, for `llmsched.stream`: the whole is never in memory.

    ``ls.stream(ls.traces.chunks("trace.parquet"), "fcfs", memory=60_000)``. Put together the pieces are what `load`
    returns, with the same arguments and errors; but a clock has to begin with its earliest request. A compressed
    Parquet file that is not a path is read whole, and so is one group of rows of any.
    """
    with contextlib.ExitStack() as stack:
        builder, blocks = _opened(source, format, on_error, stack)
        for _ in blocks:
            piece = builder.workload()
            if len(piece):
                yield piece


def _opened(
    source: object, format: str | None, on_error: str, stack: contextlib.ExitStack
) -> tuple[TraceBuilder, Iterator[None]]:
    """What collects the rows of a trace, and the reading of it, a block at a time."""
    if on_error not in ("raise", "skip"):
        raise InputError(f"on_error is {on_error!r}, expected 'raise' or 'skip'")
    if format is not None and format not in TABLE:
        raise TraceError(f"no trace format {format!r}: {nearest(format, TABLE)}")
    path, stream, first_bytes = open_stream(source, stack)
    skip = on_error == "skip"
    is_parquet = TABLE[format].layout == "parquet" if format else first_bytes == b"PAR1"
    if not is_parquet:
        return _read_text(path, stream, format, skip)
    builder = TraceBuilder(path, TABLE["parquet"], skip)
    if isinstance(source, (str, os.PathLike)) and first_bytes == b"PAR1" and os.path.isfile(path):
        stream = stack.enter_context(io.BufferedReader(io.FileIO(path)))  # which can be sought in
    return builder, parquet_reader.read(builder, stream)


def _read_text(
    path: str, stream: io.BufferedReader, format: str | None, skip: bool
) -> tuple[TraceBuilder, Iterator[None]]:
    """Read CSV or JSON lines: as `format`, or as the format that the first line is recognised as."""
    start, line = first_line(stream)
    named = None if format is None else TABLE[format]
    if not start:
        return TraceBuilder(path, named or EMPTY_FILE, skip), iter(())
    is_jsonl = named.layout == "jsonl" if named else start.lstrip()[:1] == b"{"
    if is_jsonl:
        keys = jsonl_reader.keys_of(start)
        known = named or recognised("jsonl", keys)
        assert known is not None
        if keys and not skip and not {known.columns[meaning] for meaning in known.required} & {*keys}:
            formats = "; ".join(f"{name}: {one.description}" for name, one in TABLE.items() if one.layout == "jsonl")
            raise TraceError(f"has the keys {shortened(', '.join(keys))}: no format known ({formats})", path, line)
        there = {m: name for m, name in known.columns.items() if m in known.required or name in keys}
        builder = TraceBuilder(path, known, skip, there)
        return builder, jsonl_reader.read(builder, stream, start, line)
    delimiter = delimiter_of(start)
    header, lines = csv_reader.read_header(path, itertools.chain([start], stream), line, delimiter)
    known = named or recognised("csv", header)
    begin, said = b"", {}
    if known in (None, _PLAIN):  # whose columns may have other names
        rows = list(itertools.islice(stream, _ROWS_LOOKED_AT))
        begin = b"".join(rows)
        known = replace(with_names_of(_PLAIN, header, path, line), delimiter=delimiter)
        if named is None and any(known.columns[meaning] not in header for meaning in known.required):
            found = shortened(repr(start[:200].strip())[1:])
            raise TraceError(unknown(found, header, _PLAIN, list(FORMATS)), path, line)
        known = with_clock_of(known, header, rows)
        said = read_as(known, _PLAIN, header)
    assert known is not None
    builder = TraceBuilder(path, known, skip, read_as=said)
    builder.find_columns(header, line)
    return builder, csv_reader.read(builder, stream, header, line + lines, begin)


@with_bar("writing", "requests")
def write(workload: Workload, path: str | os.PathLike[str], *, progress: Progress | None = None) -> None:
    """Write a workload as plain CSV (``.csv``, ``.csv.gz``) or Parquet (``.parquet``); `load` gives an equal one back.

    `progress` is called now and then with (requests written, requests in all); not for Parquet.

    Arrivals go to a column ``arrival_s`` if the first is at 0, as in every trace that was loaded. Otherwise the column
    is called ``arrival``, which `load` takes as it is: a trace's clock would lose the time before the first arrival.

    Raises
    ------
    TraceError
        The name ends in none of these, the file cannot be written, or the workload has block hashes.
    MissingExtraError
        Parquet is asked for, and pyarrow is not installed.
    """
    name = os.fsdecode(path)
    if workload.prefixes is not None:
        raise TraceError(
            "cannot be written: neither CSV nor Parquet has a place for block hashes. workload.with_prefixes(None) is "
            "the same without them",
            name,
        )
    columns = workload.columns()
    arrival = columns.pop("arrival")
    is_clock = not len(arrival) or arrival.min() == 0
    columns = {"clock" if is_clock else "arrival": arrival, **columns}
    named = {PLAIN_COLUMNS[meaning]: column for meaning, column in columns.items()}
    try:
        if name.endswith(".parquet"):
            parquet_reader.write(named, name)
        elif name.endswith(".csv"):
            with open(name, "wb") as file:
                file.writelines(_told(csv_reader.file_pieces(named), len(workload), progress))
        elif name.endswith(".csv.gz"):
            # No time and no name inside: the same workload makes the same bytes.
            with open(name, "wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as zipped:
                zipped.writelines(_told(csv_reader.file_pieces(named), len(workload), progress))
        else:
            raise TraceError("cannot be written: expected a name that ends in .csv, .csv.gz or .parquet", name)
    except OSError as error:
        raise TraceError(f"cannot be written: {failure_reason(error)}", name) from error


def _told(pieces: Iterator[bytes], n: int, progress: Progress | None) -> Iterator[bytes]:
    """The pieces of a file of `n` requests, the first of which is its header."""
    for k, piece in enumerate(pieces):
        yield piece
        if progress is not None:
            progress(min(k * ROWS_AT_ONCE, n), n)
