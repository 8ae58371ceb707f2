"""The page without a browser: its structure, its policy, escaping, and that it asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from isoflop.core.errors import DataError, UsageError
from isoflop.report import charts, render
from isoflop.report.page import study_page, write_report
from isoflop.store.results import StudyResult
from report_sample import make_multipliers, make_run_directory, make_study

HOSTILE = "</script><script>alert('&\"\x1b')</script><!--"


class Page(HTMLParser):
    """Tags with their attributes, script bodies by attributes, and the visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._open = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            attributes, body = self.scripts[-1]
            self.scripts[-1] = (attributes, body + data)
        elif self._open != "style":
            self.text += data

    def stored(self, name: str) -> object:
        return json.loads(next(body for attributes, body in self.scripts if attributes.get("id") == name))


def page_of(result: StudyResult) -> str:
    return study_page(result, {name: render.specification(chart) for name, chart in charts.figures(result).items()})


@pytest.fixture(scope="module")
def html() -> str:
    return page_of(make_study())


def test_every_section_is_there(html: str) -> None:
    page = Page(html)
    for heading in (
        "Quality against compute",
        "Compute multiplier over adamw",
        "Notes",
        "Bits per byte at equal cost",
        "Other axes, and with tuning charged",
        "Tuning",
        "Bill",
        "Learning curves",
        "Noise",
        "Corpus",
        "Make it again",
        "Environment",
        "Data",
    ):
        assert f">{heading}</h2>" in html
    for wanted in (
        make_study().title,
        "2.81x as much (95 % interval",
        "41.0 TFLOP",
        "9f2c4e1ab07d55c3",
        "lr = 0.003",
        "AMD EPYC",
        "extensions = 2",
        "5a1b2c300000, changed",
    ):
        assert wanted in page.text
    drawn = [attributes["data-chart"] for _, attributes in page.tags if "data-chart" in attributes]
    specifications = page.stored("charts")
    assert isinstance(specifications, dict)
    assert sorted(drawn) == sorted(specifications)
    assert sum(tag == "details" for tag, _ in page.tags) == 10  # other axes, study, four recipes, three processes, runs


def test_what_a_reader_asks_first_stands_first(html: str) -> None:
    """The table at equal cost is above the fold, the multipliers on FLOPs follow; other axes are lower."""
    order = re.findall("<h2 id=[^>]*>(.*?)</h2>", html)
    assert order[:3] == ["Bits per byte at equal cost", "Quality against compute", "Compute multiplier over adamw"]
    assert order.index("Bill") < order.index("Other axes, and with tuning charged")
    first, _, rest = html.partition(">Notes</h2>")
    assert ">tokens</td>" not in first
    assert "all-in" not in first.partition("<body>")[2]
    assert ">tokens</td>" in rest
    assert ">FLOPs, all-in</td>" in rest


def test_nothing_is_loaded_from_anywhere(html: str) -> None:
    page = Page(html)
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            here = (attributes.get(name) or "").startswith("#") and tag == "a"
            assert here or name not in attributes or (tag, attributes[name]) == ("link", "data:,")
    assert "@import" not in html
    assert "url(" not in html.partition("</style>")[0]
    named = set(re.findall(r"https?://([^/\"'`\s)\\]+)", html))
    assert named <= {"www.w3.org", "vega.github.io", "github.com"}  # namespaces, schema names, one message of Vega's


def test_the_policy_allows_the_two_scripts_and_no_connection(html: str) -> None:
    page = Page(html)
    policy = next(
        a["content"] for tag, a in page.tags if tag == "meta" and a.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert not {"connect-src", "font-src", "frame-src"} & set(policy.replace(";", " ").split())
    code = [body for attributes, body in page.scripts if "type" not in attributes]
    assert len(code) == 2
    for body in code:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'" in policy
    assert "'unsafe-inline'" not in policy.partition("script-src")[2]


def test_vega_is_there_once_and_the_whole_stays_small(html: str) -> None:
    assert html.count("window.vegaEmbed=") == 1
    assert len(html.encode()) < 1_300_000
    own = Page(html).scripts[-1][1]
    assert own.count("\n") < 200


def test_the_whole_result_is_inside(html: str) -> None:
    assert Page(html).stored("data") == make_study().model_dump(mode="json")


def test_the_page_is_the_same_each_time(html: str) -> None:
    assert page_of(make_study()) == html


def test_every_arm_has_its_own_line_in_the_headline() -> None:
    html = page_of(make_study(headline="muon wins\nsoap wins   (tokens: 2x)", multipliers=[], tunings=[], runs=[]))
    assert '<p class="headline">muon wins</p>\n<p class="headline">soap wins (tokens: 2x)</p>' in html


def test_an_edited_study_is_named_as_another() -> None:
    """Of the same name and title: the page and the terminal tell which."""
    edited = make_study(definition='name = "demo"\n\n[tuning]\nextensions = 3\n')
    assert edited.label != make_study().label
    for study in (edited, make_study()):
        assert f"<dd>{study.label}</dd>" in page_of(study)


def test_every_section_has_a_link_and_every_table_a_name(html: str) -> None:
    """For who reads by keyboard or ear: a list of sections, named regions that can be reached, headers of all rows."""
    page = Page(html)
    links = [a["href"] for tag, a in page.tags if tag == "a" and a.get("class") != "skip"]
    assert links == [f"#{a['id']}" for tag, a in page.tags if tag == "h2"]
    assert len(set(links)) == len(links)
    regions = [a for tag, a in page.tags if a.get("role") == "region"]
    assert len(regions) == sum(tag == "table" for tag, _ in page.tags)
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in regions)
    assert '<th scope="col"></th>' not in html
    assert len([a for tag, a in page.tags if tag == "th" and a.get("scope") == "row"]) > 20


def test_a_study_says_how_it_is_made_again(html: str) -> None:
    text = Page(html).text
    assert "isoflop compare study.toml --workers 2" in text
    assert "git checkout" not in text  # two commits made its runs, one of them changed
    once = {"e0": make_study().environments["e0"]}
    assert "git checkout 4f0c1d200000" in Page(page_of(make_study(environments=once))).text


def test_hostile_names_are_text() -> None:
    rows = [make_multipliers()[0].model_copy(update={"arm": HOSTILE})]
    study = make_study(
        name=HOSTILE,
        title=HOSTILE,
        headline=HOSTILE,
        created=HOSTILE,
        unit=HOSTILE,
        notes=[HOSTILE],
        multipliers=rows,
        refusals={"steps": HOSTILE},
        corpus={HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]},
        recipes={HOSTILE: f"# {HOSTILE}\n"},
        definition=f"# {HOSTILE}\n",
        environments={HOSTILE: {HOSTILE: HOSTILE, "commit": HOSTILE, "device": HOSTILE, "torch": HOSTILE}},
        environment={HOSTILE: HOSTILE},
        bill={HOSTILE: {"flops": 1.0}},
        arms=["adamw", HOSTILE],
        runs=[run.model_copy(update={"arm": HOSTILE, "run": HOSTILE}) for run in make_study().runs[-3:-1]],
        tunings=[make_study().tunings[0].model_copy(update={"arm": HOSTILE, "hyper": HOSTILE})],
    )
    html = page_of(study)
    page = Page(html)
    assert [a for a, _ in page.scripts] == [{"type": "application/json", "id": name} for name in ("charts", "data")] + [
        {},
        {},
    ]
    assert "<script>alert" not in html
    assert "\x1b" not in html.replace("\\u001b", "")
    assert page.stored("data") == study.model_dump(mode="json")
    assert page.text.count("<script>alert('&\"')</script><!--") > 10


def test_write_report_leaves_a_page_and_its_charts(tmp_path: Path) -> None:
    make_study().write(tmp_path / "study.json")
    assert write_report(tmp_path) == tmp_path / "report.html"
    names = sorted(path.name for path in (tmp_path / "charts").iterdir())
    assert names == sorted(
        f"{name}.{kind}"
        for name in ("bill", "learning", "multipliers", "others", "quality", "tuning_lr")
        for kind in ("csv", "png", "svg")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["charts", "report.html", "study.json"]


def test_a_study_without_any_result_still_has_a_page(tmp_path: Path) -> None:
    bare = make_study(
        runs=[], tunings=[], multipliers=[], bill={}, corpus={}, recipes={}, environments={}, environment={}, notes=[]
    )
    bare.write(tmp_path / "study.json")
    html = write_report(tmp_path).read_text()
    assert "vegaEmbed=" not in html  # nothing to draw
    assert ">Data</h2>" in html
    assert ">Tuning</h2>" not in html


def test_a_run_has_its_page(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path)
    page = Page(write_report(directory).read_text())
    for wanted in (
        "muon-0123456789ab",
        "2.5190 bits per byte",
        "754 GFLOP",
        "OMP_NUM_THREADS",
        "[optimizer]",
        '"bits_per_byte"',
    ):
        assert wanted in page.text
    data = page.stored("data")
    assert isinstance(data, dict)
    assert [len(data["evaluations"]), len(data["steps"])] == [4, 200]
    assert sorted(path.name for path in (directory / "charts").iterdir()) == [
        "loss.csv",
        "loss.png",
        "loss.svg",
        "quality.csv",
        "quality.png",
        "quality.svg",
    ]


def test_a_run_that_has_only_begun_and_one_that_diverged(tmp_path: Path) -> None:
    directory = make_run_directory(tmp_path)
    for file in ("metrics.jsonl", "ledger.json", "result.json", "recipe.toml"):
        (directory / file).unlink()
    status = json.loads((directory / "status.json").read_text())
    (directory / "status.json").write_text(json.dumps({**status, "state": "diverged", "message": "loss is <nan>"}))
    text = Page(write_report(directory).read_text()).text
    assert "diverged, no value yet. loss is <nan>" in text


def test_what_is_neither_study_nor_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a study, a pipeline, a run nor a fit"):
        write_report(tmp_path)
    (tmp_path / "study.json").write_text("{}")
    with pytest.raises(DataError, match="not a study result"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
