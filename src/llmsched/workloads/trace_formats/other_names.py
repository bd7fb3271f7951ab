"""Plain CSV by other people's names: what a column is called elsewhere, and how its times of arrival are written."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
from collections.abc import Mapping, Sequence

from ...errors import TraceError, closest
from . import timestamps
from .formats import PLAIN_COLUMNS, TABLE, Format, recognised
from .row_checks import shortened
from .text_lines import decoded

#: What a column means -> names that say so, in small letters and digits alone: `Input Tokens` is inputtokens.
_OTHER_NAMES = {
    "clock": """
        arrivaltime arrivaltimestamp arrivedat createdat datetime receivedat requesttime requesttimestamp starttime time
        timestamp ts
    """,
    "prompt": """
        contexttokens inputlen inputlength inputtokencount inputtokens inputtoks ninput ninputtokens nprompt
        nprompttokens numinputtokens numprompttokens prefilltokens promptlen promptlength prompttokencount prompttoks
        requesttokens tokensin
    """,
    "output": """
        answertokens completionlen completionlength completiontokencount completiontokens decodetokens generatedlen
        generatedtokens generationtokens ncompletion ncompletiontokens noutput noutputtokens numcompletiontokens
        numgeneratedtokens numoutputtokens outputlen outputlength outputtokencount outputtoks responselen responselength
        responsetokens tokensout
    """,
}
OTHER_NAMES: Mapping[str, frozenset[str]] = {
    meaning: frozenset(names.split()) for meaning, names in _OTHER_NAMES.items()
}

#: Clocks above that count since 1970, and not in seconds: 10¹¹ seconds later it is the year 5138.
_UNITS = ((1e14, 1e6), (1e11, 1e3))


def delimiter_of(header: bytes) -> str:
    """What stands between the fields: a semicolon or a tab where the first line has some and no comma."""
    return next((mark for mark in ",;\t" if mark.encode() in header), ",")


def with_names_of(format: Format, header: Sequence[str], path: str, line: int | None) -> Format:
    """The plain format under the names that `header` has for its columns. Its own names come first.

    Raises TraceError where two names mean the same column.
    """
    found = dict(format.columns)
    timed = {format.columns["clock"], format.columns["arrival"]} & set(header)
    for meaning, names in OTHER_NAMES.items():
        if format.columns[meaning] in header or (meaning == "clock" and timed):
            continue
        alike = [name for name in header if "".join(filter(str.isalnum, name.lower())) in names]
        if len(alike) > 1:
            said = " and ".join(map(repr, alike))
            raise TraceError(
                f"columns {said} could both be {format.columns[meaning]}: rename the one that is", path, line
            )
        if alike:
            found[meaning] = alike[0]
    return dataclasses.replace(format, columns=found)


def plain_names(header: Sequence[str], path: str) -> dict[str, str]:
    """Names in the header -> those of the plain format, of the columns that have others; of another format none.

    Raises TraceError where two names mean the same column.
    """
    plain = TABLE["csv"]
    if recognised("csv", header) not in (None, plain):
        return {}
    found = with_names_of(plain, header, path, 1).columns
    return {name: plain.columns[meaning] for meaning, name in found.items() if name != plain.columns[meaning]}


def with_clock_of(format: Format, header: Sequence[str], rows: Sequence[bytes]) -> Format:
    """The plain format with the kind of clock that the first `rows` have: seconds, dates, or finer units since 1970.

    What is called arrival_s is in seconds, if it is in numbers.
    """
    name = format.columns["clock"]
    if name not in header:
        return format
    cells = _column(rows, header.index(name), format.delimiter)
    if any(timestamps.parse(cell) is not None for cell in cells):
        return dataclasses.replace(format, dated=True, per_second=1e9)
    first = next((float(cell) for cell in cells if cell.replace(".", "", 1).isdecimal()), 0.0)
    return dataclasses.replace(format, per_second=ticks_per_second(name, first))


def ticks_per_second(name: str, first: float) -> float:
    """In what the clock of that name counts, of which `first` is a time."""
    if name == PLAIN_COLUMNS["clock"]:
        return 1.0
    return next((unit for least, unit in _UNITS if first >= least), 1.0)


def _column(rows: Sequence[bytes], at: int, delimiter: str) -> list[str]:
    """The cells of a column, of those rows that are CSV and have it."""
    cells = []
    for row in map(decoded, rows):
        with contextlib.suppress(csv.Error):
            cells += [fields[at].strip() for fields in csv.reader([row], delimiter=delimiter) if len(fields) > at]
    return cells


def read_as(format: Format, plain: Format, header: Sequence[str], *, dated: bool = False) -> dict[str, str]:
    """Columns of the file that are read under another name or unit -> as what."""
    finer = {1e6: " (microseconds)", 1e3: " (milliseconds)"}
    clock = " (dates)" if dated or format.dated else finer.get(format.per_second, "")
    said = {}
    for meaning, name in format.columns.items():
        unit = clock if meaning == "clock" else ""
        if name in header and (name != plain.columns[meaning] or unit):
            said[name] = plain.columns[meaning] + unit
    return said


def unknown(start: str, header: Sequence[str], plain: Format, known: Sequence[str]) -> str:
    """What to say of a first line that no format has."""
    lacking = [plain.columns[meaning] for meaning in plain.required if plain.columns[meaning] not in header]
    near = {name: closest(name.lower(), lacking, 0.8) for name in header}
    hints = "".join(f"; did you mean {meant!r} by {shortened(name)!r}?" for name, meant in near.items() if meant)
    return (
        f"starts with {start}, which is no format known. A plain CSV names its columns prompt_tokens and "
        f"output_tokens, and arrival_s if requests arrive over time{hints}. Formats: {', '.join(known)}"
    )
