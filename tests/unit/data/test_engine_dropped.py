"""Statistics as a page: what is in documents, and what each step dropped, counted exactly and shown by example."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop.core.errors import UsageError
from isoflop.data.engine.cleaning import clean, filter_of
from isoflop.data.engine.contamination import decontaminate
from isoflop.data.engine.dedup import Keying, dedup
from isoflop.data.engine.dropped import EXAMPLES, step_of
from isoflop.data.engine.inputs import Unit, units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.statistics import statistics
from isoflop.report.corpora import corpus_page, figures, length_sheet
from isoflop.store.corpora import CorpusFacts

STORY = "The people who live by the river have built their own houses, and they do not want to leave them. "

GERMAN = "Die Leute, die am Fluss wohnen, haben ihre Häuser selbst gebaut und wollen nicht weg."


@pytest.fixture
def units(tmp_path: Path) -> list[Unit]:
    rows = [{"id": f"s{i}", "text": f"{STORY * 6}Story {i}.", "host": "ab"[i % 2]} for i in range(6)]
    rows += [{"id": f"t{i}", "text": "too short <b>&"} for i in range(5)]
    rows += [{"id": "de", "text": GERMAN}]
    for number in range(2):
        lines = [*map(json.dumps, rows[number::2]), '{"text": "torn']
        (tmp_path / f"{number}.jsonl").write_text("\n".join(lines))
    return units_of([str(tmp_path / "?.jsonl")])


def test_a_step_says_what_it_dropped_and_why(units: list[Unit], tmp_path: Path) -> None:
    clean(units, [filter_of("gopher_quality")], JobSettings(tmp_path / "clean"))
    found = step_of(tmp_path / "clean")
    assert (found.verb, found.documents, found.kept) == ("clean", 12, 6)
    short = found.reasons[0]
    assert (short.reason, short.documents) == ("gopher quality: short doc", 6)
    assert len(short.examples) == EXAMPLES
    assert {each.text for each in short.examples} <= {"too short <b>&", GERMAN}
    dedup(units, Keying("exact"), JobSettings(tmp_path / "unique"))
    (again,) = step_of(tmp_path / "unique").reasons
    assert (again.reason, again.documents) == ("repeats an earlier document", 4)
    (tmp_path / "tests.jsonl").write_text(json.dumps({"query": STORY}))
    decontaminate(units, units_of([str(tmp_path / "tests.jsonl")]), JobSettings(tmp_path / "apart"))
    (shared,) = step_of(tmp_path / "apart").reasons
    assert (shared.reason, shared.documents) == ("shares words with a test", 6)


def test_documents_that_have_changed_are_not_shown(units: list[Unit], tmp_path: Path) -> None:
    clean(units, [filter_of("gopher_quality")], JobSettings(tmp_path / "clean"))
    Path(units[0].files[0]).write_text('{"text": "another"}')
    found = step_of(tmp_path / "clean")
    assert found.reasons[0].documents == 6
    assert not found.reasons[0].examples
    assert "has changed" in found.remark
    with pytest.raises(UsageError, match="says nothing of documents"):
        step_of(tmp_path)


def test_the_page_shows_lengths_languages_duplicates_and_drops(units: list[Unit], tmp_path: Path) -> None:
    clean(units, [filter_of("gopher_quality")], JobSettings(tmp_path / "clean"))
    out = tmp_path / "stats"
    found = statistics(units, JobSettings(out), "host", languages=True, steps=[tmp_path / "clean"])
    facts = CorpusFacts.read(out / "corpus.json")
    assert facts.counts == found["counts"]
    assert facts.of("language")["de"] == 1
    assert facts.of("language")["en"] >= 6
    assert facts.of("host") == {"a": 3, "b": 3}
    page = corpus_page(facts, {})
    for said in ("12 documents", "Languages", "By host", "equal texts", "gopher quality: short doc", "that hold none"):
        assert said in page
    assert "too short &lt;b&gt;&amp;" in page  # somebody's text, never markup
    assert set(figures(facts)) == {"lengths"}
    assert [row[1] for row in length_sheet(facts).rows] == ["5", "1", "6"]
