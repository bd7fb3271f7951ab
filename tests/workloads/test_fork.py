"""A process that forks while other threads simulate: the child can simulate too."""

from __future__ import annotations

import os
import threading
import time
import warnings

import pytest

import llmsched as ls
from llmsched.workloads import length_table


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_table_is_made_can_use_it(monkeypatch):
    table = ls.LengthTable.from_outputs(range(1, 200))
    inside, go_on = threading.Event(), threading.Event()
    really = length_table._quantiles

    def slowly(*args):
        if threading.current_thread() is thread:
            inside.set()
            go_on.wait(30)
        return really(*args)

    monkeypatch.setattr(length_table, "_quantiles", slowly)
    thread = threading.Thread(target=table.quantile, args=(0.5,))
    thread.start()
    assert inside.wait(30)
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # forking with threads: the point here
        child = os.fork()
    if child == 0:
        table.quantile(0.5)
        os._exit(0)
    until, done = time.monotonic() + 20, (0, 0)
    while done[0] == 0 and time.monotonic() < until:
        done = os.waitpid(child, os.WNOHANG)
        time.sleep(0.01)
    if done[0] == 0:
        os.kill(child, 9)
        os.waitpid(child, 0)
    go_on.set()
    thread.join()
    assert done == (child, 0)
