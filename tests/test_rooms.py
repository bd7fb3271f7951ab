"""The import rule of src/llmsched: rooms import downwards, and no modules import each other in a circle.

Every import counts: inside functions, for type checking only, and in Cython (.pyx, .pxd), which import-linter does not
see. A .pxd is a header, and as in C a module of its own: what it declares is there before its .pyx.
"""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from helpers import ROOT

#: The rooms (folders, and modules beside them) from the ground up; those on one floor do not import each other. The
#: parts of the compiled core, _engine, are one room with it.
FLOORS = (
    ("errors", "_lazy", "_logging", "_version", "formula_names", "html_tables"),
    ("formula", "input_limits", "progress"),
    ("settings_files",),
    ("policy", "_core"),
    ("policy_files",),
    ("workloads",),
    ("predict",),
    ("simulation",),
    ("fleet",),
    ("optimum",),
    ("metrics",),
    ("experiments",),
    ("testing",),
    ("study",),
    ("serving",),
    ("cli",),
    ("__init__", "__main__"),
)
HEIGHT = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}

CYTHON_IMPORT = re.compile(r"^\s*((?:from\s+[\w.]+\s+)?c?import\s+(?:\([^)]*\)|[^\n]*))", re.MULTILINE)


class Import(NamedTuple):
    """One import: file and line, who imports, and what is imported."""

    place: str
    importer: str
    imported: str

    def __str__(self) -> str:
        return f"{self.place}: {self.importer} imports {self.imported}"


def imports_in(package: Path) -> list[Import]:
    """All imports of modules of the package by each other."""
    files = [path for path in sorted(package.rglob("*")) if path.suffix in (".py", ".pyx", ".pxd")]
    dotted = {path: ".".join(path.relative_to(package.parent).with_suffix("").parts) for path in files}
    names = {path: name.removesuffix(".__init__") + ".pxd" * (path.suffix == ".pxd") for path, name in dotted.items()}
    modules = set(names.values())
    found = []
    for path, importer in names.items():
        place = path.relative_to(package.parent)
        if path.suffix == ".pyx" and f"{importer}.pxd" in modules:
            found.append(Import(f"{place}:1", importer, f"{importer}.pxd"))
        for line, suffix, node in import_statements(path):
            imported = targets(node, dotted[path].split(".")[:-1], suffix, modules) - {importer}
            found += [Import(f"{place}:{line}", importer, name) for name in sorted(imported)]
    return found


def import_statements(path: Path) -> Iterator[tuple[int, str, ast.Import | ast.ImportFrom]]:
    """Every import of a file: its line, ".pxd" for a cimport, and the statement, as if it were Python's."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                yield node.lineno, "", node
        return
    for match in CYTHON_IMPORT.finditer(text):
        statement, cimports = re.subn(r"\bcimport\b", "import", match[1])
        (parsed,) = ast.parse(statement).body
        assert isinstance(parsed, (ast.Import, ast.ImportFrom))
        yield text.count("\n", 0, match.start(1)) + 1, ".pxd" * cimports, parsed


def targets(node: ast.Import | ast.ImportFrom, parents: list[str], suffix: str, modules: set[str]) -> set[str]:
    """The modules of the package that a statement imports, in a module inside the packages `parents`."""
    if isinstance(node, ast.Import):
        return {alias.name + suffix for alias in node.names} & modules
    base = parents[: len(parents) - node.level + 1] if node.level else []
    source = ".".join([*base, *([node.module] if node.module else [])])
    named = {f"{source}.{alias.name}{suffix}" for alias in node.names}
    return (named & modules) | ({source + suffix} & modules if named - modules else set())


def room(module: str) -> str:
    """The room that a module is in."""
    name = module.split(".")[1] if "." in module else "__init__"
    return "_core" if name == "_engine" else name


def upward(imports: list[Import]) -> list[str]:
    """The imports of other rooms that are not below, as messages."""
    wrong = []
    for found in imports:
        own, other = room(found.importer), room(found.imported)
        wrong += [f"{found}: {name} is on no floor of {Path(__file__).name}" for name in {own, other} - HEIGHT.keys()]
        if own != other and HEIGHT.get(own, 0) <= HEIGHT.get(other, 0):
            wrong.append(f"{found}: {other} is not below {own}")
    return wrong


def circle(imports: list[Import]) -> list[str]:
    """The imports of one circle, as messages; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for found in imports:
        graph.setdefault(found.importer, set()).add(found.imported)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        around = set(zip(error.args[1][1:], error.args[1], strict=False))  # each imports the one before
        return [str(found) for found in imports if (found.importer, found.imported) in around]
    return []


def test_rooms_only_import_downwards() -> None:
    wrong = upward(imports_in(ROOT / "src" / "llmsched"))
    assert not wrong, "\n".join(wrong)


def test_no_modules_import_each_other_in_a_circle() -> None:
    wrong = circle(imports_in(ROOT / "src" / "llmsched"))
    assert not wrong, "\n".join(wrong)


def written(package: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return package


GOOD = {
    "__init__.py": "from .cli.app import main",
    "errors.py": "import os",
    "workloads/__init__.py": "",
    "workloads/traces.py": "from ..errors import TraceError\nfrom . import columns",
    "workloads/columns.py": "from llmsched.errors import InputError",
    "cli/app.py": "from ..workloads import traces\nimport llmsched.errors",
    "cli/fast.pxd": "from libc.stdint cimport int64_t",
    "cli/fast.pyx": "from . import app\nfrom libc.math cimport sqrt",
}


def test_the_rule_holds_in_a_tree_that_keeps_it(tmp_path: Path) -> None:
    imports = imports_in(written(tmp_path / "llmsched", GOOD))
    assert len(imports) == 8
    assert upward(imports) == circle(imports) == []


@pytest.mark.parametrize(
    ("name", "text", "line", "imported"),
    [
        ("errors.py", "from .workloads import traces", 1, "llmsched.workloads.traces"),
        ("errors.py", "from .workloads.traces import load", 1, "llmsched.workloads.traces"),
        ("errors.py", "def late():\n    import llmsched.cli.app", 2, "llmsched.cli.app"),
        ("_lazy.py", "from .errors import InputError", 1, "llmsched.errors"),
        ("workloads/new.py", "if TYPE_CHECKING:\n    from ..cli.app import App", 2, "llmsched.cli.app"),
        ("workloads/new.py", "from .. import main", 1, "llmsched"),
        ("workloads/new.pyx", "from libc cimport math\nfrom ..cli.app import (  # a\n  App,\n)", 2, "llmsched.cli.app"),
        ("workloads/new.pxd", "\n\nfrom llmsched.cli cimport fast", 3, "llmsched.cli.fast.pxd"),
        ("workloads/new.pxd", "from llmsched.cli.fast cimport Fast", 1, "llmsched.cli.fast.pxd"),
    ],
)
def test_an_upward_import_is_named_with_its_line(
    tmp_path: Path, name: str, text: str, line: int, imported: str
) -> None:
    (message,) = upward(imports_in(written(tmp_path / "llmsched", GOOD | {name: text})))
    assert message.startswith(f"llmsched/{name}:{line}: ")
    assert f"imports {imported}: " in message


def test_a_room_without_a_floor_is_named(tmp_path: Path) -> None:
    files = GOOD | {"attic/new.py": "from .. import errors"}
    assert "attic is on no floor" in upward(imports_in(written(tmp_path / "llmsched", files)))[0]


@pytest.mark.parametrize(
    ("size", "change"),
    [
        (2, {"workloads/columns.py": "def late():\n    from .traces import load"}),
        (3, {"workloads/columns.py": "from . import new", "workloads/new.pyx": "from .traces import load"}),
        (2, {"workloads/new.pxd": "from .old cimport Old", "workloads/old.pxd": "from llmsched.workloads cimport new"}),
        (3, {"workloads/__init__.py": "from .traces import load", "workloads/columns.py": "from . import load"}),
    ],
)
def test_a_circle_inside_a_room_is_named(tmp_path: Path, size: int, change: dict[str, str]) -> None:
    imports = imports_in(written(tmp_path / "llmsched", GOOD | change))
    assert upward(imports) == []
    found = circle(imports)
    assert len(found) == size
    assert all(name in "".join(found) for name in change)
