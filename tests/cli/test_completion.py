"""`llmsched --install-completion` in real shells: the Tab key completes commands and options."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer")
pexpect = pytest.importorskip("pexpect", reason="a shell is typed into with pexpect (pip install pexpect)")
COMMAND = Path(sys.executable).with_name("llmsched")


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A home of its own, so that no file of the user is read or written."""
    if not COMMAND.exists():
        pytest.skip(f"the command is not installed as {COMMAND}")
    path = os.pathsep.join([str(COMMAND.parent), os.environ["PATH"]])
    return {"HOME": str(tmp_path), "PATH": path, "TERM": "xterm", "LANG": "C.UTF-8"}


def answer(shell: str, environment: dict[str, str], *answers: str) -> int:
    """Type into a new shell `llmsched compa`, Tab, `--he`, Tab, Enter: the number of the answer that comes."""
    interactive = pexpect.spawn(
        shell, ["-i"], env=environment, cwd=environment["HOME"], encoding="utf-8", dimensions=(50, 120), timeout=120
    )
    interactive.delaybeforesend = 1  # fish drops what is typed before it is ready
    try:
        interactive.expect("[#$%>] ")
        first = "\t\t" if shell == "zsh" else "\t"  # zsh loads the completion with the first Tab
        interactive.send(f"llmsched compa{first}--he\t\r")
        return int(interactive.expect(list(answers)))
    finally:
        interactive.close(force=True)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_after_install_completion_the_tab_key_completes(shell: str, environment: dict[str, str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    refused, helped = r"No such (command|option)", r"llmsched compare \[OPTIONS"
    if shell == "bash":
        assert answer(shell, environment, refused, helped) == 0
    # Typer asks which shell it was started from; `; true` keeps the shell from becoming the command itself.
    install = [shell, "-c", "llmsched --install-completion; true"]
    done = subprocess.run(install, env=environment, capture_output=True, text=True, check=True)
    assert f"{shell} completion installed in {environment['HOME']}" in done.stdout
    assert answer(shell, environment, refused, helped) == 1
