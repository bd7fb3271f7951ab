"""The manifest of a study's results: which parts there are, with the rows, bytes and SHA-256 of each.

`manifest.json` has a checksum of its own. What it lists is the results: a part that is not there, or differs, is
damage; a file that it does not list is none of them. It is written after a part is on disk, and before the part gets
its name, so that a process killed in between leaves a part which is listed, and has its name still to get.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DamagedResultsError, StudyError
from .whole_files import digest, half_of, read_sealed, write_sealed

KINDS = ("results", "failures")
NAME = "manifest.json"
#: Rows that are in memory at a time.
ROWS_IN_MEMORY = 100_000
_PART = re.compile(r"part-(\d+)-(\d+)\.parquet")


class Part(NamedTuple):
    """A file of rows: the numbers of the first and last batch in it, and what it must be like.

    `made_by` has the versions of llmsched and NumPy that simulated the rows: usually one.
    """

    first: int
    last: int
    rows: int
    bytes: int
    sha256: str
    made_by: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the file."""
        return part_name(self.first, self.last)


def part_name(first: int, last: int) -> str:
    """What a part is called that holds these batches."""
    return f"part-{first:08d}-{last:08d}.parquet"


@dataclasses.dataclass
class Manifest:
    """What is in the directory of a study: `parts` of each kind in order, and the hash of the study they are of."""

    study: str
    parts: dict[str, list[Part]] = dataclasses.field(default_factory=lambda: {kind: [] for kind in KINDS})

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """The manifest of a directory. Raises DamagedResultsError, StudyError if it cannot be read."""
        path = directory / NAME
        try:
            values = read_sealed(path)
        except FileNotFoundError:
            if not any(_PART.fullmatch(file.name) for kind in KINDS for file in _files(directory / kind)):
                return cls("")  # killed before there was anything to list
            raise DamagedResultsError(str(path), "it is missing, and says which parts are good") from None
        except ValueError as error:
            raise DamagedResultsError(str(path), str(error)) from None
        except OSError as error:
            raise unreadable(path, error) from None
        parts = {k: [Part(**{**row, "made_by": tuple(row["made_by"])}) for row in values[k]] for k in KINDS}
        return cls(values["study"], parts)

    def write(self, directory: Path) -> None:
        """Write it. Raises OSError."""
        listed = {kind: [part._asdict() for part in parts] for kind, parts in self.parts.items()}
        write_sealed(directory / NAME, {"study": self.study, **listed})

    def rows(self) -> int:
        """Simulations in the results, failed ones included."""
        return sum(part.rows for parts in self.parts.values() for part in parts)


def other_files(folder: Path, parts: Sequence[Part]) -> tuple[list[Path], list[Path]]:
    """The files in `folder` that are none of its parts: those left over by a process that was killed (half written, or
    replaced by a larger part), and strangers."""
    leftover, strange = [], []
    names = {part.name for part in parts}
    for path in _files(folder):
        if path.name in names:
            continue
        match = _PART.fullmatch(path.name)
        covered = match and any(part.first <= int(match[1]) and int(match[2]) <= part.last for part in parts)
        if covered or path.suffix == ".part":
            leftover.append(path)
        elif match:
            strange.append(path)
    return leftover, strange


def stranger(path: Path) -> StudyError:
    """The error about a part that the manifest does not list."""
    return StudyError(
        f"{path} is not among the parts that {NAME} lists: it was copied here, or {NAME} is an old one. Move it "
        "elsewhere, or restore the whole directory from one backup",
        str(path),
    )


def batches(folder: Path, part: Part, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a part, some at a time, after all its bytes were compared with the manifest.

    Raises DamagedResultsError if they differ, StudyError if they cannot be read, FileNotFoundError, MemoryError.
    """
    path = folder / part.name
    with _opened(path) as file:
        try:
            found = digest(file)
        except OSError as error:
            raise unreadable(path, error) from None
        if found[0] != part.bytes:
            raise DamagedResultsError(str(path), f"it has {found[0]:,} bytes, and should have {part.bytes:,}")
        if found[1] != part.sha256:
            raise DamagedResultsError(str(path), "its checksum is wrong")
        file.seek(0)
        try:
            yield from pq.ParquetFile(file).iter_batches(ROWS_IN_MEMORY, columns=list(columns))
        except (pa.ArrowException, OSError, ValueError) as error:
            if isinstance(error, MemoryError):  # some of pyarrow's are
                raise
            raise unreadable(path, error) from None


def _opened(path: Path) -> IO[bytes]:
    """A part, which may not have got its name yet."""
    try:
        try:
            return open(path, "rb")
        except FileNotFoundError:
            return open(half_of(path), "rb")
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such file or directory", str(path)) from None
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> StudyError:
    """The error about a file that is there and cannot be read now: that says nothing about what is in it."""
    why: Any = getattr(error, "strerror", None) or error
    return StudyError(
        f"{path} cannot be read ({' '.join(str(why).split())[:120]}). It is not known to be damaged, and is left where "
        "it is: mend what keeps it from being read (the disk, rights, memory, open files), and run the same command "
        "again",
        str(path),
    )


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))
