"""Requests that are longer than a service takes: none stays, and each is counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, WorkloadError
from llmsched.workloads.long_requests import limit_length

REQUESTS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), min_size=1, max_size=20)


@given(REQUESTS, st.integers(1, 80), st.sampled_from(["drop", "clip"]))
def test_none_is_longer_and_the_rest_is_as_it_was(requests: list[tuple[int, int]], most: int, way: str) -> None:
    prompt, output = map(np.array, zip(*requests, strict=True))
    workload = ls.Workload(prompt, output, source={"path": "x"})
    limited = limit_length(workload, most, way)
    assert (limited.prompt + limited.output <= most).all()
    fits = prompt + output <= most
    counts = limited.source.get("too_long", {"dropped": 0, "clipped": 0})
    assert counts["dropped"] + counts["clipped"] == (~fits).sum()
    assert len(limited) == len(workload) - counts["dropped"]
    expected = fits if way == "drop" else prompt < most
    kept = expected | fits
    assert limited.prompt.tolist() == prompt[kept].tolist()
    assert limited.output.tolist() == np.minimum(output, most - prompt)[kept].tolist()
    assert limited.source["path"] == "x"


def test_it_can_be_refused() -> None:
    workload = ls.Workload([1, 5], [1, 9])
    with pytest.raises(WorkloadError, match="request 1 has prompt 5"):
        limit_length(workload, 10, "error")
    with pytest.raises(InputError, match="did you mean 'clip'"):
        limit_length(workload, 10, "clp")
