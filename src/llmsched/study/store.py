"""The directory of a study's results: what is in it, and how it survives whatever happens.

    study.toml    the study file, as given            results/part-*.parquet    one row per simulation
    study.json    hash, versions, machine, command    failures/part-*.parquet   simulations without a result

Files appear whole, under their final names, after they are on disk; a row is reported done after that and never before.
A part is called after the numbers of the batches that are in it. One that holds several replaced them: if both are
found, the process was killed between writing the one and removing the others, which is done then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DamagedResultsError, MissingExtraError, StudyError
from .plan import Plan, fingerprint
from .summary import AXES

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:
    raise MissingExtraError("pyarrow", "study", "a study") from None

#: Batches of rows that are compacted into one part.
_COMPACTED_AT = 64
#: A part with so many rows is left alone.
_LARGE_PART = 500_000
#: Rows that are in memory at a time.
_ROWS_IN_MEMORY = 100_000
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")
_DAMAGE = (pa.ArrowException, OSError, ValueError)


# Reading --------------------------------------------------------------------------------------------------------------


def results(directory: str | os.PathLike[str]) -> pa.Table:
    """The results of a study: one row per simulation, in the order of the study's cells, then of replications.

    Columns: workload, intervals, policy (string), memory (int64, unless it is the machine's), then if the study has
    several of them clock, machine (string), rate (float64), max_batch, block, prefill_budget (int64; null: no
    limit), replicas (int64), router (string), replication (int64), seed (uint64), and the metrics (float64).
    ``.to_pandas()`` and ``polars.from_arrow`` take it.

    Raises StudyError if the directory holds no study, or a damaged part.
    """
    return _read_all(Path(directory), "results")


def failures(directory: str | os.PathLike[str]) -> pa.Table:
    """The simulations that have no result: the factors, replication and seed, the error's type and its message.

    Raises StudyError if the directory holds no study, or a damaged part.
    """
    return _read_all(Path(directory), "failures")


def describe(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What study.json says. Raises StudyError if the directory holds no study."""
    path = Path(directory) / "study.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{directory} holds no study (no study.json): is it the directory given to --out?") from None
    except ValueError as error:
        raise StudyError(f"{path} is damaged ({error}): take it from a backup") from None
    return found


def count(directory: str | os.PathLike[str]) -> int:
    """Simulations on disk, failed ones included."""
    parts = [part.path for kind in ("results", "failures") for part in _parts(Path(directory) / kind)[0]]
    return sum(pq.read_metadata(path).num_rows for path in parts)


def _read_all(directory: Path, kind: str) -> pa.Table:
    described = describe(directory)
    for _ in range(3):  # a compaction may take a part away between listing and reading
        with contextlib.suppress(FileNotFoundError):
            schema = pa.schema([(name, getattr(pa, _MAKER_OF.get(type_, type_))()) for name, type_ in described[kind]])
            batches = [b for part in _parts(directory / kind)[0] for b in _batches(part.path, schema.names)]
            return _sorted(pa.Table.from_batches(batches, schema), described)
    raise StudyError(f"{directory} changes faster than it can be read: wait until the study has run")


def _sorted(table: pa.Table, described: Mapping[str, Any]) -> pa.Table:
    """The rows in the order of the cells in the study, then of replications."""
    keys = [_codes(table[f], described["definitions"][axis]) for f, axis in AXES.items() if f in table.column_names]
    return table.take(np.lexsort([table["replication"].to_numpy(), *reversed(keys)])) if len(table) else table


def _codes(column: pa.ChunkedArray, levels: Any) -> Any:
    """Position of each value among the levels."""
    import pyarrow.compute as pc

    kind = column.type
    return pc.fill_null(pc.index_in(column, pa.array(list(levels), kind)), -1).to_numpy()


#: Types whose name is not that of the function that makes them.
_MAKER_OF = {"double": "float64"}


class _Part(NamedTuple):
    """A file of rows, from the first to the last of the batches in it."""

    first: int
    last: int
    path: Path


def _parts(folder: Path) -> tuple[list[_Part], list[Path]]:
    """The parts in order, and the files that are left over: half written, or replaced by a larger part."""
    parts, leftover = [], []
    for path in sorted(folder.glob("*")):
        match = _PART.fullmatch(path.name)
        if match:
            parts.append(_Part(int(match[1]), int(match[2]), path))
        elif path.suffix == ".part":
            leftover.append(path)
    parts.sort(key=lambda part: (part.first, -part.last))
    kept: list[_Part] = []
    for part in parts:
        if kept and part.last <= kept[-1].last:
            leftover.append(part.path)
        else:
            kept.append(part)
    return kept, leftover


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a part, some at a time, every page compared with its checksum. Raises DamagedResultsError."""
    try:
        with open(path, "rb") as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            missing = set(columns) - set(parquet.schema_arrow.names)
            if missing:
                raise ValueError(f"there is no column {min(missing)!r}")
            yield from parquet.iter_batches(_ROWS_IN_MEMORY, columns=list(columns))
    except FileNotFoundError:
        raise
    except _DAMAGE as error:
        raise DamagedResultsError(str(path), str(error)) from None


# Writing --------------------------------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[Any], None]) -> None:
    """Make a file by `write`, so that it is on disk whole under its name or not at all. Raises OSError."""
    half = path.with_name(path.name + ".part")
    try:
        with open(half, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half, path)
    except BaseException:
        with contextlib.suppress(OSError):
            half.unlink()
        raise
    _sync(path.parent)


def _sync(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Rows:
    """The parts of one kind (`results` or `failures`) in a directory, to which one process adds."""

    def __init__(self, folder: Path, schema: pa.Schema) -> None:
        self.folder, self.schema = folder, schema
        folder.mkdir(exist_ok=True)
        kept, leftover = _parts(folder)
        for path in leftover:
            path.unlink()
        self.parts = kept
        self.sizes: dict[Path, int] = {}

    def read(self, columns: Sequence[str], damaged: Callable[[DamagedResultsError], None]) -> Iterator[pa.RecordBatch]:
        """All rows, some at a time. Every part is read to its end before, so that damage is found; `damaged` may raise,
        else the part is put aside."""
        for part in list(self.parts):
            try:
                self.sizes[part.path] = sum(map(len, _batches(part.path, self.schema.names)))
            except DamagedResultsError as damage:
                damaged(damage)
                self.put_aside(part)
                continue
            yield from _batches(part.path, columns)

    def put_aside(self, part: _Part) -> None:
        aside = self.folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        os.replace(part.path, aside / f"{self.folder.name}-{part.path.name}")
        self.parts.remove(part)

    def append(self, table: pa.Table) -> None:
        """Write a batch of rows. When this returns they are on disk. Raises OSError."""
        number = self.parts[-1].last + 1 if self.parts else 0
        part = self._part(number, number)
        write_whole(part.path, lambda file: pq.write_table(table, file, **_PARQUET_OPTIONS))
        self.parts.append(part)
        self.sizes[part.path] = len(table)
        if len(self.small()) >= _COMPACTED_AT:
            self.compact()

    def clear(self) -> None:
        """Remove all rows."""
        for part in self.parts:
            part.path.unlink()
        self.parts, self.sizes = [], {}

    def small(self) -> list[_Part]:
        """The parts at the end that are not yet large."""
        count = 0
        for part in reversed(self.parts):
            if self.sizes[part.path] >= _LARGE_PART:
                break
            count += 1
        return self.parts[len(self.parts) - count :]

    def compact(self) -> None:
        """Make one part of the small ones, a few rows at a time."""
        small = self.small()
        if len(small) < 2:
            return
        whole = self._part(small[0].first, small[-1].last)

        def copy(file: Any) -> None:
            with pq.ParquetWriter(file, self.schema, **_PARQUET_OPTIONS) as writer:
                for table in _tables_of(small, self.schema):
                    writer.write_table(table, row_group_size=2 * _ROWS_IN_MEMORY)

        write_whole(whole.path, copy)
        for part in small:
            part.path.unlink()
        self.parts[-len(small) :] = [whole]
        self.sizes[whole.path] = sum(self.sizes.pop(part.path) for part in small)

    def _part(self, first: int, last: int) -> _Part:
        return _Part(first, last, self.folder / f"part-{first:08d}-{last:08d}.parquet")


#: Types of the columns of factors that are numbers.
_TYPES = {
    **dict.fromkeys(("memory", "max_batch", "block", "prefill_budget", "replicas"), pa.int64()),
    "rate": pa.float64(),
}
#: How parts are written. Checksums find what the disk has spoilt.
_PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


def _tables_of(parts: Sequence[_Part], schema: pa.Schema) -> Iterator[pa.Table]:
    """The rows of parts, about 100,000 at a time, so that row groups are neither tiny nor large."""
    held: list[pa.RecordBatch] = []
    for part in parts:
        for batch in _batches(part.path, schema.names):
            held.append(batch)
            if sum(map(len, held)) >= _ROWS_IN_MEMORY:
                yield pa.Table.from_batches(held, schema)
                held = []
    if held:
        yield pa.Table.from_batches(held, schema)


# The directory --------------------------------------------------------------------------------------------------------


class Directory:
    """A directory of results that is open for writing; one process at a time may do that.

    Raises StudyError if the directory holds another study (unless `extend` and this one contains it), something else,
    or is in use.
    """

    def __init__(self, path: Path, plan: Plan, text: str, about: Mapping[str, Any], extend: bool = False) -> None:
        self.path, self.plan = path, plan
        _make(path)
        self._lock = _locked(path)
        try:
            self._begin(text, about, extend)
        except BaseException:
            self.close()
            raise

    def _begin(self, text: str, about: Mapping[str, Any], extend: bool) -> None:
        definitions = self.plan.definitions()
        described: dict[str, Any] = {"hash": fingerprint(definitions), "definitions": definitions, **about}
        described["cells"] = [list(self.plan.labels(cell).values()) for cell in self.plan.cells]
        described["results"] = [(field.name, str(field.type)) for field in self.schema("results")]
        described["failures"] = [(field.name, str(field.type)) for field in self.schema("failures")]
        described = json.loads(json.dumps(described))  # as it will be read again
        runs = [dict(about)]
        if (self.path / "study.json").exists():
            before = describe(self.path)
            _check_same_study(before, described, self.path, extend)
            runs = before.get("runs", []) + runs
        described["runs"] = runs[-100:]
        write_whole(self.path / "study.toml", lambda file: file.write(text.encode()))
        write_whole(
            self.path / "study.json", lambda file: file.write((json.dumps(described, indent=1) + "\n").encode())
        )
        self.results = Rows(self.path / "results", self.schema("results"))
        self.failures = Rows(self.path / "failures", self.schema("failures"))

    def schema(self, kind: str) -> pa.Schema:
        """The columns of the parts of a kind."""
        factors = [(f, _TYPES.get(f, pa.string())) for f in self.plan.factors]
        keys = [*factors, ("replication", pa.int64()), ("seed", pa.uint64())]
        if kind == "failures":
            return pa.schema([*keys, ("error", pa.string()), ("message", pa.string())])
        return pa.schema([*keys, *((name, pa.float64()) for name in self.plan.metrics)])

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock)

    def rows(self, kind: str, columns: Mapping[str, Any], cells: Any) -> pa.Table:
        """A table of a kind from the numbers of the cells (one per row) and its other columns."""
        schema = self.schema(kind)
        made = {factor: levels.take(pa.array(cells, pa.int64())) for factor, levels in self._labels.items()}
        made |= {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
        return pa.table(made, schema=schema)

    @cached_property
    def _labels(self) -> dict[str, pa.Array]:
        """Factor -> its value in each cell."""
        labels = [self.plan.labels(cell) for cell in self.plan.cells]
        schema = self.schema("results")
        return {f: pa.array([label[f] for label in labels], schema.field(f).type) for f in self.plan.factors}

    def stored(
        self, kind: str, columns: Sequence[str], damaged: Callable[[DamagedResultsError], None]
    ) -> Iterator[tuple[Any, Mapping[str, Any]]]:
        """Rows on disk, some at a time: the numbers of their cells, and their `columns` as arrays."""
        plan = self.plan
        index = {tuple(plan.labels(cell).values()): k for k, cell in enumerate(plan.cells)}
        definitions = plan.definitions()
        levels = {f: list(definitions[AXES[f]]) for f in plan.factors}
        sizes = [len(levels[f]) for f in plan.factors]
        number = np.full(sizes, -1)
        for key, k in index.items():
            number[tuple(levels[f].index(value) for f, value in zip(plan.factors, key, strict=True))] = k
        rows: Rows = getattr(self, kind)
        for batch in rows.read([*plan.factors, *columns], damaged):
            table = pa.Table.from_batches([batch])
            codes = tuple(_codes(table[f], levels[f]) for f in plan.factors)
            cells = number[codes]
            if min([code.min(initial=0) for code in codes] + [cells.min(initial=0)]) < 0:
                raise StudyError(f"{rows.folder} has rows of another study: give --out a new directory", str(self.path))
            yield cells, {name: table[name].to_numpy() for name in columns}


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise StudyError(f"{path} is a file: give another name to --out") from None
    if not (path / "study.json").exists():
        strange = [
            p.name for p in path.iterdir() if p.name not in ("lock", "study.toml", "study.toml.part", "study.json.part")
        ]
        if strange:
            raise StudyError(f"{path} holds no study, but other files ({strange[0]}): give --out a new directory")


def _locked(path: Path) -> int:
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StudyError(f"{path} is in use: another process runs a study in it. Wait for it, or stop it") from None
    return handle


def _check_same_study(before: Mapping[str, Any], now: Mapping[str, Any], path: Path, extend: bool) -> None:
    """Refuse rows that would not fit to those that are there."""
    if before["llmsched"] != now["llmsched"]:
        raise StudyError(
            f"{path} was made by llmsched {before['llmsched']}, and this is {now['llmsched']}, which may count "
            "differently: install that version again, or give --out a new directory"
        )
    changes = _changes(before["definitions"], now["definitions"])
    if before["results"] != now["results"]:
        changes.append(("the rows have other columns", False))
    cells = {tuple(cell) for cell in now["cells"]}
    if not changes and before["cells"] != now["cells"]:
        grown = all(tuple(cell) in cells for cell in before["cells"])
        changes.append(("more combinations (cells)" if grown else "combinations (cells) were taken away", grown))
    old, new = before["replications"], now["replications"]
    if old != new:
        shrunk = isinstance(old, int) and isinstance(new, int) and new < old
        changes.append((f"replications were {_brief(old)} and are {_brief(new)}", not shrunk))
    fatal = [text for text, harmless in changes if not harmless]
    if fatal:
        raise StudyError(
            f"{path} holds the results of another study: {'; '.join(fatal)}. Give --out a new directory", str(path)
        )
    if changes and not extend:
        raise StudyError(
            f"{path} holds the results of a study that differs: {'; '.join(text for text, _ in changes)}. To add to "
            "them, run it with --extend; to leave them alone, give --out a new directory",
            str(path),
        )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, bool]]:
    """What differs between definitions, each with whether rows made under the old ones are good under the new."""
    changes: list[tuple[str, bool]] = []
    for key in before:
        if before[key] == now.get(key):
            continue
        if (
            key not in AXES.values()
            or not isinstance(before[key], (list, dict))
            or not isinstance(now[key], (list, dict))
        ):
            changes.append((f"{key} was {_brief(before[key])} and is {_brief(now.get(key))}", False))
            continue
        old, new = before[key], now[key]
        changes += [(f"{key} lost {_level(name)}", False) for name in old if name not in new]
        if isinstance(old, Mapping):
            changes += [
                (f"{key}: {name!r} means something else", False)
                for name in old
                if name in new and old[name] != new[name]
            ]
        changes += [(f"{key} gained {_level(name)}", True) for name in new if name not in old]
        if list(old) != list(new) and set(old) == set(new):
            changes.append((f"the order of {key}", True))
    return changes


def _level(name: Any) -> str:
    return "none" if name is None else repr(name)


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
