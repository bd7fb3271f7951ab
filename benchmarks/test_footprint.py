"""What the package takes before and while it works: import time, libraries loaded, memory."""

from __future__ import annotations

import pytest
from footprint import HEAVY, import_llmsched, peak_bytes_per_request


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
