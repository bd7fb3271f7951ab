"""`llmsched routers`: the named routers, and what each chooses by."""

from __future__ import annotations

import textwrap
from typing import Any

from ..fleet.router import DESCRIPTIONS, Router
from ..fleet.router import routers as named_routers
from . import console
from .options import Json

#: Columns of the table: the name, then fields; "-" where a field has no part in the rule.
_COLUMNS = ("router", "rule", "score", "choices", "classes", "sessions")


def routers(as_json: Json = False) -> None:
    """List the named routers, which choose the replica that takes a request, and what each chooses by.

    Any field can be replaced, as in --router least-work,work=upper,delay=0.1.
    """
    if as_json:
        console.print_json([_router_json(name, router) for name, router in named_routers.items()])
        return
    rows = [_cells(name, router) for name, router in named_routers.items()]
    console.print_table(_COLUMNS, rows, left_aligned=range(len(_COLUMNS)))
    console.say()
    width = max(map(len, named_routers)) + 2
    for name, router in named_routers.items():
        text = f"{DESCRIPTIONS[name]}; reads {', '.join(router.needs) or 'no column'}"
        lines = textwrap.wrap(text, max(console.stdout().width, 60) - width)
        console.say(f"{name:<{width}}" + f"\n{'':{width}}".join(lines))


def _router_json(name: str, router: Router) -> dict[str, Any]:
    return {"router": name, **router.fields(), "description": DESCRIPTIONS[name], "needs": list(router.needs)}


def _cells(name: str, router: Router) -> list[str]:
    """The cells of `_COLUMNS`."""
    scored = router.rule == "least"
    choices = "all" if router.choices is None else str(router.choices)
    classes = "-" if router.classes == 1 else f"{router.classes} of {router.by}"
    score, choices = (router.score, choices) if scored else ("-", "-")
    return [name, router.rule, score, choices, classes, "yes" if router.sessions else "-"]
