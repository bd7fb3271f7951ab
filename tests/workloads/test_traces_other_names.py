"""Plain CSV as other people write it: their names of columns, their delimiters, their times of arrival."""

from __future__ import annotations

import gzip
import io

import pytest
from helpers.trace_files import error, load

from llmsched.workloads import traces
from llmsched.workloads.trace_formats import other_names
from llmsched.workloads.workload import Workload

REQUESTS = Workload([10, 20], [5, 6], arrival=[0.5, 0])
DATED = "2026-11-03T09:00:00.5,10,5\n2026-11-03T09:00:00Z,20,6\n"


@pytest.mark.parametrize(
    ("clock", "prompt", "output"),
    [
        ("timestamp", "prompt_tokens", "completion_tokens"),
        ("time", "input_len", "output_len"),
        ("Request Time", "Tokens In", "Tokens Out"),
        ("createdAt", "num_input_tokens", "num_output_tokens"),
        ("arrival_s", "context-tokens", "generated-tokens"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_of_requests_is_read_by_its_own_names(clock: str, prompt: str, output: str, delimiter: str) -> None:
    content = f"{clock},{prompt},{output}\n{DATED}".replace(",", delimiter)
    for text in (content, content.replace("\n", "\r\n"), content.replace("5\n", '"5"\n', 1)):
        for bytes_ in (text.encode(), gzip.compress(text.encode())):
            workload = load(bytes_)
            assert workload == REQUESTS
            assert load(bytes_, format="csv") == REQUESTS
            assert workload.source["format"] == "csv"
            assert workload.source["read_as"][clock] == "arrival_s (dates)"
            assert workload.source["read_as"].get(output) == "output_tokens"
    pieces = list(traces.chunks(io.BytesIO(content.replace("00Z", "01").encode())))
    assert [piece.arrival.tolist() for piece in pieces] == [[0, 0.5]]


def test_every_other_name_is_written_as_it_is_compared() -> None:
    names = [name for meant in other_names.OTHER_NAMES.values() for name in meant]
    assert all(name.isalnum() and name == name.lower() for name in names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("first", "second", "unit"),
    [
        ("1793696400.5", "1793696400", None),
        ("1793696400500", "1793696400000", "milliseconds"),
        ("1793696400500000", "1793696400000000", "microseconds"),
        ("0.5", "0", None),
    ],
)
def test_a_clock_since_1970_may_be_finer_than_seconds(first: str, second: str, unit: str | None) -> None:
    workload = load(f"ts,prompt_tokens,output_tokens\n{first},10,5\n{second},20,6\n")
    assert workload == REQUESTS
    assert workload.source["read_as"] == {"ts": f"arrival_s ({unit})" if unit else "arrival_s"}


def test_a_missing_time_does_not_decide_what_the_others_are() -> None:
    content = "timestamp,prompt_tokens,output_tokens\n,1,1\nx,2,2\n" + DATED
    assert load(content, on_error="skip") == REQUESTS
    assert "line 2: timestamp is '', expected a time such as" in str(error(content))


def test_the_formats_own_names_come_first() -> None:
    workload = load("prompt_tokens,output_tokens,input_tokens,completion_tokens,timestamp,arrival\n1,2,3,4,x,7\n")
    assert workload == Workload([1], [2], arrival=[7])
    assert "read_as" not in workload.source


def test_two_names_for_one_column_are_refused() -> None:
    said = str(error("time,timestamp,prompt_tokens,output_tokens\n1,1,1,1\n"))
    assert "columns 'time' and 'timestamp' could both be arrival_s: rename the one that is" in said


def test_what_is_no_time_is_told_what_a_time_may_be() -> None:
    said = str(error("arrival_s,prompt_tokens,output_tokens\n03.11.2026 09:00,1,1\n"))
    assert "line 2: arrival_s is '03.11.2026 09:00', expected a number from 0" in said
    assert "(seconds) or a time such as 2023-11-16 18:15:46" in said


def test_a_header_that_is_nearly_right_is_told_so() -> None:
    said = str(error("arrival_s,promt_tokens,output_tokens\n1,1,1\n"))
    assert "A plain CSV names its columns prompt_tokens and output_tokens" in said
    assert "did you mean 'prompt_tokens' by 'promt_tokens'?" in said
    assert len(said) < 400


def test_other_names_are_noted_on_the_command_line() -> None:
    pytest.importorskip("rich", reason="the command line needs rich (extra cli)")
    from llmsched.cli import describe

    workload = load("ts;input_len;output_tokens\n1;10;5\n")
    assert describe.reading_notes(workload) == [
        "columns read under other names: 'ts' as arrival_s and 'input_len' as prompt_tokens"
    ]
