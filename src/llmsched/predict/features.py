"""RequestFeatures: what is known of a request on arrival (numbers, categories, text) as a matrix of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import HashingVectorizer, TfidfTransformer
from sklearn.preprocessing import OneHotEncoder
from sklearn.utils.validation import check_is_fitted

from ..errors import InputError
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray
from .feature_tables import ObjectArray, column_of, is_table, names_of, refuse_leaks, row_count

# Columns of strings with more words than this on average are text, others categories.
_WORDS = 2.5
_HASHES = 2**14


class RequestFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Turns a table of what is known of each request into numbers: a dict of columns, or a pandas, polars or pyarrow
    table. Nothing is downloaded.

    If none of `numeric`, `categories` and `text` is given, all columns are used and sorted by what they hold.

    Parameters
    ----------
    numeric
        Names of columns of numbers. They stay as they are; what is missing becomes NaN, which gradient boosting takes.
    categories
        Names of columns of labels: a 0/1 column for each of the most frequent ones, one for all the rest. Labels that
        were not there when fitting count as the rest; missing is a label of its own.
    text
        Names of columns of text, the prompt above all: its length in characters and words, and word n-grams, hashed,
        weighted by tf-idf and reduced to `text_size` numbers (latent semantic analysis). Missing text is empty text,
        and empty text is no error.
    text_size, ngrams, max_categories
        Numbers per column of text, the longest n-gram in words, 0/1 columns per column of labels.
    allow
        Columns that may be used although their names say that they are known only after the answer.
    random_state
        For the reduction. The default is always the same.

    Attributes
    ----------
    numeric_, categories_, text_
        The columns that are used, as lists.
    """

    def __init__(
        self,
        numeric: Sequence[str] | str | None = None,
        categories: Sequence[str] | str | None = None,
        text: Sequence[str] | str | None = None,
        *,
        text_size: int = 16,
        ngrams: int = 2,
        max_categories: int = 32,
        allow: Sequence[str] = (),
        random_state: Any = 0,
    ) -> None:
        self.numeric = numeric
        self.categories = categories
        self.text = text
        self.text_size = text_size
        self.ngrams = ngrams
        self.max_categories = max_categories
        self.allow = allow
        self.random_state = random_state

    def fit(self, X: Any, y: npt.ArrayLike | None = None) -> RequestFeatures:
        """Learn categories and weights of words.

        Raises InputError if X is no table, a column is missing, is named like what is known only after the answer,
        holds the outputs `y` themselves, or does not hold what it is said to.
        """
        self._check_table(X)
        self.numeric_, self.categories_, self.text_ = self._sorted_columns(X)
        used = [*self.numeric_, *self.categories_, *self.text_]
        if not used:
            raise InputError("there are no features: name at least one column")
        refuse_leaks(used, self.allow)
        numbers = {name: _as_numbers(name, column_of(X, name)) for name in self.numeric_}
        _refuse_copies(numbers, y)
        self.encoders_ = {
            name: OneHotEncoder(
                handle_unknown="infrequent_if_exist",
                max_categories=whole("max_categories", self.max_categories, 1),
                sparse_output=False,
            ).fit(_as_labels(column_of(X, name)))
            for name in self.categories_
        }
        self.readers_ = {name: self._reader(_as_text(name, column_of(X, name))) for name in self.text_}
        return self

    def transform(self, X: Any) -> FloatArray:
        """Numbers of shape (requests, features), float64; NaN where a numeric column has no value.

        Raises InputError if X lacks a column, or one does not hold what it did.
        """
        check_is_fitted(self)
        self._check_table(X)
        parts = [_as_numbers(name, column_of(X, name))[:, None] for name in self.numeric_]
        parts += [encoder.transform(_as_labels(column_of(X, name))) for name, encoder in self.encoders_.items()]
        parts += [self._read(_as_text(name, column_of(X, name)), *reader) for name, reader in self.readers_.items()]
        return np.column_stack(parts)

    def get_feature_names_out(self, input_features: Any = None) -> ObjectArray:
        """The name of each number."""
        check_is_fitted(self)
        names = list(self.numeric_)
        for name, encoder in self.encoders_.items():
            names += encoder.get_feature_names_out([name]).tolist()
        for name, (_, reduction) in self.readers_.items():
            names += [f"{name}_characters", f"{name}_words"]
            names += [f"{name}_topic{k}" for k in range(0 if reduction is None else reduction.n_components)]
        return np.array(names, dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.dict = True
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        return tags

    @staticmethod
    def _check_table(X: Any) -> None:
        if not is_table(X):
            raise InputError(
                f"expected a table with named columns (a dict of columns, or a DataFrame), not {type(X).__name__}; "
                "an array of numbers needs no RequestFeatures"
            )
        if not row_count(X):
            raise InputError("the table of features has no rows")

    def _sorted_columns(self, X: Any) -> tuple[list[str], list[str], list[str]]:
        """The columns that were named; if none was, all, by what they hold."""
        named = [_as_names(columns) for columns in (self.numeric, self.categories, self.text)]
        if self.numeric is not None or self.categories is not None or self.text is not None:
            return named[0], named[1], named[2]
        for name in names_of(X):
            there = [value for value in column_of(X, name) if value is not None]
            if any(isinstance(value, str) for value in there):
                words = [len(str(value).split()) for value in there]
                named[2 if sum(words) > _WORDS * len(words) else 1].append(name)
            else:
                named[0].append(name)
        return named[0], named[1], named[2]

    def _reader(self, texts: list[str]) -> tuple[TfidfTransformer | None, TruncatedSVD | None]:
        """What weights and what reduces the n-grams; nothing where there are too few of them."""
        counts = self._hashed(texts)
        size = min(whole("text_size", self.text_size, 0), len(texts) - 1, len(set(counts.indices.tolist())) - 1)
        if size < 1:
            return None, None
        weights = TfidfTransformer(sublinear_tf=True)
        return weights, TruncatedSVD(size, random_state=self.random_state).fit(weights.fit_transform(counts))

    def _read(self, texts: list[str], weights: TfidfTransformer | None, reduction: TruncatedSVD | None) -> FloatArray:
        sizes = np.log1p([(len(text), len(text.split())) for text in texts])
        if weights is None or reduction is None:
            return np.asarray(sizes)
        return np.column_stack([sizes, reduction.transform(weights.transform(self._hashed(texts)))])

    def _hashed(self, texts: list[str]) -> Any:
        longest = whole("ngrams", self.ngrams, 1)
        hashing = HashingVectorizer(ngram_range=(1, longest), n_features=_HASHES, norm=None, alternate_sign=False)
        return hashing.transform(texts)


def _as_names(columns: Sequence[str] | str | None) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns or ())


def _as_numbers(name: str, column: ObjectArray) -> FloatArray:
    numbers = np.empty(len(column))
    for i, value in enumerate(column):
        try:
            numbers[i] = np.nan if value is None or value == "" else float(value)
        except (TypeError, ValueError):
            raise InputError(f"row {i}: {name} is {value!r}, expected a number; is it a category?") from None
        if np.isinf(numbers[i]):
            raise InputError(f"row {i}: {name} is {value!r}, expected a finite number, or nothing where it is missing")
    return numbers


def _as_labels(column: ObjectArray) -> ObjectArray:
    labels = np.empty((len(column), 1), dtype=object)
    labels[:, 0] = ["" if value is None else str(value) for value in column]
    return labels


def _as_text(name: str, column: ObjectArray) -> list[str]:
    for i, value in enumerate(column):
        if value is not None and not isinstance(value, str):
            raise InputError(f"row {i}: {name} is {value!r}, expected text")
    return [value or "" for value in column]


def _refuse_copies(numbers: dict[str, FloatArray], y: npt.ArrayLike | None) -> None:
    """A column that equals the outputs is them, whatever it is called."""
    outputs = None if y is None else np.asarray(y, dtype=np.float64)
    for name, column in numbers.items():
        if outputs is not None and len(set(outputs.tolist())) > 2 and np.array_equal(column, outputs):
            raise InputError(f"the feature {name!r} equals the output in every row: leave it out")
