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

from ...errors import InputLimitError, LlmschedError, TraceError
from ...input_limits import Meter, open_raw

_BUFFER = 1 << 18


class _ReadStream(io.RawIOBase):
    """A raw binary stream of `start`, then what calls of `read` return; failures become TraceErrors.

    `count` is called with every piece that is read.
    """

    def __init__(
        self,
        path: str,
        read: Callable[[int], bytes | str | None],
        start: bytes = b"",
        count: Callable[[bytes], None] | None = None,
    ) -> None:
        self._path, self._read, self._pending, self._count = path, read, memoryview(start), count
        self.bytes = len(start)  # read so far

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
        found = piece.encode("utf-8", "surrogatepass") if isinstance(piece, str) else piece or b""
        self.bytes += len(found)
        if self._count is not None:
            self._count(found)
        return found


def open_stream(source: object, stack: contextlib.ExitStack) -> tuple[str, io.BufferedReader, bytes]:
    """The name of a source, a stream of its uncompressed bytes, and the first 4 of them (not consumed).

    What is read of the stream is metered: see `input_limits`.
    """
    path, read = _read_function(source, stack)
    # `peek` may see less than 4 bytes of a pipe: they are read, and put back before the rest.
    packed = _ReadStream(path, read)
    begin = stack.enter_context(io.BufferedReader(packed, _BUFFER))
    head = begin.read(4)
    read, unpacked = begin.read, None
    if head[:2] == b"\x1f\x8b":
        whole = stack.enter_context(io.BufferedReader(_ReadStream(path, begin.read, head), _BUFFER))
        zipped = stack.enter_context(gzip.GzipFile(fileobj=whole))
        stream = stack.enter_context(io.BufferedReader(_ReadStream(path, zipped.read), _BUFFER))
        head, read, unpacked = stream.read(4), stream.read, lambda: packed.bytes
    meter = Meter(path, "file", lines=head != b"PAR1", packed=unpacked)
    meter.count(head)
    return path, stack.enter_context(io.BufferedReader(_ReadStream(path, read, head, meter.count), _BUFFER)), head


def _read_function(source: object, stack: contextlib.ExitStack) -> tuple[str, Callable[[int], bytes | str | None]]:
    if isinstance(source, str) and source == "-":
        if sys.stdin is None:
            raise TraceError("there is no standard input", "<stdin>")
        return "<stdin>", getattr(sys.stdin, "buffer", sys.stdin).read
    if isinstance(source, (str, os.PathLike)):
        path = os.fsdecode(source)
        if os.path.isdir(path):
            there = " such as requests.jsonl" if os.path.isfile(os.path.join(path, "requests.jsonl")) else ""
            raise TraceError(f"is a directory: give a file in it{there}", path)
        try:
            return path, stack.enter_context(open_raw(path)).read
        except InputLimitError:
            raise
        except (OSError, ValueError) as error:
            raise TraceError(f"cannot be opened: {failure_reason(error)}", path) from error
    read = getattr(source, "read", None)
    if not callable(read):
        raise TraceError(f"a trace is a path, '-' or an open file, not {type(source).__name__}")
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "<stream>", read


def failure_reason(error: Exception) -> str:
    """Why a file could not be read or written, in a few words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
