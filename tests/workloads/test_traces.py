"""Traces: every format, the ways to write the same, and where a file comes from. Errors are in test_traces_bad.py."""

from __future__ import annotations

import gzip
import io
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from helpers.trace_files import AZURE, BURST, GOOD, HEADER, JSONL, PLAIN, error, is_good, json_lines, load, text_format

import llmsched as ls
from llmsched.errors import TraceError
from llmsched.workloads import traces
from llmsched.workloads.columns import LARGEST
from llmsched.workloads.trace_formats import formats
from llmsched.workloads.workload import Workload


@text_format
@pytest.mark.parametrize("named", [True, False])
def test_a_format_is_read_named_or_found(name: str, named: bool) -> None:
    workload = load(GOOD[name], format=name if named else None)
    assert is_good(workload)
    expected = {"path": "<stream>", "format": name, "rows": 3, "dropped": 0, "skipped": 0, "first_skipped": None}
    assert dict(workload.source) == expected


def test_formats_are_described() -> None:
    assert traces.FORMATS.keys() == {*GOOD, "parquet"}
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
    content = '{"others": [1, {"a": "}{"}], "timestamp": 5, "input_length": 1, "output_length": 2}\n'
    assert load(content) == Workload([1], [2])


def test_json_lines_are_of_the_format_that_misses_the_fewest_keys() -> None:
    short = formats.Format("short", "another", "jsonl", {"clock": "ts", "prompt": "in", "output": "out"})
    with mock.patch.dict(formats.TABLE, {"short": short}):
        assert is_good(load(json_lines(("ts", "in", "out"), (7, 10, 5), (5, 20, 6), (8.5, 0, 7))))
        assert is_good(load(GOOD["mooncake"]))
        assert "no 'out', expected a whole number" in str(error('{"ts": 1, "in": 2}\n'))
        assert "no 'timestamp', expected a number" in str(error('{"input_length": 1}\n'))
        assert "has the keys a: no format known (mooncake: Mooncake traces" in str(error('{"a": 1}\n'))


def test_plain_json_lines_have_the_columns_that_the_first_line_has() -> None:
    keys = ("prompt_tokens", "output_tokens", "lower", "upper", "model")
    workload = load(json_lines(keys, (10, 5, 4, 6, "a"), (20, 6, 5, 9, "b")))
    assert workload == Workload([10, 20], [5, 6], lower=[4, 5], upper=[6, 9])
    assert workload.source["format"] == "jsonl"
    lacking = json_lines(keys, (10, 5, 4, 6, "a")) + json_lines(keys[:3], (20, 6, 5))
    with pytest.raises(TraceError, match="line 2: no 'upper', expected a whole number"):
        load(lacking)


def test_json_lines_of_no_format_are_told_the_formats() -> None:
    with pytest.raises(
        TraceError, match=r"line 1: has the keys id, text: no format known \(mooncake: .*run: .*jsonl: "
    ):
        load(json_lines(("id", "text"), (1, "x")))


def test_a_directory_is_told_with_the_file_that_may_be_meant(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"is a directory: give a file in it$"):
        traces.load(tmp_path)
    (tmp_path / "requests.jsonl").write_text(GOOD["run"])
    with pytest.raises(TraceError, match=r"is a directory: give a file in it such as requests\.jsonl$"):
        traces.load(tmp_path)


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


def test_a_deadline_is_a_time_and_no_arrival() -> None:
    workload = load("prompt_tokens,output_tokens,deadline\n1,2,0.25\n1,2,30\n")
    assert workload.deadline is not None
    assert workload.deadline.tolist() == [0.25, 30]
    assert workload.arrival.tolist() == [0, 0]
    with pytest.raises(TraceError, match="line 2: deadline is -1, expected a number from 0 to 4503599627370496"):
        load("prompt_tokens,output_tokens,deadline\n1,2,-1\n1,2,0\n")


def test_a_priority_is_any_whole_number() -> None:
    content = "prompt_tokens,output_tokens,priority\n1,2,-3\n1,2,0\n"
    assert load(content).priority.tolist() == [-3, 0]
    with pytest.raises(TraceError, match=r"line 2: priority is 1.5, expected a whole number from -9007199254740992"):
        load(content.replace("-3", "1.5"))


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
    with mock.patch.multiple(formats, BYTES_AT_ONCE=10, ROWS_AT_ONCE=1):
        assert is_good(load(GOOD[name]))
        assert error(GOOD[name] + "x\n").line == (4 if name in JSONL else 5)


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
                traces.load(source)
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


# --- real traces -----------------------------------------------------------------------------------------------------


def test_the_real_azure_trace(data_file: Callable[[str], Path]) -> None:
    workload = traces.load(data_file("AzureLLMInferenceTrace_conv.csv"))
    assert len(workload) == 19_366
    assert (workload.prompt[0], workload.output[0], workload.arrival[0]) == (374, 44, 0)
    assert workload.arrival[1] == 4.3145790
    assert workload.source["format"] == "azure"


def test_the_real_lmsys_lengths(data_file: Callable[[str], Path]) -> None:
    workload = traces.load(data_file("lmsys_lengths.csv"))
    assert len(workload) == 1_024
    assert (workload.prompt.min(), workload.prompt.max()) == (2, 1037)
    assert (workload.output.min(), workload.output.max()) == (1, 761)
    assert workload.arrival.min() == 0


def test_the_real_mooncake_trace(data_file: Callable[[str], Path]) -> None:
    workload = traces.load(data_file("mooncake_conversation_head.jsonl"))
    assert len(workload) == 3_000
    assert (workload.prompt[0], workload.output[0]) == (6758, 500)
    assert workload.source["format"] == "mooncake"


def test_predicted_classes_are_no_trace(data_file: Callable[[str], Path]) -> None:
    with pytest.raises(TraceError, match=r"output_tokens,class_of_5,class_of_2.*no format known"):
        traces.load(data_file("lmsys_predicted_classes.csv"))


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_a_trace_in_pieces_is_the_trace(name, tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", 1000)
    monkeypatch.setattr(formats, "ROWS_AT_ONCE", 70)
    whole = ls.generate.poisson(ls.generate.lmsys(1000, seed=1), 3.0).with_intervals(ls.intervals.buckets(100))
    ls.traces.write(whole, tmp_path / name)
    loaded, pieces = ls.traces.load(tmp_path / name), list(ls.traces.chunks(tmp_path / name))
    assert len(pieces) > 5
    for column, values in loaded.columns().items():
        assert np.concatenate([getattr(piece, column) for piece in pieces]).tolist() == values.tolist()
    fleet = ls.simulate_fleet(loaded, "fcfs", replicas=2, memory=16492)
    streamed = ls.stream(ls.traces.chunks(tmp_path / name), "fcfs", replicas=2, memory=16492)
    assert (streamed.requests, streamed.rounds, streamed.makespan) == (1000, fleet.rounds, fleet.makespan)


def test_clocks_in_pieces_count_from_the_first_request(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", 60)
    path = tmp_path / "mooncake.jsonl"
    row = '{{"timestamp": {}, "input_length": 5, "output_length": 3}}\n'
    path.write_text("".join(row.format(5000 + 500 * k) for k in range(9)))
    pieces = list(ls.traces.chunks(path))
    assert len(pieces) > 2
    assert np.concatenate([piece.arrival for piece in pieces]).tolist() == ls.traces.load(path).arrival.tolist()
    path.write_text("".join(row.format(5000 - 500 * k) for k in range(9)))
    with pytest.raises(TraceError, match="is not in order of arrival, and cannot be read in pieces"):
        list(ls.traces.chunks(path))


def test_a_bad_row_of_a_later_piece_is_named_by_its_line(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "BYTES_AT_ONCE", 20)
    path = tmp_path / "bad.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "0,5,3\n" * 20 + "1,5,-3\n")
    with pytest.raises(TraceError, match=r"bad.csv.*22.*output_tokens is -3"):
        list(ls.traces.chunks(path))
    assert sum(map(len, ls.traces.chunks(path, on_error="skip"))) == 20
