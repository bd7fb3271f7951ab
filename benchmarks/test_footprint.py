"""What the package takes before and while it works: import time, libraries loaded, memory."""

from __future__ import annotations

import numpy as np
import pytest
from footprint import HEAVY, import_llmsched, peak_bytes_per_request
from live import passing

import llmsched as ls


@pytest.mark.benchmark(group="import")
def test_import_loads_no_library_of_an_extra(benchmark):
    imported = benchmark.pedantic(import_llmsched, rounds=5, warmup_rounds=1)
    loaded = {name.split(".")[0] for name in imported["modules"]}
    assert not loaded & set(HEAVY)
    benchmark.extra_info["ms for import llmsched"] = imported["seconds"] * 1e3
    benchmark.extra_info["ms of them for numpy"] = imported["numpy"] * 1e3


@pytest.mark.parametrize("policy", ["hsf", "amin"])
def test_a_million_requests_take_at_most_100_bytes_each(policy):
    """Memory is not noisy: this one is asserted."""
    try:
        taken = peak_bytes_per_request(policy, 1_000_000)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    assert taken <= 100


@pytest.mark.parametrize("policy", ["amin-recompute", "past-future"])
def test_a_driven_scheduler_holds_no_more_however_many_pass(policy):
    """As `python benchmarks/live.py` shows for 10**7 requests; here the later rows hold what the early ones do."""
    rng = np.random.default_rng(0)
    workload = ls.Workload(rng.geometric(1 / 60, 5000), rng.geometric(1 / 15, 5000))
    rows = [*passing(policy, workload, 60_000, 10_000)]
    assert [row["requests"] // 10_000 for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["held"] <= 1.1 * rows[1]["held"]
    assert rows[-1]["resident"] <= rows[1]["resident"] + 4e6
