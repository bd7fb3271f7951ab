"""What is tested where. `nox -l` lists it, `nox -s tests-3.13` runs one. Needs nox and uv (pip install nox uv).

`.ci/run` is what must pass before a change is taken; these are the rest: other interpreters, the oldest and the newest
versions of what llmsched needs, known weaknesses, and the bill of materials of a release.
"""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["tests"]

LOCKED = ".ci/constraints.txt"
LOCKED_VLLM = ".ci/vllm.txt"
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
#: The tests of what needs NumPy alone: for interpreters for which the extras do not exist yet.
CORE = ["tests/simulation", "tests/test_policy.py", "tests/test_formula.py", "tests/workloads", "tests/fleet"]
COMPILE = ["uv", "pip", "compile", "--no-header", "--no-annotate"]
RESOLVE = [*COMPILE, "pyproject.toml", "--all-extras", "--group", "dev", "--group", "docs"]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Everything, with the newest versions of everything."""
    session.install(".[all,test]")
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=["3.11"])
def oldest(session: nox.Session) -> None:
    """Everything, with the oldest versions that pyproject.toml allows."""
    versions = Path(session.create_tmp(), "oldest.txt")
    session.run(*RESOLVE, "--resolution", "lowest-direct", "-q", "-o", str(versions), external=True)
    session.install(".[all,test]", "--constraint", str(versions))
    session.run("python", "-m", "pytest", "-n", "auto", *session.posargs)


@nox.session(python=[*PYTHONS, "3.13t", "3.14t"])
def core(session: nox.Session) -> None:
    """The engines with NumPy alone, also where the extras cannot be installed."""
    session.install(".", "pytest", "pytest-benchmark", "pytest-timeout", "hypothesis", "scipy")
    session.run("python", "-m", "pytest", *(session.posargs or CORE))


@nox.session(python="3.11")
def lock(session: nox.Session) -> None:
    """Write the versions with which `.ci/run` works."""
    newest = ["--python-version", "3.11", "--upgrade", "-q"]
    session.run(*RESOLVE, *newest, "-o", LOCKED, external=True)
    unused = [f"--no-emit-package={name}" for name in ("torchvision", "torchaudio", "torchcodec", "triton")]
    session.run(*COMPILE, ".ci/vllm.in", *newest, *unused, "-o", LOCKED_VLLM, external=True)


@nox.session(python="3.11")
def audit(session: nox.Session) -> None:
    """Known weaknesses of the locked versions. Needs an index that publishes them."""
    session.install("pip-audit")
    for locked in (LOCKED, LOCKED_VLLM):
        session.run("pip-audit", "-r", locked, "--no-deps", "--disable-pip")


@nox.session(python="3.11")
def bill(session: nox.Session) -> None:
    """The wheel in dist/, and beside it the bill of materials (CycloneDX) of what it installs."""
    session.install("build", "cyclonedx-bom")
    session.run("python", "-m", "build", "--outdir", "dist")
    wheel = max(Path("dist").glob("llmsched-*.whl"), key=lambda path: path.stat().st_mtime)
    place = Path(session.create_tmp(), "installed")
    session.run("python", "-m", "venv", "--clear", str(place))
    session.run(str(place / "bin" / "pip"), "install", str(wheel), external=True)
    name = wheel.with_suffix(".cdx.json")
    session.run("cyclonedx-py", "environment", str(place / "bin" / "python"), "--output-reproducible", "-o", str(name))


@nox.session(python="3.11")
def fuzz(session: nox.Session) -> None:
    """Every reader of files, for half an hour each."""
    session.install(".[all]", "atheris")
    session.run("python", "fuzz/run", *(session.posargs or ["--seconds", "1800"]))
