"""The package as it is installed: what it imports, declares and promises."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.resources
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from helpers import ROOT

import llmsched

MODULES = sorted(m.name for m in pkgutil.walk_packages(llmsched.__path__, "llmsched.") if m.name != "llmsched.__main__")
COMPILED = sorted(
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in (ROOT / "src/llmsched").rglob("*.pyx")
)
# Libraries that belong to an extra: whoever has only numpy can import and simulate.
EXTRAS = (
    *("matplotlib", "typer", "rich", "pandas", "polars", "pyarrow", "pydantic", "scipy", "sklearn", "skops"),
    *("highspy", "distributed", "starlette", "uvicorn", "vl_convert"),
)


def files_of_the_project() -> list[Path]:
    """What is part of the project: tracked files, or in an sdist (which has no repository) everything that is text."""
    try:
        git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(git, check=True, capture_output=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = [
            str(path.relative_to(ROOT)) for folder in ("src", "tests", "tools") for path in (ROOT / folder).rglob("*")
        ]
    paths = [ROOT / name for name in names if name]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()]


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What it says of itself -----------------------------------------------------------------------------------------------


def test_the_version_is_the_same_everywhere():
    assert llmsched.__version__ == importlib.metadata.version("llmsched")
    assert re.fullmatch(r"\d+(\.\d+)+((\.|\.post\d+\.)dev\d+|rc\d+)?(\+[\w.]+)?", llmsched.__version__)


def test_every_version_between_releases_names_its_commit():
    if "dev" in llmsched.__version__:
        assert re.search(r"\+g[0-9a-f]{7,}(\.d\d{8})?$|dev0$", llmsched.__version__)  # dev0: built without Git


def test_the_installed_version_is_this_sources():
    stated = re.search(r'^version = "(.+)"$', (ROOT / "src/llmsched/_version.py").read_text(), re.MULTILINE)
    assert stated is not None
    assert stated[1] == llmsched.__version__


def test_only_numpy_is_needed():
    needed = [r for r in importlib.metadata.requires("llmsched") or [] if "extra ==" not in r]
    assert [re.split(r"[<>=~! ]", r)[0] for r in needed] == ["numpy"]


def test_all_holds_every_extra_that_users_need():
    metadata = importlib.metadata.metadata("llmsched")
    extras = set(metadata.get_all("Provides-Extra") or [])
    (everything,) = [
        r for r in metadata.get_all("Requires-Dist") or [] if r.startswith("llmsched[") and 'extra == "all"' in r
    ]
    inside = set(everything.split("[")[1].split("]")[0].split(","))
    assert inside == extras - {"all", "test"}


def test_types_are_published():
    assert importlib.resources.files("llmsched").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", COMPILED)
def test_the_stub_of_a_compiled_module_is_true(name):
    module = importlib.import_module(name)
    package, _, stem = name.rpartition(".")
    stub = ast.parse(importlib.resources.files(package).joinpath(f"{stem}.pyi").read_text(encoding="utf-8"))
    declared = {node.name: node for node in stub.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    variables = {node.target.id for node in stub.body if isinstance(node, ast.AnnAssign)}
    defined = {n for n, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    assert set(declared) == {n for n in defined if not n.startswith("_")}
    assert all(hasattr(module, name) for name in variables)
    for name, node in declared.items():
        value = getattr(module, name)
        if isinstance(node, ast.ClassDef):
            methods = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            assert methods <= set(dir(value))
            assert {n for n in vars(value) if not n.startswith("_")} <= methods
            continue
        arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
        actual = inspect.signature(value).parameters
        assert arguments == list(actual)
        required = len(arguments) - len(node.args.defaults)
        assert [name for name, p in actual.items() if p.default is p.empty] == arguments[:required]


# What importing it costs ----------------------------------------------------------------------------------------------


def test_importing_it_loads_no_optional_library():
    assert in_fresh_python(f"import llmsched, sys; print(*(name for name in {EXTRAS} if name in sys.modules))") == ""


def test_simulating_loads_no_optional_library():
    code = (
        "import llmsched as ls, sys; w = ls.generate.lmsys(20).with_intervals(ls.intervals.buckets(100))\n"
        "ls.simulate(w, 'amin', memory=16492).summary()\n"
        f"print(*(name for name in {EXTRAS} if name in sys.modules))"
    )
    assert in_fresh_python(code) == ""


@pytest.mark.parametrize("missing", EXTRAS)
def test_it_imports_without(missing):
    assert in_fresh_python(f"import sys; sys.modules[{missing!r}] = None; import llmsched; print('ok')") == "ok"


def test_importing_it_prints_nothing_and_starts_no_thread():
    code = "import threading, numpy; n = threading.active_count(); import llmsched; print(threading.active_count() - n)"
    assert in_fresh_python(code) == "0"


# Its public names -----------------------------------------------------------------------------------------------------


def public_objects() -> dict[str, object]:
    """Every function and class that a user reaches from `llmsched.__all__`, and their public methods."""
    found: dict[str, object] = {}

    def add(name: str, value: object) -> None:
        if inspect.isclass(value):
            found[name] = value
            for key, member in vars(value).items():
                if isinstance(member, (classmethod, staticmethod)):
                    member = member.__func__
                if isinstance(member, property):
                    member = member.fget
                elif hasattr(member, "func"):  # cached_property
                    member = member.func
                if not key.startswith("_") and inspect.isfunction(member) and member.__module__.startswith("llmsched"):
                    found[f"{name}.{key}"] = member
        elif inspect.isfunction(value):
            found[name] = value

    for name in llmsched.__all__:
        value = getattr(llmsched, name)
        if isinstance(value, ModuleType):
            for key in getattr(value, "__all__", [k for k in vars(value) if not k.startswith("_")]):
                member = getattr(value, key)
                if getattr(member, "__module__", "").startswith("llmsched"):
                    add(f"{name}.{key}", member)
        else:
            add(name, value)
    return found


PUBLIC = public_objects()


def test_all_is_sorted_and_true():
    assert sorted(llmsched.__all__) == llmsched.__all__
    assert all(hasattr(llmsched, name) for name in llmsched.__all__)


def test_every_compiled_module_is_there():
    assert COMPILED
    assert set(COMPILED) <= set(MODULES)


#: Module -> what it cannot be imported without, and no extra installs.
NEEDS_AN_ENGINE = {
    "llmsched.serving.vllm_scheduler": "vllm",
    "llmsched.serving.transformers_scheduler": "torch",
}


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is(name):
    if name in NEEDS_AN_ENGINE:
        pytest.importorskip(NEEDS_AN_ENGINE[name])
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_says_what_it_does(name):
    value = PUBLIC[name]
    written = value.__doc__ or ""
    generated = inspect.isclass(value) and written.startswith(f"{value.__name__}(")  # by dataclasses
    assert len(written) > 10, f"{name} has no docstring"
    assert not generated, f"{name} has no docstring of its own"


@pytest.mark.parametrize("name", sorted(n for n, value in PUBLIC.items() if inspect.isfunction(value)))
def test_every_public_function_has_complete_type_hints(name):
    function = PUBLIC[name]
    hints = function.__annotations__
    bare = [p for p in inspect.signature(function).parameters if p not in hints and p not in ("self", "cls")]
    assert not bare, f"{name}: no type for {', '.join(bare)}"
    assert "return" in hints, f"{name}: no return type"


# Its files ------------------------------------------------------------------------------------------------------------


def test_no_file_names_a_machine_or_an_index():
    """Paths of somebody's home and package index hosts work for one person only."""
    words = (
        "/home/",
        "/root/",
        "/Users/",
        "/work/",
        "index" + "-url",
        "extra-" + "index",
        "pypi" + ".org",
        "trusted" + "-host",
    )
    named = []
    for path in files_of_the_project():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            named += [f"{path.relative_to(ROOT)}:{number}: {line.strip()}" for word in words if word in line]
    assert not named, "\n".join(named)


def test_the_readme_marks_the_commands_that_ci_runs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for mark, word in (("main job:", "llmsched compare"), ("tests:", "pytest")):
        block = re.search(rf"<!--[^>]*{mark} -->\n+```sh\n(.+?)```", readme, re.DOTALL)
        assert block is not None, f"no block marked {mark!r}"
        assert word in block[1]


# What autocompletion offers -------------------------------------------------------------------------------------------


def test_a_public_name_is_looked_up_once():
    code = "import llmsched as ls; assert 'simulate' not in vars(ls); assert ls.simulate is vars(ls)['simulate']"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_autocompletion_offers_public_names_alone():
    assert dir(llmsched) == sorted(llmsched.__all__)
    for name in llmsched.__all__:
        value = getattr(llmsched, name)
        if inspect.ismodule(value) and name != "errors":
            assert dir(value) == sorted(value.__all__), name
    assert all(issubclass(getattr(llmsched.errors, name), Exception) for name in dir(llmsched.errors))
    assert "InputError" in dir(llmsched.errors)


def test_memory_is_a_keyword_in_every_function():
    """Those of `theory` are formulas, of whose symbols it is one."""
    found = {}
    for name in llmsched.__all__:
        value = getattr(llmsched, name)
        functions = {name: value} if inspect.isfunction(value) else {}
        if inspect.ismodule(value) and name != "theory":
            functions = {f"{name}.{k}": v for k in dir(value) if inspect.isfunction(v := getattr(value, k))}
        found |= {k: p["memory"] for k, v in functions.items() if "memory" in (p := inspect.signature(v).parameters)}
    assert {"simulate", "compare", "lower_bound", "optimal", "best_known", "capacity.highest_rate"} <= set(found)
    assert [name for name, parameter in found.items() if parameter.kind is not parameter.KEYWORD_ONLY] == []


def test_a_plain_simulation_imports_nothing_that_it_does_not_use() -> None:
    """Importing is most of what a short script costs."""
    rooms = ("predict", "fleet", "optimum", "metrics", "experiments", "testing", "study", "serving", "cli")
    unused = [f"llmsched.{name}" for name in (*rooms, "formula", "policy_files", "simulation.reference")]
    script = "import sys, llmsched as ls; ls.simulate(ls.Workload(1, [2, 3]), 'fcfs', memory=9000); "
    assert in_fresh_python(script + f"print(*(name for name in {unused!r} if name in sys.modules))") == ""


def test_importing_the_package_imports_none_of_its_rooms() -> None:
    found = in_fresh_python("import llmsched, sys; print(*sorted(name for name in sys.modules if 'llmsched.' in name))")
    assert found == "llmsched._lazy llmsched._version"
