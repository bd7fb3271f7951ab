"""Pages on traces that are not part of the project: their commands print what they show, where the traces are."""

from __future__ import annotations

import re
import shlex

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")

from helpers import ROOT
from typer.testing import CliRunner

import llmsched as ls
from llmsched.cli.main import app

AZURE, MOONCAKE = "AzureLLMInferenceTrace_conv.csv", "mooncake_conversation_blocks.jsonl"
#: Page of docs/how-to -> its trace, and how many of its commands read it.
PAGES = {"azure": (AZURE, 3), "fleet": (AZURE, 2), "prefix-cache": (MOONCAKE, 1)}


def text_of(page: str) -> str:
    return (ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")


def shown(page: str) -> list[tuple[str, str]]:
    """The commands that read the trace, with the output that follows them."""
    found = re.findall(r"```sh\n(llmsched .*?)\n```\n\n```text\n(.*?)```", text_of(page), re.DOTALL)
    return [(command, output) for command, output in found if PAGES[page][0] in command]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_outputs(page: str) -> None:
    assert len(shown(page)) == PAGES[page][1]
    assert all(output for _, output in shown(page))


@pytest.mark.parametrize(("page", "at"), [(page, k) for page, (_, count) in PAGES.items() for k in range(count)])
def test_a_command_prints_what_the_page_shows(page: str, at: int, data_file, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data_file(PAGES[page][0]).parent)
    monkeypatch.delenv("COLUMNS", raising=False)  # as into a file: lines as long as they are
    command, output = shown(page)[at]
    words = shlex.split(command.replace("\\\n", " "))
    result = CliRunner().invoke(app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout == output


def test_the_table_of_caches_has_what_is_measured(data_file) -> None:
    workload = ls.traces.load(data_file(MOONCAKE))
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) % \| ([\d,]+) \| ([\d,]+) \|$", text_of("prefix-cache"), re.MULTILINE)
    assert len(rows) == 8
    for memory, *said in rows:
        machine = ls.machines["llama2-70b-8xh100"].replace(memory=int(memory.replace(",", ""))).options()
        cached, plain = (ls.simulate(workload, policy, **machine) for policy in ("vllm, prefixes=cached", "vllm"))
        latencies = (f"{result.mean_latency:,.0f}" for result in (cached, plain))
        assert said == [f"{100 * cached.hit_share:.1f}", *latencies]
