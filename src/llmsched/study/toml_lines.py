"""On which line of a TOML file a key stands: what the standard library's reader does not say.

The text has been read by `tomllib` before, so it is known to be TOML, and this only has to find its way through it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

#: The way to a value from the top of the file: keys, and positions (from 0) in arrays.
Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'", re.DOTALL
)
_SCALAR = re.compile(r"[^,\]}#\r\n]+")


def lines(text: str) -> dict[Path, int]:
    """Path of every key, table and array element -> its line, from 1. `text` must be valid TOML."""
    return _Walk(text).found


def spelled(path: Sequence[str | int]) -> str:
    """The path as people write it: ``workloads[0].requests``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def line_of(found: Mapping[Path, int], path: Sequence[str | int]) -> tuple[Path, int | None]:
    """The longest beginning of `path` that is in the file, and its line; ((), None) if nothing of it is."""
    for end in range(len(path), 0, -1):
        start = tuple(path[:end])
        if start in found:
            return start, found[start]
    return (), None


class _Walk:
    """A walk over the text; `at` is where it is."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.found: dict[Path, int] = {}
        self.counts: dict[Path, int] = {}  # tables in each array of tables so far
        self.line, self.counted = 1, 0  # the line at position `counted`
        table: Path = ()
        while self.skip(_BLANK) < len(text):
            if text[self.at] == "[":
                table = self.header()
            else:
                self.pair(table)

    def skip(self, what: re.Pattern[str]) -> int:
        match = what.match(self.text, self.at)
        self.at = match.end() if match else self.at
        return self.at

    def note(self, path: Path, start: int) -> None:
        self.line += self.text.count("\n", self.counted, start)
        self.counted = start
        self.found.setdefault(path, self.line)

    def key(self) -> list[str]:
        parts: list[str] = []
        while True:
            self.skip(_SPACE)
            start = self.at
            if self.text[start] in "\"'":
                self.skip(_STRING)
                parts.append(_unquoted(self.text[start : self.at]))
            else:
                self.skip(_BARE)
                parts.append(self.text[start : self.at])
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return parts
            self.at += 1

    def header(self) -> Path:
        start, many = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if many else 1
        path: Path = ()
        keys = self.key()
        for part in keys[:-1]:
            path = self.within((*path, part), start)
        path = (*path, keys[-1])
        self.note(path, start)
        self.at += 2 if many else 1
        if not many:
            return path
        self.counts[path] = self.counts.get(path, 0) + 1
        path = (*path, self.counts[path] - 1)
        self.note(path, start)
        return path

    def within(self, path: Path, start: int) -> Path:
        """The table itself, or the last one so far of an array of tables."""
        self.note(path, start)
        return (*path, self.counts[path] - 1) if path in self.counts else path

    def pair(self, table: Path) -> None:
        start, path = self.at, table
        for part in self.key():
            path = (*path, part)
            self.note(path, start)
        self.at += 1  # the equals sign
        self.skip(_SPACE)
        self.value(path)

    def value(self, path: Path) -> None:
        first = self.text[self.at]
        if first in "\"'":
            self.skip(_STRING)
        elif first == "[":
            self.items(path, "]")
        elif first == "{":
            self.items(path, "}")
        else:
            self.skip(_SCALAR)

    def items(self, path: Path, end: str) -> None:
        self.at += 1
        position = 0
        while True:
            self.skip(_BLANK)
            if self.text[self.at] == end:
                self.at += 1
                return
            if self.text[self.at] == ",":
                self.at += 1
            elif end == "}":
                self.pair(path)
            else:
                self.note((*path, position), self.at)
                self.value((*path, position))
                position += 1


def _unquoted(key: str) -> str:
    import tomllib

    value: Any = tomllib.loads(f"key = {key}")["key"]
    return str(value)
