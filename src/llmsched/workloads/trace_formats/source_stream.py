"""A path, the standard input or an open file as one stream of bytes, uncompressed."""

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


class _ReadStream(io.RawIOBase):
    """A raw binary stream of `start`, then what calls of `read` return; failures become TraceErrors."""

    def __init__(self, path: str, read: Callable[[int], bytes | str | None], start: bytes = b"") -> None:
        self._path, self._read, self._pending = path, read, memoryview(start)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._pending:
            self._pending = memoryview(self._next_bytes(len(buffer)))
        n = min(len(buffer), len(self._pending))
        buffer[:n] = self._pending[:n]
        self._pending = self._pending[n:]
        return n

    def _next_bytes(self, size: int) -> bytes:
        try:
            piece = self._read(size)
        except LlmschedError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise TraceError(f"cannot be read: {failure_reason(error)}", self._path) from error
        # A text file may hold lone surrogates; they come out as bytes that are not UTF-8, which is a bad row later on.
        return piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece or b""


def open_stream(source: object, stack: contextlib.ExitStack) -> tuple[str, io.BufferedReader, bytes]:
    """The name of a source, a stream of its uncompressed bytes, and the first 4 of them (not consumed)."""
    path, read = _read_function(source, stack)
    stream, head = _with_first_bytes(path, read, stack)
    if head[:2] == b"\x1f\x8b":
        unzipped = stack.enter_context(gzip.GzipFile(fileobj=stream))
        stream, head = _with_first_bytes(path, unzipped.read, stack)
    return path, stream, head


def _read_function(source: object, stack: contextlib.ExitStack) -> tuple[str, Callable[[int], bytes | str | None]]:
    if isinstance(source, str) and source == "-":
        if sys.stdin is None:
            raise TraceError("there is no standard input", "<stdin>")
        return "<stdin>", getattr(sys.stdin, "buffer", sys.stdin).read
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        try:
            return path, stack.enter_context(open(path, "rb")).read
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot be opened: {failure_reason(error)}", path) from error
    read = getattr(source, "read", None)
    if not callable(read):
        raise TraceError(f"a trace is a path, '-' or an open file, not {type(source).__name__}")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>", read


def _with_first_bytes(
    path: str, read: Callable[[int], bytes | str | None], stack: contextlib.ExitStack
) -> tuple[io.BufferedReader, bytes]:
    # `peek` may see less than 4 bytes of a pipe: they are read, and put back before the rest.
    stream = stack.enter_context(io.BufferedReader(_ReadStream(path, read), 1 << 18))
    head = stream.read(4)
    return stack.enter_context(io.BufferedReader(_ReadStream(path, stream.read, head), 1 << 18)), head


def failure_reason(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
