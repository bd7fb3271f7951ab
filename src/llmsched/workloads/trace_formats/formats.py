"""What there is to know of each format: how it is laid out, and what its columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ..columns import COLUMNS, LARGEST, LATEST, TIMES


@dataclass(frozen=True)
class Format:
    """What there is to know of a format.

    ``columns`` maps what a column means to its name in the file. The meanings are those of `Workload`, and "clock":
    a reading that says when a request arrived, of which only the differences count.
    """

    name: str
    description: str
    layout: Literal["csv", "jsonl", "parquet"]
    columns: Mapping[str, str]
    required: tuple[str, ...] = ("clock", "prompt", "output")
    per_second: float = 1.0  # units of the clock in a second
    dated: bool = False  # the clock is a date and time of day, read as nanoseconds since 1970
    failures: bool = False  # an output of 0 is a request that failed: dropped, not an error

    def least(self, meaning: str) -> int:
        """The least value that a column may have."""
        return 0 if meaning == "clock" or (meaning == "output" and self.failures) else COLUMNS[meaning]

    def expected(self, meaning: str) -> str:
        """What a value of a column should have been, for messages."""
        if self.is_date(meaning):
            return "a time such as 2023-11-16 18:15:46.6805900 or 2024-05-10 00:00:00.009930+00:00"
        kind = "a number" if is_time(meaning) else "a whole number"
        return f"{kind} from {self.least(meaning)} to {most(meaning)}"

    def is_date(self, meaning: str) -> bool:
        return self.dated and meaning == "clock"


# `arrival_s` is a clock as in any trace; `arrival` is a workload's own time, taken as it is (see `traces.write`).
PLAIN = MappingProxyType(
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
    }
)

#: Every format by its name; the first CSV whose columns are in a header is what it is read as.
KNOWN: Mapping[str, Format] = {
    form.name: form
    for form in (
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
            "Mooncake traces: JSON lines with timestamp (ms), input_length, output_length",
            "jsonl",
            {"clock": "timestamp", "prompt": "input_length", "output": "output_length"},
            per_second=1e3,
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
            "plain CSV: prompt_tokens, output_tokens and optionally arrival_s, lower, upper, point, priority, deadline",
            "csv",
            PLAIN,
            required=("prompt", "output"),
        ),
        Format(
            "parquet",
            "Parquet with the columns of the plain CSV (needs pyarrow)",
            "parquet",
            PLAIN,
            required=("prompt", "output"),
        ),
    )
}

#: An empty file's.
NONE = Format("", "an empty file, which could be of any format", "csv", {}, required=())


def is_time(meaning: str) -> bool:
    """Whether a column holds times, not counts."""
    return meaning == "clock" or meaning in TIMES


def most(meaning: str) -> int:
    """The largest value that a column may have."""
    return LATEST if is_time(meaning) else LARGEST


BLOCK = 1 << 20  # bytes of text that are parsed at once: large enough to be fast, small enough to bound the memory


BATCH = 1 << 16  # rows that are held as Python objects at once
