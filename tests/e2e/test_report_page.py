"""The page in a real browser: it draws, says nothing on the console and asks nothing of the network.

Its siblings without a browser are in unit/report/test_page_structure.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from isoflop.core.files import write_json
from isoflop.core.table import Table
from isoflop.laws import Chinchilla, fit_table, simulate
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


def visit(browser: str, page: Path, scratch: Path) -> tuple[str, list[str], list[str]]:
    """The drawn document, lines written to the console, and every URL requested besides the page itself."""
    log = scratch / "network.json"
    command = [browser, *QUIET, f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", page.as_uri()]
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
    assert document.count('aria-roledescription="visualization"') == 5
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


def test_the_silence_would_be_heard(browser: str, tmp_path: Path) -> None:
    """The instruments work: a page that errs and asks for a file elsewhere is caught."""
    page = tmp_path / "loud.html"
    page.write_text("<script>fetch('http://nowhere.invalid/x').catch(() => {}); console.error('heard')</script>")
    _, console, urls = visit(browser, page, tmp_path)
    assert any("heard" in line for line in console)
    assert "http://nowhere.invalid/x" in urls
