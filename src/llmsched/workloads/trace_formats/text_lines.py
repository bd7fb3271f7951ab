"""Lines of text files: the first one, blocks of whole lines, and bytes that are not UTF-8."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from . import formats

_BOM = b"\xef\xbb\xbf"


def first_line(stream: io.BufferedReader) -> tuple[bytes, int]:
    """The first line that is not blank, without a byte order mark, and its number; empty if there is none."""
    line = 0
    while raw := stream.readline():
        line += 1
        text = raw.removeprefix(_BOM) if line == 1 else raw
        if text.strip():
            return text, line
        # Millions of blank lines, as in a file that was made to be slow to read: those at hand in one go.
        while blank := _blank_lines(stream.peek()):
            line += stream.read(blank).count(b"\n")
    return b"", 0


def _blank_lines(text: bytes) -> int:
    """How many bytes of blank lines a text begins with."""
    return text.rfind(b"\n", 0, len(text) - len(text.lstrip())) + 1


def line_blocks(stream: io.BufferedReader, start: bytes = b"") -> Iterator[bytes]:
    """The rest of a stream in blocks of whole lines, with `start` put before it."""
    while block := start + stream.read(formats.BYTES_AT_ONCE):
        yield block + stream.readline()
        start = b""


def decoded(raw: bytes) -> str:
    """A line as text; bytes that are not UTF-8 are there as well (see `encoding_error`)."""
    return raw.decode("utf-8", "surrogateescape")


def encoding_error(text: str) -> str | None:
    """What is wrong if `text` came from bytes that are not UTF-8."""
    bad = re.search("[\udc80-\udcff]", text)
    return bad and f"byte 0x{ord(bad[0]) - 0xDC00:02x} at character {bad.start() + 1}, expected UTF-8 text"
