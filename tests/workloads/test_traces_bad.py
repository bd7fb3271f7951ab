"""Every way a trace can be wrong, and what is said about it."""

from __future__ import annotations

import io

import pytest
from helpers.trace_files import BAD_COUNTS, BURST, GOOD, HEADER, JSONL, PLAIN, ROW, error, load, mooncake, text_format

from llmsched.errors import InputError, TraceError
from llmsched.workloads import traces
from llmsched.workloads.workload import Workload


def test_an_unknown_format_suggests_the_nearest() -> None:
    assert "did you mean 'azure'? known: azure, mooncake" in str(error("", format="azur"))


def test_on_error_is_one_of_two() -> None:
    with pytest.raises(InputError, match="expected 'raise' or 'skip'"):
        load("", on_error="ignore")


@pytest.mark.parametrize("line", ["a;b", "output_tokens,class", "[{}]", "1,2,3"])
def test_unknown_content_says_what_was_found_and_what_is_known(line: str) -> None:
    bad = error(f"{line}\n1,2\n", on_error="skip")
    assert str(bad).startswith(f"<stream>, line 1: starts with '{line}', which is no format known. A plain CSV")
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


@pytest.mark.parametrize("column", ["prompt", "output"])
@pytest.mark.parametrize("bad", BAD_COUNTS)
@text_format
def test_a_bad_count_is_named_with_its_line(name: str, bad: str, column: str) -> None:
    row, names = ROW[name]
    good = row.format(prompt=1, output=2)
    content = f"{HEADER[name]}{good}\n\n{row.format(**{'prompt': 1, 'output': 2, column: bad})}\n{good}\n"
    for text in (content, content.replace("\n", "\r\n")):
        caught = error(text)
        assert caught.line == (3 if name in JSONL else 4)
        assert str(caught).startswith(f"<stream>, line {caught.line}: ")
        assert len(str(caught)) < 300
        if name not in JSONL or bad in ("-1", "1.5"):
            assert names[1 if column == "prompt" else 2] in str(caught)
            assert f"expected a whole number from {0 if column == 'prompt' or name == 'burstgpt' else 1}" in str(caught)
        workload = load(text, on_error="skip")
        assert workload == Workload([1, 1], [2, 2])
        assert (workload.source["skipped"], workload.source["first_skipped"]) == (1, str(caught))


@pytest.mark.parametrize("name", ["azure", "csv", *JSONL])
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
    from llmsched.cli import describe

    notes = describe.reading_notes(workload)
    assert notes == [f"column {a!r} is not read; did you mean {b!r}?" for a, b in (misspelt or {}).items()]
