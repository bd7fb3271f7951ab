"""What the workers of pytest-xdist share."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(folders: pytest.TempPathFactory, worker: str, name: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills: by the worker that needs it first; the others wait for it.

    `worker` is pytest-xdist's fixture `worker_id`.
    """
    if worker == "master":  # the only one
        place = folders.mktemp(name)
        make(place)
        return place
    place = folders.getbasetemp().parent / name
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.is_dir():
            place.mkdir()
            make(place)
    return place
