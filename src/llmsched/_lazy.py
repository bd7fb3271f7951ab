"""Public names that are imported when they are first used, so that importing a package stays light."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of `package`, for names at home in its modules.

    `homes` maps a public name to the dotted path of its module inside the package. A name that ends that path is the
    module itself.
    """

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module = importlib.import_module(f"{package}.{homes[name]}")
        is_module = homes[name].rpartition(".")[2] == name and not hasattr(module, name)
        if is_module and hasattr(module, "__all__"):  # autocompletion offers no imports
            vars(module).setdefault("__dir__", lambda: sorted(module.__all__))
        value = module if is_module else getattr(module, name)
        setattr(sys.modules[package], name, value)  # the next time Python finds it without asking here
        return value

    return getattribute, lambda: sorted(homes)
