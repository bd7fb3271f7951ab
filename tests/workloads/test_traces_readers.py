"""The fast reader of each text format against the careful one: they must agree on any file."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from helpers.examples import examples
from helpers.trace_files import AZURE, BAD_COUNTS, BURST, GOOD, PLAIN, is_good, load, mooncake
from hypothesis import example, given
from hypothesis import strategies as st

from llmsched.errors import LlmschedError
from llmsched.workloads.columns import LARGEST
from llmsched.workloads.trace_formats import csv_reader, formats, jsonl_reader
from llmsched.workloads.trace_formats.trace_builder import TraceBuilder


def outcome(content: bytes, name: str | None, on_error: str) -> object:
    """All that can be seen of a load."""
    try:
        workload = load(content, format=name, on_error=on_error)
    except LlmschedError as caught:
        return type(caught), str(caught), getattr(caught, "line", None)
    columns = {name: (column.dtype, column.tolist()) for name, column in workload.columns().items()}
    return repr(columns), dict(workload.source)  # repr tells -0.0 from 0.0


def assert_readers_agree(content: bytes, name: str | None = None) -> None:
    for on_error in ("raise", "skip"):
        fast = outcome(content, name, on_error)
        nothing = {"return_value": None}
        with mock.patch.object(csv_reader, "parsed", **nothing), mock.patch.object(jsonl_reader, "parsed", **nothing):
            careful = outcome(content, name, on_error)
        with mock.patch.multiple(
            formats, BYTES_AT_ONCE=max(40, len(content) // 50), ROWS_AT_ONCE=max(2, len(content) // 5000)
        ):
            small = outcome(content, name, on_error)
        assert fast == careful == small


counts = st.one_of(st.integers(0, 50), st.integers(LARGEST - 2, LARGEST + 2)).map(str)
decimals = st.floats(0, 1e17).map(repr) | st.decimals(0, 1000, places=3).map(str)
numbers = st.one_of(
    counts, decimals, st.sampled_from([*BAD_COUNTS[:-2], "+5", "5.", ".5", "5e0", "-0", " 7 ", "0007", "1d2"])
)
dates = st.builds(
    "{}-{}-{}{}{}:{}:{}{}{}".format,
    st.sampled_from(["1970", "2023", "2024", "2261", "1969", "2262", "0000", "+202"]),
    st.integers(0, 13).map("{:02}".format),
    st.integers(0, 32).map("{:02}".format),
    st.sampled_from("  T_"),
    st.integers(0, 24).map("{:02}".format),
    st.integers(0, 60).map("{:02}".format),
    st.integers(0, 60).map("{:02}".format),
    st.just("") | st.integers(0, 10**10).map(".{}".format) | st.just("."),
    st.sampled_from(["", "", "+00:00", "-07:30", "Z", "+23:59", "+24:00", "+00:60", "+0:00", "Z0", " "]),
)
good_dates = st.datetimes(datetime.datetime(1970, 1, 1), datetime.datetime(2261, 12, 31)).map(str)
good_counts = st.integers(1, 500).map(str)


def csv_file(header: str, *columns: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    rows = st.lists(st.tuples(*columns).map(",".join), max_size=6)
    return rows.map(lambda lines: header + "".join(line + "\n" for line in lines))


files = st.one_of(
    csv_file(AZURE, good_dates, good_counts, good_counts),
    csv_file(AZURE, good_dates | dates, numbers, good_counts),
    csv_file(
        BURST, decimals, st.sampled_from(["a", '"b, c"', "\u00e9", '"d\ne"']), good_counts, counts, good_counts, numbers
    ),
    csv_file(PLAIN, decimals, good_counts, good_counts),
    csv_file(PLAIN, numbers, numbers, good_counts | numbers),
    csv_file("point,upper,prompt_tokens,lower,output_tokens\n", *[good_counts | numbers] * 5),
    csv_file("prompt_tokens,priority,output_tokens\n", good_counts, good_counts | numbers, good_counts),
    csv_file("prompt_tokens,output_tokens,deadline\n", good_counts, good_counts, decimals | numbers),
    csv_file("arrival,x,prompt_tokens,output_tokens\n", decimals, numbers, good_counts, good_counts),
    st.lists(st.tuples(*[st.integers(1, 99) | st.floats() | st.integers() | st.booleans()] * 3), max_size=6).map(
        lambda rows: mooncake(*rows)
    ),
    st.lists(st.tuples(*[st.integers(1, 99)] * 3), max_size=6).map(lambda rows: mooncake(*rows)),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file of which some bytes were changed, added or removed."""
    content = draw(files)
    if draw(st.booleans()):
        content = content.replace("\n", "\r\n")
    raw = bytearray(content.encode())
    piece = st.sampled_from([b"", b"\n", b"\r", b",", b'"', b" ", b"\0", b"\xff", b"-", b".", b"}", b"{", b"e", b"_"])
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(raw)))
        raw[start : start + draw(st.integers(0, 2))] = draw(piece | st.binary(max_size=2))
    return bytes(raw)


@examples(400)
@given(content=mutated(), name=st.sampled_from([None, None, None, *GOOD]))
@example(content=b'{"a":"}\n{","timestamp":0,"input_length":1,"output_length":1}\n', name=None)
@example(content=(PLAIN + "1,1,1\n" + "2,2,2,\n").encode(), name=None)
@example(content=(PLAIN + '"1,1,1\n2,2,2\n3,"3",3\n').encode(), name=None)
@example(content=(PLAIN + "1,1,1\n\x0b\n\x1c1\x85,2,3\n").encode(), name=None)
@example(content=(PLAIN + "0,1,1\n0,2,\u0660\n").encode(), name="csv")
def test_the_fast_reader_agrees_with_the_careful_one(content: bytes, name: str | None) -> None:
    assert_readers_agree(content, name)


@pytest.mark.parametrize("name", GOOD)
def test_the_fast_reader_is_used(name: str) -> None:
    """Or the comparison above compares nothing."""
    with mock.patch.object(TraceBuilder, "add_rows", side_effect=AssertionError):
        assert is_good(load(GOOD[name].replace("\n", "\r\n")))


@pytest.mark.parametrize(
    "name", ["AzureLLMInferenceTrace_conv.csv", "lmsys_lengths.csv", "mooncake_conversation_head.jsonl"]
)
def test_the_readers_agree_on_real_traces(name: str, data_file: Callable[[str], Path]) -> None:
    assert_readers_agree(data_file(name).read_bytes())
