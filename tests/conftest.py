"""What every test may use."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import DATA
from helpers.byhand import ENGINES
from helpers.checker import check_conservation, replay
from helpers.examples import examples
from hypothesis import HealthCheck, settings

import llmsched as ls

# No test asserts a time, and simulations are drawn from much that does not fit together.
slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("here", examples(100), deadline=None, suppress_health_check=slow)
settings.register_profile("ci", settings.get_profile("here"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")

os.environ.pop("COLUMNS", None)  # what is printed into a pipe is not broken; tests of widths set their own


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium under its own driver; nothing is downloaded."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium or no chromedriver: on Debian, apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}  # the sanitizers'
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    if hard != resource.RLIM_INFINITY:
        pytest.skip("chromium reserves more addresses than a hard `ulimit -v` leaves: ulimit -S -v would do")
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    try:
        started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver, env=environment))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    yield started
    started.quit()


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
