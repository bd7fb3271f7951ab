"""What is fuzzed: every reader of files from strangers. Each takes bytes, and may raise llmsched's own errors alone.

Anything else that is raised, a hang (60 s) or a process that dies is a finding. `fuzz/run` fuzzes with atheris, and
tests/test_fuzz_corpus.py replays the corpus.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Callable
from pathlib import Path

from llmsched import policy, policy_files, traces
from llmsched.errors import LlmschedError
from llmsched.fleet import router
from llmsched.metrics import foreign_result
from llmsched.predict import intervals, model_files
from llmsched.predict.feature_tables import read_csv
from llmsched.serving import logs
from llmsched.simulation.clock import Clock
from llmsched.simulation.machine import Machine
from llmsched.study import Study, manifest
from llmsched.workloads import generate
from llmsched.workloads.workload import Workload


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Made when it is needed: each target runs in a process of its own, forked after this module was imported."""
    return tempfile.TemporaryDirectory(prefix="llmsched-fuzz-")


def _file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], None]:
    """A target that reads a file of this name."""

    def target(content: bytes) -> None:
        path = Path(_folder().name, name)
        path.write_bytes(content)
        read(path)

    return target


def _text(read: Callable[[str], object]) -> Callable[[bytes], None]:
    return lambda content: (read(content.decode("utf-8", "replace")), None)[1]


def trace(content: bytes) -> None:
    """A trace of any format, strictly and leaving bad rows out."""
    with contextlib.suppress(LlmschedError):
        traces.load(io.BytesIO(content), on_error="raise")
    with contextlib.suppress(LlmschedError):
        traces.load(io.BytesIO(content), on_error="skip")


def _manifest(path: Path) -> None:
    manifest.Manifest.read(path.parent)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "trace": trace,
    "parquet": lambda content: (traces.load(io.BytesIO(content), "parquet"), None)[1],
    "study": _text(Study.parse),
    "manifest": _file("manifest.json", _manifest),
    "clock_toml": _file("clock.toml", Clock.read),
    "clock_json": _file("clock.json", Clock.read),
    "machine": _file("machine.toml", Machine.read),
    "policy": _file("policy.toml", policy_files.read),
    "policy_spelling": _text(policy.named),
    "router_spelling": _text(router.named),
    "formula": _text(lambda text: policy.Policy(order=text)),
    "intervals": _text(intervals.parse),
    "generator": _text(lambda text: generate.parse(text, 3, 0)),
    "predictor": _file("predictor.skops", model_files.load),
    "features": _file("features.csv", read_csv),
    "log": _file("log.jsonl", logs.read),
    "foreign_result": _file("result.csv", lambda path: foreign_result.read(path, Workload([1, 2], [3, 4]), memory=16)),
}


def run(name: str, content: bytes) -> None:
    """One input. Raises what is a finding."""
    with contextlib.suppress(LlmschedError, MemoryError):
        TARGETS[name](content)
