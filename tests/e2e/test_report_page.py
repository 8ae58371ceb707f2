"""The page in a real browser: it draws, says nothing on the console and asks nothing of the network.

Its siblings without a browser are in unit/report/test_page_structure.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, fit_table, simulate
from isoflop.report.index_page import write_index
from isoflop.report.page import write_report
from laws_planted import CHINCHILLA, SWEEP
from report_sample import make_run_directory, make_study

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # Chrome's own requests shall not leave the machine either
    "--disable-dev-shm-usage",
    "--window-size=1000,3000",
    "--virtual-time-budget=4000",
    "--enable-logging=stderr",
    "--v=0",
    "--dump-dom",
)


@pytest.fixture(scope="session")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium or Chrome on this machine")
    return found


def visit(browser: str, page: Path, scratch: Path, *options: str) -> tuple[str, list[str], list[str]]:
    """The drawn document, lines written to the console, and every URL requested besides the page itself."""
    log = scratch / "network.json"
    kept = [f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}"]
    command = [browser, *QUIET, *kept, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = r'"initiator":"(?!not an origin)[^"]*".*?"url":"((?:https?|wss?|ftp):[^"]*)"'  # by the page, not by Chrome
    urls = re.findall(asked, log.read_text(errors="replace"))
    return done.stdout, console, urls


def test_a_study_draws_every_chart_in_silence(browser: str, tmp_path: Path) -> None:
    name = "<script>document.title = 'owned'</script>"
    make_study(notes=[name], title=name).write(tmp_path / "study.json")
    document, console, urls = visit(browser, write_report(tmp_path), tmp_path)
    assert console == []
    assert urls == []
    assert document.count('aria-roledescription="visualization"') == 6
    assert document.count('aria-label="Save the chart ') == 18  # each as SVG, PNG and CSV
    assert "<title>&lt;script&gt;" in document
    for drawn in ("2.81\u00d7", "attention causal-exact", "right of 1 the arm is better"):
        assert drawn in document.partition("application/json")[0]


def test_a_run_draws_its_curves_in_silence(browser: str, tmp_path: Path) -> None:
    document, console, urls = visit(browser, write_report(make_run_directory(tmp_path)), tmp_path)
    assert (console, urls) == ([], [])
    assert document.count('aria-roledescription="visualization"') == 2
    assert "training loss, nats a token" in document.partition("application/json")[0]


def test_a_fit_draws_every_chart_in_silence(browser: str, tmp_path: Path) -> None:
    table = simulate(Chinchilla(), CHINCHILLA, Table({"N": SWEEP["N"], "D": SWEEP["D"]}), 0.002, seed=0)
    write_json(tmp_path / "fit.json", fit_table(table, "auto").to_json())
    document, console, urls = visit(browser, write_report(tmp_path), tmp_path)
    assert (console, urls) == ([], [])
    assert document.count('aria-roledescription="visualization"') == 5
    assert "training compute 6 N D, FLOPs" in document.partition("application/json")[0]


SCRIPT = """
<script>{axe}</script>
<script>
setTimeout(() => axe.run(document).then((found) => {{
  const told = {{ passes: found.passes.map((rule) => rule.id) }};
  told.violations = found.violations.map((rule) => [rule.id, rule.impact, rule.nodes[0].html.slice(0, 120)]);
  document.body.innerHTML = "<pre>axe" + JSON.stringify(told).replaceAll("<", "(") + "axe</pre>";
}}), 1500);
</script>
</body>"""
LOOKS = ("--window-size=1280,900", "--window-size=400,900")
DARK = "--blink-settings=preferredColorScheme=0"


def judged(browser: str, page: Path, scratch: Path, *options: str) -> dict[str, Any]:
    """What axe-core says of a page; its script is put into a copy, whose policy would not let it run."""
    axe = os.environ.get("ISOFLOP_AXE", "")
    if not axe:
        pytest.skip("ISOFLOP_AXE names no axe.min.js of the package axe-core")
    html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    before, _, after = html.rpartition("</body>")
    copy = scratch / "judged.html"
    copy.write_text(before + SCRIPT.format(axe=Path(axe).read_text()) + after)
    document, _, _ = visit(browser, copy, scratch, "--virtual-time-budget=20000", *options)
    told = document.partition("<pre>axe")[2].partition("axe</pre>")[0]
    return dict(json.loads(told.replace("&gt;", ">").replace("&amp;", "&")))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing(browser: str, tmp_path: Path, look: str, scheme: str) -> None:
    """The page of a study, of a run, of everything, and one that is under way."""
    make_study().write(tmp_path / "study" / "study.json")
    pages = [write_report(tmp_path / "study"), write_report(make_run_directory(tmp_path)), write_index(tmp_path)]
    for page in pages:
        found = judged(browser, page, tmp_path, look, *([DARK] if scheme == "dark" else []))
        assert found["violations"] == []
        assert {"color-contrast", "heading-order", "region", "th-has-data-cells"} <= {*found["passes"]}


def test_the_silence_would_be_heard(browser: str, tmp_path: Path) -> None:
    """The instruments work: a page that errs and asks for a file elsewhere is caught."""
    page = tmp_path / "loud.html"
    page.write_text("<script>fetch('http://nowhere.invalid/x').catch(() => {}); console.error('heard')</script>")
    _, console, urls = visit(browser, page, tmp_path)
    assert any("heard" in line for line in console)
    assert "http://nowhere.invalid/x" in urls
