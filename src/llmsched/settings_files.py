"""JSON and TOML from files: within the limits of input, each key once, and every mistake a ValueError.

What the standard library lets pass is refused here: a key that is there twice (the last would win), a number that is
too small for a float (it would be 0), and nesting so deep that the parser gives up.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from . import input_limits

_DIGIT = re.compile("[1-9]")


def json_value(text: str | bytes) -> Any:
    """The value that is written in JSON. Raises ValueError (JSONDecodeError for what is no JSON at all)."""
    import json  # here, as `import llmsched` is to stay light

    try:
        return json.loads(text, object_pairs_hook=_each_once, parse_float=number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def toml_values(text: str) -> dict[str, Any]:
    """The keys and values of TOML. Raises ValueError."""
    import tomllib

    try:
        return tomllib.loads(text, parse_float=number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        quotes = '; texts stand in quotes, as "amin"' if str(error).startswith("Invalid value") else ""
        raise ValueError(f"{error}{quotes}") from None


def number(text: str) -> float:
    """`float`, but for what is too small to be one: that is no 0. Raises ValueError."""
    value = float(text)
    if value == 0 and _DIGIT.search(re.split("[eE]", text, maxsplit=1)[0]):
        raise ValueError(f"the number {text[:40]} is too small to be told from 0")
    return value


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a file of settings. Raises InputLimitError, UnicodeDecodeError (a ValueError), OSError."""
    with input_limits.open_bytes(path, "settings", lines=False) as file:
        return file.read().decode("utf-8").replace("\r\n", "\n")


def parsed(text: str, kind: str) -> Any:
    """The value in a text in `kind`: "JSON" or "TOML". Raises ValueError."""
    return json_value(text) if kind == "JSON" else toml_values(text)


def _each_once(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice[:80]!r} is there {keys.count(twice)} times")
    return values
