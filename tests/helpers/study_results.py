"""What the tests of studies share: a table as bytes, and waiting for a process."""

from __future__ import annotations

import time

import pyarrow as pa

from llmsched.study.manifest import Manifest
from llmsched.study.store import Rows


def written(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def replace_results(out, table):
    """Let a directory hold these rows and no others, as if the study had come that far."""
    rows = Rows(out, "results", table.schema, Manifest.read(out), "the tests")
    rows.clear()
    rows.append(table)
