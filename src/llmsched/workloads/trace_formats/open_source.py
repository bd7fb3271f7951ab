"""Where the bytes of a trace come from: a path, the standard input or an open file, zipped or not."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import sys
import zlib
from collections.abc import Callable
from typing import Any

from ...errors import LlmschedError, TraceError


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
            raise TraceError(f"cannot be read: {reason(error)}", self._path) from error
        # A text file may hold lone surrogates; they come out as bytes that are not UTF-8, which is a bad row later on.
        return piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece or b""


def opened(source: object, stack: contextlib.ExitStack) -> tuple[str, io.BufferedReader, bytes]:
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
            raise TraceError(f"cannot be opened: {reason(error)}", path) from error
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


def reason(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
