"""What the text formats have in common: lines, blocks of them, and bytes that are no text."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

from . import formats

_BOM = b"\xef\xbb\xbf"


def first_line(stream: io.BufferedReader) -> tuple[bytes, int]:
    """The first line that is not blank, without a byte order mark, and its number; empty if there is none."""
    for line, raw in enumerate(stream, 1):
        text = raw.removeprefix(_BOM) if line == 1 else raw
        if text.strip():
            return text, line
    return b"", 0


def blocks(stream: io.BufferedReader, start: bytes = b"") -> Iterator[bytes]:
    """What is left of a stream in blocks of whole lines, `start` put before it."""
    while block := start + stream.read(formats.BLOCK):
        yield block + stream.readline()
        start = b""


def text_of(raw: bytes) -> str:
    """A line as text; bytes that are not UTF-8 are there as well (see `bad_byte`)."""
    return raw.decode("utf-8", "surrogateescape")


def bad_byte(text: str) -> str | None:
    """What is wrong if `text` came from bytes that are not UTF-8."""
    bad = re.search("[\udc80-\udcff]", text)
    return bad and f"byte 0x{ord(bad[0]) - 0xDC00:02x} at character {bad.start() + 1}, expected UTF-8 text"
