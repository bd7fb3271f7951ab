"""The directory of a study's results: what is in it, and how it survives whatever happens.

    study.toml      the study file, as given            results/part-*.parquet    one row per simulation
    study.json      hash, versions, machine, command    failures/part-*.parquet   simulations without a result
    manifest.json   rows, bytes and SHA-256 of parts

Files appear whole, under their final names, after they are on disk; a row is reported done after that and never before.
A part is called after the numbers of the batches that are in it. One that holds several replaced them: if both are
found, the process was killed between writing the one and removing the others, which is done then.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from .._logging import logger
from ..errors import DamagedResultsError, MissingExtraError, StudyError, number_of
from .plan import Plan, fingerprint
from .summary import AXES
from .whole_files import finish, half_of, read_sealed, write_half, write_sealed, write_whole

try:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from .manifest import KINDS, NAME, ROWS_IN_MEMORY, Manifest, Part, batches, other_files, part_name, stranger
except ImportError:
    raise MissingExtraError("pyarrow", "study", "a study") from None

_log = logger(__name__)

#: Batches of rows that are compacted into one part.
_COMPACTED_AT = 64
#: A part with so many rows is left alone.
_LARGE_PART = 500_000


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
    """What study.json says. Raises StudyError if the directory holds no study, or the file is damaged."""
    path = Path(directory) / "study.json"
    try:
        return read_sealed(path)
    except FileNotFoundError:
        raise StudyError(f"{directory} holds no study (no study.json): is it the directory given to --out?") from None
    except ValueError as error:
        raise DamagedResultsError(str(path), str(error)) from None


def study_file(directory: str | os.PathLike[str], described: Mapping[str, Any]) -> str:
    """The text of study.toml. Raises DamagedResultsError if it is not the one that study.json knows."""
    path = Path(directory) / "study.toml"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise DamagedResultsError(str(path), "it is missing") from None
    if hashlib.sha256(content).hexdigest() != described["study_file"]:
        raise DamagedResultsError(str(path), "it is not the study file that was run")
    return content.decode()


def count(directory: str | os.PathLike[str]) -> int:
    """Simulations on disk, failed ones included. Raises StudyError as `results` does."""
    return Manifest.read(Path(directory)).rows()


def _read_all(directory: Path, kind: str) -> pa.Table:
    described = describe(directory)
    schema = pa.schema([(name, getattr(pa, _MAKER_OF.get(type_, type_))()) for name, type_ in described[kind]])
    manifest = Manifest.read(directory)
    while True:
        parts, folder = manifest.parts[kind], directory / kind
        problem: StudyError
        try:
            _, strange = other_files(folder, parts)
            if not strange:
                rows = [batch for part in parts for batch in batches(folder, part, schema.names)]
                return _sorted(pa.Table.from_batches(rows, schema), described)
            problem = stranger(strange[0])
        except FileNotFoundError as error:
            problem = DamagedResultsError(error.filename, f"{NAME} lists it, and it is not there")
        before, manifest = manifest, Manifest.read(directory)
        if manifest == before:  # else a process is writing, and parts came or went since the manifest was read
            raise problem


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


# Writing --------------------------------------------------------------------------------------------------------------


class Rows:
    """The parts of one kind (`results` or `failures`) in a directory, to which one process adds."""

    def __init__(self, directory: Path, kind: str, schema: pa.Schema, manifest: Manifest, made_by: str) -> None:
        self.directory, self.folder, self.schema, self.manifest = directory, directory / kind, schema, manifest
        self.parts, self.made_by = manifest.parts[kind], made_by
        self.folder.mkdir(exist_ok=True)
        for part in self.parts:
            path = self.folder / part.name
            if not path.exists() and half_of(path).exists():  # killed before it got its name
                finish(path)
        leftover, strange = other_files(self.folder, self.parts)
        if strange:
            raise stranger(strange[0])
        for path in leftover:
            path.unlink()
            _log.info("removed: %s, left by a run that was killed", path)

    def read(self, columns: Sequence[str], damaged: Callable[[DamagedResultsError], None]) -> Iterator[pa.RecordBatch]:
        """All rows, some at a time. Damage is found before a row of the part is handed out; `damaged` may raise, else
        the part is put aside."""
        for part in list(self.parts):
            try:
                yield from batches(self.folder, part, columns)
                continue
            except FileNotFoundError as error:
                damage = DamagedResultsError(error.filename, f"{NAME} lists it, and it is not there")
            except DamagedResultsError as error:
                damage = error
            damaged(damage)
            put_aside(self.directory, self.folder / part.name)
            self._replace([part], [])

    def append(self, table: pa.Table) -> None:
        """Write a batch of rows. When this returns they are on disk. Raises OSError."""
        number = self.parts[-1].last + 1 if self.parts else 0
        self._write(number, number, len(table), lambda file: pq.write_table(table, file, **_PARQUET_OPTIONS), [])
        _log.info("written: %s, %s", self.folder / self.parts[-1].name, number_of(len(table), "row"))
        if len(self.small()) >= _COMPACTED_AT:
            self.compact()

    def clear(self) -> None:
        """Remove all rows. Raises OSError."""
        paths = [self.folder / part.name for part in self.parts]
        for path in paths:
            os.replace(path, half_of(path))  # a process killed here leaves parts that get their names back
        self._replace(list(self.parts), [])
        for path in paths:
            half_of(path).unlink()

    def small(self) -> list[Part]:
        """The parts at the end that are not yet large."""
        count = 0
        for part in reversed(self.parts):
            if part.rows >= _LARGE_PART:
                break
            count += 1
        return self.parts[len(self.parts) - count :]

    def compact(self) -> None:
        """Make one part of the small ones, a few rows at a time. Raises OSError, StudyError if one cannot be read."""
        small = self.small()
        if len(small) < 2:
            return

        def copy(file: Any) -> None:
            with pq.ParquetWriter(file, self.schema, **_PARQUET_OPTIONS) as writer:
                for table in self._tables_of(small):
                    writer.write_table(table, row_group_size=2 * ROWS_IN_MEMORY)

        self._write(small[0].first, small[-1].last, sum(part.rows for part in small), copy, small)
        _log.info("compacted: %d parts into %s", len(small), self.folder / self.parts[-1].name)
        for part in small:
            (self.folder / part.name).unlink()

    def _write(self, first: int, last: int, rows: int, write: Callable[[Any], Any], replaced: list[Part]) -> None:
        """Write a part, in the place of others."""
        path = self.folder / part_name(first, last)
        size, sha256 = write_half(path, write)
        makers = (name for part in replaced for name in part.made_by) if replaced else (self.made_by,)
        try:
            self._replace(replaced, [Part(first, last, rows, size, sha256, tuple(dict.fromkeys(makers)))])
        except OSError:
            half_of(path).unlink()
            raise
        finish(path)

    def _replace(self, old: list[Part], new: list[Part]) -> None:
        """Other parts, in the manifest too."""
        self.parts[:] = [part for part in self.parts if part not in old] + new
        try:
            self.manifest.write(self.directory)
        except OSError:  # on disk nothing has changed
            self.parts[:] = [part for part in self.parts if part not in new] + old
            self.parts.sort()
            raise

    def _tables_of(self, parts: Sequence[Part]) -> Iterator[pa.Table]:
        """The rows of parts, about 100,000 at a time, so that row groups are neither tiny nor large."""
        held: list[pa.RecordBatch] = []
        for part in parts:
            for batch in batches(self.folder, part, self.schema.names):
                held.append(batch)
                if sum(map(len, held)) >= ROWS_IN_MEMORY:
                    yield pa.Table.from_batches(held, self.schema)
                    held = []
        if held:
            yield pa.Table.from_batches(held, self.schema)


def put_aside(study: Path, path: Path) -> None:
    """Move a damaged file of a study into its directory `damaged`, if it is there. Raises OSError."""
    (study / "damaged").mkdir(exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, study / "damaged" / "-".join(path.relative_to(study).parts))


#: Types of the columns of factors that are numbers.
_TYPES = {
    **dict.fromkeys(("memory", "max_batch", "block", "prefill_budget", "replicas"), pa.int64()),
    "rate": pa.float64(),
}
#: How parts are written. Checksums find what the disk has spoilt.
_PARQUET_OPTIONS: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}


# The directory --------------------------------------------------------------------------------------------------------


class Directory:
    """A directory of results that is open for writing; one process at a time may do that.

    Raises StudyError if the directory holds another study (unless `extend` and this one contains it), something else,
    or is in use.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        text: str,
        about: Mapping[str, Any],
        *,
        extend: bool = False,
        repair: bool = False,
        other_versions: bool = False,
    ) -> None:
        self.path, self.plan = path, plan
        self.damaged: list[str] = []  # files that were put aside
        _make(path)
        self._lock = _locked(path)
        try:
            self._begin(text, about, extend, repair, other_versions)
        except BaseException:
            self.close()
            raise

    def _begin(self, text: str, about: Mapping[str, Any], extend: bool, repair: bool, other_versions: bool) -> None:
        definitions = self.plan.definitions()
        described: dict[str, Any] = {"hash": fingerprint(definitions), "definitions": definitions, **about}
        described["cells"] = [list(self.plan.labels(cell).values()) for cell in self.plan.cells]
        for kind in KINDS:
            described[kind] = [(field.name, str(field.type)) for field in self.schema(kind)]
        described["study_file"] = hashlib.sha256(text.encode()).hexdigest()
        described = json.loads(json.dumps(described))  # as it will be read again
        manifest = self._manifest(repair)
        before = self._described_before(manifest, described["hash"], repair)
        if before is not None:
            _check_same_study(before, described, self.path, extend, other_versions)
        described["runs"] = [*(before or {}).get("runs", []), dict(about)][-100:]
        write_whole(self.path / "study.toml", lambda file: file.write(text.encode()))
        write_sealed(self.path / "study.json", described)
        manifest.study = described["hash"]
        manifest.write(self.path)
        made_by = f"llmsched {about['llmsched']}, NumPy {about['numpy']}"
        self.results, self.failures = (
            Rows(self.path, kind, self.schema(kind), manifest, made_by) for kind in ("results", "failures")
        )

    def _manifest(self, repair: bool) -> Manifest:
        """The manifest. A damaged one tells no part from another, so that `repair` puts all aside."""
        try:
            return Manifest.read(self.path)
        except DamagedResultsError:
            if not repair:
                raise
            parts = [part for kind in KINDS for part in sorted(self.path.glob(f"{kind}/part-*.parquet"))]
            for path in [self.path / NAME, *parts]:
                put_aside(self.path, path)
                self.damaged.append(str(path))
                _log.warning("repaired: %s put aside, what was in it is simulated again", path)
            return Manifest("")

    def _described_before(self, manifest: Manifest, fingerprint: str, repair: bool) -> dict[str, Any] | None:
        """What study.json said. If it is damaged, `repair` writes it anew where the manifest is of the same study."""
        path = self.path / "study.json"
        if not path.exists():
            return None
        try:
            return describe(self.path)
        except DamagedResultsError:
            if not repair:
                raise
        if manifest.rows() and manifest.study != fingerprint:
            raise StudyError(
                f"{path} is damaged, and this is not the study that was last run in {self.path}: give the study file "
                "as it was then, with --repair",
                str(path),
            )
        put_aside(self.path, path)
        self.damaged.append(str(path))
        _log.warning("repaired: %s put aside, and written anew", path)
        return None

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
        place = {f: {value: k for k, value in enumerate(levels[f])} for f in plan.factors}
        sizes = [len(levels[f]) for f in plan.factors]
        number = np.full(sizes, -1)
        for key, k in index.items():
            number[tuple(place[f][value] for f, value in zip(plan.factors, key, strict=True))] = k
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
        ours = {"lock", "study.toml", "study.toml.part", "study.json.part"}
        strange = [p.name for p in path.iterdir() if p.name not in ours]
        if strange:
            raise StudyError(f"{path} holds no study, but other files ({strange[0]}): give --out a new directory")


def _locked(path: Path) -> int:
    handle = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise StudyError(f"{path} is in use: another process runs a study in it. Wait for it, or stop it") from None
    return handle


def _check_same_study(
    before: Mapping[str, Any], now: Mapping[str, Any], path: Path, extend: bool, other_versions: bool
) -> None:
    """Refuse rows that would not fit to those that are there."""
    for key, name in (("llmsched", "llmsched"), ("numpy", "NumPy")):
        if before[key] != now[key] and not other_versions:
            raise StudyError(
                f"{path} was made by {name} {before[key]}, and this is {now[key]}, which may count differently: "
                f"install that version again, give --out a new directory, or go on with --other-versions, and {NAME} "
                "says which rows are whose",
                str(path),
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
    if changes and extend:
        _log.info("extended: %s", "; ".join(text for text, _ in changes))
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
