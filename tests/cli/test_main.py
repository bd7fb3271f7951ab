"""`main`, through itself and as a process: exit codes, streams, bad input, interruption."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs typer (extra cli)")
pytest.importorskip("rich", reason="the command line needs rich (extra cli)")

from helpers.command_line import COMMAND, Refused, run, spawn

import llmsched as ls
from llmsched.cli.app import study_app
from llmsched.cli.main import _plain, app, main


def test_version_and_help() -> None:
    assert run("--version") == f"llmsched {ls.__version__}\n"
    for command in ("compare", "paper", "policies"):
        assert command in run("--help")
        assert "Usage" in run(command, "--help")
    page = run("--help")
    places = [
        page.index(text) for text in ("Compare policies", "compare ", "Plan a service", "capacity ", "calibrate ")
    ]
    assert places == sorted(places)


def test_without_a_command_it_greets_and_names_commands_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = run()
    assert "Three things to try" in said
    assert "--help" in said
    commands = [line.split()[1:] for line in said.splitlines() if line.startswith("  llmsched ")]
    assert len(commands) == 4
    for command in commands:
        few = {"generate": ["--requests", "80"], "capacity": ["--replications", "2"]}.get(command[0], [])
        assert run(*command, *few)


@pytest.mark.parametrize(
    "complaint",
    [
        "Invalid value for '--rate': Input should be a valid number, unable to parse string as a number",
        "Invalid value for '--rate': '2x' is not a valid float.",  # of typer before 0.29
    ],
)
def test_complaints_of_every_typer_are_put_in_plain_words(complaint: str) -> None:
    assert _plain(complaint) == "Invalid value for '--rate': expected a number such as 2.5"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compare", "--requests", "5"], "error: No such option: --requests; here it is --limit\n"),
        (["capacity", "--slo", "ttft=1", "--limit", "5"], "error: No such option: --limit; here it is --requests\n"),
        (["machines", "--limit", "5"], "error: No such option: --limit\n"),
    ],
)
def test_an_option_of_another_command_is_named_as_it_is_here(words: list[str], said: str, refused: Refused) -> None:
    told = refused(*words).replace("option '--limit'.", "option: --limit")  # as typer says it before 0.26
    assert told.startswith(said)


def test_too_small_a_memory_names_the_request_and_the_option(trace: Path, refused: Refused, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    for command, also in (("compare", ", or leave long requests out: --too-long drop"), ("paper", "")):
        said = refused(command, str(trace), "--memory", "24", *(["--out", out] if command == "paper" else []))
        assert "request 0 " in said
        assert f"\ntry --memory 32{also}\n" in said


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ("compare --policy amni", "did you mean 'amin'"),
        ("compare --intervals bucket:100", "did you mean 'buckets'"),
        ("compare --intervals buckets", "buckets:WIDTH"),
        ("compare --generate lmsis", "did you mean 'lmsys'"),
        ("compare --engine fast", "compiled, reference"),
        ("compare --memory 0", "memory"),
        ("compare --memory -5", "-5"),
        ("compare --memory 1.5", "--memory"),
        ("compare --memory 99999999999999999999", "99999999999999999999"),
        ("compare --seed -1", "seed"),
        ("compare --limit -1", "-1"),
        ("compare --limit 9007199254740992", "memory"),
        ("compare --max-rounds -1", "max_rounds"),
        ("compare --round-seconds 0", "--round-seconds"),
        ("compare --round-seconds nan", "--round-seconds"),
        ("compare no-such-file.csv", "no-such-file.csv"),
        ("compare - --format azur", "did you mean 'azure'"),
        ("compare - --on-error ignore", "'raise' or 'skip'"),
        ("compare --json --csv -", "--csv -"),
        ("compare --plot a.jpg", ".png, .svg, .pdf"),
        ("compare --plot no-such-folder/a.png", "no-such-folder"),
        ("compare --csv no-such-folder/a.csv", "no-such-folder"),
        ("compare --csv .", "directory"),
        ("compare --polcy amin", "--polcy"),
        ("compare one two", "two"),
        ("compare --rate 2x", "error: Invalid value for '--rate': expected a number such as 2.5\n"),
        ("compare --seed x", "error: Invalid value for '--seed': expected a whole number\n"),
        ("compair", "compare"),
        ("paper --subsets 0", "subsets"),
        ("paper no-such-file.csv", "no-such-file.csv"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(
    args: str, expected: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refused(*args.split())


def test_outputs_are_checked_before_the_simulation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    monkeypatch.setattr("llmsched.cli.compare.compare_policies", lambda *_, **__: pytest.fail("it simulated first"))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "llmsched[plot]" in refused("compare", "--plot", str(tmp_path / "a.png"))
    assert "llmsched[plot]" in refused("paper", "--out", str(tmp_path))


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    for args in (["compare", "--limit", "5"], ["compare", "--limit", "5", "--csv", "/dev/full"]):
        with open("/dev/full", "w") as full:
            done = spawn(*args, capture_output=False, stdout=full, stderr=subprocess.PIPE)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert "No space left" in done.stderr


def test_an_error_of_ones_own_making_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmsched.cli.compare.compare_policies", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(["compare"])


def test_exit_codes_and_streams_of_a_process(trace: Path) -> None:
    good = spawn("compare", str(trace), "--memory", "60")
    assert (good.returncode, good.stderr) == (0, "")
    assert good.stdout.startswith("4 requests")
    bad = spawn("compare", str(trace), "--memory", "1")
    assert (bad.returncode, bad.stdout) == (2, "")
    assert bad.stderr.startswith("error: request 0 ")


def test_a_trace_from_standard_input(trace: Path) -> None:
    expected = run("compare", str(trace), "--memory", "60", "--csv", "-")
    for content in (trace.read_bytes(), gzip.compress(trace.read_bytes())):
        done = spawn("compare", "-", "--memory", "60", "--csv", "-", input=content, text=False)
        assert done.returncode == 0
        assert done.stdout == expected.encode()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_ends_it_with_a_word_and_130(tmp_path: Path) -> None:
    commands = ["compare --engine reference --limit 200000", "paper --subsets 100000", "compare -"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    began = time.monotonic()
    assert spawn("--version").returncode == 0
    imports = time.monotonic() - began
    processes = [subprocess.Popen([*COMMAND, *c.split()], cwd=tmp_path, text=True, **pipes) for c in commands]
    time.sleep(0.5 + 3 * imports)  # past the imports, with much left to do
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            out, err = process.communicate(timeout=60)
            assert (process.returncode, out, err) == (130, "", "interrupted\n")
    finally:
        for process in processes:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_while_the_commands_are_gathered_ends_it_with_a_word_and_130() -> None:
    code = (
        "import os, signal, sys, typer.main\n"
        "typer.main.get_command = lambda app: os.kill(os.getpid(), signal.SIGINT)\n"
        "from llmsched.__main__ import main\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_ctrl_c_during_an_import_is_the_end(tmp_path: Path) -> None:
    """Of modules half made come errors of all kinds, and crashes as the interpreter ends."""
    interrupt = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "heavy.py").write_text(f"try:\n    {interrupt}except BaseException:\n    print('half made')\n")
    begin = "import signal; from llmsched.__main__ import _interrupt; signal.signal(signal.SIGINT, _interrupt)\n"
    for code, status, said in (
        ("import heavy", 130, "interrupted\n"),
        (interrupt, -signal.SIGINT, "KeyboardInterrupt"),
    ):
        done = subprocess.run([sys.executable, "-c", begin + code], cwd=tmp_path, text=True, capture_output=True)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a POSIX pipe")
@pytest.mark.parametrize(
    ("args", "unbuffered"),
    [("compare --limit 5", ""), ("compare --limit 5", "1"), ("compare --limit 5 --json", ""), ("--help", "")],
)
def test_nobody_reading_is_no_reason_to_complain(args: str, unbuffered: str) -> None:
    read, write = os.pipe()
    os.close(read)
    env = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    done = spawn(*args.split(), capture_output=False, stdout=write, stderr=subprocess.PIPE, env=env)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from llmsched.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "pip install 'llmsched[cli]'" in done.stderr


PAGES = ["", *(command.name for command in app.registered_commands), "study"]
PAGES += [f"study {command.name}" for command in study_app.registered_commands]


@pytest.mark.parametrize("command", PAGES)
def test_no_help_page_shows_a_type_beside_a_switch(command: str) -> None:
    page = run(*command.split(), "--help")
    assert "--help" in page
    assert "bool" not in page.lower()


def test_the_library_does_not_import_the_command_line() -> None:
    code = "import sys, llmsched; assert not {'typer', 'rich', 'matplotlib', 'llmsched.cli.main'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_study_without_a_command_shows_its_help() -> None:
    assert run("study") == run("study", "--help")
