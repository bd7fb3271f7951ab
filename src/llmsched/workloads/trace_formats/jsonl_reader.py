"""Traces in JSON lines: an object on each line."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from ...settings_files import json_value
from .row_checks import BadRow, Columns, Row, certainly_good, hash_list, may_hold_tiny_numbers, shortened
from .text_lines import decoded, encoding_error, line_blocks
from .trace_builder import TraceBuilder


def read(builder: TraceBuilder, stream: io.BufferedReader, start: bytes, line: int) -> Iterator[None]:
    """Read the line `start`, which is number `line`, and the rest of `stream`, a block at a time."""
    for block in line_blocks(stream, start):
        found = parsed(builder, block)
        if found is not None:
            builder.add_columns(*found)
        elif not block.isspace():
            yield from builder.add_rows(_rows(io.BytesIO(block), line))
        line += block.count(b"\n")
        yield


def keys_of(line: bytes) -> Collection[str]:
    """The keys of the object on a line; none where the line is no object."""
    row = _object(decoded(line).strip())
    return row if isinstance(row, dict) else ()


def _rows(raw: Iterable[bytes], first: int) -> Iterator[Row]:
    for line, text in enumerate(map(decoded, raw), first):
        if bad := encoding_error(text):
            yield line, bad
        elif text.strip():
            yield line, _object(text.strip())


def _object(text: str) -> dict[str, object] | str:
    try:
        value = json_value(text)
    except ValueError as error:
        return f"is not JSON: {error}: {shortened(text)!r}"
    return value if isinstance(value, dict) else f"is {shortened(text)!r}, expected a JSON object"


def parsed(builder: TraceBuilder, block: bytes) -> tuple[Columns, list[list[int]] | None] | None:
    """The columns of a block of lines, and hashes; or None if the careful reader has to look at it.

    The lines become one JSON list, which is only the same if no object crosses a line.

    That is so if there are as many objects as lines and as braces of either kind, and each line starts with the one
    and ends with the other: then every brace is the border of an object (none is nested, or part of a string). There
    are at least as many colons as pairs of key and value: if no more than there are keys, no key is there twice.
    """
    if may_hold_tiny_numbers(block):
        return None
    try:
        text = block.decode().replace("\r\n", "\n").strip()
    except UnicodeDecodeError:
        return None
    n = text.count("\n") + 1
    if not (text.count("{") == text.count("}") == n and text.count("}\n{") == n - 1 and text[0] == "{"):
        return None
    try:
        rows = json.loads(listed := f"[{text.replace(chr(10), ',')}]")
        if text.count(":") != sum(map(len, rows)):
            json_value(listed)
        lists = {meaning: [row[name] for row in rows] for meaning, name in builder.column_names.items()}
        if len(rows) != n or any(not set(map(type, values)) <= {int, float} for values in lists.values()):
            return None
        columns: Columns = {meaning: np.array(values, np.float64) for meaning, values in lists.items()}
        hashes = [hash_list(builder.format, row) for row in rows] if builder.format.hashes else None
    except (BadRow, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return (columns, hashes) if certainly_good(builder.format, columns) else None
