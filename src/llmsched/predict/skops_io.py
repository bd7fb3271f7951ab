"""skops.io, imported in a moment also where transformers is loaded, as inside vLLM.

While it is imported, skops asks every loaded module for some hundred names. transformers answers by importing all of
itself, which takes half a minute.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Whoever looks through `sys.modules` does not see the package."""
    names = [name for name in sys.modules if name.partition(".")[0] == package]
    modules = {name: sys.modules.pop(name) for name in names}
    try:
        yield
    finally:
        sys.modules.update(modules)


with _hidden("transformers"):
    from skops.io import dumps, get_untrusted_types, loads

__all__ = ["dumps", "get_untrusted_types", "loads"]
