"""`llmsched policies`: the named policies, and what each decides by."""

from __future__ import annotations

import textwrap
from typing import Any

from ..policy import DESCRIPTIONS, Policy
from ..policy import policies as named_policies
from . import console
from .options import Json

#: Columns of the table: the name, then fields; two columns are made of two fields.
_COLUMNS = ("policy", "order", "reserve", "margin", "evict", "refine", "cap to", "resume")


def policies(as_json: Json = False) -> None:
    """List the named policies, and what each decides by."""
    if as_json:
        console.print_json([_policy_json(name, policy) for name, policy in named_policies.items()])
        return
    rows = [_cells(name, policy) for name, policy in named_policies.items()]
    console.print_table(_COLUMNS, rows, left_aligned=range(len(_COLUMNS)))
    console.say()
    width = max(map(len, named_policies)) + 2
    for name, policy in named_policies.items():
        lines = textwrap.wrap(_policy_text(name, policy), max(console.stdout().width, 60) - width)
        console.say(f"{name:<{width}}" + f"\n{'':{width}}".join(lines))


def _policy_json(name: str, policy: Policy) -> dict[str, Any]:
    about = {"description": DESCRIPTIONS[name], "clairvoyant": policy.clairvoyant, "needs": list(policy.needs)}
    return {"policy": name, **policy.fields(), **about}


def _cells(name: str, policy: Policy) -> list[str]:
    """The cells of `_COLUMNS`."""
    evict = f"{policy.evict} {policy.beta:g}" if policy.evict == "random" else policy.evict
    cap = "-" if policy.cap == "none" else policy.cap_refine
    order = policy.order if isinstance(policy.order, str) else "custom"
    cells = {"order": order, "reserve": policy.reserve, "evict": evict} | dict.fromkeys(policy.formulas, "formula")
    middle = [f"{policy.margin:g}", cells["evict"], policy.refine, cap, policy.resume]
    return [name, cells["order"], cells["reserve"], *middle]


def _policy_text(name: str, policy: Policy) -> str:
    """What it is, what it reads, and the fields that are not in the table."""
    reads = "the truth" if policy.clairvoyant else ", ".join(policy.needs) or "no prediction"
    defaults = Policy().fields()
    shown = {*_COLUMNS, "beta", "cap", "cap_refine"} - policy.formulas.keys()
    others = [f"{k}={v}" for k, v in policy.fields().items() if k not in shown and v != defaults[k]]
    return f"{DESCRIPTIONS[name]}; reads {reads}" + (f"; {', '.join(others)}" if others else "")
