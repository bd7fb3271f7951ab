"""What the workers of pytest-xdist share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(folders: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills: by the worker that needs it first; the others wait for it.

    Where it fails the next worker tries again, so that each tells why.
    """
    if "PYTEST_XDIST_WORKER" not in os.environ:  # the only one
        place = folders.mktemp(name)
        make(place)
        return place
    place = folders.getbasetemp().parent / name
    done = place.with_suffix(".done")
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            make(place)
            done.touch()
    return place
