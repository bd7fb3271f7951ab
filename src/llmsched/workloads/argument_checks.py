"""Checks of arguments: whole numbers, exact decimals, and spellings such as ``buckets:100``."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np

from ..errors import InputError, nearest, shown
from .columns import LARGEST

LARGEST_SEED = 2**64 - 1

# Far beyond what anybody writes, and small enough that the exact fraction stays a number of reasonable size.
_LARGEST_EXPONENT = 1000


def decimal_fraction(x: float | str | Decimal | Rational) -> Fraction:
    """The decimal that the user wrote, as an exact fraction: 0.1, "0.1" and numpy.float32(0.1) all give 1/10.

    A float stands for its shortest decimal spelling (its ``repr``), not for the binary number nearest to that. Strings
    may also be ratios ("1/3"). Raises InputError for anything that is not a finite number; True and False are none.
    """
    if isinstance(x, (bool, np.bool_)):
        raise InputError(f"expected a number, not {x!r}")
    if isinstance(x, (Rational, np.integer)):
        return Fraction(int(x)) if isinstance(x, np.integer) else Fraction(x)
    if not isinstance(x, (float, np.floating, str, Decimal)):
        raise InputError(f"expected a number, not {x!r}")
    try:
        if isinstance(x, str) and "/" in x:
            return Fraction(x)
        decimal = x if isinstance(x, Decimal) else Decimal(str(x))
    except (ValueError, ZeroDivisionError, InvalidOperation):
        raise InputError(f"expected a number such as 0.25, not {x!r}") from None
    if not decimal.is_finite():
        raise InputError(f"expected a finite number, not {x!r}")
    exponent = decimal.as_tuple().exponent
    if abs(decimal.adjusted()) > _LARGEST_EXPONENT or abs(int(exponent)) > _LARGEST_EXPONENT:
        raise InputError(f"expected a number with an exponent of at most {_LARGEST_EXPONENT}, not {x!r}")
    return Fraction(decimal)


def whole(name: str, value: object, least: int, most: int = LARGEST) -> int:
    """`value` as an int (3.0 counts as 3), or an InputError that calls it `name`."""
    if type(value) is int and least <= value <= most:  # nearly always, and a batch asks thousands of times
        return value
    number: int | None = None
    if isinstance(value, float) and value.is_integer():  # numpy.float64 is a float
        number = int(value)
    elif not isinstance(value, (bool, np.bool_)):
        try:
            number = operator.index(value)  # type: ignore[arg-type]  # what is no index is told by its TypeError
        except TypeError:
            number = None
    if number is None or not least <= number <= most:
        quotes = ", without the quotes" if isinstance(value, str) and value.strip().isdecimal() else ""
        raise InputError(f"{name} must be a whole number from {least} to {most}{quotes}, not {shown(value)}")
    return number


def split_spelling(text: str, forms: Mapping[str, str], what: str) -> tuple[str, list[Any]]:
    """Name and arguments of a spelling "name:argument,argument" that fits one of `forms`, or an InputError.

    An argument is an int where it reads as one; otherwise its text, for the maker to read or refuse.
    """
    name, colon, rest = str(text).strip().partition(":")
    name = name.strip()
    if name not in forms:
        raise InputError(f"there is no {what} {name!r}: {nearest(name, forms)} (written {', '.join(forms.values())})")
    arguments = [argument.strip() for argument in rest.split(",")] if colon else []
    expected = forms[name].removeprefix(name).replace(":", "", 1)
    least, most = (len(part.split(",")) if part else 0 for part in (expected.partition("[")[0], expected))
    if not least <= len(arguments) <= most or "" in arguments:
        raise InputError(f"{what} {text!r} does not have the form {forms[name]}")
    return name, [_int_or_text(argument) for argument in arguments]


def _int_or_text(text: str) -> int | str:
    try:
        return int(text)
    except ValueError:
        return text
