"""Files that are on disk whole or not at all, and JSON files that notice when they are damaged."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

_SEAL = "sha256"


def half_of(path: Path) -> Path:
    """What a file is called before it is whole."""
    return path.with_name(path.name + ".part")


def write_half(path: Path, write: Callable[[IO[bytes]], Any]) -> tuple[int, str]:
    """Make the file `half_of(path)` by `write`; it is on disk. Returns its bytes and its SHA-256. Raises OSError.

    A file or a link of that name is replaced, and never followed to somewhere else.
    """
    half = half_of(path)
    half.unlink(missing_ok=True)
    try:
        # 0o666: as `open` makes files, less what the user's mask takes away.
        with open(os.open(half, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666), "w+b") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            return digest(file)
    except BaseException:
        with contextlib.suppress(OSError):
            half.unlink()
        raise


def finish(path: Path) -> None:
    """Give a half file its name, in place of what has it. Raises OSError."""
    os.replace(half_of(path), path)
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_whole(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Make a file by `write`, so that it is on disk whole under its name or not at all. Raises OSError."""
    write_half(path, write)
    finish(path)


def digest(file: IO[bytes]) -> tuple[int, str]:
    """The number of bytes of an open file, and their SHA-256. Raises OSError."""
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]  # IO is as good as what it asks
    return file.tell(), found


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write plain values as JSON with the SHA-256 of them all under the key `sha256`. Raises OSError."""
    text = json.dumps({**values, _SEAL: _seal(values)}, indent=1) + "\n"
    write_whole(path, lambda file: file.write(text.encode()))


def read_sealed(path: Path) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises ValueError, which says what is wrong, if it is anything else; OSError."""
    try:
        values = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    seal = values.pop(_SEAL, None) if isinstance(values, dict) else None
    if seal is None or seal != _seal(values):
        raise ValueError("its checksum is wrong")
    return dict(values)


def _seal(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
