"""Traces: every format, every way a file can be wrong, and the fast reader against the careful one."""

from __future__ import annotations

import datetime
import gzip
import importlib
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from llmsched import formats, traces
from llmsched.errors import InputError, LlmschedError, MissingExtraError, TraceError
from llmsched.formats import csv_lines, json_lines
from llmsched.formats.reading import Reading
from llmsched.workload import LARGEST, LATEST, Workload

DATA = Path(__file__).parents[2] / "shared" / "data"

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
PLAIN = "arrival_s,prompt_tokens,output_tokens\n"


def mooncake(*rows: tuple[object, object, object]) -> str:
    keys = ("timestamp", "input_length", "output_length")
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


#: format -> a file of three good requests, the second of which comes first in time (see `is_good`).
GOOD = {
    "azure": AZURE + "2023-11-16 18:15:46.5000000,10,5\n2023-11-16 18:15:44.5,20,6\n2023-11-16 18:15:48,0,7\n",
    "mooncake": mooncake((27000, 10, 5), (25000, 20, 6), (28500.0, 0, 7)),
    "burstgpt": BURST + "7,ChatGPT,10,5,15,API log\n5,GPT-4,20,6,26,API log\n8.5,GPT-4,0,7,7,Conversation log\n",
    "csv": PLAIN + "2.25,10,5\n0.25,20,6\n3.75,0,7\n",
}
#: format -> (a good row, the names of its columns)
ROW = {
    "azure": ("2023-11-16 18:15:46.5000000,{prompt},{output}", ("TIMESTAMP", "ContextTokens", "GeneratedTokens")),
    "burstgpt": ("7,ChatGPT,{prompt},{output},15,API log", ("Timestamp", "Request tokens", "Response tokens")),
    "csv": ("2.25,{prompt},{output}", ("arrival_s", "prompt_tokens", "output_tokens")),
    "mooncake": (
        '{{"timestamp": 0, "input_length": {prompt}, "output_length": {output}}}',
        ("timestamp", "input_length", "output_length"),
    ),
}
HEADER = {"azure": AZURE, "burstgpt": BURST, "csv": PLAIN, "mooncake": ""}

text_format = pytest.mark.parametrize("name", GOOD)


def load(content: str | bytes, **options: Any) -> Workload:
    return traces.load(io.BytesIO(content.encode() if isinstance(content, str) else content), **options)


def error(content: str | bytes, **options: Any) -> TraceError:
    with pytest.raises(TraceError) as caught:
        load(content, **options)
    return caught.value


def is_good(workload: Workload) -> bool:
    return workload == Workload([10, 20, 0], [5, 6, 7], arrival=[2, 0, 3.5])


# --- formats ---------------------------------------------------------------------------------------------------------


@text_format
@pytest.mark.parametrize("named", [True, False])
def test_a_format_is_read_named_or_found(name: str, named: bool) -> None:
    workload = load(GOOD[name], format=name if named else None)
    assert is_good(workload)
    expected = {"path": "<stream>", "format": name, "rows": 3, "dropped": 0, "skipped": 0, "first_skipped": None}
    assert dict(workload.source) == expected


def test_formats_are_described() -> None:
    assert list(traces.FORMATS) == ["azure", "mooncake", "burstgpt", "csv", "parquet"]
    assert all(isinstance(line, str) and "\n" not in line for line in traces.FORMATS.values())


def test_azure_of_2024_has_an_offset_and_any_number_of_decimals() -> None:
    times = ["2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01+00:00", "2024-05-10T02:00:02.5+02:00"]
    times += ["2024-05-09 23:30:03.000000001-00:30", "2024-05-10 00:00:04Z", "2024-05-10 00:00:05"]
    workload = load(AZURE + "".join(f"{time},1,2\n" for time in times))
    assert workload.arrival.tolist() == [0, 0.99007, 2.49007, 2.990070001, 3.99007, 4.99007]


def test_all_seven_decimals_count() -> None:
    workload = load(AZURE + "2023-11-16 18:15:46.6805900,1,1\n2023-11-16 18:15:46.6805901,1,1\n")
    assert workload.arrival.tolist() == [0, 1e-7]


@pytest.mark.parametrize(
    "time",
    [
        "2023-02-29 00:00:00",
        "2023-13-01 00:00:00",
        "2023-00-01 00:00:00",
        "2023-01-00 00:00:00",
        "2023-04-31 00:00:00",
        "2023-01-01 24:00:00",
        "2023-01-01 00:60:00",
        "2023-01-01 00:00:60",
        "1969-12-31 23:59:59",
        "2262-01-01 00:00:00",
        "2023-01-01 00:00:00.",
        "2023-01-01 00:00:00.1234567890",
        "2023-01-01 00:00:00.5x",
        "2023-01-01 00:00:00+0000",
        "2023-01-01 00:00:00+24:00",
        "2023-01-01 00:00:00+00:60",
        "2023-01-01 00:00:00+00:001",
        "2023-01-01 00:00:00.123456789+00:00             now",
        "2023-01-01 00:00:00ZZ",
        "2023-01-01  00:00:00",
        "2023-01-01",
        "2023-01-01 00:00",
        "01/02/2023 00:00:00",
        "1700000000",
        "2023-01-01 00:00:0\u0661",
        "2023-01-01 00:00:00\0",
        "",
    ],
)
def test_what_is_no_date_is_a_bad_row(time: str) -> None:
    bad = error(AZURE + f"2023-01-01 00:00:00,1,1\n{time},1,1\n")
    assert bad.line == 3
    assert "TIMESTAMP is" in str(bad)
    assert "expected a time such as" in str(bad)


@pytest.mark.parametrize("time", ["2024-02-29 23:59:59.999999999", "1970-01-01 00:00:00-23:59", "2261-12-31 23:59:59"])
def test_the_edges_of_the_calendar_are_good(time: str) -> None:
    assert len(load(AZURE + f"{time},1,1\n")) == 1


def test_mooncake_ignores_other_keys() -> None:
    content = '{"hash_ids": [1, {"a": "}{"}], "timestamp": 5, "input_length": 1, "output_length": 2}\n'
    assert load(content) == Workload([1], [2])


def test_burstgpt_failures_are_dropped_and_counted() -> None:
    workload = load(BURST + "3,GPT-4,9,0,9,API log\n5,GPT-4,1,2,3,API log\n6,GPT-4,0,0,0,API log\n7,GPT-4,3,4,7,x\n")
    assert workload == Workload([1, 3], [2, 4], arrival=[0, 2])
    assert (workload.source["rows"], workload.source["dropped"], workload.source["skipped"]) == (2, 2, 0)


def test_burstgpt_where_all_failed_is_empty() -> None:
    workload = load(BURST + "3,GPT-4,9,0,9,API log\n")
    assert len(workload) == 0
    assert workload.source["dropped"] == 1


def test_plain_columns_are_found_by_name_in_any_order() -> None:
    content = "upper,note,output_tokens, lower ,prompt_tokens,point\n9,x,5,1,10,6\n8,y,6,2,20,7\n"
    assert load(content) == Workload([10, 20], [5, 6], lower=[1, 2], upper=[9, 8], point=[6, 7])


def test_each_prediction_is_optional() -> None:
    workload = load("output_tokens,prompt_tokens,lower\n5,10,1\n")
    assert workload == Workload([10], [5], lower=[1])
    assert workload.upper is None


def test_whole_numbers_may_be_written_as_decimals() -> None:
    assert load(PLAIN + "1e1,10.0,+5\n.5,2e1,6.\n") == Workload([10, 20], [5, 6], arrival=[9.5, 0])


def test_counts_are_exact_up_to_the_largest() -> None:
    assert load(PLAIN + f"0,{LARGEST},{LARGEST - 1}\n") == Workload([LARGEST], [LARGEST - 1])
    assert "9007199254740993" in str(error(PLAIN + f"0,{LARGEST + 1},1\n"))


# --- the ways to say the same ----------------------------------------------------------------------------------------


@text_format
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda text: "\ufeff" + text, id="byte order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(lambda text: text[:-1], id="no newline at the end"),
        pytest.param(lambda text: text.replace("\n", "\r\n")[:-2], id="CRLF, no newline at the end"),
        pytest.param(lambda text: "\n \n" + text.replace("\n", "\n\n  \t\n"), id="blank lines"),
        pytest.param(lambda text: "\ufeff\n" + text, id="byte order mark on a blank line"),
        pytest.param(lambda text: text.replace("\n", " \n").replace(",", " , "), id="whitespace around fields"),
    ],
)
def test_a_file_may_be_written_in_other_ways(name: str, change: Callable[[str], str]) -> None:
    assert is_good(load(change(GOOD[name])))


def test_fields_may_be_quoted() -> None:
    assert is_good(load('"arrival_s","prompt_tokens",output_tokens\n"2.25","10","5"\n0.25,20,6\n"3.75",0,"7"\n'))


def test_a_quoted_field_of_no_use_may_have_commas_and_line_breaks() -> None:
    content = 'prompt_tokens,note,output_tokens\n1,"a, ""b""\n\nc",2\n3,"d\r\ne",4\n5,f,x\n'
    assert error(content).line == 7
    assert load(content, on_error="skip") == Workload([1, 3], [2, 4])


def test_a_quote_that_never_closes_spoils_only_its_line() -> None:
    content = PLAIN + '1,1,1\n"2,2,2\n3,3,3\n4,"4\n",4\n5,5,5\n6,6,"6'
    assert error(content).line == 3
    assert "does not end on this line" in str(error(content))
    workload = load(content, on_error="skip")
    assert workload.prompt.tolist() == [1, 3, 5]
    assert workload.source["skipped"] == 4


@text_format
def test_small_blocks_make_no_difference(name: str) -> None:
    with mock.patch.multiple(formats, BLOCK=10, BATCH=1):
        assert is_good(load(GOOD[name]))
        assert error(GOOD[name] + "x\n").line == (4 if name == "mooncake" else 5)


# --- where a file comes from -----------------------------------------------------------------------------------------


@text_format
def test_a_path_is_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a trace"
    path.write_text(GOOD[name])
    assert is_good(traces.load(path))
    assert traces.load(str(path)).source["path"] == str(path)


@text_format
def test_gzip_is_found_by_its_first_bytes(name: str, tmp_path: Path) -> None:
    content = gzip.compress(GOOD[name].encode())
    (tmp_path / "trace.txt").write_bytes(content)
    assert is_good(traces.load(tmp_path / "trace.txt"))
    assert is_good(load(content))
    half = len(GOOD[name]) // 2
    members = gzip.compress(GOOD[name][:half].encode()) + gzip.compress(GOOD[name][half:].encode())
    assert is_good(load(members))


def test_a_name_in_gz_does_not_make_it_gzip(tmp_path: Path) -> None:
    (tmp_path / "trace.csv.gz").write_text(GOOD["csv"])
    assert is_good(traces.load(tmp_path / "trace.csv.gz"))


class Dribble:
    """A stream that gives a byte at a time, cannot seek, and must not be closed by who reads it."""

    def __init__(self, content: bytes) -> None:
        self.rest = content

    def read(self, size: int) -> bytes:
        assert size
        first, self.rest = self.rest[:1], self.rest[1:]
        return first


@text_format
@pytest.mark.parametrize("zipped", [True, False])
def test_standard_input_is_read(name: str, zipped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(GOOD[name].encode()) if zipped else GOOD[name].encode()
    monkeypatch.setattr(sys, "stdin", mock.Mock(buffer=Dribble(content)))
    workload = traces.load("-")
    assert is_good(workload)
    assert workload.source["path"] == "<stdin>"


def test_standard_input_may_be_text_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(GOOD["csv"]))
    assert is_good(traces.load("-"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TraceError, match="no standard input"):
        traces.load("-")


@text_format
def test_open_files_are_read_and_left_open(name: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_text(GOOD[name])
    with open(path) as text, open(path, "rb") as binary, open(path, "rb", buffering=0) as raw:
        for file in (text, binary, raw):
            workload = traces.load(file)
            assert is_good(workload)
            assert workload.source["path"] == str(path)
            assert not file.closed
    assert is_good(traces.load(io.StringIO(GOOD[name])))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_stream_that_fails_is_an_error_said_once(zipped: bool) -> None:
    content = gzip.compress(GOOD["csv"].encode()) if zipped else GOOD["csv"].encode()
    stream = mock.Mock(read=mock.Mock(side_effect=[content[:30], OSError("the line is down")]))
    stream.name = "socket"
    with pytest.raises(TraceError, match=r"^socket: cannot be read: the line is down$"):
        traces.load(stream)


def test_an_open_file_is_read_from_where_it_stands() -> None:
    file = io.BytesIO(b"# a comment\n" + GOOD["csv"].encode())
    file.readline()
    assert is_good(traces.load(file))


def test_what_is_no_file_is_an_error(tmp_path: Path) -> None:
    closed = io.StringIO("x")
    closed.close()
    (tmp_path / "latin").write_bytes(b"\xe9" * 9)
    with open(tmp_path / "latin", encoding="utf-8") as badly_encoded:
        for source in (tmp_path / "absent", tmp_path, "nul\0", 0, None, object(), closed, badly_encoded):
            with pytest.raises(TraceError):
                traces.load(source)  # type: ignore[arg-type]
    with pytest.raises(TraceError, match=r"absent: cannot be opened: No such file"):
        traces.load(tmp_path / "absent")


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize("length", [2, 5, 12, 40, -8, -1])
def test_damaged_gzip_is_an_error_even_when_rows_are_skipped(length: int, on_error: str) -> None:
    content = gzip.compress(GOOD["csv"].encode(), mtime=0)
    assert "cannot be read" in str(error(content[:length], on_error=on_error))
    assert "cannot be read" in str(error(content[:15] + b"\xff\xff\xff" + content[18:], on_error=on_error))


@pytest.mark.parametrize("name", [None, *traces.FORMATS])
@pytest.mark.parametrize("content", ["", "\n", "\ufeff", " \r\n\n", "\r\r"])
def test_an_empty_file_is_an_empty_workload(content: str, name: str | None) -> None:
    if name == "parquet":
        content = ""  # blank lines are no Parquet
    for raw in (content.encode(), gzip.compress(content.encode())):
        workload = load(raw, format=name)
        assert workload == Workload([], [])
        assert (workload.source["format"], workload.source["rows"]) == (name, 0)


@pytest.mark.parametrize("name", ["azure", "burstgpt", "csv"])
def test_a_file_of_a_header_only_is_an_empty_workload(name: str) -> None:
    for content in (HEADER[name], HEADER[name].strip(), HEADER[name] + "\n \n"):
        workload = load(content)
        assert workload == Workload([], [])
        assert workload.source["format"] == name
    assert load("prompt_tokens,output_tokens,point\n") == Workload([], [], point=[])


# --- what can be wrong -----------------------------------------------------------------------------------------------


def test_an_unknown_format_suggests_the_nearest() -> None:
    assert "did you mean 'azure'? known: azure, mooncake" in str(error("", format="azur"))


def test_on_error_is_one_of_two() -> None:
    with pytest.raises(InputError, match="expected 'raise' or 'skip'"):
        load("", on_error="ignore")


@pytest.mark.parametrize("line", ["a;b", "output_tokens,class", "[{}]", "1,2,3"])
def test_unknown_content_says_what_was_found_and_what_is_known(line: str) -> None:
    bad = error(f"{line}\n1,2\n", on_error="skip")
    assert str(bad).startswith(f"<stream>, line 1: starts with '{line}', which is no format known (azure: ")
    assert all(name in str(bad) for name in traces.FORMATS)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_header_without_a_column_names_it(on_error: str) -> None:
    bad = error("\narrival_s,output_tokens\n1,2\n", format="csv", on_error=on_error)
    assert bad.line == 2
    assert "no column 'prompt_tokens', which csv needs; found arrival_s, output_tokens" in str(bad)


def test_a_header_must_be_unambiguous() -> None:
    assert "'lower' is there 2 times" in str(error("lower,prompt_tokens,output_tokens,lower\n"))
    assert "keep one" in str(error("arrival,arrival_s,prompt_tokens,output_tokens\n"))
    assert len(load("x,prompt_tokens,output_tokens,x\n1,2,3,4\n")) == 1


def test_a_header_must_be_text() -> None:
    assert "byte 0xe9 at character 2, expected UTF-8" in str(error(b"a\xe9,b\n"))
    assert "byte 0xff at character 1, expected UTF-8" in str(error(b"\xff\xfea\0,\0"))  # UTF-16
    assert "is not CSV" in str(error("a\rb,c\n"))


BAD_COUNTS = [
    "",
    "x",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1_0",
    "\u0661",
    "0x10",
    "1 2",
    "1e400",
    "9" * 5000,
    "9007199254740993",
]


@pytest.mark.parametrize("column", ["prompt", "output"])
@pytest.mark.parametrize("bad", BAD_COUNTS)
@text_format
def test_a_bad_count_is_named_with_its_line(name: str, bad: str, column: str) -> None:
    row, names = ROW[name]
    good = row.format(prompt=1, output=2)
    content = f"{HEADER[name]}{good}\n\n{row.format(**{'prompt': 1, 'output': 2, column: bad})}\n{good}\n"
    for text in (content, content.replace("\n", "\r\n")):
        caught = error(text)
        assert caught.line == (3 if name == "mooncake" else 4)
        assert str(caught).startswith(f"<stream>, line {caught.line}: ")
        assert len(str(caught)) < 300
        if name != "mooncake" or bad in ("-1", "1.5"):
            assert names[1 if column == "prompt" else 2] in str(caught)
            assert f"expected a whole number from {0 if column == 'prompt' or name == 'burstgpt' else 1}" in str(caught)
        workload = load(text, on_error="skip")
        assert workload == Workload([1, 1], [2, 2])
        assert (workload.source["skipped"], workload.source["first_skipped"]) == (1, str(caught))


@pytest.mark.parametrize("name", ["azure", "csv", "mooncake"])
def test_an_output_of_0_is_bad_where_no_failures_are_recorded(name: str) -> None:
    assert "expected a whole number from 1" in str(error(HEADER[name] + ROW[name][0].format(prompt=1, output=0)))


@pytest.mark.parametrize("bad", ["-1", "nan", "", "later", "1e300"])
@pytest.mark.parametrize("content", [PLAIN + "1,1,1\n{},1,1\n", BURST + "1,x,1,1,1,x\n{},x,1,1,1,x\n"])
def test_a_bad_time_is_named(content: str, bad: str) -> None:
    caught = error(content.format(bad))
    assert caught.line == 3
    assert "expected a number from 0 to" in str(caught)


@pytest.mark.parametrize(
    "row",
    ["{", "[]", "3", "null", '{"timestamp": 0}', '{"timestamp": 0, "input_length": "1", "output_length": 1}']
    + [f'{{"timestamp": 0, "input_length": {value}, "output_length": 1}}' for value in ("true", "null", "[1]", "NaN")]
    + ['{"timestamp": -1, "input_length": 1, "output_length": 1}', '{"a": "\udcff"}', "[" * 100_000],
)
def test_bad_json_is_a_bad_row(row: str) -> None:
    content = (GOOD["mooncake"] + row + "\n" + GOOD["mooncake"]).encode("utf-8", "surrogateescape")
    assert error(content).line == 4
    assert len(str(error(content))) < 400
    workload = load(content, on_error="skip")
    assert len(workload) == 6
    assert workload.source["skipped"] == 1


def test_two_objects_on_a_line_and_one_on_two_lines_are_bad() -> None:
    one = mooncake((0, 1, 1)).strip()
    assert error(f"{one},{one}\n" + one.replace(", ", "\n", 1) + "\n").line == 1
    # Each brace count is right and the lines joined by commas are valid JSON: only the border of objects is not.
    assert error('{"a":"}\n{","timestamp":0,"input_length":1,"output_length":1}\n').line == 1


def test_a_wrong_number_of_fields_is_a_bad_row() -> None:
    for row in ("1,2", "1,2,3,4", "1", "1,2,3,"):
        caught = error(PLAIN + f"1,2,3\n{row}\n")
        assert caught.line == 3
        assert f"number of fields is {row.count(',') + 1}, expected 3" in str(caught)


def test_lower_must_not_exceed_upper() -> None:
    content = "prompt_tokens,output_tokens,lower,upper\n1,1,3,3\n1,1,4,3\n"
    assert "line 3: lower is 4 and upper is 3, expected lower <= upper" in str(error(content))
    assert len(load(content, on_error="skip")) == 1


def test_a_prediction_of_0_is_bad() -> None:
    for name in ("lower", "upper", "point"):
        assert f"{name} is 0, expected a whole number from 1" in str(
            error(f"prompt_tokens,output_tokens,{name}\n1,1,0\n")
        )


def test_a_byte_that_is_not_utf8_is_a_bad_row() -> None:
    content = BURST.encode() + b"1,x,1,1,1,x\n1,\xff,1,1,1,x\n1,\xc3\xa9,1,1,1,x\n"
    assert "line 3: byte 0xff at character 3, expected UTF-8 text" in str(error(content))
    assert len(load(content, on_error="skip")) == 2


def test_a_lone_surrogate_in_a_text_file_is_a_bad_row() -> None:
    with pytest.raises(TraceError, match="line 2: byte"):
        traces.load(io.StringIO(BURST + "1,\ud800,1,1,1,x\n"))


def test_a_field_beyond_the_limit_of_csv_is_a_bad_row() -> None:
    content = BURST + "1,x,1,1,1,x\n1," + "y" * 200_000 + ",1,1,1,x\n"
    assert error(content).line == 3


def test_a_carriage_return_inside_a_line_is_a_bad_row() -> None:
    assert error(PLAIN + "1,1,1\n1,1,1\r2,2,2\n").line == 3


def test_the_first_arrival_is_that_of_the_rows_kept() -> None:
    assert load(PLAIN + "1,x,1\n5,1,1\n7,1,1\n", on_error="skip").arrival.tolist() == [0, 2]


# --- the fast reader against the careful one -------------------------------------------------------------------------


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
        with mock.patch.object(csv_lines, "fast", **nothing), mock.patch.object(json_lines, "fast", **nothing):
            careful = outcome(content, name, on_error)
        with mock.patch.multiple(formats, BLOCK=max(40, len(content) // 50), BATCH=max(2, len(content) // 5000)):
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


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
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
    with mock.patch.object(Reading, "keep_rows", side_effect=AssertionError):
        assert is_good(load(GOOD[name].replace("\n", "\r\n")))


# --- Parquet and write -----------------------------------------------------------------------------------------------


@pytest.fixture
def parquet() -> Any:
    return pytest.importorskip("pyarrow.parquet")


def parquet_file(parquet: Any, columns: dict[str, Any]) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(importlib.import_module("pyarrow").table(columns), sink)
    return sink.getvalue()


def test_parquet_is_read_named_or_found(parquet: Any) -> None:
    columns = {"x": ["a", "b", "c"], "output_tokens": [5, 6, 7], "prompt_tokens": [10.0, 20.0, 0.0]}
    content = parquet_file(parquet, columns | {"arrival_s": [2.25, 0.25, 3.75]})
    assert is_good(load(content))
    assert is_good(load(gzip.compress(content), format="parquet"))
    assert load(content).source["format"] == "parquet"
    assert load(parquet_file(parquet, columns)) == Workload([10, 20, 0], [5, 6, 7])


@pytest.mark.parametrize(
    "bad", [[1, None], [1, -1], [1.0, 1.5], [1.0, float("nan")], ["1", "2"], [True, True], [1, 2**60]]
)
def test_a_bad_row_of_parquet_is_named(parquet: Any, bad: list[Any]) -> None:
    content = parquet_file(parquet, {"output_tokens": [5, 6], "prompt_tokens": bad})
    row = 1 if isinstance(bad[0], (str, bool)) else 2
    assert str(error(content)).startswith(
        f"<stream>: row {row}: prompt_tokens is {bad[row - 1]!r}, expected a whole number"
    )
    workload = load(content, on_error="skip")
    assert workload == Workload([bad[0]], [5]) if row == 2 else len(workload) == 0
    assert workload.source["skipped"] == (1 if row == 2 else 2)


def test_rows_of_parquet_are_counted_over_batches(parquet: Any) -> None:
    content = parquet_file(parquet, {"output_tokens": [1, 1, 1, 1, 0, 1], "prompt_tokens": [1] * 6})
    with mock.patch.object(formats, "BATCH", 2):
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


columns = {"prompt": st.integers(0, LARGEST), "output": st.integers(1, LARGEST), "point": st.integers(1, LARGEST)}
requests = st.fixed_dictionaries(
    columns
    | {"arrival": st.floats(0, LATEST), "ends": st.tuples(*[columns["point"]] * 2)}
    | {"priority": st.integers(-LARGEST, LARGEST)}
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    rows = draw(st.lists(requests, max_size=5))
    with_points, with_ends, from_zero, with_priority = draw(st.tuples(*[st.booleans()] * 4))
    arrival = [row["arrival"] for row in rows]
    return Workload(
        [row["prompt"] for row in rows],
        [row["output"] for row in rows],
        lower=[min(row["ends"]) for row in rows] if with_ends else None,
        upper=[max(row["ends"]) for row in rows] if with_ends else None,
        point=[row["point"] for row in rows] if with_points else None,
        priority=[row["priority"] for row in rows] if with_priority else None,
        arrival=[time - min(arrival) for time in arrival] if from_zero else arrival,
    )


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_a_round_trip_is_exact(suffix: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path_factory.mktemp("round_trip") / f"w{suffix}"

    @settings(max_examples=100, deadline=None)
    @given(workload=workloads())
    def check(workload: Workload) -> None:
        traces.write(workload, path)
        assert traces.load(path) == workload

    check()


def test_a_priority_is_any_whole_number() -> None:
    content = "prompt_tokens,output_tokens,priority\n1,2,-3\n1,2,0\n"
    assert load(content).priority.tolist() == [-3, 0]
    with pytest.raises(TraceError, match=r"line 2: priority is 1.5, expected a whole number from -9007199254740992"):
        load(content.replace("-3", "1.5"))


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
    with mock.patch.object(formats, "BATCH", 3):
        traces.write(workload, tmp_path / "w.csv")
    assert traces.load(tmp_path / "w.csv") == workload


def test_what_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"expected a name that ends in \.csv"):
        traces.write(Workload([1], [1]), tmp_path / "w.txt")
    for name in ("absent/w.csv", "absent/w.csv.gz"):
        with pytest.raises(TraceError, match="cannot be written: No such file"):
            traces.write(Workload([1], [1]), tmp_path / name)
    assert not list(tmp_path.iterdir())


# --- real traces -----------------------------------------------------------------------------------------------------


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not here")
    return DATA / name


def test_the_real_azure_trace() -> None:
    workload = traces.load(real("AzureLLMInferenceTrace_conv.csv"))
    assert len(workload) == 19_366
    assert (workload.prompt[0], workload.output[0], workload.arrival[0]) == (374, 44, 0)
    assert workload.arrival[1] == 4.3145790
    assert workload.source["format"] == "azure"


def test_the_real_lmsys_lengths() -> None:
    workload = traces.load(real("lmsys_lengths.csv"))
    assert len(workload) == 1_024
    assert (workload.prompt.min(), workload.prompt.max()) == (2, 1037)
    assert (workload.output.min(), workload.output.max()) == (1, 761)
    assert workload.arrival.min() == 0


def test_the_real_mooncake_trace() -> None:
    workload = traces.load(real("mooncake_conversation_head.jsonl"))
    assert len(workload) == 3_000
    assert (workload.prompt[0], workload.output[0]) == (6758, 500)
    assert workload.source["format"] == "mooncake"


@pytest.mark.parametrize(
    "name", ["AzureLLMInferenceTrace_conv.csv", "lmsys_lengths.csv", "mooncake_conversation_head.jsonl"]
)
def test_the_readers_agree_on_real_traces(name: str) -> None:
    assert_readers_agree(real(name).read_bytes())


def test_predicted_classes_are_no_trace() -> None:
    with pytest.raises(TraceError, match=r"output_tokens,class_of_5,class_of_2.*no format known"):
        traces.load(real("lmsys_predicted_classes.csv"))


def test_a_whole_number_is_told_as_it_was_written() -> None:
    for row, told in (("-1,3,1,2", "prompt_tokens is -1, "), ("1,-2.5,1,2", "output_tokens is -2.5, ")):
        with pytest.raises(TraceError, match=told):
            load(f"prompt_tokens,output_tokens,lower,upper\n{row}\n".encode())
    with pytest.raises(TraceError, match="lower is 4 and upper is 2, "):
        load(b"prompt_tokens,output_tokens,lower,upper\n1,3,4.0,2\n")


@pytest.mark.parametrize(
    ("header", "misspelt"),
    [
        ("loower,Upper,temperature", {"loower": "lower", "Upper": "upper"}),
        ("lower,lowers,id", None),  # the column itself is there
        ("arrival_s,arrivals,prompt", None),
        ("arival_s,model,class", {"arival_s": "arrival_s"}),
    ],
)
def test_columns_that_look_misspelt_are_noted(header: str, misspelt: dict[str, str] | None) -> None:
    workload = load(f"prompt_tokens,output_tokens,{header}\n1,3,1,2,3\n")
    assert workload.source.get("misspelt") == misspelt
    pytest.importorskip("rich", reason="the command line needs rich (extra cli)")
    from llmsched import console

    notes = console.reading_notes(workload)
    assert notes == [f"column {a!r} is not read; did you mean {b!r}?" for a, b in (misspelt or {}).items()]
