"""Traces as Parquet: the columns of the plain CSV. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

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
        builder.find_columns(file.schema_arrow.names, None)
        names = list(builder.column_names.values())
        _check_types(builder.path, file.schema_arrow, names)
        _check_size(builder.path, file.metadata.num_rows * len(names), packed)  # asking its columns may crash
        row = 1
        for batch in file.iter_batches(formats.ROWS_AT_ONCE, columns=names):
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
