"""Traces as Parquet."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from helpers.trace_files import GOOD, error, is_good, load

from llmsched.errors import MissingExtraError
from llmsched.workloads import traces
from llmsched.workloads.trace_formats import formats
from llmsched.workloads.workload import Workload


@pytest.fixture
def parquet() -> Any:
    return pytest.importorskip("pyarrow.parquet")


def parquet_file(parquet: Any, columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(importlib.import_module("pyarrow").table(columns), sink)
    return sink.getvalue()


UNITS = {"milliseconds": 10**3, "microseconds": 10**6}


def test_parquet_may_have_the_names_and_the_dates_of_others(parquet: Any) -> None:
    arrow = importlib.import_module("pyarrow")
    columns = {"input_len": [10, 20, 0], "completion_tokens": [5, 6, 7]}
    seconds = [1_793_696_402.25, 1_793_696_400.25, 1_793_696_403.75]
    times = [
        ("dates", arrow.array([int(second * 4) * 250_000_000 for second in seconds], arrow.timestamp(unit, tz)))
        for unit, tz in (("ns", None), ("ns", "UTC"))
    ]
    times += [(name, [int(second * unit) for second in seconds]) for name, unit in UNITS.items()] + [("", seconds)]
    for said, time in times:
        content = parquet_file(parquet, columns | {"timestamp": time})
        for workload in (load(content), load(gzip.compress(content), format="parquet")):
            assert workload == Workload([10, 20, 0], [5, 6, 7], arrival=[2, 0, 3.5])
            assert workload.source["read_as"]["timestamp"] == "arrival_s" + (f" ({said})" if said else "")
    lacking = parquet_file(parquet, columns | {"ts": arrow.array([10**15, None, 10**15], arrow.timestamp("us"))})
    assert "row 2: ts is None, expected a number" in str(error(lacking))
    assert load(lacking, on_error="skip") == Workload([10, 0], [5, 7])


def test_parquet_is_read_named_or_found(parquet: Any) -> None:
    columns = {"x": ["a", "b", "c"], "output_tokens": [5, 6, 7], "prompt_tokens": [10.0, 20.0, 0.0]}
    content = parquet_file(parquet, columns | {"arrival_s": [2.25, 0.25, 3.75]})
    assert is_good(load(content))
    assert is_good(load(gzip.compress(content), format="parquet"))
    assert load(content).source["format"] == "parquet"
    assert load(parquet_file(parquet, columns)) == Workload([10, 20, 0], [5, 6, 7])


@pytest.mark.parametrize("bad", [[1, None], [1, -1], [1.0, 1.5], [1.0, float("nan")], [True, True], [1, 2**60]])
def test_a_bad_row_of_parquet_is_named(parquet: Any, bad: list[Any]) -> None:
    content = parquet_file(parquet, {"output_tokens": [5, 6], "prompt_tokens": bad})
    row = 1 if isinstance(bad[0], bool) else 2
    assert str(error(content)).startswith(
        f"<stream>: row {row}: prompt_tokens is {bad[row - 1]!r}, expected a whole number"
    )
    workload = load(content, on_error="skip")
    assert workload == Workload([bad[0]], [5]) if row == 2 else len(workload) == 0
    assert workload.source["skipped"] == (1 if row == 2 else 2)


def test_rows_of_parquet_are_counted_over_batches(parquet: Any) -> None:
    content = parquet_file(parquet, {"output_tokens": [1, 1, 1, 1, 0, 1], "prompt_tokens": [1] * 6})
    with mock.patch.object(formats, "ROWS_AT_ONCE", 2):
        assert "row 5: output_tokens is 0" in str(error(content))


def test_what_is_no_parquet_is_an_error(parquet: Any) -> None:
    content = parquet_file(parquet, {"output_tokens": [5, 6], "prompt_tokens": [1, 2]})
    for damaged in (content[:-20], content[:4], content[:20] + content[24:], b"PAR1 and more"):
        assert "is not Parquet that can be read" in str(error(damaged))
    assert "is not Parquet" in str(error(GOOD["csv"], format="parquet"))
    assert "no column 'prompt_tokens'" in str(error(parquet_file(parquet, {"output_tokens": [5]})))


def test_parquet_without_pyarrow_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"llmsched\[parquet\]"):
        load(b"PAR1")
    with pytest.raises(MissingExtraError, match=r"llmsched\[parquet\]"):
        traces.write(Workload([1], [1]), tmp_path / "w.parquet")
