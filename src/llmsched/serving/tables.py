"""Clocks from tables that others measured: times of single kernels, and published points of whole engines."""

from __future__ import annotations

import csv
import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError, TraceError
from ..input_limits import open_text
from ..simulation.clock import Clock
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray, IntArray

__all__ = ["Point", "Tabled", "of_kernels", "of_points"]

#: Layers of `dense.csv` that a step does once, and those it does twice a layer of the model; all others once.
_ONCE = ("embedding", "final_layernorm")
_TWICE = ("layernorm",)
_MICRO, _MILLI = 1e-6, 1e-3
#: Rows of kernel tables that are like the steps of an engine have contexts, and tokens before a chunk, up to these.
_LONGEST_CONTEXT, _LONGEST_BEFORE = 8192, 2048


@dataclasses.dataclass(frozen=True)
class Tabled:
    """A clock from kernel tables: the rows it is fitted to and the mean error on them, as a share."""

    clock: Clock
    rows: int
    error: float
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Point:
    """A clock from published points of one engine.

    Attributes
    ----------
    clock
        Fitted to the times per output token.
    overhead
        Seconds that a first token takes beside the prefill of its prompt: waiting, and what is around the engine.
    points
        How many.
    tpot_error, ttft_error
        Mean size of the errors, as shares.
    """

    clock: Clock
    overhead: float
    points: int
    tpot_error: float
    ttft_error: float


# Kernels --------------------------------------------------------------------------------------------------------------


def of_kernels(directory: str | os.PathLike[str], layers: int, communication: float = 0.0) -> Tabled:
    """The clock of tables of kernel times in microseconds: `attention.csv`, `dense.csv` and `per_sequence.csv`.

    A step takes `layers` times attention and the dense kernels of a layer, and what is done once. Each row of
    `attention.csv` that generates tokens or prefills is a step: with n_decode requests of kv_decode tokens each, and a
    chunk of prefill_chunk tokens after kv_prefill. Those count that are like an engine's: contexts up to 8,192 tokens,
    chunks after 2,048 tokens at most. Steps that only generate weigh as much together as those that prefill: tables
    have many more of the latter, engines of the former. What the host does between kernels is not in tables.

    Raises
    ------
    TraceError
        A file is missing, or a column or number in it.
    InputError
        `layers` or `communication` is impossible.
    """
    layers = whole("layers", layers, 1)
    if not communication >= 0:
        raise InputError(f"communication is {communication!r}, expected seconds per token, at least 0")
    place = Path(directory)
    attention = _table(place / "attention.csv", ("prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"))
    chunk, before, decoding, context, micro = attention.T
    tokens, sequences = chunk + decoding, decoding + (chunk > 0)
    seconds = layers * micro * _MICRO
    for layer, (sizes, times) in _layers(place / "dense.csv", "tokens").items():
        count = 1 if layer in _ONCE else 2 * layers if layer in _TWICE else layers
        seconds += count * np.interp(tokens, sizes, times) * _MICRO
    for sizes, times in _layers(place / "per_sequence.csv", "sequences").values():
        seconds += np.interp(sequences, sizes, times) * _MICRO
    table = {
        "batch": sequences,
        "context": decoding * context + before,
        "prefilled": chunk,
        "seconds": seconds,
    }
    served = (sequences > 0) & (seconds > 0) & (context <= _LONGEST_CONTEXT) & (before <= _LONGEST_BEFORE)
    chosen = _balanced(np.flatnonzero(served & (chunk == 0)), np.flatnonzero(served & (chunk > 0)))
    source = f"fitted to the kernel tables in {place.resolve().parent.name}"
    fit = Clock.fit({name: column[chosen] for name, column in table.items()}, relative=True, source=source)
    clock = dataclasses.replace(
        fit.clock,
        per_request=fit.clock.per_request + communication,
        per_prompt_token=fit.clock.per_prompt_token + communication,
    )
    notes = ("the time that the host takes between kernels is not in such tables: a step of the engine takes longer",)
    return Tabled(clock, int(served.sum()), fit.mean_error, notes)


def _balanced(few: IntArray, many: IntArray) -> IntArray:
    """Rows of two kinds, those of the rarer kind so often that both weigh about the same."""
    if not len(few) or not len(many):
        return np.concatenate([few, many])
    if len(few) > len(many):
        few, many = many, few
    return np.concatenate([many, np.repeat(few, round(len(many) / len(few)))])


def _layers(path: Path, size: str) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Kernel -> its sizes in ascending order and their times."""
    found: dict[str, list[tuple[float, float]]] = {}
    for line, row in _rows(path, ("layer", size, "time_us")):
        found.setdefault(row["layer"], []).append((_number(path, line, row, size), _number(path, line, row, "time_us")))
    return {layer: tuple(np.array(sorted(pairs)).T) for layer, pairs in found.items()}


def _table(path: Path, columns: tuple[str, ...]) -> FloatArray:
    values = [[_number(path, line, row, name) for name in columns] for line, row in _rows(path, columns)]
    if not values:
        raise TraceError("there are no rows in it", str(path))
    return np.array(values, np.float64)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The rows of a CSV file, each with its line. Raises TraceError where a column is missing."""
    if not path.is_file():
        raise TraceError("there is no such file", str(path))
    with open_text(path, newline="") as file:
        reader = csv.DictReader(file)
        for name in columns:
            if name not in (reader.fieldnames or ()):
                raise TraceError(f"there is no column {name!r}", str(path), 1)
        for row in reader:
            yield reader.line_num, row


def _number(path: Path, line: int, row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < float("inf"):
        raise TraceError(f"{name} is {row[name]!r}, expected a number of at least 0", str(path), line)
    return value


# Published points -----------------------------------------------------------------------------------------------------

_POINT = ("isl", "osl", "batch_size", "silicon_ttft_ms", "silicon_tpot_ms")
_ENGINE = (
    "backend", "model_path", "system", "precision", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size",
    "moe_ep_size",
)  # fmt: skip


def of_points(path: str | os.PathLike[str], least: int = 12) -> dict[str, Point]:
    """Clocks from mean times to the first and per output token at given lengths and concurrency, by engine.

    With B requests of isl and osl tokens always in it, a step has B requests, B·(isl + osl/2) tokens of context and
    prefills B·isl/osl tokens on average: that gives the clock, from the time per output token. A first token takes the
    prompt's prefill and an overhead that all points of an engine share.

    Only engines with at least `least` points of at least three concurrencies and two prompt lengths have a clock:
    fewer cannot tell its four coefficients apart.

    Raises TraceError if a column or a number is missing.
    """
    groups: dict[tuple[str, ...], list[list[float]]] = {}
    file = Path(path)
    for line, row in _rows(file, (*_ENGINE, *_POINT)):
        groups.setdefault(tuple(row[name] for name in _ENGINE), []).append(
            [_number(file, line, row, name) for name in _POINT]
        )
    found: dict[str, Point] = {}
    for engine, values in sorted(groups.items()):
        points = np.array(values)
        varied = len(set(points[:, 2])) >= 3 and len(set(points[:, 0])) >= 2
        if len(points) >= least and varied and (made := _point(dict(zip(_ENGINE, engine, strict=True)), points)):
            found[_name(dict(zip(_ENGINE, engine, strict=True)), found)] = made
    return found


def _point(engine: Mapping[str, str], points: FloatArray) -> Point | None:
    prompt, output, batch, ttft, tpot = points.T
    table = {
        "batch": batch,
        "context": batch * (prompt + output / 2),
        "prefilled": batch * prompt / output,
        "seconds": tpot * _MILLI,
    }
    try:
        fit = Clock.fit(table, relative=True)
    except InputError:
        return None
    prefill = fit.clock.base + fit.clock.per_prompt_token * prompt
    overhead = max(0.0, float(np.median(ttft * _MILLI - prefill)))
    ttft_error = float(np.mean(np.abs((prefill + overhead) / (ttft * _MILLI) - 1)))
    source = (
        f"{engine['model_path'].split('/')[-1]} on {engine['tp_size']} {engine['system']} with {engine['backend']}, "
        f"fitted to {len(points)} points published by ai-dynamo/aiconfigurator (Apache-2.0): times per output token "
        f"are met within {fit.mean_error:.0%} on average"
    )
    return Point(dataclasses.replace(fit.clock, source=source), overhead, len(points), fit.mean_error, ttft_error)


def _name(engine: Mapping[str, str], taken: Mapping[str, Point]) -> str:
    """A name such as qwen3-32b-4xh100-vllm, with a number behind it where several differ in more than that."""
    gpus = int(engine["tp_size"] or 1) * int(engine["pp_size"] or 1)
    model = engine["model_path"].split("/")[-1].lower().removesuffix("-instruct")
    gpu = engine["system"].split("_")[0]
    precision = engine["precision"]
    base = f"{model}-{gpus}x{gpu}-{engine['backend']}" + (
        f"-{precision}" if precision and precision not in model else ""
    )
    name, number = base, 2
    while name in taken:
        name, number = f"{base}-{number}", number + 1
    return name
