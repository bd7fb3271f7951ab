"""Traces that somebody made to be misread: nothing is taken in silence for what it is not."""

from __future__ import annotations

import importlib
import io
import warnings
from unittest import mock

import pytest
from helpers.trace_files import BURST, HEADER, JSONL, ROW, error, load

from llmsched.errors import TraceError
from llmsched.workloads.trace_formats import csv_reader, jsonl_reader
from llmsched.workloads.workload import Workload

CSV = [name for name in HEADER if name not in JSONL]


def written(name, prompt, output="5", more=3):
    """A file of good rows and one with these texts, which is the second."""
    row = ROW[name][0] + "\n"
    good = row.format(prompt=10, output=5)
    return HEADER[name] + good + row.format(prompt=prompt, output=output) + good * more


def carefully(content):
    """The same, read by the careful readers alone."""
    with (
        mock.patch.object(csv_reader, "parsed", return_value=None),
        mock.patch.object(jsonl_reader, "parsed", return_value=None),
    ):
        return load(content)


TINY = ["1e-400", "0.5e-400", "1E-400", "0." + "0" * 400 + "1"]


@pytest.mark.parametrize("name", HEADER)
@pytest.mark.parametrize("tiny", TINY)
def test_a_number_too_small_for_a_float_is_not_0(name, tiny):
    for content in (written(name, tiny), written(name, "1", tiny)):
        assert "1e-400 to" not in str(error(content))
        assert error(content).line == len(HEADER[name].splitlines()) + 2
        assert load(content, on_error="skip").source["skipped"] == 1


@pytest.mark.parametrize("tiny", TINY)
def test_a_request_is_not_dropped_as_failed_for_a_tiny_output(tiny):
    with pytest.raises(TraceError, match="Response tokens is"):
        load(f"{BURST}1,ChatGPT,10,{tiny},15,API log\n")


@pytest.mark.parametrize("name", CSV)
@pytest.mark.parametrize(
    ("text", "value"),
    [("0" * 5000, 0), ("0" * 5000 + "7", 7), ("0e-400", 0), ("0.0e-5", 0), ("0." + "0" * 5000, 0), ("1e1", 10)],
)
def test_both_readers_see_the_same_number(name, text, value):
    content = written(name, text)
    assert load(content).prompt[1] == value
    assert load(content) == carefully(content)


@pytest.mark.parametrize("name", HEADER)
def test_a_number_of_thousands_of_digits_is_a_bad_row(name):
    assert len(str(error(written(name, "9" * 5000)))) < 500


@pytest.mark.parametrize("twice", ["output_length", "x", "timestamp"])
@pytest.mark.parametrize("space", ["", " "])
def test_a_key_that_is_there_twice_is_a_bad_row(twice, space):
    row = '{{"timestamp": 0, "input_length": {prompt}, "output_length": {output}, "x": "a: b"}}\n'
    good = row.format(prompt=10, output=5)
    bad = good.replace("}", f', "{twice}"{space}: 9}}')
    assert f"the key '{twice}' is there 2 times" in str(error(good + bad + good))
    assert error(good + bad + good).line == 2
    assert load(good + bad + good, on_error="skip").source["skipped"] == 1
    assert len(load(good * 3)) == 3


def test_a_deeply_nested_line_is_a_bad_row():
    good = '{"timestamp": 0, "input_length": 1, "output_length": 1}\n'
    assert "nested too deeply" in str(error(good + '{"timestamp": ' + "[" * 100_000 + "\n"))


# Parquet --------------------------------------------------------------------------------------------------------------


def parquet(columns, **options):
    sink = io.BytesIO()
    pytest.importorskip("pyarrow.parquet").write_table(columns, sink, **options)
    return sink.getvalue()


def test_a_column_of_parquet_that_holds_no_numbers_is_named():
    pa = pytest.importorskip("pyarrow")
    huge = 2**50
    for array in (
        pa.array(["1", "2"]),
        pa.array([huge, huge], pa.timestamp("s")),
        pa.array([2**62, 1], pa.duration("s")),
        pa.array([2**31 - 1, 1], pa.date32()),
        pa.array([b"\xff", b"x"]),
        pa.array([[1], [2]]),
    ):
        table = pa.table({"prompt_tokens": [1, 2], "output_tokens": array})
        with pytest.raises(TraceError, match=r"column 'output_tokens' holds .*, expected whole numbers or floats"):
            load(parquet(table))


def test_a_flipped_bit_in_a_page_of_parquet_is_found():
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"prompt_tokens": list(range(1, 5001)), "output_tokens": [7] * 5000})
    content = parquet(table, compression="none", use_dictionary=False, write_page_checksum=True)
    expected = load(content)
    at = content.index((2000).to_bytes(8, "little"))
    for bit in range(8):
        spoilt = bytearray(content)
        spoilt[at] ^= 1 << bit
        with pytest.raises(TraceError, match="is not Parquet that can be read"):
            load(bytes(spoilt))
    assert expected == Workload(range(1, 5001), [7] * 5000)


def test_our_own_parquet_has_checksums(tmp_path):
    parquet_ = pytest.importorskip("pyarrow.parquet")
    traces = importlib.import_module("llmsched.workloads.traces")
    traces.write(Workload(range(1, 2001), [7] * 2000), tmp_path / "a.parquet")
    raw = bytearray((tmp_path / "a.parquet").read_bytes())
    raw[200] ^= 4
    (tmp_path / "b.parquet").write_bytes(raw)
    with pytest.raises(OSError, match="CRC"):
        parquet_.read_table(tmp_path / "b.parquet", page_checksum_verification=True)


def test_no_mutated_parquet_raises_anything_but_a_trace_error():
    pa = pytest.importorskip("pyarrow")
    import random

    content = parquet(
        pa.table({"prompt_tokens": [1, 2, 3], "output_tokens": [4.0, 5.0, 6.0], "naïve": ["a", "b", "c"]})
    )
    drawn = random.Random(1)
    for _ in range(3000):
        spoilt = bytearray(content)
        for _ in range(drawn.randint(1, 3)):
            spoilt[drawn.randrange(4, len(spoilt))] = drawn.randrange(256)
        with warnings.catch_warnings(action="ignore"):
            try:
                load(bytes(spoilt), format="parquet")
            except (TraceError, MemoryError):
                continue
