"""Dates and times of day -> nanoseconds since 1970: one text at a time, or an array of them at once."""

from __future__ import annotations

import datetime
import re

import numpy as np
import numpy.typing as npt

_DATE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[ T]([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,9}))?(?:Z|([+-])([0-9]{2}):([0-9]{2}))?"
)
_YEARS = range(1970, 2262)  # such that nanoseconds fit an int64, whatever the time zone
WIDTH = 40  # bytes that the fast reader looks at: more than the longest date has, so that none is cut to a good one
_SECOND = 10**9


def parse(text: object) -> int | None:
    """Nanoseconds since 1970 (UTC unless the text has an offset), or None if `text` is not a date and time."""
    match = _DATE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    year, month, day, hour, minute, second = map(int, match.groups()[:6])
    fraction, sign, zone_hours, zone_minutes = match.groups()[6:]
    try:
        days = datetime.date(year, month, day).toordinal() - datetime.date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    zone = int(zone_hours or 0) * 60 + int(zone_minutes or 0)
    if year not in _YEARS or hour > 23 or minute > 59 or second > 59 or zone >= 24 * 60 or int(zone_minutes or 0) > 59:
        return None
    minutes = (days * 24 + hour) * 60 + minute - (-zone if sign == "-" else zone)
    return (minutes * 60 + second) * _SECOND + int((fraction or "").ljust(9, "0"))


def parse_many(text: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64] | None:
    """`parse` of an array of byte strings, by arithmetic on their bytes; None if any of them is not good."""
    byte = text.view(np.uint8).reshape(len(text), WIDTH).T
    digit = byte - np.uint8(ord("0"))  # wraps around, so anything that is not a digit is above 9

    def number(start: int, stop: int) -> npt.NDArray[np.int64]:
        total = np.zeros(len(text), np.int64)
        for place in range(start, stop):
            total = total * 10 + digit[place]
        return total

    digits = [place for place, sign in enumerate("0000-00-00 00:00:00") if sign == "0"]
    good = (digit[digits] <= 9).all(axis=0)
    for place, signs in ((4, "-"), (7, "-"), (10, " T"), (13, ":"), (16, ":")):
        good &= np.isin(byte[place], [ord(sign) for sign in signs])
    if not good.all():
        return None
    year, month, day = number(0, 4), number(5, 7), number(8, 10)
    hour, minute, second = number(11, 13), number(14, 16), number(17, 19)
    months = ((year - 1970) * 12 + month - 1).astype("M8[M]")
    days_before = months.astype("M8[D]").astype(np.int64)
    length = (months + np.timedelta64(1, "M")).astype("M8[D]").astype(np.int64) - days_before
    good = (year >= _YEARS.start) & (year < _YEARS.stop) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= length)
    good &= (hour <= 23) & (minute <= 59) & (second <= 59)

    has_fraction = byte[19] == ord(".")
    going, decimals = has_fraction, np.zeros(len(text), np.intp)
    fraction = np.zeros(len(text), np.int64)
    for place in range(20, 29):
        going = going & (digit[place] <= 9)
        decimals += going
        fraction = fraction * 10 + np.where(going, digit[place], 0)
    good &= ~has_fraction | (decimals > 0)

    zone, zone_good = _zones(byte, np.where(has_fraction, 20 + decimals, 19))
    if not (good & zone_good).all():
        return None
    minutes = ((days_before + day - 1) * 24 + hour) * 60 + minute - zone
    return (minutes * 60 + second) * _SECOND + fraction


def _zones(
    byte: npt.NDArray[np.uint8], end: npt.NDArray[np.intp]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The offset from UTC (minutes) that follows place `end` of each string, and whether it is a good one."""
    tail = byte[end[None, :] + np.arange(7)[:, None], np.arange(byte.shape[1])]
    utc = (tail[0] == 0) | ((tail[0] == ord("Z")) & (tail[1] == 0))
    digit = (tail - np.uint8(ord("0"))).astype(np.int64)
    hours, minutes = digit[1] * 10 + digit[2], digit[4] * 10 + digit[5]
    good = np.isin(tail[0], [ord("+"), ord("-")]) & (tail[3] == ord(":")) & (tail[6] == 0)
    good &= (digit[[1, 2, 4, 5]] <= 9).all(axis=0) & (hours <= 23) & (minutes <= 59)
    offset = np.where(tail[0] == ord("-"), -1, 1) * (hours * 60 + minutes)
    return np.where(utc, 0, offset), utc | good
