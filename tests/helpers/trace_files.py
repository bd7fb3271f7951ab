"""Small trace files of every format, good and bad, and how the tests read them."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from llmsched.errors import TraceError
from llmsched.workloads import traces
from llmsched.workloads.workload import Workload

AZURE = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
BURST = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
PLAIN_KEYS = ("arrival_s", "prompt_tokens", "output_tokens")
PLAIN = "arrival_s,prompt_tokens,output_tokens\n"


def json_lines(keys: tuple[str, ...], *rows: tuple[object, ...]) -> str:
    return "".join(json.dumps(dict(zip(keys, row, strict=True))) + "\n" for row in rows)


def mooncake(*rows: tuple[object, object, object]) -> str:
    return json_lines(("timestamp", "input_length", "output_length"), *rows)


def run(*rows: tuple[object, object, object]) -> str:
    return json_lines(("arrival_time", "input_toks", "output_toks"), *rows)


#: format -> a file of three good requests, the second of which comes first in time (see `is_good`).
GOOD = {
    "azure": AZURE + "2023-11-16 18:15:46.5000000,10,5\n2023-11-16 18:15:44.5,20,6\n2023-11-16 18:15:48,0,7\n",
    "mooncake": mooncake((27000, 10, 5), (25000, 20, 6), (28500.0, 0, 7)),
    "run": run((27, 10, 5), (25, 20, 6), (28.5, 0, 7)),
    "jsonl": json_lines(PLAIN_KEYS, (2.25, 10, 5), (0.25, 20, 6), (3.75, 0, 7)),
    "burstgpt": BURST + "7,ChatGPT,10,5,15,API log\n5,GPT-4,20,6,26,API log\n8.5,GPT-4,0,7,7,Conversation log\n",
    "csv": PLAIN + "2.25,10,5\n0.25,20,6\n3.75,0,7\n",
}
#: format -> (a good row, the names of its columns)
ROW = {
    "azure": ("2023-11-16 18:15:46.5000000,{prompt},{output}", ("TIMESTAMP", "ContextTokens", "GeneratedTokens")),
    "burstgpt": ("7,ChatGPT,{prompt},{output},15,API log", ("Timestamp", "Request tokens", "Response tokens")),
    "csv": ("2.25,{prompt},{output}", ("arrival_s", "prompt_tokens", "output_tokens")),
    "mooncake": (
        '{{"timestamp": 0, "input_length": {prompt}, "output_length": {output}}}',
        ("timestamp", "input_length", "output_length"),
    ),
    "run": (
        '{{"arrival_time": 0, "input_toks": {prompt}, "output_toks": {output}}}',
        ("arrival_time", "input_toks", "output_toks"),
    ),
    "jsonl": ('{{"arrival_s": 0, "prompt_tokens": {prompt}, "output_tokens": {output}}}', PLAIN_KEYS),
}
HEADER = {"azure": AZURE, "burstgpt": BURST, "csv": PLAIN, "mooncake": "", "run": "", "jsonl": ""}

#: The formats that have no header: an object on each line.
JSONL = [name for name, header in HEADER.items() if not header]

text_format = pytest.mark.parametrize("name", GOOD)


def load(content: str | bytes, **options: Any) -> Workload:
    return traces.load(io.BytesIO(content.encode() if isinstance(content, str) else content), **options)


def error(content: str | bytes, **options: Any) -> TraceError:
    with pytest.raises(TraceError) as caught:
        load(content, **options)
    return caught.value


def is_good(workload: Workload) -> bool:
    return workload == Workload([10, 20, 0], [5, 6, 7], arrival=[2, 0, 3.5])


#: What no count may be.
BAD_COUNTS = [
    "",
    "x",
    "-1",
    "1.5",
    "nan",
    "inf",
    "1_0",
    "\u0661",
    "0x10",
    "1 2",
    "1e400",
    "9" * 5000,
    "9007199254740993",
]
