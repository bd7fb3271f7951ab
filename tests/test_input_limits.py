"""Files from strangers: none takes all memory or time, and every limit can be raised."""

from __future__ import annotations

import gzip
import io
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llmsched as ls
from llmsched import input_limits, policy_files
from llmsched.errors import InputError, InputLimitError, TraceError
from llmsched.metrics import foreign_result
from llmsched.predict.feature_tables import read_csv
from llmsched.serving import logs
from llmsched.simulation.clock import Clock
from llmsched.simulation.machine import Machine

ROW = b"10,5\n"
HEAD = b"prompt_tokens,output_tokens\n"
MIB = 2**20


def bomb(megabytes, piece=ROW, head=HEAD):
    """A gzip file that unpacks to so much."""
    sink = io.BytesIO()
    block = piece * (MIB // len(piece))
    with gzip.GzipFile("", "wb", 9, sink, 0) as file:
        file.write(head)
        for _ in range(megabytes):
            file.write(block)
    return sink.getvalue()


@pytest.fixture
def limits(monkeypatch):
    """A function that sets limits."""
    return lambda text: monkeypatch.setenv("LLMSCHED_LIMITS", text)


def test_gzip_that_unpacks_to_far_more_is_refused(monkeypatch):
    monkeypatch.setattr(input_limits, "_ANY_RATIO", 2 * MIB)  # 256 MiB take a while
    packed = bomb(6)
    with pytest.raises(
        InputLimitError, match=r"bytes unpack to more than 200 times as many: .*LLMSCHED_LIMITS=ratio=800"
    ):
        ls.traces.load(io.BytesIO(packed))
    monkeypatch.setenv("LLMSCHED_LIMITS", "ratio=2000")
    assert len(ls.traces.load(io.BytesIO(packed))) == 6 * (MIB // len(ROW))


def test_a_file_larger_than_the_limit_is_refused(limits):
    limits("file=1M")
    content = HEAD + ROW * (2 * MIB // len(ROW))
    with pytest.raises(InputLimitError, match=r"<stream>: it has more than 1 MiB: .* LLMSCHED_LIMITS=file="):
        ls.traces.load(io.BytesIO(content))
    limits("file=3M")
    assert len(ls.traces.load(io.BytesIO(content))) == 2 * MIB // len(ROW)


@pytest.mark.parametrize("head", [b"", HEAD, HEAD + ROW, b'{"timestamp": 0, "input_length": 1, "output_length": 1}\n'])
@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b" \n"])
def test_millions_of_blank_lines_are_passed_over_quickly(head, blank):
    content = head + blank * (3 * MIB // len(blank)) + (b"x,y\n" if head else HEAD + b"1\n")
    began = time.process_time()
    with pytest.raises(TraceError) as caught:
        ls.traces.load(io.BytesIO(content))
    assert time.process_time() - began < 10  # row by row it takes more than twice as long: no timing, but a hang
    assert caught.value.line == content.count(b"\n")


def test_a_line_that_never_ends_is_refused():
    for source in ("/dev/zero", io.BytesIO(HEAD + b"1" * (20 * MIB)), io.BytesIO(b"{" + b" " * (20 * MIB))):
        with pytest.raises(InputLimitError, match=r"a line of it has more than 16 MiB"):
            ls.traces.load(source)


def test_a_pipe_to_which_nobody_writes_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(input_limits, "_PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "pipe")
    for read in (ls.traces.load, Clock.read, Machine.read, logs.read, read_csv, ls.study.Study.load):
        with pytest.raises(InputLimitError, match=r"nobody has written to this pipe for 0\.2 s: pipe into"):
            read(tmp_path / "pipe")


def test_a_pipe_with_a_slow_writer_is_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    def write():
        with open(tmp_path / "pipe", "wb", buffering=0) as pipe:
            for piece in (HEAD, ROW, ROW):
                time.sleep(0.1)
                pipe.write(piece)

    writer = threading.Thread(target=write)
    writer.start()
    assert ls.traces.load(tmp_path / "pipe") == ls.Workload([10, 10], [5, 5])
    writer.join()


def parquet(columns, **options):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink


@pytest.mark.parametrize("kind", ["int64", "float64"])
def test_parquet_that_unpacks_to_far_more_is_refused(kind, limits):
    n = 20_000_000
    ones = pa.array(np.broadcast_to(np.ones(1, kind), n))
    sink = parquet({"prompt_tokens": ones, "output_tokens": ones}, compression="zstd")
    assert sink.tell() < 2 * MIB
    sink.seek(0)
    with pytest.raises(InputLimitError, match="unpack to more than 200 times"):
        ls.traces.load(sink)
    limits("file=1M")
    sink.seek(0)
    with pytest.raises(InputLimitError, match="it has more than 1 MiB"):
        ls.traces.load(sink)


@pytest.mark.parametrize(
    ("read", "name", "limit"),
    [
        (Clock.read, "clock.toml", "settings"),
        (Clock.read, "clock.json", "settings"),
        (Machine.read, "machine.toml", "settings"),
        (policy_files.read, "policy.toml", "settings"),
        (ls.study.Study.load, "study.toml", "settings"),
        (read_csv, "table.csv", "file"),
        (logs.read, "log.jsonl", "document"),
        (lambda path: foreign_result.read(path, ls.Workload([1], [1]), memory=9), "result.csv", "file"),
    ],
)
def test_every_reader_has_a_limit(tmp_path, limits, read, name, limit):
    (tmp_path / name).write_bytes(b"start,completion\n" + b"1,1\n" * 10_000)
    limits(f"{limit}=2k")
    with pytest.raises(InputLimitError, match=rf"{name}: it has more than 2 KiB: .*LLMSCHED_LIMITS={limit}="):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("files=3", "names 'files', which is no limit; did you mean 'file'"),
        ("file", "expected a limit and a number, such as file=16G"),
        ("file=-1", "expected a limit"),
        ("file=3x", "expected a limit"),
        ("file=" + "9" * 30, "expected a limit"),
    ],
)
def test_what_the_variable_cannot_mean_is_told(limits, text, message):
    limits(text)
    with pytest.raises(InputError, match=message):
        ls.traces.load(io.BytesIO(HEAD + ROW))


def test_limits_are_read_with_units(limits):
    limits("file=16G, ratio=7,line=2k")
    assert [input_limits.limit(name) for name in ("file", "ratio", "line", "cells")] == [16 * 2**30, 7, 2048, 10**6]
