"""Traces as Parquet: the columns of the plain CSV. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

import dataclasses
import importlib
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ... import input_limits
from ...errors import MissingExtraError, TraceError
from . import formats
from .other_names import read_as, ticks_per_second, with_names_of
from .row_checks import Columns, certainly_good, shortened
from .trace_builder import TraceBuilder


def _pyarrow(purpose: str) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error


def read(builder: TraceBuilder, stream: io.BufferedReader) -> Iterator[None]:
    """Read all of `stream` a batch of rows at a time; where it can be sought in, no more of it than that."""
    arrow, parquet = _pyarrow("reading Parquet")
    try:
        if stream.seekable():
            content, packed = stream, os.fstat(stream.fileno()).st_size
        else:
            whole = stream.read()
            content, packed = arrow.BufferReader(whole), len(whole)
        if not packed:
            return
        file = parquet.ParquetFile(content, page_checksum_verification=True)
        header = file.schema_arrow.names
        builder.format = with_names_of(builder.format, header, builder.path, None)
        clock = builder.format.columns["clock"]
        dated = clock in header and str(file.schema_arrow.field(clock).type).startswith("timestamp")
        if dated:
            builder.format = dataclasses.replace(builder.format, per_second=1e6)  # as `_in_microseconds`
        elif clock in header:
            unit = ticks_per_second(clock, _first_of(file, clock))
            builder.format = dataclasses.replace(builder.format, per_second=unit)
        builder.read_as = read_as(builder.format, formats.TABLE["parquet"], header, dated=dated)
        builder.find_columns(header, None)
        names = list(builder.column_names.values())
        _check_types(builder.path, file.schema_arrow, [name for name in names if not (dated and name == clock)])
        _check_size(builder.path, file.metadata.num_rows * len(names), packed)  # asking its columns may crash
        row = 1
        for batch in file.iter_batches(formats.ROWS_AT_ONCE, columns=names):
            batch = _in_microseconds(arrow, batch, clock) if dated else batch
            columns = parsed(builder, batch)
            if columns is not None:
                builder.add_columns(columns)
            else:
                yield from builder.add_rows(iter(enumerate(batch.to_pylist(), row)))
            row += batch.num_rows
            yield
    except TraceError:
        raise
    except (arrow.ArrowException, OSError, ValueError) as error:  # names that are no UTF-8 are a ValueError
        if isinstance(error, MemoryError):  # some of pyarrow's are
            raise
        raise TraceError(f"is not Parquet that can be read: {shortened(str(error))}", builder.path) from error


def _first_of(file: Any, name: str) -> float:
    """The first number in a column, of its first rows; 0 if there is none."""
    if not file.metadata.num_rows or not _NUMERIC.fullmatch(str(file.schema_arrow.field(name).type)):
        return 0.0
    batch = next(file.iter_batches(formats.ROWS_AT_ONCE, row_groups=[0], columns=[name]))
    return next((float(value) for value in batch.column(name).slice(0, 20).to_pylist() if value is not None), 0.0)


def _in_microseconds(arrow: Any, batch: Any, name: str) -> Any:
    """The batch with its dates in that column as whole microseconds since 1970, which doubles hold."""
    dates = batch.column(name).cast(arrow.timestamp("us"), safe=False).cast(arrow.int64())
    return batch.set_column(batch.schema.get_field_index(name), name, dates)


def _check_types(path: str, schema: Any, names: Sequence[str]) -> None:
    """Raise TraceError unless all columns that are read hold numbers."""
    for name in names:
        kind = str(schema.field(name).type)
        if not _NUMERIC.fullmatch(kind):
            raise TraceError(f"column {name!r} holds {kind}, expected whole numbers or floats", path)


#: Types whose values are numbers or nothing; `null` is a column without a value.
_NUMERIC = re.compile(r"u?int(8|16|32|64)|halffloat|float|double|bool|null")


def _check_size(path: str, values: int, packed: int) -> None:
    """Raise InputLimitError if what the file holds is out of all proportion, before it is unpacked."""
    input_limits.check("file", 8 * values, "it has", path)
    input_limits.check_unpacked(8 * values, packed, path)


def parsed(builder: TraceBuilder, batch: Any) -> Columns | None:
    """The columns of a batch, or None if the careful reader has to look at it."""
    arrays = {
        meaning: batch.column(name).to_numpy(zero_copy_only=False) for meaning, name in builder.column_names.items()
    }
    if any(array.dtype.kind not in "iuf" for array in arrays.values()):
        return None
    columns = {meaning: array.astype(np.float64) for meaning, array in arrays.items()}
    return columns if certainly_good(builder.format, columns) else None


def write(columns: Mapping[str, npt.NDArray[Any]], path: str) -> None:
    """Write the columns, by name, to a file."""
    arrow, parquet = _pyarrow("writing Parquet")
    parquet.write_table(arrow.table(columns), path, write_page_checksum=True)
