"""A program whose stderr is a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence

ROWS, COLUMNS = 24, 100


def on_a_terminal(command: Sequence[str], seconds: float = 120) -> tuple[str, str]:
    """What a program prints on stdout, which is a pipe, and what it shows on a terminal that is its stderr."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("4H", ROWS, COLUMNS, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=child, text=True, env=environment)
    os.close(child)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # how a terminal ends on Linux
                return
            if not piece:
                return
            shown.extend(piece)

    reader = threading.Thread(target=read)
    reader.start()
    printed, _ = process.communicate(timeout=seconds)
    reader.join()
    os.close(parent)
    assert process.returncode == 0, shown.decode()
    return printed, shown.decode()
