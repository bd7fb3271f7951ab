"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers import DATA
from helpers.byhand import ENGINES
from helpers.checker import check_conservation, replay
from hypothesis import settings

import llmsched as ls

settings.register_profile("ci", derandomize=True, print_blob=True, deadline=None)
settings.register_profile("here", deadline=None)  # no test asserts a time
settings.load_profile("ci" if os.environ.get("CI") else "here")

os.environ.pop("COLUMNS", None)  # what is printed into a pipe is not broken; tests of widths set their own


@pytest.fixture
def data_file():
    """A function from the name of a real trace to its path; skips where the data is absent."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"{name} is not in {DATA}: real traces are not part of the project")
        return path

    return find


@pytest.fixture(params=ENGINES)
def run(request):
    """simulate() on each engine in turn, with ties by index and a timeline; every result passes the invariants."""

    def simulate(workload, policy, memory, seed=None, **options):
        result = ls.simulate(
            workload, policy, memory=memory, seed=seed, engine=request.param, record="timeline", **options
        )
        check_conservation(result)
        if not result.total_evictions:
            replay(result)
        return result

    return simulate
