"""Named columns into the dataframe library the user has; none of them is a dependency."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from ..errors import MissingExtraError

if TYPE_CHECKING:
    import pandas
    import polars
    import pyarrow


class Columns:
    """What has `columns()` can be exported; mixed into results."""

    __slots__ = ()

    def columns(self) -> Mapping[str, Any]:
        """The table: column name -> array of one value per row."""
        raise NotImplementedError

    def to_pandas(self) -> pandas.DataFrame:
        """`columns()` as a pandas DataFrame. Raises MissingExtraError without pandas."""
        return cast("pandas.DataFrame", _library("pandas").DataFrame(self.columns()))

    def to_polars(self) -> polars.DataFrame:
        """`columns()` as a polars DataFrame. Raises MissingExtraError without polars."""
        return cast("polars.DataFrame", _library("polars").DataFrame(self.columns()))

    def to_arrow(self) -> pyarrow.Table:
        """`columns()` as an Arrow table. Raises MissingExtraError without pyarrow."""
        return _library("pyarrow").table(self.columns())


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(name, "dataframe", f"exporting to {name}") from None
