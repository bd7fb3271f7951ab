"""Writing traces: what is read back is what was written."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

from llmsched.errors import TraceError
from llmsched.workloads import traces
from llmsched.workloads.columns import LARGEST, LATEST
from llmsched.workloads.trace_formats import formats
from llmsched.workloads.workload import Workload

columns = {"prompt": st.integers(0, LARGEST), "output": st.integers(1, LARGEST), "point": st.integers(1, LARGEST)}
requests = st.fixed_dictionaries(
    columns
    | {"arrival": st.floats(0, LATEST), "ends": st.tuples(*[columns["point"]] * 2)}
    | {"priority": st.integers(-LARGEST, LARGEST), "deadline": st.floats(0, LATEST)}
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    rows = draw(st.lists(requests, max_size=5))
    with_points, with_ends, from_zero, with_priority, with_deadline = draw(st.tuples(*[st.booleans()] * 5))
    arrival = [row["arrival"] for row in rows]
    return Workload(
        [row["prompt"] for row in rows],
        [row["output"] for row in rows],
        lower=[min(row["ends"]) for row in rows] if with_ends else None,
        upper=[max(row["ends"]) for row in rows] if with_ends else None,
        point=[row["point"] for row in rows] if with_points else None,
        priority=[row["priority"] for row in rows] if with_priority else None,
        deadline=[row["deadline"] for row in rows] if with_deadline else None,
        arrival=[time - min(arrival) for time in arrival] if from_zero else arrival,
    )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_round_trip_is_exact(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("round_trip") / f"w{suffix}"

    @examples(100)
    @given(workload=workloads())
    def check(workload: Workload) -> None:
        traces.write(workload, path)
        assert traces.load(path) == workload

    check()


def test_what_is_written_is_plain_csv(tmp_path: Path) -> None:
    traces.write(Workload([1, 2], [3, 4], point=[5, 6], arrival=[0.1, 0]), str(tmp_path / "w.csv"))
    assert (tmp_path / "w.csv").read_text() == "arrival_s,prompt_tokens,output_tokens,point\n0.1,1,3,5\n0.0,2,4,6\n"


def test_a_late_first_arrival_is_kept(tmp_path: Path) -> None:
    traces.write(Workload([1, 2], [3, 4], arrival=[7, 5]), tmp_path / "w.csv")
    assert (tmp_path / "w.csv").read_text().startswith("arrival,prompt_tokens,output_tokens\n7.0,")
    assert traces.load(tmp_path / "w.csv").arrival.tolist() == [7, 5]


def test_the_same_workload_makes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.csv.gz", "b.csv.gz"):
        traces.write(Workload([1], [3]), tmp_path / name)
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()


def test_many_rows_are_written_in_pieces(tmp_path: Path) -> None:
    workload = Workload(np.arange(10), 1)
    with mock.patch.object(formats, "ROWS_AT_ONCE", 3):
        traces.write(workload, tmp_path / "w.csv")
    assert traces.load(tmp_path / "w.csv") == workload


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"expected a name that ends in \.csv"):
        traces.write(Workload([1], [1]), tmp_path / "w.txt")
    for name in ("absent/w.csv", "absent/w.csv.gz"):
        with pytest.raises(TraceError, match="cannot be written: No such file"):
            traces.write(Workload([1], [1]), tmp_path / name)
    assert not list(tmp_path.iterdir())
