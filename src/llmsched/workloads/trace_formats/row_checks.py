"""What makes a row good: checked row by row with a message, and for many rows at once without one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..columns import LARGEST
from . import timestamps
from .formats import Format, is_time, largest

Columns = dict[str, npt.NDArray[Any]]
#: A row as the careful reader sees it: its line (or row) number, and its cells by name or what is wrong with it.
Row = tuple[int, Mapping[str, object] | str]


class BadRow(Exception):
    """What is wrong with a row."""


def row_values(format: Format, names: Mapping[str, str], cells: Mapping[str, object]) -> list[float]:
    """The values of a row in the order of `names`, or BadRow."""
    values = {meaning: _value(format, meaning, name, cells) for meaning, name in names.items()}
    if "lower" in values and "upper" in values and values["lower"] > values["upper"]:
        lower, upper = (_shown(values[name]) for name in ("lower", "upper"))
        raise BadRow(f"lower is {lower} and upper is {upper}, expected lower <= upper")
    return list(values.values())


def _value(format: Format, meaning: str, name: str, cells: Mapping[str, object]) -> float:
    if name not in cells:
        raise BadRow(f"no {name!r}, expected {format.expected(meaning)}; found {shortened(', '.join(cells))}")
    value = cells[name]
    number: float | None
    if format.is_date(meaning):
        number = timestamps.parse(value)
    else:
        number = _number(value, format.smallest(meaning), largest(meaning), whole=not is_time(meaning))
    if number is None:
        raise BadRow(f"{name} is {_shown(value)}, expected {format.expected(meaning)}")
    return number


def hash_list(format: Format, cells: Mapping[str, object]) -> list[int]:
    """The hashes of a row, or BadRow; none where it has none."""
    hashes = cells.get(format.hashes, []) if format.hashes else []
    if not isinstance(hashes, list) or not all(type(k) is int and 0 <= k <= LARGEST for k in hashes):
        raise BadRow(f"{format.hashes} is {_shown(hashes)}, expected a list of whole numbers from 0 to {LARGEST}")
    return hashes


def _shown(value: object) -> str:
    """A value for messages: what was written as -1 has been read as -1.0."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return shortened(repr(value))


def _number(value: object, least: int, most: int, whole: bool) -> float | None:
    """`value` if it is a number that the column may hold, else None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    in_range = least <= value <= most  # exact for any int; NaN fails it
    return value if in_range and (not whole or value == int(value)) else None


def certainly_good(format: Format, columns: Columns) -> bool:
    """Whether all rows are good for sure. Not so with the largest value as a double: it may have been rounded."""
    for meaning, column in columns.items():
        if format.is_date(meaning):
            continue
        if not ((column >= format.smallest(meaning)) & (column < largest(meaning))).all():
            return False
        if not is_time(meaning) and (column != np.floor(column)).any():
            return False
    return "lower" not in columns or "upper" not in columns or bool((columns["lower"] <= columns["upper"]).all())


def may_hold_tiny_numbers(block: bytes) -> bool:
    """Whether text could have a number in it that is no 0 and too small for a float: those are read one by one.

    The smallest float is 4.9e-324: it takes a negative exponent, or hundreds of zeros.
    """
    return b"e-" in block or b"E-" in block or _ZEROS in block


_ZEROS = b"0" * 300


def shortened(text: str) -> str:
    """The text, or its first 77 characters: enough for a message."""
    return text if len(text) <= 80 else f"{text[:77]}..."
