"""`llmsched machines`: the named machines, what each has, and where its numbers come from."""

from __future__ import annotations

import textwrap

from ..serving.published_clocks import clocks
from ..simulation.machine import machines as named_machines
from . import console
from .options import Json


def machines(as_json: Json = False) -> None:
    """List the named machines: a clock with its cache and limits, and where the numbers come from."""
    if as_json:
        console.print_json([machine.fields() for machine in named_machines.values()])
        return
    known = list(named_machines.values())
    console.print_columns(
        {
            "machine": [machine.name for machine in known],
            "KV cache": [f"{machine.memory:,}" for machine in known],
            "block": [str(machine.block) for machine in known],
            "max batch": ["-" if machine.max_batch is None else f"{machine.max_batch:,}" for machine in known],
            "budget": ["-" if machine.prefill_budget is None else f"{machine.prefill_budget:,}" for machine in known],
            "power": [machine.power or "-" for machine in known],
        },
        left_aligned=(0, 5),
    )
    console.aside(
        "\nKV cache in tokens; budget: most tokens that a round processes; your own is a file (--machine FILE), which "
        "llmsched calibrate --machine makes from a log"
    )
    console.aside(f"Clocks alone, for --clock NAME --memory M: {', '.join(clocks)}")
    for machine in known:
        lines = textwrap.wrap(
            f"{machine.name}: {machine.source}", max(console.stdout().width, 60), subsequent_indent="  "
        )
        console.say("\n" + "\n".join(lines))
