"""Traces as Parquet: the columns of the plain CSV. Needs pyarrow (extra `parquet`)."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ...errors import MissingExtraError, TraceError
from . import formats
from .row_checks import Columns, certainly_good, shortened
from .trace_builder import TraceBuilder


def _pyarrow(purpose: str) -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise MissingExtraError("pyarrow", "parquet", purpose) from error


def read(builder: TraceBuilder, stream: io.BufferedReader) -> None:
    """Read all of `stream`, in batches of rows."""
    content = stream.read()
    if not content:
        return
    arrow, parquet = _pyarrow("reading Parquet")
    try:
        file = parquet.ParquetFile(arrow.BufferReader(content))
        builder.find_columns(file.schema_arrow.names, None)
        row = 1
        for batch in file.iter_batches(formats.ROWS_AT_ONCE, columns=list(builder.column_names.values())):
            columns = parsed(builder, batch)
            if columns is not None:
                builder.add_columns(columns)
            else:
                builder.add_rows(iter(enumerate(batch.to_pylist(), row)))
            row += batch.num_rows
    except (arrow.ArrowException, OSError) as error:
        raise TraceError(f"is not Parquet that can be read: {shortened(str(error))}", builder.path) from error


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
    parquet.write_table(arrow.table(columns), path)
