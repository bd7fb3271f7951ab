"""`llmsched explore`: what it says is what the library says, nobody else gets in, and the page in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.command_line import COMMAND, Refused, compared

import llmsched as ls
from llmsched.cli.explorer import picture
from llmsched.cli.explorer.setting import ROUNDS, Setting
from llmsched.cli.options import RequestOptions, parse_policies

pytest.importorskip("starlette", reason="the extra explore is not installed")
pytest.importorskip("uvicorn", reason="the extra explore is not installed")

MACHINE = "llama2-70b-2xa100"
PLAIN = Setting(ROUNDS, 16492, None, 1, "least-requests", "buckets:100", ("hsf", "amin", "mcsf", "vllm"))


def changed(**fields: Any) -> Setting:
    return Setting(**{**{name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__}, **fields})


#: A setting for each dial, and some for several.
SETTINGS = {
    "plain": PLAIN,
    "small cache": changed(memory=1500),
    "seed": changed(seed=7),
    "rate": changed(rate=0.7),
    "machine": changed(machine=MACHINE, memory=6000, rate=5.5),
    "blocks": changed(machine="llama2-70b-8xh100", memory=8000, rate=20.0),
    "fleet": changed(replicas=3, router="least-work", rate=2.0),
    "fleet of machines": changed(machine=MACHINE, memory=6000, replicas=4, router="random", rate=20.0, seed=3),
    "noisy": changed(intervals="noisy:0.8,0.4"),
    "realistic": changed(intervals="realistic", seed=2),
    "nothing": changed(intervals="constant:1,883"),
    "truth": changed(intervals="exact"),
    "composed": changed(policies=("amin", "amin,margin=0.05", "amin,margin=0.1,name=wide")),
    "lengths": changed(policies=("conditional", "fcfs")),
}


def source(n: int = 300) -> RequestOptions:
    return RequestOptions(limit=n)


def drawn_by(dials: Setting, requests: RequestOptions | None = None) -> dict[str, Any]:
    asked = picture.Requests(requests or source())
    return picture.picture(dials, asked, picture.Bounds(asked).find(dials))


def simulated(dials: Setting, policy: str, n: int) -> ls.Result:
    """What `llmsched.simulate` says of a setting with one machine, in rounds, of generated requests."""
    w = ls.generate.lmsys(n, dials.seed)
    w = w if dials.rate is None else ls.generate.poisson(w, dials.rate, dials.seed)
    assert dials.intervals is not None
    w = w.with_intervals(ls.intervals.parse(dials.intervals))
    return ls.simulate(w, policy, memory=dials.memory, seed=dials.seed, record="timeline")


# The numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dials", SETTINGS.values(), ids=SETTINGS)
def test_the_command_gives_the_numbers_of_the_page(dials: Setting) -> None:
    found = drawn_by(dials)
    program, command, *arguments = shlex.split(found["texts"]["command"])
    assert (program, command) == ("llmsched", "compare")
    rows = {row["policy"]: row for row in compared(*arguments)["policies"]}
    assert len(rows) == len(found["rows"]) == len(dials.policies)
    for row in found["rows"]:
        assert row == {name: rows[row["policy"]][name] for name in row}


@pytest.mark.parametrize("dials", SETTINGS.values(), ids=SETTINGS)
def test_the_program_gives_the_numbers_of_the_page(dials: Setting, capsys: pytest.CaptureFixture[str]) -> None:
    found, there = drawn_by(dials), dict[str, Any]()
    exec(found["texts"]["python"], there)
    assert [{name: record[name] for name in picture.SHOWN} for record in there["compared"].records()] == found["rows"]
    assert capsys.readouterr().out.count("\n") == len(dials.policies)


@pytest.mark.parametrize("dials", SETTINGS.values(), ids=SETTINGS)
def test_the_study_is_one_and_says_the_same(dials: Setting) -> None:
    from llmsched.study.study_file import StudyFile

    study = StudyFile.parse(drawn_by(dials)["texts"]["study"])
    assert study.memories == (dials.memory,)
    assert study.machines == (() if dials.machine == ROUNDS else (dials.machine,))
    assert study.replicas == (() if dials.replicas == 1 else (dials.replicas,))
    assert [entry.rule for entry in study.intervals] == [dials.intervals]
    assert [entry.policy() for entry in study.policies] == [*parse_policies(dials.policies).values()]
    assert [(entry.generator, entry.requests, entry.rate) for entry in study.workloads] == [("lmsys", 300, dials.rate)]


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace with a name that a shell would take apart, arrival times and intervals of its own."""
    w = ls.generate.poisson(ls.generate.lmsys(200, 4), 6, 4).with_intervals(ls.intervals.buckets(50))
    columns = {
        "arrival_s": w.arrival,
        "prompt_tokens": w.prompt,
        "output_tokens": w.output,
        "lower": w.lower,
        "upper": w.upper,
    }
    rows = zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True)
    path = tmp_path / "my 'own' trace.csv"
    path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


@pytest.mark.parametrize("rule", [None, "relative:0.5"])
@pytest.mark.parametrize("rate", [None, 9.0])
def test_a_trace_is_taken_along_too(
    trace: Path, rule: str | None, rate: float | None, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmsched.study.study_file import StudyFile

    dials = changed(machine=MACHINE, memory=5000, intervals=rule, rate=rate)
    found, there = drawn_by(dials, RequestOptions(trace=str(trace), limit=150)), dict[str, Any]()
    rows = {row["policy"]: row for row in compared(*shlex.split(found["texts"]["command"])[2:])["policies"]}
    assert all(row == {name: rows[row["policy"]][name] for name in row} for row in found["rows"])
    exec(found["texts"]["python"], there)
    assert [row.result.mean_latency for row in there["compared"].ranked()] == [r["mean_latency"] for r in found["rows"]]
    study = StudyFile.parse(found["texts"]["study"])
    assert study.workloads[0].trace == str(trace)
    capsys.readouterr()


def test_curves_are_the_distribution_of_latency() -> None:
    found = drawn_by(PLAIN, source(1000))
    for policy, curve in found["curves"].items():
        latency = simulated(PLAIN, policy, 1000).latency
        assert curve["y"][-1] == 1
        assert len(curve["x"]) == picture.CURVE
        for x, y in zip(curve["x"], curve["y"], strict=True):
            assert (latency <= x).mean() >= y > (latency < x).mean()


@pytest.mark.parametrize("dials", [PLAIN, changed(rate=0.3, memory=1500)], ids=["at once", "over time"])
def test_the_cache_over_time_has_every_eviction_and_the_peak(dials: Setting) -> None:
    found = drawn_by(dials)
    for row in found["rows"]:
        line = found["timelines"][row["policy"]]
        assert sum(line["evictions"]) == row["evictions"]
        assert max(line["used"]) == pytest.approx(row["peak_share"], abs=1e-12)
        rounds = simulated(dials, row["policy"], 300).timeline.expand()  # type: ignore[union-attr]
        at = np.minimum((rounds["time"] / found["end"] * picture.MOMENTS).astype(int), picture.MOMENTS - 1)
        for moment in np.unique(at).tolist():  # no less than the fullest round that begins in it
            assert line["used"][moment] >= rounds["memory"][at == moment].max() / dials.memory - 1e-12


def test_a_fleet_is_as_full_as_its_replicas_together() -> None:
    found = drawn_by(SETTINGS["fleet of machines"])
    for row in found["rows"]:
        line = found["timelines"][row["policy"]]
        assert sum(line["evictions"]) == row["evictions"]
        assert 0 < max(line["used"]) <= row["peak_share"] + 1e-12


def test_waits_are_those_of_the_result() -> None:
    found = drawn_by(changed(rate=0.5, memory=2000))
    for policy, groups in found["waits"].items():
        result = simulated(changed(rate=0.5, memory=2000), policy, 300)
        wait = result.start - result.workload.arrival
        assert np.mean(groups["wait"]) == pytest.approx(wait.mean())  # tenths of 300: equally many in each
        assert groups["longest"][-1] == result.workload.output.max()
        assert groups["output"] == sorted(groups["output"])


def test_bounds_are_below_and_say_the_gap() -> None:
    found = drawn_by(PLAIN)
    for row in found["rows"]:
        assert found["bounds"][row["policy"]] * (1 + row["gap"]) == pytest.approx(row["mean_latency"])


def test_a_policy_that_does_not_finish_has_a_row_that_says_so() -> None:
    found = drawn_by(
        changed(memory=300, policies=("amin", "trtllm")), RequestOptions(generator="two_point:10,200,0.5", limit=50)
    )
    assert {row["policy"] for row in found["rows"]} == {"amin", "trtllm"}
    for row in found["rows"]:
        assert row["finished"] == (row["policy"] in found["curves"])
        assert (row["error"] is None) == row["finished"]


def test_load_curves_are_those_of_the_same_setting_at_other_rates() -> None:
    curves = picture.load_curve(PLAIN, picture.Requests(source()), [0.2, 0.9])
    for policy, curve in curves.items():
        assert curve["rate"] == [0.2, 0.9]
        assert curve["mean"] == [simulated(changed(rate=rate), policy, 300).mean_latency for rate in (0.2, 0.9)]


# The server -----------------------------------------------------------------------------------------------------------


class Served:
    """A running `llmsched explore`, and questions to it."""

    def __init__(self, *args: str) -> None:
        command = [*COMMAND, "explore", "--no-browser", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        said = ""
        while not (address := re.search(r"http://127\.0\.0\.1:(\d+)/([\w-]+)/\n", said)):
            line = self.process.stdout.readline()
            assert line, self.process.stderr.read()  # type: ignore[union-attr]
            said += line
        self.address, self.port, self.token = address[0].strip(), int(address[1]), address[2]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Host": f"127.0.0.1:{self.port}"} | headers
        text = body if body is None or isinstance(body, str) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, text, given)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
        connection.close()
        return found

    def end(self) -> tuple[int, str]:
        """Ctrl-C: the exit code, and what is said on stderr."""
        self.process.send_signal(signal.SIGINT)
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    running = Served("--limit", "300")
    yield running
    assert running.end() == (0, "ended\n")


QUESTION = {name: getattr(PLAIN, name) for name in PLAIN.__dataclass_fields__} | {"policies": list(PLAIN.policies)}


def test_the_server_answers_with_the_picture(served: Served) -> None:
    question = QUESTION | {"memory": 7777}
    found = json.loads(json.dumps(drawn_by(changed(memory=7777))))
    for bounded in (False, True):
        status, headers, text = served.ask(f"/{served.token}/picture", question)
        assert status == 200
        assert headers["content-type"] == "application/json"
        answer = json.loads(text)
        assert answer.pop("took") > 0
        assert answer["bounded"] == bounded  # the bound takes its time, and is asked for on its own
        assert answer["curves"] == found["curves"]
        assert served.ask(f"/{served.token}/gap", question)[0] == 200
    assert answer == found


@pytest.mark.parametrize("path", ["", "picture", "load", "vega.js", "explorer.js", "explorer.css"])
@pytest.mark.parametrize("token", ["", "wrong", "{token}x", "x{token}"])
def test_without_the_token_everything_is_refused(served: Served, path: str, token: str) -> None:
    for body in (None, QUESTION):
        status, _, text = served.ask(f"/{token.format(token=served.token)}/{path}", body)
        assert status == 403
        assert text == "not for you: open the address that llmsched explore printed\n"


def test_the_token_is_not_guessed_from_the_root(served: Served) -> None:
    for path in ("/", "/favicon.ico", f"/{served.token}", f"//{served.token}/", f"/x/../{served.token}/"):
        status, headers, text = served.ask(path)
        assert status == 403
        assert served.token not in text + str(headers)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", ""]
)
def test_another_name_for_this_computer_is_refused(served: Served, host: str) -> None:
    assert served.ask(f"/{served.token}/", Host=host.format(port=served.port))[0] in (400, 403)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_a_page_of_somebody_else_is_refused(served: Served, origin: str) -> None:
    given = {"Origin": origin.format(port=served.port)}
    assert served.ask(f"/{served.token}/picture", QUESTION, **given)[0] == 403
    own = {"Origin": f"http://127.0.0.1:{served.port}"}
    assert served.ask(f"/{served.token}/picture", QUESTION, **own)[0] == 200


@pytest.mark.parametrize("token", ["wrong", "{token}"])
def test_there_are_no_websockets(served: Served, token: str) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="}  # fmt: skip
    status, _, _ = served.ask(f"/{token.format(token=served.token)}/picture", **upgrade)
    assert status == (403 if token == "wrong" else 405)


def test_only_this_computer_can_reach_it(served: Served) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for address in others:
        with socket.socket() as other:
            other.settimeout(5)
            if str(address).startswith("127."):
                continue
            assert other.connect_ex((address, served.port)) != 0


def test_the_page_may_load_nothing_from_elsewhere(served: Served) -> None:
    status, headers, text = served.ask(f"/{served.token}/")
    assert status == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    assert "//" not in re.sub(r"<script type=\"application/json\".*?</script>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory": 3}, "memory"),
        ({"memory": "many"}, "memory"),
        ({"memory": None}, "memory"),
        ({"rate": 0}, "greater than 0"),
        ({"rate": True}, "greater than 0"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 10**9}, "replicas"),
        ({"router": "least"}, "router"),
        ({"router": 3}, "router"),
        ({"machine": "/etc/passwd"}, "machine"),
        ({"machine": "/etc/shadow.toml"}, "machine"),
        ({"intervals": "bucket:100"}, "buckets"),
        ({"policies": []}, "at least one"),
        ({"policies": ["amine"]}, "amin"),
        ({"policies": ["/etc/hostname.toml"]}, "policy"),
        ({"policies": ["evil.py:Evil"]}, "policy"),
        ({"policies": "amin"}, "list"),
        ({"policies": ["amin,margin=0.05"]}, "policy"),
        ({"policies": [*ls.policies][:9]}, "at most 8"),
        ({"seed": -1}, "seed"),
        ({"else": 1}, "keys"),
    ],
)
def test_what_is_no_setting_is_refused_in_words(served: Served, change: dict[str, Any], said: str) -> None:
    status, _, text = served.ask(f"/{served.token}/picture", QUESTION | change)
    assert status == 400
    assert said in json.loads(text)["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", "3", "null", '"x"', "x" * 200_000, "[" * 5000])
def test_what_is_no_question_is_refused_in_words(served: Served, body: str) -> None:
    for path in ("picture", "load"):
        status, _, text = served.ask(f"/{served.token}/{path}", body)
        assert status == 400
        assert json.loads(text)["error"]


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    return Refused(capsys)


def test_a_port_that_is_taken_is_said_so(refused: Refused) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"--port {port}" in refused("explore", "--no-browser", "--port", str(port))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--port", "70000"], "--port"),
        (["--port", "-1"], "--port"),
        (["-"], "a file"),
        (["--limit", "0"], "--limit"),
        (["--policy", "amine"], "amin"),
        (["--machine", "h100"], "machine"),
        (["nowhere.csv"], "nowhere.csv"),
        (["--generate", "lmsis"], "lmsys"),
        ([word for k in range(9) for word in ("--policy", f"amin,margin=0.0{k}")], "at most 8"),
    ],
)
def test_mistakes_are_told_before_anything_is_served(refused: Refused, args: list[str], said: str) -> None:
    assert said in refused("explore", "--no-browser", *args)


@pytest.mark.parametrize("module", ["starlette", "uvicorn", "vl_convert"])
def test_without_the_extra_it_says_what_to_install(
    refused: Refused, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "pip install 'llmsched[explore]'" in refused("explore", "--no-browser")


def test_ctrl_c_ends_a_long_simulation_too() -> None:
    running = Served("--limit", "60000")
    with socket.create_connection(("127.0.0.1", running.port)) as asking:
        body = json.dumps(QUESTION | {"policies": ["hsf", "amin", "vllm", "mcsf", "amax", "aell"]})
        head = f"POST /{running.token}/picture HTTP/1.1\r\nHost: 127.0.0.1:{running.port}\r\n"
        asking.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        time.sleep(0.5)
        assert running.end() == (0, "ended\n")


# In a browser ---------------------------------------------------------------------------------------------------------


class Page:
    """The page in a browser."""

    def __init__(self, browser: Any) -> None:
        self.browser = browser

    def run(self, script: str, *values: Any) -> Any:
        return self.browser.execute_script(script, *values)

    def drawn(self) -> None:
        """Wait until nothing is asked and nothing is to be drawn."""
        from selenium.webdriver.support.wait import WebDriverWait

        script = "return document.documentElement.dataset.drawn"
        WebDriverWait(self.browser, 60, 0.05).until(lambda it: it.execute_script(script) == "all")

    def move(self, name: str, value: Any, side: int = 0) -> None:
        """Set a slider (from 0 to 400), a field or a choice, as a hand does, and wait for the picture."""
        self.run(
            "const one = document.querySelectorAll(`[name='${arguments[0]}']`)[arguments[2]];"
            "one.value = arguments[1]; one.dispatchEvent(new Event('input', { bubbles: true }))",
            name, value, side,
        )  # fmt: skip
        self.drawn()

    def shown(self, view: str, rows: str) -> list[dict[str, Any]]:
        """The rows that a chart draws."""
        return list(self.run("return explorer.views[arguments[0]].data(arguments[1])", view, rows))

    def curve(self, policy: str, side: str = "A") -> list[float]:
        return [row["x"] for row in self.shown(f"curve {side}", "points") if row["policy"] == policy]

    def cells(self, side: int = 0) -> dict[str, list[str]]:
        """The table: policy -> what stands in its row."""
        rows = "document.querySelectorAll('#tables .side')[arguments[0]].querySelectorAll('tbody tr')"
        text = f"return [...{rows}].map((row) => [...row.children].map((cell) => cell.textContent))"
        return {name: rest for name, *rest in self.run(text, side)}

    def find(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements("css selector", selector))

    def complaints(self) -> list[Any]:
        return [entry for entry in self.browser.get_log("browser") if entry["level"] != "INFO"]


@pytest.fixture
def page(browser: Any, served: Served) -> Iterator[Callable[..., Page]]:
    """A function that opens the page in a window of some size and colour scheme, and waits until it is drawn."""

    def open_it(width: int = 1300, height: int = 1000, scheme: str = "light") -> Page:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get_log("browser")
        browser.get(served.address)
        opened = Page(browser)
        opened.drawn()
        return opened

    yield open_it
    assert not Page(browser).complaints()


def test_a_slider_moves_the_curve_to_what_simulate_says(page: Callable[..., Page]) -> None:
    opened = page()
    before = opened.run("return document.querySelector('#curve canvas').toDataURL()")
    assert opened.curve("amin") == drawn_by(PLAIN)["curves"]["amin"]["x"]
    opened.move("memory", 60)
    memory = int(opened.find("[name='memory-exactly']")[0].get_attribute("value"))
    assert memory < 5000
    for policy in PLAIN.policies:
        latency = simulated(changed(memory=memory), policy, 300)
        assert opened.curve(policy)[-1] == latency.latency.max()
        assert np.isin(opened.curve(policy), latency.latency).all()
        assert float(opened.cells()[policy][0].replace(",", "")) == pytest.approx(latency.mean_latency, rel=0.005)
    assert opened.run("return document.querySelector('#curve canvas').toDataURL()") != before


@pytest.mark.parametrize(
    ("name", "value", "fields"),
    [
        ("rate-exactly", 0.5, {"rate": 0.5}),
        ("memory-exactly", 3000, {"memory": 3000}),
        ("replicas-exactly", 2, {"replicas": 2}),
        ("bucket-exactly", 20, {"intervals": "buckets:20"}),
        ("predictor", "realistic", {"intervals": "realistic"}),
        ("predictor", "noisy", {"intervals": "noisy:0.9,0.5,0"}),
        ("machine", MACHINE, {"machine": MACHINE}),
    ],
)
def test_each_dial_does_what_its_name_says(
    page: Callable[..., Page], name: str, value: Any, fields: dict[str, Any]
) -> None:
    opened = page()
    opened.move(name, value)
    found = drawn_by(changed(**fields))
    for policy in PLAIN.policies:
        assert opened.curve(policy) == found["curves"][policy]["x"]
    assert opened.run("return explorer.answers[0].texts") == found["texts"]


def test_a_drag_ends_with_the_picture_of_where_it_ends(page: Callable[..., Page]) -> None:
    opened = page()
    opened.run(
        "const one = document.querySelector('[name=memory]');"
        "const move = (k) => { one.value = k; one.dispatchEvent(new Event('input', { bubbles: true })) };"
        "for (let k = 400; k >= 40; k -= 20) move(k)"
    )
    opened.drawn()
    memory = int(opened.find("[name='memory-exactly']")[0].get_attribute("value"))
    assert opened.curve("vllm") == drawn_by(changed(memory=memory))["curves"]["vllm"]["x"]
    assert opened.run("return explorer.latencies.length") < 10  # moves that came meanwhile were answered together


def test_arrow_keys_move_a_slider_and_its_value_is_read_out(page: Callable[..., Page]) -> None:
    from selenium.webdriver.common.keys import Keys

    opened = page()
    (slider,) = opened.find("[name=memory]")
    slider.send_keys(Keys.ARROW_LEFT * 30)
    opened.drawn()
    memory = int(opened.find("[name='memory-exactly']")[0].get_attribute("value"))
    assert memory < 16492
    assert slider.get_attribute("aria-valuetext") == f"{memory:,} tokens"
    assert opened.curve("hsf") == drawn_by(changed(memory=memory))["curves"]["hsf"]["x"]


def test_two_settings_stand_side_by_side_on_the_same_scales(page: Callable[..., Page]) -> None:
    opened = page()
    opened.find("#two")[0].click()
    opened.drawn()
    assert opened.curve("amin", "B") == opened.curve("amin", "A")
    opened.move("memory-exactly", 2000, side=1)
    assert opened.curve("amin", "A") == drawn_by(PLAIN)["curves"]["amin"]["x"]
    assert opened.curve("amin", "B") == drawn_by(changed(memory=2000))["curves"]["amin"]["x"]
    for signal_ in ("curve {}:most", "cache {}:end", "waits {}:most", "gap {}:most"):
        view, name = signal_.split(":")
        there = [
            opened.run("return explorer.views[arguments[0]].signal(arguments[1])", view.format(k), name) for k in "AB"
        ]
        assert there[0] == there[1] > 0
    ratio = drawn_by(changed(memory=2000))["rows"], drawn_by(PLAIN)["rows"]
    means = [{row["policy"]: row["mean_latency"] for row in rows} for rows in ratio]
    for policy, cells in opened.cells(1).items():
        assert cells[1] == f"+{100 * (means[0][policy] / means[1][policy] - 1):.0f} %"
    left, right = (one.rect for one in opened.find("#curve .side"))
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] <= right["x"]
    opened.find("#two")[0].click()
    opened.drawn()
    assert len(opened.find("#curve .side")) == 1


def test_policies_are_chosen_by_their_chips(page: Callable[..., Page]) -> None:
    opened = page()
    opened.run("document.querySelector('#policies [value=amax]').click()")
    opened.drawn()
    opened.run("document.querySelector('#policies [value=hsf]').click()")
    opened.drawn()
    assert set(opened.cells()) == {"amin", "mcsf", "vllm", "amax"}
    assert opened.curve("amax") == drawn_by(changed(policies=("amax",)))["curves"]["amax"]["x"]


def test_latency_against_load_is_drawn_when_asked_for(page: Callable[..., Page]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    opened = page()
    opened.find("#load-on")[0].click()
    WebDriverWait(opened.browser, 60, 0.05).until(
        lambda it: it.execute_script("return document.documentElement.dataset.load") == "drawn"
    )
    rows = [row for row in opened.shown("load A", "points") if row["policy"] == "amin"]
    assert [row["rate"] for row in rows] == pytest.approx([1.05 * share for share in picture.LOADS], rel=0.005)
    assert [row["mean"] for row in rows] == [simulated(changed(rate=r["rate"]), "amin", 300).mean_latency for r in rows]


def test_what_is_wrong_is_said_and_the_page_goes_on(page: Callable[..., Page]) -> None:
    opened = page()
    opened.move("memory-exactly", 5)
    assert "5" in opened.find("#tables [role=alert]")[0].text
    assert [entry for entry in opened.complaints() if "400" not in entry["message"]] == []  # Chromium tells of each
    opened.move("memory-exactly", 5000)
    assert opened.curve("amin") == drawn_by(changed(memory=5000))["curves"]["amin"]["x"]


def test_texts_are_copied_and_the_study_is_saved(page: Callable[..., Page], tmp_path: Path, served: Served) -> None:
    opened = page()
    opened.browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    opened.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    texts = drawn_by(PLAIN)["texts"]
    for key in ("command", "python"):
        opened.find(f"[data-copy={key}]")[0].click()
        copied = opened.browser.execute_async_script(
            "const done = arguments[0], read = () => navigator.clipboard.readText().then(done, (e) => done(String(e)));"
            "setTimeout(read, 200)"
        )
        assert copied == texts[key]
    opened.find("[data-save=study]")[0].click()
    for _ in range(200):
        if (tmp_path / "study.toml").exists():
            break
        time.sleep(0.05)
    assert (tmp_path / "study.toml").read_text(encoding="utf-8") == texts["study"]


@pytest.mark.parametrize("width", [320, 390, 700, 1000])
def test_nothing_scrolls_sideways_on_a_narrow_screen(page: Callable[..., Page], width: int) -> None:
    opened = page(width=width, height=800)
    assert opened.run("return document.documentElement.scrollWidth") <= width
    opened.find("#two")[0].click()
    opened.drawn()
    assert opened.run("return document.documentElement.scrollWidth") <= width
    for canvas in opened.find("canvas"):
        assert canvas.rect["x"] + canvas.rect["width"] <= width


def test_the_page_is_dark_where_that_is_wanted(page: Callable[..., Page]) -> None:
    look = (
        "return [getComputedStyle(document.body).backgroundColor, explorer.views['curve A'].scale('color').range()[0],"
        " document.querySelector('#policies path').getAttribute('stroke'),"
        " document.querySelector('#curve canvas').toDataURL()]"
    )
    light, dark = (page(scheme=scheme).run(look) for scheme in ("light", "dark"))
    assert light[:3] == ["rgb(245, 246, 248)", "#000000", "#000000"]  # hsf, black on white
    assert dark[:3] == ["rgb(18, 21, 26)", "#f2f2f2", "#f2f2f2"]
    assert light[3] != dark[3]


def test_everything_that_can_be_moved_has_a_name(page: Callable[..., Page]) -> None:
    opened = page()
    for control in opened.find("input, select, button"):
        if control.is_displayed():
            assert control.accessible_name, control.get_attribute("outerHTML")
    for chart in opened.find(".chart"):
        assert chart.aria_role in ("image", "img")
        assert "amin" in chart.accessible_name
    time.sleep(1)
    assert "amin" in opened.run("return document.getElementById('said').textContent")


def test_the_wrong_token_shows_no_page(browser: Any, served: Served) -> None:
    browser.get(f"http://127.0.0.1:{served.port}/wrong/")
    assert browser.find_elements("css selector", "#curve") == []
    assert "not for you" in browser.page_source
    browser.get_log("browser")
