"""A study's result and a fit show themselves in a notebook, and nothing in them can become markup."""

from __future__ import annotations

from html.parser import HTMLParser

from isoflop.laws import Power, fit_table
from report_sample import make_study

TABLE = {"C": [1.0, 2.0, 4.0, 8.0], "y": [1.0, 2.1, 3.9, 8.2]}


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)


def test_a_study_shows_its_headline_and_multipliers() -> None:
    study = make_study()
    page = study._repr_html_()
    assert " ".join(study.headline.splitlines()[0].split()) in page
    assert page.count("<tr>") == 1 + sum(not row.all_in for row in study.multipliers)


def test_a_study_without_multipliers_shows_no_table() -> None:
    assert "<table" not in make_study(multipliers=[])._repr_html_()


def test_names_in_a_study_are_text() -> None:
    study = make_study(title="<script>alert(1)</script>", headline="<img src=x onerror=alert(1)>\n\x1b[31mred")
    page = study._repr_html_()
    assert Tags(page).tags <= {"div", "p", "small", "b", "table", "thead", "tbody", "tr", "th", "td"}
    assert "\x1b" not in page


def test_a_fit_and_what_was_asked_of_it_show_their_report() -> None:
    fit = Power().fit(TABLE)
    assert "profile interval" in fit._repr_html_()
    asked = fit_table(TABLE, "power", target="y").asked([{"C": 16.0}])
    assert "y at C=16" in asked._repr_html_()
    assert Tags(asked._repr_html_()).tags == {"pre"}
