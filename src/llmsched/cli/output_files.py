"""Files that a command writes: can they be written, found out before the work begins."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from ..metrics import figure_style


def check_outputs(files: Iterable[Path | str | None], plot: Path | str | None = None) -> None:
    """Find out before a long simulation, not after it, that a file cannot be written. None and - (stdout) are fine.

    Raises
    ------
    InputError
        The directory is missing, the file is a directory or not ours to write, or `plot` is no file for a figure.
    MissingExtraError
        `plot` is given and matplotlib is missing.
    """
    if plot is not None:
        figure_style.check_path(str(plot))
        figure_style.require_matplotlib()
    for file in (*files, plot):
        if file is None or file == "-":
            continue
        path, name = Path(file), str(file)
        if not path.parent.is_dir():
            raise InputError(f"cannot write {name!r}: there is no directory {str(path.parent)!r}")
        if path.is_dir():
            raise InputError(f"cannot write {name!r}: it is a directory")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise InputError(f"cannot write {name!r}: permission denied")


def make_directory(directory: Path) -> None:
    """Make the directory that is written to, and those above it, unless it is there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        taken = directory.exists() and not directory.is_dir()
        why = "there is a file of that name" if taken else error.strerror
        raise InputError(f"cannot make the directory {str(directory)!r}: {why}") from None
