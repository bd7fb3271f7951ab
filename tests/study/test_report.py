"""The report of a study: what is in the page, and that it works in a real browser (Debian's Chromium, headless)."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.figure_texts import unreadable
from typer.testing import CliRunner

from llmsched.cli.main import app, main
from llmsched.errors import InputError, MissingExtraError, StudyError
from llmsched.metrics import figure_style
from llmsched.study import Study, report, report_figures, store, summary
from llmsched.study import results as read_results
from llmsched.study.whole_files import write_sealed

EVIL = "</script><script>alert(1)</script>{{app}}"
STUDY = {
    "name": f"A study {EVIL}",
    "description": f"<b>bold</b> {EVIL}",
    "replications": 6,
    "workloads": [
        {"name": "many", "generator": "lmsys", "requests": 60},
        {"generator": "two_point:5,40,0.5", "requests": 40},
    ],
    "intervals": ["buckets:100", "relative:0.5"],
    "policies": ["hsf", "amin", "amax", {"name": EVIL, "base": "amin", "margin": 0.1}],
    "memories": [1000, 2000, 8000],
    "metrics": ["mean_latency", "p99_latency", "makespan", "evictions", "evictions_per_request", "peak_share"],
}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of a study, with names that try to get out of where they belong."""
    out = tmp_path_factory.mktemp("study") / "results"
    Study.from_dict(STUDY).run(out)
    return out


@pytest.fixture(scope="module")
def page(directory: Path) -> Path:
    path = directory.parent / "report.html"
    report.write(directory, path)
    return path


def embedded(page: Path) -> Any:
    """The data in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found
    return json.loads(found[1])


# What is in the page -------------------------------------------------------------------------------------------------


def test_the_page_loads_nothing(page: Path) -> None:
    text = page.read_text("utf-8")
    markup = re.sub(r"(?s)(<script\b[^>]*>).*?</script>", r"\1", text)
    assert re.findall(r"""(?:src|href|action)\s*=\s*["']([^"'#][^"']*)""", markup) == ["data:,"]
    assert "default-src 'none'" in markup
    assert not re.search(r"@import|url\(", markup)


def test_what_a_study_says_stays_text(page: Path) -> None:
    text = page.read_text("utf-8")
    assert "alert(1)</script>" not in text
    assert text.count("</script>") == 3  # the data, the library and the page's own
    data = embedded(page)
    assert data["name"] == STUDY["name"]
    assert EVIL in next(factor for factor in data["factors"] if factor["name"] == "policy")["levels"]


def test_the_numbers_are_those_of_the_summary(directory: Path, page: Path) -> None:
    results = read_results(directory)
    data = embedded(page)
    factors = {factor["name"]: [factor["levels"][k] for k in factor["cells"]] for factor in data["factors"]}
    keys = list(zip(*factors.values(), strict=True))
    metric = next(metric for metric in data["metrics"] if metric["name"] == "mean_latency")
    means = summary.means(results, ["mean_latency"], resamples=0).to_pylist()
    compared = summary.compared(results, "hsf", ["mean_latency"]).to_pylist()
    assert len(keys) == len(means) == 2 * 2 * 4 * 3
    for rows, columns in ((means, ("mean", "low", "high", "n")), (compared, ("difference", "ratio", "ratio_high"))):
        for row in rows:
            at = keys.index(tuple(row[name] for name in factors))
            for column in columns:
                assert metric["values"][column][at] == pytest.approx(row[column], rel=1e-5)
    best = summary.best(results, leave_out=["hsf"]).to_pylist()
    for row in best:
        at = keys.index(tuple(row[name] for name in factors))
        assert data["verdicts"][metric["values"]["verdict"][at]] == row["verdict"]
    assert [key for key, verdict in zip(keys, metric["values"]["verdict"], strict=True) if verdict < 0] == [
        key for key in keys if key[list(factors).index("policy")] == "hsf"
    ]


def test_cells_and_levels_are_in_the_order_of_the_study(page: Path) -> None:
    factors = {factor["name"]: factor for factor in embedded(page)["factors"]}
    assert factors["policy"]["levels"] == ["hsf", "amin", "amax", EVIL]
    assert factors["workload"]["levels"] == ["many", "two_point:5,40,0.5"]
    assert factors["memory"]["levels"] == [1000, 2000, 8000]
    places = list(zip(*(factor["cells"] for factor in factors.values()), strict=True))
    assert places == sorted(places)


def test_evictions_are_counted_per_request(directory: Path) -> None:
    contents = report.read(directory)
    assert contents.eviction_rate == "evictions_per_request"
    requests = np.array([60 if cell[0] == "many" else 40 for cell in contents.cells])
    expected = contents.values["evictions"]["mean"] / requests
    assert contents.values["evictions_per_request"]["mean"] == pytest.approx(expected)
    assert expected.max() > 0


def test_every_metric_has_the_unit_and_the_direction_of_the_table(tmp_path: Path) -> None:
    service = {"workloads": [{"generator": "lmsys", "requests": 20, "rate": 5}], "policies": ["fcfs"]}
    metrics = ["slowdown_p99", "ttft_p99", "tokens_rate", "stable_rate", "gap", "evictions"]
    Study.from_dict({**service, "metrics": metrics, "replications": 2, "clocks": ["llama2-70b-2xa100"]}).run(
        tmp_path / "timed"
    )
    Study.from_dict({**service, "metrics": metrics, "replications": 2}).run(tmp_path / "rounds")
    timed, rounds = (report.read(tmp_path / name) for name in ("timed", "rounds"))
    shown = [{m["name"]: m for m in report._data(contents)["metrics"]} for contents in (timed, rounds)]
    units = [[metrics[name]["unit"] for name in ("slowdown_p99", "ttft_p99", "tokens_rate")] for metrics in shown]
    assert units == [["ratio", "seconds", "tokens/second"], ["ratio", "rounds", "tokens/round"]]
    assert "stable_rate" not in shown[0]  # there is none below capacity
    assert shown[0]["tokens_rate"]["moreIsBetter"]
    assert not shown[0]["slowdown_p99"]["moreIsBetter"]
    figures = report_figures.draw(report.read(tmp_path / "timed", metric="slowdown_p99"), along="workload")
    figure = figure_style.figure_of(figures["slowdown_p99"])
    assert figure.get_supylabel() == "slowdown p99 (ratio)"


def test_the_page_says_how_to_do_it_again(directory: Path, page: Path) -> None:
    data = embedded(page)
    assert data["repeat"]["text"] == (directory / "study.toml").read_text("utf-8")
    described = json.loads((directory / "study.json").read_text("utf-8"))
    assert described["command"] in data["repeat"]["commands"]
    facts = dict(data["repeat"]["facts"])
    assert facts["hash of the study"] == described["hash"]
    assert Study.load(directory / "study.toml").plan().definitions() == Study.from_dict(STUDY).plan().definitions()


def test_the_benchmark_and_the_metric_can_be_chosen(directory: Path) -> None:
    contents = report.read(directory, metric="makespan", against="amax")
    assert (contents.metric, contents.against) == ("makespan", "amax")
    own = [k for k, cell in enumerate(contents.cells) if "amax" in cell]
    assert np.isnan(contents.values["makespan"]["ratio"][own]).all()
    with pytest.raises(InputError, match="no policy 'hfs': did you mean 'hsf'"):
        report.read(directory, against="hfs")
    with pytest.raises(InputError, match="no metric 'latency'"):
        report.read(directory, metric="latency")


def test_a_study_with_a_precision_reports_its_rules_interval(tmp_path: Path) -> None:
    study = {
        "workloads": [{"generator": "lmsys", "requests": 20}],
        "policies": ["amin"],
        "memories": [1000],
        "metrics": ["makespan", "mean_latency"],
        "precision": {"metric": "makespan", "relative": 0.2, "confidence": 0.9, "first": 20},
    }
    Study.from_dict(study).run(tmp_path / "out")
    contents = report.write(tmp_path / "out", tmp_path / "report.html")
    assert (contents.metric, contents.confidence, contents.against) == ("makespan", 0.9, "amin")
    value = contents.values["makespan"]
    assert value["high"][0] - value["low"][0] <= 0.4 * value["mean"][0]
    table = read_results(tmp_path / "out")
    plain = summary.means(table, ["makespan"], confidence=0.9, resamples=0).to_pylist()[0]
    assert plain["low"] != pytest.approx(value["low"][0])


# In a browser --------------------------------------------------------------------------------------------------------


@pytest.fixture
def opened(browser: Any, page: Path) -> Callable[..., Any]:
    """A function that opens the page in a window of some size and colour scheme, and waits until it is drawn."""

    def open_it(width: int = 1200, height: int = 9000, scheme: str = "light") -> Any:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        browser.get_log("browser")
        browser.get(page.as_uri())
        drawn(browser)
        return browser

    return open_it


def drawn(browser: Any) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    script = "return document.documentElement.dataset.drawn"
    WebDriverWait(browser, 60, 0.05).until(lambda it: it.execute_script(script) == "all")


def find(browser: Any, selector: str) -> list[Any]:
    return list(browser.find_elements("css selector", selector))


def picture(browser: Any, name: str) -> str:
    """The marks of a chart."""
    return str(browser.execute_script("return document.querySelector(arguments[0] + ' svg').outerHTML", f"#{name}"))


def uncheck(browser: Any, factor: str, level: str) -> None:
    script = (
        "[...document.querySelectorAll('#filters input')].find(box => box.dataset.factor === arguments[0] &&"
        " box.dataset.level === arguments[1]).click()"
    )
    browser.execute_script(script, factor, level)
    drawn(browser)


def rows(browser: Any) -> list[list[str]]:
    script = (
        "return [...document.querySelectorAll('#cells tbody tr')].map(row => [...row.cells].map(c => c.textContent))"
    )
    return list(browser.execute_script(script))


def test_the_page_renders_without_a_word_on_the_console(opened: Callable[..., Any]) -> None:
    browser = opened()
    assert browser.get_log("browser") == []
    assert browser.title.startswith(STUDY["name"])
    assert find(browser, "h1")[0].text == STUDY["name"]
    for name in ("means", "ratio", "detail", "memory", "evictions"):
        assert find(browser, f"#{name} svg path"), f"{name} is empty"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(rows(browser)) == 48
    assert find(browser, "#text")[0].text.strip().startswith("name = ")


def test_a_filter_changes_pictures_table_and_counts(opened: Callable[..., Any]) -> None:
    browser = opened()
    before = {name: picture(browser, name) for name in ("means", "ratio", "detail", "memory", "evictions")}
    uncheck(browser, "policy", "amax")
    after = {name: picture(browser, name) for name in before}
    assert [name for name in before if before[name] == after[name]] == []
    amax = figure_style.STYLES["amax"][0].lower()
    assert amax in before["means"].lower()
    assert amax not in after["means"].lower()
    assert len(rows(browser)) == 36
    assert "36 of 48" in find(browser, "#shown")[0].text
    uncheck(browser, "memory", "2,000")
    assert len(rows(browser)) == 24
    assert picture(browser, "means") != after["means"]
    browser.execute_script("document.getElementById('reset').click()")
    drawn(browser)
    assert len(rows(browser)) == 48
    assert browser.get_log("browser") == []


def test_the_address_tells_what_is_shown(opened: Callable[..., Any]) -> None:
    browser = opened()
    uncheck(browser, "policy", "amax")
    assert browser.current_url.endswith("#without-policy=2")
    shown = picture(browser, "means")
    browser.refresh()
    drawn(browser)
    assert len(rows(browser)) == 36
    assert picture(browser, "means") == shown
    uncheck(browser, "policy", "amax")  # and checked again
    assert "#" not in browser.current_url
    assert browser.get_log("browser") == []


def test_next_to_nothing_can_be_shown_too(browser: Any, tmp_path: Path) -> None:
    """One cell, one replication, one metric: no intervals, nothing to compare."""
    values = {"workloads": ["lmsys"], "policies": ["amin"], "metrics": ["makespan"], "replications": 1}
    Study.from_dict(values).run(tmp_path / "out")
    described = store.describe(tmp_path / "out")
    write_sealed(tmp_path / "out" / "study.json", {**described, "replications": 1200})
    report.write(tmp_path / "out", tmp_path / "report.html")
    browser.get_log("browser")
    browser.get((tmp_path / "report.html").as_uri())
    drawn(browser)
    assert len(rows(browser)) == 1
    assert "1 of 1,200 simulations: the study is not finished" in find(browser, "#facts")[0].text
    assert find(browser, "#means svg path")
    assert not find(browser, "#detail-card")[0].is_displayed()
    assert browser.get_log("browser") == []


def test_metric_axis_and_scale_can_be_chosen(opened: Callable[..., Any]) -> None:
    from selenium.webdriver.support.ui import Select

    browser = opened()
    seen = {picture(browser, "means")}
    for control, value in (
        ("metric", "evictions"),
        ("along", "workload"),
        ("metric", "p99_latency"),
        ("along", "policy"),
        ("scale", "other"),
    ):
        if value == "other":
            value = {"linear": "log", "log": "linear"}[find(browser, "#scale")[0].get_attribute("value")]
        Select(find(browser, f"#{control}")[0]).select_by_value(value)
        drawn(browser)
        assert picture(browser, "means") not in seen
        seen.add(picture(browser, "means"))
    assert "Latency p99 against policy" in find(browser, "#means-title")[0].text
    detail = picture(browser, "detail")
    Select(find(browser, "#setting")[0]).select_by_value("3")
    drawn(browser)
    assert picture(browser, "detail") != detail
    assert browser.get_log("browser") == []


def test_the_table_sorts_by_keyboard_and_says_so(opened: Callable[..., Any]) -> None:
    from selenium.webdriver.common.keys import Keys

    browser = opened()

    def sorted_by(column: str) -> tuple[str, list[str]]:
        head = [cell.text.strip(" ↕↑↓") for cell in find(browser, "#cells thead th")]
        at = head.index(column)
        return find(browser, "#cells thead th")[at].get_attribute("aria-sort"), [row[at] for row in rows(browser)]

    assert sorted_by("mean")[0] == "none"
    for direction, descending in (("ascending", False), ("descending", True)):
        button = find(browser, '#cells thead button[data-column="mean_latency"]')[0]
        if direction == "ascending":
            browser.execute_script("arguments[0].focus()", button)
        else:
            assert browser.switch_to.active_element == button  # the focus stays where it was
        button.send_keys(Keys.ENTER)
        found, texts = sorted_by("mean")
        values = [float(text.replace(",", "")) for text in texts]
        assert found == direction
        assert values == sorted(values, reverse=descending)
    find(browser, "#search")[0].send_keys("amax 8,000")
    assert len(rows(browser)) == 4
    assert {row[0] for row in rows(browser)} == {"amax"}


def test_everything_can_be_reached_by_keyboard_and_has_a_name(opened: Callable[..., Any]) -> None:
    browser = opened()
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('select, input, button')].filter(it => it.offsetParent && "
        "!(it.labels?.length || it.textContent.trim() || it.getAttribute('aria-label'))).map(it => it.outerHTML)"
    )
    assert unnamed == []
    assert (
        browser.execute_script(
            'return document.querySelectorAll(\'[tabindex]:not([tabindex="0"], [tabindex="-1"])\').length'
        )
        == 0
    )
    for name in ("means", "ratio", "detail"):
        assert find(browser, f"#{name}")[0].get_attribute("aria-label")


def test_dark_mode_has_its_own_colours(opened: Callable[..., Any]) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    colours = {}
    for scheme in ("light", "dark"):
        browser = opened(scheme=scheme)
        colours[scheme] = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        assert ("#f2f2f2" in picture(browser, "means")) == (scheme == "dark")  # hsf, black on white
    assert colours["light"] == "rgb(245, 246, 248)"
    assert colours["dark"] == "rgb(18, 21, 26)"
    media = {"features": [{"name": "prefers-color-scheme", "value": "light"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)  # changed while the page is open
    WebDriverWait(browser, 60, 0.05).until(lambda it: "#f2f2f2" not in picture(it, "means"))
    drawn(browser)
    assert "#f2f2f2" not in picture(browser, "means")


@pytest.mark.parametrize("width", [360, 800])
def test_nothing_is_wider_than_the_window(opened: Callable[..., Any], width: int) -> None:
    browser = opened(width=width, height=12000)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    for name in ("means", "ratio", "detail", "memory", "evictions"):
        chart = find(browser, f"#{name}")[0]
        assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", chart), name


@pytest.mark.parametrize("width", [360, 390])
def test_the_table_shows_its_numbers_on_a_phone(opened: Callable[..., Any], width: int) -> None:
    browser = opened(width=width, height=12000)
    script = (
        "const room = document.querySelector('.scroll').getBoundingClientRect();"
        "return [...document.querySelectorAll('#cells tbody tr:nth-child(-n+5) td')].map(cell => {"
        " const range = document.createRange(); range.selectNodeContents(cell);"
        " const text = range.getBoundingClientRect();"
        " return [cell.dataset.label, text.width > 0, text.left >= room.left && text.right <= room.right]; })"
    )
    found = browser.execute_script(script)
    assert {"mean", "p90", "ratio to hsf", "verdict"} <= {name for name, _, _ in found}
    assert [name for name, seen, inside in found if not (seen and inside)] == []
    button = find(browser, '#cells thead button[data-column="mean_latency"]')[0]
    button.click()  # it still sorts
    assert find(browser, '#cells th[aria-sort="ascending"]')


def test_no_axis_of_evictions_or_latency_starts_below_zero(browser: Any, tmp_path: Path) -> None:
    study = {**STUDY, "memories": [1000, 1400, 8000], "replications": 2, "name": "few"}
    Study.from_dict(study).run(tmp_path / "out")
    contents = report.write(tmp_path / "out", tmp_path / "r.html")
    assert (contents.values["evictions_per_request"]["low"] < 0).any()  # two values: wide intervals
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 1200, "height": 9000, "deviceScaleFactor": 1, "mobile": False}
    )
    browser.get((tmp_path / "r.html").as_uri())
    drawn(browser)
    for name in ("evictions", "means"):
        script = "return [...document.querySelectorAll('#' + arguments[0] + ' svg text')].map(it => it.textContent)"
        texts = browser.execute_script(script, name)
        assert len(texts) > 10
        assert not [text for text in texts if re.match(r"[-\u2212]\s*[\d.]", text)]
    for figure in report_figures.draw(contents).items():
        if "ratio" not in figure[0] and "differences" not in figure[0]:
            assert all(axes.get_ylim()[0] >= 0 for axes in figure[1] if axes.has_data()), figure[0]


def test_the_page_says_when_no_policy_differs(tmp_path: Path) -> None:
    Study.from_dict({**STUDY, "memories": [90_000]}).run(tmp_path / "out")
    report.write(tmp_path / "out", tmp_path / "r.html")
    assert embedded(tmp_path / "r.html")["equal"].startswith("all policies are equal in mean_latency (exactly)")


# Figures and the command line ----------------------------------------------------------------------------------------


def run(*args: str) -> str:
    result = CliRunner().invoke(app, list(args), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_titles_say_what_does_not_vary_and_how_many_replications(tmp_path: Path) -> None:
    workload = {"generator": "lmsys", "requests": 20, "rate": 0.5}
    study = {"name": "t", "policies": ["amin", "hsf"], "intervals": ["buckets:100"], "memories": [2000],
             "workloads": [workload], "replications": 3}  # fmt: skip
    Study.from_dict(study).run(tmp_path / "out")
    for figure in map(figure_style.figure_of, report_figures.draw(report.read(tmp_path / "out")).values()):
        said = " ".join(figure.get_suptitle().split())
        for words in ("t: 6 simulations, 3 replications a point", "20 requests of lmsys at 0.5 a round",
                      "tokens of KV cache: 2,000", "intervals buckets:100"):  # fmt: skip
            assert words in said
        assert any("95 % confidence" in text.get_text() for text in figure.legends[0].get_texts())


def test_levels_that_lie_near_each_other_keep_their_labels_apart(tmp_path: Path) -> None:
    study = {"policies": ["amin", "hsf"], "memories": [300, 400, 600, 800, 1200], "metrics": ["mean_latency"],
             "intervals": [f"relative:0.{k}" for k in (1, 3, 5, 8, 9)], "replications": 2,
             "workloads": [{"generator": "uniform:1,100", "requests": 20}]}  # fmt: skip
    Study.from_dict(study).run(tmp_path / "out")
    drawn_ = report_figures.draw(report.read(tmp_path / "out"))
    assert {name: unreadable(figure) for name, figure in drawn_.items()} == {name: [] for name in drawn_}
    shown = [label.get_text() for label in drawn_["mean_latency"][0].get_xticklabels()]
    assert shown == ["300", "600", "800", "1,200"]


def test_figures_show_the_means_and_their_bands(directory: Path) -> None:
    contents = report.read(directory)
    drawn_ = report_figures.draw(contents)
    assert list(drawn_) == [
        "mean_latency",
        "mean_latency-ratio",
        "mean_latency-differences",
        "peak_share",
        "evictions_per_request",
    ]
    assert {name: unreadable(figure) for name, figure in drawn_.items()} == {name: [] for name in drawn_}
    panels = drawn_["mean_latency"]
    assert [panel.get_title(loc="left").replace("\n", " ") for panel in panels] == [
        f"{workload} · {rule}"
        for workload in ("many", "two_point:5,40,0.5")
        for rule in ("buckets:100", "relative:0.5")
    ]
    line = next(line for line in panels[1].get_lines() if line.get_label() == "amin")
    at = [contents.cells.index(("many", "relative:0.5", "amin", memory)) for memory in (1000, 2000, 8000)]
    assert list(line.get_xdata()) == [1000, 2000, 8000]
    assert list(line.get_ydata()) == [contents.values["mean_latency"]["mean"][k] for k in at]
    assert "hsf" not in {line.get_label() for line in drawn_["mean_latency-ratio"][0].get_lines()}
    along = report_figures.draw(contents, along="intervals")["mean_latency"][0]
    assert [label.get_text() for label in along.get_xticklabels()] == ["buckets:100", "relative:0.5"]
    with pytest.raises(InputError, match="no factor 'memry': did you mean 'memory'"):
        report_figures.draw(contents, along="memry")


def test_the_command_writes_page_figures_and_table(directory: Path, tmp_path: Path) -> None:
    said = run(
        *("study", "report", str(directory), "-o", str(tmp_path / "r.html"), "--figures", str(tmp_path / "figures")),
        *("--format", "svg", "--csv", str(tmp_path / "cells.csv"), "--against", "amin"),
    )
    assert "48 cells, 288 simulations" in said
    files = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"mean_latency.svg", "mean_latency-ratio.svg", "peak_share.svg"} <= files
    assert embedded(tmp_path / "r.html")["against"] == "amin"
    with open(tmp_path / "cells.csv", encoding="utf-8", newline="") as file:
        cells = list(csv.DictReader(file))
    contents = report.read(directory, against="amin")
    assert len(cells) == 48 * len(contents.metrics)
    row = next(row for row in cells if row["metric"] == "makespan")
    assert float(row["mean"]) == contents.values["makespan"]["mean"][0]
    assert row["policy"] == "hsf"
    assert row["verdict"] == "knows the truth"
    run("study", "report", str(directory))
    assert (directory / "report.html").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-o", "nowhere/r.html"], "there is no directory 'nowhere'"),
        (["-o", "."], "it is a directory"),
        (["--format", "png"], "--figures DIR"),
        (["--figures", "f", "--format", "jpg"], "png, svg, pdf"),
        (["--against", "hfs"], "did you mean 'hsf'"),
        (["--metric", "latency"], "no metric 'latency'"),
    ],
)
def test_mistakes_are_said_in_a_line(
    directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["study", "report", str(directory), *options]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_study_or_results_there_is_no_report(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="holds no study"):
        report.read(tmp_path)
    empty = tmp_path / "empty"
    shutil.copytree(directory, empty)
    shutil.rmtree(empty / "results")
    (empty / "results").mkdir()
    with pytest.raises(StudyError, match=r"part-\S+ is damaged \(manifest\.json lists it, and it is not there\)"):
        report.read(empty)
    for manifest in empty.rglob("manifest.json"):
        manifest.unlink()
    with pytest.raises(InputError, match="no results yet"):
        report.read(empty)


def test_a_missing_extra_is_named(directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    report.vega_script.cache_clear()
    with pytest.raises(MissingExtraError, match=r"vl-convert-python.*llmsched\[study\]"):
        report.write(directory, tmp_path / "report.html")
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(MissingExtraError, match=r"scipy.*llmsched\[study\]"):
        report.read(directory)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("entries", "scale"),
    [
        ([{"requests": 40}, {"requests": 10}, {"requests": 20}], ("requests", [40, 10, 20])),
        ([{"requests": 20, "rate": 0.5}, {"requests": 20, "rate": 2}], ("arrival rate", [0.5, 2])),
        ([{"requests": 20, "rate": 0.5}, {"requests": 40, "rate": 2}], None),
        ([{"requests": 20}, {"requests": 20, "rate": 2}], None),
    ],
)
def test_workloads_that_differ_in_one_number_lie_along_it(
    tmp_path: Path, entries: list[dict[str, Any]], scale: tuple[str, list[float]] | None
) -> None:
    workloads = [{"name": f"w{k}", "generator": "lmsys", **entry} for k, entry in enumerate(entries)]
    values = {"workloads": workloads, "policies": ["amin", "amax"], "memories": [3000], "replications": 3}
    Study.from_dict(values).run(tmp_path / "out")
    contents = report.write(tmp_path / "out", tmp_path / "report.html")
    assert contents.scale("workload") == scale
    assert contents.scale("policy") is None
    expected = None if scale is None else {"title": scale[0], "values": scale[1]}
    assert embedded(tmp_path / "report.html")["factors"][0]["scale"] == expected
    axes = report_figures.draw(contents)["mean_latency"][0]
    assert axes.get_xlabel() == ("workload" if scale is None else scale[0])
    if scale is not None:
        assert list(axes.get_lines()[0].get_xdata()) == sorted(scale[1])
