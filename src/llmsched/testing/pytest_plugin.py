"""A plugin of pytest with the fixture `scheduler_benchmark` (see work_gate.py).

pytest imports it wherever llmsched is installed: what it needs is imported when a test asks for the fixture.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .work_gate import SchedulerBenchmark


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--llmsched-write-counters`, and the name of the file as `llmsched_counters`."""
    parser.getgroup("llmsched").addoption(
        "--llmsched-write-counters",
        action="store_true",
        help="write the work counters of schedulers (fixture scheduler_benchmark) into their file, compare nothing",
    )
    parser.addini(
        "llmsched_counters",
        "the file of work counters of schedulers, from the root of the project",
        default="llmsched-counters.json",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Several processes would write over each other's counters."""
    if config.getoption("llmsched_write_counters") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--llmsched-write-counters writes one file: leave out -n")


def pytest_itemcollected(item: pytest.Item) -> None:
    """To pytest-benchmark these are benchmarks: its `--benchmark-only` runs them."""
    names = getattr(item, "fixturenames", [])
    if "scheduler_benchmark" in names and "benchmark" not in names and item.config.pluginmanager.hasplugin("benchmark"):
        names.append("benchmark")


@pytest.fixture
def scheduler_benchmark(request: pytest.FixtureRequest) -> SchedulerBenchmark:
    """Call it with a scheduler: it runs on the standard workloads, and fails if it has more to do than it had.

    With pytest-benchmark it is timed too; the time decides nothing.
    """
    from .work_gate import SchedulerBenchmark

    config = request.config
    timed = request.getfixturevalue("benchmark") if config.pluginmanager.hasplugin("benchmark") else None
    path = config.rootpath / config.getini("llmsched_counters")
    return SchedulerBenchmark(request.node.nodeid, path, config.getoption("llmsched_write_counters"), timed)
