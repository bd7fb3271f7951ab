"""How much is read of a file: limits that honest files do not meet, so that no other can take all memory or time.

They are in one place, for every reader: `LIMITS`, and the environment variable LLMSCHED_LIMITS raises (or lowers) them.
"""

from __future__ import annotations

import io
import os
import select
import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import IO, Any

from .errors import InputError, InputLimitError, nearest

_K, _M, _G = 2**10, 2**20, 2**30

#: Name -> the limit and what it is about. Bytes, but for `ratio` and `cells`.
LIMITS: Mapping[str, tuple[int, str]] = MappingProxyType(
    {
        "file": (4 * _G, "bytes of a trace or a log, unpacked; a value of Parquet counts 8"),
        "ratio": (200, "unpacked bytes for each packed one, where more than 256 MiB are unpacked"),
        "line": (16 * _M, "bytes of a line"),
        "document": (256 * _M, "bytes of JSON that is read as a whole, such as the result of a benchmark"),
        "settings": (4 * _M, "bytes of a clock, machine, policy or study file"),
        "predictor": (_G, "bytes of a predictor, unpacked"),
        "cells": (10**6, "cells of a study"),
    }
)
VARIABLE = "LLMSCHED_LIMITS"

#: Bytes that may be unpacked from anything, however small.
_ANY_RATIO = 256 * _M
#: Seconds until somebody must have written to a named pipe. (The standard input waits as long as it takes.)
_PIPE_SECONDS = 60.0
_UNITS = {"": 1, "k": _K, "m": _M, "g": _G, "t": 1024 * _G}


def limit(name: str) -> int:
    """The limit of that name: what LLMSCHED_LIMITS says, such as ``file=16G,ratio=1000``, else the one of `LIMITS`.

    Raises InputError if the variable makes no sense.
    """
    given = dict(map(_setting, filter(None, os.environ.get(VARIABLE, "").split(","))))
    return given.get(name, LIMITS[name][0])


def _setting(text: str) -> tuple[str, int]:
    name, _, value = (part.strip() for part in text.partition("="))
    if name not in LIMITS:
        raise InputError(f"{VARIABLE} names {name!r}, which is no limit; {nearest(name, LIMITS)}")
    digits = value.rstrip("kKmMgGtT")
    unit = value[len(digits) :].lower()
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19 and unit in _UNITS):
        raise InputError(f"{VARIABLE}: {text.strip()!r}, expected a limit and a number, such as {name}=16G")
    return name, int(digits) * _UNITS[unit]


def check(name: str, amount: int, what: str, path: str = "", line: int | None = None) -> None:
    """Raise InputLimitError if `amount` is more than the limit of that name; `what` begins the message."""
    most = limit(name)
    if amount > most:
        raise InputLimitError(f"{what} more than {_shown(most, name)}: {_advice(name, amount)}", path, line)


def check_unpacked(unpacked: int, packed: int, path: str) -> None:
    """Raise InputLimitError if more came out of so many packed bytes than honest data packs into them."""
    if unpacked > _ANY_RATIO and unpacked > limit("ratio") * packed:
        raise InputLimitError(
            f"{packed:,} bytes unpack to more than {limit('ratio'):,} times as many: {_advice('ratio', 0)}", path
        )


def _shown(amount: int, name: str) -> str:
    if name == "cells":
        return f"{amount:,}"
    for unit, size in (("GiB", _G), ("MiB", _M), ("KiB", _K)):
        if amount % size == 0 and amount:
            return f"{amount // size:,} {unit}"
    return f"{amount:,} bytes"


def _advice(name: str, amount: int) -> str:
    wanted = 4 * max(limit(name), amount)
    for unit, size in (("G", _G), ("M", _M)):
        if wanted >= size and name not in ("ratio", "cells"):
            return f"if that is right, set the environment variable {VARIABLE}={name}={-(-wanted // size)}{unit}"
    return f"if that is right, set the environment variable {VARIABLE}={name}={wanted}"


class Meter:
    """Counts what is read from a file, and raises InputLimitError at a limit.

    Parameters
    ----------
    path
        What messages call the file.
    name
        The limit of all its bytes.
    lines
        Whether each line has a limit too.
    packed
        Where the bytes are unpacked: how many were read so far.
    """

    def __init__(self, path: str, name: str, *, lines: bool = True, packed: Callable[[], int] | None = None) -> None:
        self.path, self.name, self.packed = path, name, packed
        self.most = limit(name)
        self.longest = limit("line") if lines else self.most
        self.bytes = self.of_line = self.lines = 0

    def count(self, piece: bytes) -> None:
        """The next bytes of the file."""
        self.bytes += len(piece)
        if self.bytes > self.most:
            check(self.name, self.bytes, "it has", self.path)
        if self.packed is not None and self.bytes > _ANY_RATIO:
            check_unpacked(self.bytes, self.packed(), self.path)
        end = piece.rfind(b"\n") + 1
        self.of_line = len(piece) - end if end else self.of_line + len(piece)
        if self.of_line > self.longest:
            check("line", self.of_line, "a line of it has", self.path)


class MeteredFile(io.RawIOBase):
    """A raw binary stream of what calls of `read` return, each piece counted by a meter."""

    def __init__(self, read: Callable[[int], bytes | None], meter: Meter, handle: IO[bytes] | None = None) -> None:
        self._read, self._meter, self._handle = read, meter, handle

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece = self._read(len(buffer)) or b""
        self._meter.count(piece)
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
        super().close()


def open_raw(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file, opened to read bytes; a named pipe to which nobody writes is an InputLimitError. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # so that a pipe without a writer opens too
    try:
        if stat.S_ISFIFO(os.fstat(handle).st_mode):
            waiting = select.poll()
            waiting.register(handle, select.POLLIN)
            if not waiting.poll(_PIPE_SECONDS * 1000):
                raise InputLimitError(
                    f"nobody has written to this pipe for {_PIPE_SECONDS:g} s: pipe into the standard input instead "
                    "(a trace is then called -), which waits as long as it takes",
                    os.fsdecode(path),
                )
        os.set_blocking(handle, True)
        return open(handle, "rb", buffering=0)
    except BaseException:
        os.close(handle)
        raise


def open_bytes(path: str | os.PathLike[str], name: str = "file", *, lines: bool = True) -> io.BufferedReader:
    """A file, opened to read bytes within the limits. Raises OSError; reading raises InputLimitError."""
    handle = open_raw(path)
    meter = Meter(os.fsdecode(path), name, lines=lines)
    return io.BufferedReader(MeteredFile(handle.read, meter, handle), _M)


def open_text(
    path: str | os.PathLike[str],
    name: str = "file",
    *,
    lines: bool = True,
    encoding: str = "utf-8",
    errors: str = "strict",
    newline: str | None = None,
) -> io.TextIOWrapper:
    """The same as text, as `open` takes its options."""
    return io.TextIOWrapper(open_bytes(path, name, lines=lines), encoding=encoding, errors=errors, newline=newline)
