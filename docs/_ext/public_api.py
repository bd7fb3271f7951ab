"""`public-api`: an entry for every public name of a module, under the name that users write.

    .. public-api:: llmsched.generate

    .. public-api:: llmsched
       :names: simulate Result Timeline

Names are at home in modules that nobody imports (`llmsched.workloads.workload.Workload`); the entry, and every link to
it, says `llmsched.Workload`.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import PycodeError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

import llmsched

#: Public modules that are no attribute of `llmsched`.
FURTHER = (
    "llmsched.experiments.paper",
    "llmsched.experiments.routing",
    "llmsched.metrics.catalogue",
    "llmsched.metrics.figure_style",
    "llmsched.metrics.figures",
    "llmsched.metrics.knowledge",
    "llmsched.metrics.load_figures",
    "llmsched.study.statistics",
    "llmsched.study.summary",
)


def found(path: str) -> Any:
    """What a dotted path names: attributes of `llmsched` first, modules where there is no attribute."""
    if path in FURTHER:
        return importlib.import_module(path)
    return functools.reduce(getattr, path.split(".")[1:], llmsched)


def names_of(module: ModuleType) -> list[str]:
    """The public names of a module: its `__all__`, or the classes and functions that it defines."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if name != "__version__"]
    own = (n for n, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__)
    return [name for name in own if not name.startswith("_")]


def public_names(path: str = "llmsched") -> Iterator[str]:
    """The dotted path of every public name, those of public modules in modules too."""
    for name in names_of(found(path)):
        inner = f"{path}.{name}"
        if inspect.ismodule(found(inner)):
            yield from public_names(inner)
        else:
            yield inner
    if path == "llmsched":
        for module in FURTHER:
            yield from public_names(module)


@functools.cache
def public_of() -> dict[str, str]:
    """Home of a class or function -> the path that users write, the first one."""
    homes = {}
    for path in public_names():
        thing = found(path)
        if inspect.isclass(thing) or inspect.isroutine(thing):
            homes.setdefault(f"{thing.__module__}.{thing.__qualname__}", path)
    return homes


def comment_on(name: str, value: object) -> list[str]:
    """The ``#:`` comment on a constant, wherever in llmsched it is at home."""
    for module in [m for key, m in sys.modules.items() if key.startswith("llmsched")]:
        if vars(module).get(name) is value:
            try:
                docs = ModuleAnalyzer.for_module(module.__name__).find_attr_docs()
            except PycodeError:  # a compiled module
                continue
            if ("", name) in docs:
                return docs["", name]
    return []


def with_code_blocks(text: str) -> str:
    """A docstring of a module, whose indented paragraphs are examples in Python."""
    return re.sub(r"(?<=\n\n)(?=    )(?:(?:    .*)?\n)*", lambda m: f".. code-block:: python\n\n{m[0]}\n", text + "\n")


def entry(path: str) -> list[str]:
    """The lines that describe one name."""
    thing = found(path)
    first = public_of().get(f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}", path)
    if first != path:  # offered in a second place, too
        module, _, name = path.rpartition(".")
        return [f".. py:data:: {name}", f"   :module: {module}", "", f"   The same as `{first}`.", ""]
    if inspect.isclass(thing):
        kind = "exception" if issubclass(thing, BaseException) else "class"
        others = ", ".join(base.__name__ for base in thing.__mro__ if not base.__module__.startswith("llmsched"))
        return [f".. auto{kind}:: {path}", "   :members:", f"   :inherited-members: {others}", ""]
    if inspect.isroutine(thing):
        return [f".. autofunction:: {path}", ""]
    module, _, name = path.rpartition(".")
    shown = [f"   :value: {thing!r}"] if len(repr(thing)) < 80 else []
    return [
        f".. py:data:: {name}",
        f"   :module: {module}",
        f"   :type: {type(thing).__name__}",
        *shown,
        "",
        *(f"   {line}" for line in comment_on(name, thing)),
        "",
    ]


class PublicApi(SphinxDirective):
    """The directive."""

    required_arguments = 1
    option_spec: ClassVar = {"names": str.split}

    def run(self) -> list[nodes.Node]:
        """The entries, and before those of a whole module its docstring."""
        path = self.arguments[0]
        thing = found(path)
        names = self.options.get("names")
        lines = [] if names else [*with_code_blocks((thing.__doc__ or "").strip()).splitlines(), ""]
        for name in names or names_of(thing):
            inner = f"{path}.{name}"
            lines += [] if inspect.ismodule(found(inner)) else entry(inner)
        box = nodes.container()
        self.state.nested_parse(StringList(lines, source=f"<{path}>"), self.content_offset, box, match_titles=1)
        return box.children


def link_to_public(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contents: nodes.TextElement
) -> nodes.reference | None:
    """Links to a name by its home, or without `llmsched.`, lead to its entry."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    domain = env.domains.python_domain
    for path in (public_of().get(target), f"llmsched.{target}"):
        if path in domain.objects:
            return domain.resolve_xref(
                env, node["refdoc"], app.builder, "obj", path, node, contents
            )  # fmt: skip
    return None


_as_written: list[str] = []


def keep(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Before napoleon: remember what the docstring of an attribute says."""
    _as_written[:] = lines


def restore(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """After napoleon, which takes what stands before a colon for a type."""
    if what in ("attribute", "property"):
        lines[:] = _as_written


def spell_aliases(
    app: Sphinx, what: str, name: str, thing: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Names of `autodoc_type_aliases` in unions, as they are written."""
    plain = [text and re.sub(r"TypeAliasForwardRef\('([\w.]+)'\)", r"\1", text) for text in (signature, returns)]
    return plain[0], plain[1]


def skip_aliases(app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object) -> bool | None:
    """Fields of named tuples have no documentation but "Alias for field number 0": the class tells of them."""
    return True if (getattr(thing, "__doc__", None) or "").startswith("Alias for field number") else None


def name_exactly(app: Sphinx, doctree: nodes.document) -> None:
    """Names of attributes in lists are no links to whatever else ends in that name."""
    for node in doctree.findall(pending_xref):
        node.attributes.pop("refspecific", None)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    for module in pkgutil.walk_packages(llmsched.__path__, "llmsched."):
        if module.name.split(".")[1] in ("simulation", "policy", "fleet", "workloads"):
            importlib.import_module(module.name)  # constants are looked for where they are at home
    app.add_directive("public-api", PublicApi)
    app.connect("autodoc-process-docstring", keep, priority=400)
    app.connect("autodoc-process-docstring", restore, priority=600)
    app.connect("autodoc-skip-member", skip_aliases)
    app.connect("autodoc-process-signature", spell_aliases)
    app.connect("doctree-read", name_exactly)
    app.connect("missing-reference", link_to_public)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
