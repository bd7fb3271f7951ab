"""The table of trace formats. A new format is one entry here: recognition, help and messages read this table.

Whatever is CSV, JSON lines or Parquet has its reader already; what differs is the names and units of the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..columns import COLUMNS, LARGEST, LATEST, TIMES

Layout = Literal["csv", "jsonl", "parquet"]

BYTES_AT_ONCE = 1 << 20  # of text that is parsed in one go: large enough to be fast, small enough to bound the memory
ROWS_AT_ONCE = 1 << 16  # held as Python objects


@dataclass(frozen=True)
class Format:
    """One trace format.

    Attributes
    ----------
    name, description
        What `llmsched.traces.load` calls it, and a line for help and messages.
    layout
        How the file is laid out, which says who reads it. JSON lines have an object on each line.
    columns
        What a column (or key) means -> its name in the file. Meanings are the columns of a `Workload`, and "clock": a
        time of arrival counted from anywhere, so that only differences between requests count.
    required
        The columns that every file has.
    per_second
        Units of the clock in a second.
    dated
        The clock is a date and time of day, read as nanoseconds since 1970.
    failures
        An output of 0 is a request that failed: dropped, not an error.
    delimiter
        Of CSV: what stands between the fields.
    hashes, hash_block
        Of JSON lines: the key of a list with a hash for every so many tokens of the prompt, which a row need not have.
    """

    name: str
    description: str
    layout: Layout
    columns: Mapping[str, str]
    required: tuple[str, ...] = ("clock", "prompt", "output")
    per_second: float = 1.0
    dated: bool = False
    failures: bool = False
    delimiter: str = ","
    hashes: str = ""
    hash_block: int = 0

    def smallest(self, meaning: str) -> int:
        """The smallest value that a column may have."""
        return 0 if meaning == "clock" or (meaning == "output" and self.failures) else COLUMNS[meaning]

    def expected(self, meaning: str) -> str:
        """What a value of a column should have been, for messages."""
        if self.is_date(meaning):
            return "a time such as 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00"
        kind = "a number" if is_time(meaning) else "a whole number"
        or_date = (
            " (seconds) or a time such as 2023-11-16 18:15:46.68" if meaning == "clock" and self.name == "csv" else ""
        )
        return f"{kind} from {self.smallest(meaning)} to {largest(meaning)}{or_date}"

    def is_date(self, meaning: str) -> bool:
        """Whether the file has dates in this column, not numbers."""
        return self.dated and meaning == "clock"


# `arrival_s` is a clock as in any trace; `arrival` is a workload's own time, taken as it is (see `traces.write`).
PLAIN_COLUMNS = MappingProxyType(
    {
        "clock": "arrival_s",
        "arrival": "arrival",
        "prompt": "prompt_tokens",
        "output": "output_tokens",
        "lower": "lower",
        "upper": "upper",
        "point": "point",
        "priority": "priority",
        "deadline": "deadline",
        "session": "session",
        "think": "think",
    }
)

#: Every format by its name, in the order in which `recognised` tries them.
TABLE: Mapping[str, Format] = {
    format.name: format
    for format in (
        Format(
            "azure",
            "Azure LLM inference traces of 2023 and 2024: CSV with TIMESTAMP, ContextTokens, GeneratedTokens",
            "csv",
            {"clock": "TIMESTAMP", "prompt": "ContextTokens", "output": "GeneratedTokens"},
            per_second=1e9,
            dated=True,
        ),
        Format(
            "mooncake",
            "Mooncake traces: JSON lines with timestamp (ms), input_length, output_length and perhaps hash_ids",
            "jsonl",
            {"clock": "timestamp", "prompt": "input_length", "output": "output_length"},
            per_second=1e3,
            hashes="hash_ids",
            hash_block=512,
        ),
        Format(
            "run",
            "a log of vLLM's requests, as llmsched calibrate reads it: JSON lines with arrival_time (s), input_toks, "
            "output_toks",
            "jsonl",
            {"clock": "arrival_time", "prompt": "input_toks", "output": "output_toks"},
        ),
        Format(
            "burstgpt",
            "BurstGPT: CSV with Timestamp (s), Request tokens, Response tokens; failed requests are dropped",
            "csv",
            {"clock": "Timestamp", "prompt": "Request tokens", "output": "Response tokens"},
            failures=True,
        ),
        Format(
            "csv",
            "plain CSV: prompt_tokens, output_tokens and optionally arrival_s, lower, upper, point, priority, "
            "deadline, session, think",
            "csv",
            PLAIN_COLUMNS,
            required=("prompt", "output"),
        ),
        Format(
            "jsonl",
            "JSON lines with the columns of the plain CSV as keys, the same on every line",
            "jsonl",
            PLAIN_COLUMNS,
            required=("prompt", "output"),
        ),
        Format(
            "parquet",
            "Parquet with the columns of the plain CSV (needs pyarrow)",
            "parquet",
            PLAIN_COLUMNS,
            required=("prompt", "output"),
        ),
    )
}

#: What an empty file is read as.
EMPTY_FILE = Format("", "an empty file, which could be of any format", "csv", {}, required=())


def recognised(layout: Layout, names: Collection[str]) -> Format | None:
    """The format of a file of this layout that has these columns (or keys): the first that finds all it requires.

    None for CSV in which every format misses something. JSON lines are then of the format of which most is there, so
    that a message can name the key that is missing.
    """
    of_layout = [format for format in TABLE.values() if format.layout == layout]
    there = [sum(format.columns[meaning] in names for meaning in format.required) for format in of_layout]
    whole = [format for format, found in zip(of_layout, there, strict=True) if found == len(format.required)]
    if whole or layout == "csv":
        return whole[0] if whole else None
    return of_layout[max(range(len(there)), key=there.__getitem__)]


def is_time(meaning: str) -> bool:
    """Whether a column holds times, not counts."""
    return meaning == "clock" or meaning in TIMES


def largest(meaning: str) -> int:
    """The largest value that a column may have."""
    return LATEST if is_time(meaning) else LARGEST
