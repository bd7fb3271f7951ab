"""Policies in files: TOML with the keys of a study file, or Python with a subclass of `Policy`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from . import settings_files
from .errors import InputLimitError, PolicyError, nearest
from .policy import Policy, checked_keys, composed, named

_IN_CODE = re.compile(r"(?P<file>.*\.py):(?P<name>[^:/\\]*)", re.IGNORECASE | re.DOTALL)


def parse(text: str) -> Policy:
    """The policy written as on the command line: ``amin``, ``amin,margin=0.05,name=mine``, ``mine.toml``, or
    ``mine.py:Ageing``, a class or a policy in a file of Python.

    A composed policy is called as it is written unless it has a name. Raises PolicyError as `composed`, `read` and
    `from_code` do, and OSError if a file cannot be read.
    """
    if text.lower().endswith(".toml"):
        return read(text)
    return from_code(text) if _IN_CODE.fullmatch(text) or text.lower().endswith(".py") else named(text)


def read(path: str | os.PathLike[str]) -> Policy:
    """The policy in a TOML file with the keys of `composed`, which are those of a study file; its label is `name`, by
    default the file's name.

    Raises
    ------
    PolicyError
        The file is no TOML, or what it says is no policy: with its name.
    OSError
        The file cannot be read.
    """
    place = os.fspath(path)
    try:
        values = settings_files.toml_values(settings_files.read_text(path))
        return composed({"name": os.path.splitext(os.path.basename(place))[0]} | values)
    except InputLimitError:
        raise
    except ValueError as error:  # what parsing and the decoding of text raise, and a PolicyError
        raise PolicyError(f"policy file {place}: {error}") from None


def from_code(
    text: str, folder: str | os.PathLike[str] = "", values: Mapping[str, Any] | None = None, name: str = ""
) -> Policy:
    """The policy that ``FILE.py:NAME`` names: a subclass of `Policy`, or a policy that the file makes.

    The file is run, as `import` would; what it prints or does is its own business. The policy can be sent to other
    processes and machines: the text of the file goes with it.

    Parameters
    ----------
    text
        The file, which is relative to `folder`, and the name in it.
    values
        Fields that differ from those of the class or the policy, and `base`, as for `composed`.
    name
        Its label, by default the name in the file.

    Raises
    ------
    PolicyError
        The file fails (with the line), has nothing of that name, or something that is no policy.
    OSError
        The file cannot be read.
    """
    parts = _IN_CODE.fullmatch(text)
    if parts is None:
        raise PolicyError(f"policy {text!r}: a policy in Python is written FILE.py:NAME, NAME being one in that file")
    path = Path(folder, parts["file"])
    try:
        code = settings_files.read_text(path)
    except UnicodeDecodeError as error:
        raise PolicyError(f"policy file {path}: {error}") from None
    found = _named_in(_module(code, str(path)), parts["name"], path)
    fields = dict(values or {})
    if isinstance(found, type):
        policy = found.based_on(fields.pop("base", "amin"))
    elif "base" in fields:
        raise PolicyError(f"policy file {path}: {parts['name']} is a policy already, so that it can have no base")
    else:
        policy = found
    return dataclasses.replace(policy, **checked_keys(fields)).labelled(name or policy.label or parts["name"])


def code_of(policy: Policy) -> dict[str, Any]:
    """What decides about a policy from a file of Python beside its fields: its class, what it
    reads, and the SHA-256 of the file.
    Of a class that is from no such file its name. Empty for those that are their fields alone."""
    if not policy.methods:
        return {}
    code, _ = getattr(type(policy), "_code", ("", ""))
    digest = {"code": hashlib.sha256(code.encode()).hexdigest()} if code else {}
    return {"class": type(policy).__qualname__, "reads": list(policy.reads), **digest}


def _named_in(module: ModuleType, name: str, path: Path) -> Policy | type[Policy]:
    there = {key: value for key, value in vars(module).items() if _is_policy(value) and value is not Policy}
    if name in there:
        found: Policy | type[Policy] = there[name]
        return found
    if hasattr(module, name):
        function = "; llmsched.testing runs a scheduler that is a function" if callable(vars(module)[name]) else ""
        raise PolicyError(f"policy file {path}: {name} is neither a subclass of llmsched.Policy nor a policy{function}")
    raise PolicyError(f"policy file {path} has no policy {name!r}; {nearest(name, there)}")


def _is_policy(value: object) -> bool:
    return isinstance(value, Policy) or (isinstance(value, type) and issubclass(value, Policy))


def _module(code: str, path: str) -> ModuleType:
    """The module that this code makes; the same for the same code, so that equal policies are equal."""
    name = f"llmsched_policies_{hashlib.sha256(f'{path} {code}'.encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = path
    try:
        exec(compile(code, path, "exec"), vars(module))  # the user's own file, which the user named
    except Exception as error:
        del sys.modules[name]
        lines = [entry.lineno for entry in traceback.extract_tb(error.__traceback__) if entry.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        raise PolicyError(f"policy file {path}, line {line}: {type(error).__name__}: {error}") from None
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Policy) and value.__module__ == name:
            value._code = (code, path)  # type: ignore[attr-defined]  # which only classes of files have
            value.__reduce__ = _with_its_code  # type: ignore[method-assign,assignment]  # of this class alone
    return module


def _with_its_code(policy: Policy) -> tuple[Any, ...]:
    """How it is pickled: the file need not be where it is read again."""
    values = tuple(getattr(policy, f.name) for f in dataclasses.fields(policy))
    return _again, (*type(policy)._code, type(policy).__qualname__, policy.label, values)  # type: ignore[attr-defined]  # see _module


def _again(code: str, path: str, name: str, label: str, values: tuple[Any, ...]) -> Policy:
    found: Any = _module(code, path)
    for part in name.split("."):
        found = getattr(found, part)
    policy: Policy = found(*values)
    return policy.labelled(label) if label else policy
