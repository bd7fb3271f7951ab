"""What every command prints with."""

from __future__ import annotations

import io
import math
import os
import threading

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import spawn

from llmsched.cli import console


def test_a_console_without_unicode_gets_plain_letters() -> None:
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = spawn("compare", "--limit", "5", env=env)
    assert done.returncode == 0
    assert "\\u" not in done.stdout
    assert "\x1b" not in done.stdout  # nor are there colours in a pipe


def test_a_progress_bar_shows_on_a_terminal_after_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    screen = console.Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "Console", lambda **_: screen)
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.ProgressBar("requests") as bar:
        bar.update("amin", 1000, 20000)
        assert screen.file.getvalue() == ""
        now[0] = 1.5
        bar.update("amin", 5000, 20000)
    assert "5,000 of 20,000 requests" in screen.file.getvalue()


def test_a_ticking_bar_goes_with_the_time_and_ends(monkeypatch):
    seen = []
    monkeypatch.setattr(console.ProgressBar, "update", lambda self, *told: seen.append(told))
    with console.ticking("search", 30.0):
        while len(seen) < 2:
            pass
    count = len(seen)
    assert {told[0] for told in seen} == {"search"}
    assert all(0 <= done <= total == 30 for _, done, total in seen)
    threads = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    assert not any(thread.daemon and thread.name.endswith("(tick)") for thread in threads)
    assert len(seen) == count
    with pytest.raises(ValueError, match="inside"), console.ticking("search", math.inf):
        raise ValueError("inside")
