"""Traces with a JSON object on each line: Mooncake's."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator

import numpy as np

from .row_checks import Columns, Row, brief, plausible
from .text_lines import bad_byte, blocks, text_of
from .trace_builder import Reading


def read(reading: Reading, stream: io.BufferedReader, start: bytes, line: int) -> None:
    """The line `start`, which is number `line`, and what is left of `stream`."""
    for block in blocks(stream, start):
        columns = fast(reading, block)
        if columns is not None:
            reading.keep(columns)
        else:
            reading.keep_rows(_rows(io.BytesIO(block), line))
        line += block.count(b"\n")


def _rows(raw: Iterable[bytes], first: int) -> Iterator[Row]:
    for line, text in enumerate(map(text_of, raw), first):
        if bad := bad_byte(text):
            yield line, bad
        elif text.strip():
            yield line, _object(text.strip())


def _object(text: str) -> dict[str, object] | str:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}: {brief(text)!r}"
    return value if isinstance(value, dict) else f"is {brief(text)!r}, expected a JSON object"


def fast(reading: Reading, block: bytes) -> Columns | None:
    """As `csv_lines.fast`. The lines become one JSON list, which is only the same if no object crosses a line.

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
        columns: Columns = {meaning: np.array(values, np.float64) for meaning, values in lists.items()}
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return columns if plausible(reading.form, columns) else None
