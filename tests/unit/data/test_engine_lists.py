"""Filters by address and by language: lists in the forms that they come in, and what each rule drops."""

from __future__ import annotations

import gzip
import json
import random
import string
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fasttext_toy
from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, UsageError
from isoflop.data.engine import languages
from isoflop.data.engine.cleaning import chain_of, clean, filter_of
from isoflop.data.engine.inputs import units_of
from isoflop.data.engine.jobs import JobSettings
from isoflop.data.engine.lists import HashedLines, host_of, lines_of, plain_url, suffixes, words_of_url
from isoflop.data.engine.pages import Pages
from isoflop.data.filters.language import LanguagePart
from isoflop.data.filters.strip_urls import StripUrlsPart
from isoflop.data.filters.url import UrlPart

ENGLISH = "The people who live by the river have built their own houses and boats, and they do not want to leave."
GERMAN = "Die Leute, die am Fluss wohnen, haben ihre Häuser und Boote selbst gebaut und wollen nicht weg."


def judged(part: UrlPart, *urls: Any) -> list[str]:
    return list(part.judge(Pages(["x"] * len(urls), [{"url": url} for url in urls])).reasons)


def listed(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines), encoding="utf-8")
    return str(path)


@settings(max_examples=30)
@given(st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_hashed_lines_are_a_set(lines: list[str], asked: list[str]) -> None:
    assert HashedLines(lines).holds(asked) == bool(set(lines) & set(asked))


LABEL = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=6)
HOST = st.lists(LABEL, min_size=2, max_size=4).map(".".join).filter(lambda host: not host[-1].isdigit())


@settings(max_examples=30)
@given(HOST, LABEL, st.sampled_from(["http://", "https://", "HTTPS://", "//", ""]), st.booleans())
def test_the_same_address_in_other_forms(host: str, path: str, scheme: str, dressed: bool) -> None:
    """Scheme, user, port, capitals of the host, a dot at its end and the fragment say nothing of where a page lies."""
    shown = f"me:pw@{host.upper()}.:8080" if dressed and scheme else host.upper()
    url = f"{scheme}{shown}/{path}#part"
    assert host_of(url) == host
    assert plain_url(url) == f"{host.removeprefix('www.')}/{path}"
    assert host in suffixes(f"a.{host}")


def test_domains_hold_for_what_lies_below_them_and_nothing_else(tmp_path: Path) -> None:
    lists = (
        listed(tmp_path / "a.txt", "# comment", "bad.example", "", "*.worse.example  # why", "B\u00fccher.example"),
        listed(tmp_path / "hosts", "0.0.0.0 ads.example", "127.0.0.1 track.example"),
    )
    urls = ["http://bad.example/x", "https://www.BAD.example.:80", "http://notbad.example", "http://example", None, " "]
    assert judged(UrlPart(domains=lists), *urls) == ["domain", "domain", "", "", "", ""]
    urls = [
        "a.b.worse.example/x",
        "ads.example",
        "http://good.example/bad.example",
        "http://xn--bcher-kva.example/",
        "http://[::1",
    ]
    assert judged(UrlPart(domains=lists), *urls) == ["domain", "domain", "", "domain", ""]
    assert judged(UrlPart(domains=lists, missing="drop"), *["", 5, "http://good.example"]) == ["missing", "missing", ""]


def test_words_count_as_they_are_listed(tmp_path: Path) -> None:
    part = UrlPart(
        urls=(listed(tmp_path / "u", "https://www.a.example/page/"),),
        strict=listed(tmp_path / "s", "free-pills"),
        hard=listed(tmp_path / "h", "casino"),
        soft=listed(tmp_path / "w", "bet", "win"),
    )
    assert judged(part, "http://a.example/page", "http://a.example/page/2") == ["url", ""]
    assert judged(part, "http://x.example/my-Free_Pillsnow", "http://x.example/free/other") == ["strict_word", ""]
    assert judged(part, "http://x.example/the-casino", "http://x.example/casinos") == ["hard_word", ""]
    assert judged(part, "http://bet.example/", "http://bet.example/w%69n", "http://betwin.example") == [
        "",
        "soft_words",
        "",
    ]
    assert words_of_url("a%20b_c") == ["a", "b", "c"]


def test_lists_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        judged(UrlPart(domains=str(tmp_path / "none")), "http://a.example")
    (tmp_path / "bad").write_bytes(b"a.example\n\xff.example\n")
    with pytest.raises(DataError, match="bad:2"):
        list(lines_of([str(tmp_path / "bad")]))


def test_a_list_that_changed_makes_another_job(tmp_path: Path) -> None:
    """What filters read is part of what a job is: going on with other lists would leave two halves that differ."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": ENGLISH, "url": "http://a.example"}))
    filters = [UrlPart(domains=listed(tmp_path / "d", "b.example"))]
    units = units_of([str(tmp_path / "a.jsonl")])
    assert clean(units, filters, JobSettings(tmp_path / "out"))["counts"]["kept"] == 1
    listed(tmp_path / "d", "a.example")
    with pytest.raises(UsageError, match="other reads"):
        clean(units, filters, JobSettings(tmp_path / "out"))
    assert clean(units, filters, JobSettings(tmp_path / "two"))["counts"]["dropped.url.domain"] == 1


def test_the_first_steps_of_dclm_in_one_pass(tmp_path: Path) -> None:
    """Addresses, languages and their probabilities stand beside every document; rules see texts without addresses."""
    rows = [
        {"id": "en", "text": f"{ENGLISH}\n\n\n\nSee http://a.example/b. {ENGLISH}", "url": "http://good.example"},
        {"id": "de", "text": GERMAN, "url": "http://good.example"},
        {"id": "bad", "text": ENGLISH, "url": "http://bad.example/1"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    domains = listed(tmp_path / "d", "bad.example")
    first = [UrlPart(domains=domains), filter_of("strip_urls"), filter_of("language")]
    found = clean(units_of([str(tmp_path / "a.jsonl")]), [*first, *chain_of("dclm")], JobSettings(tmp_path / "out"))
    assert found["counts"]["dropped.url.domain"] == found["counts"]["dropped.language.other_language"] == 1
    with gzip.open(tmp_path / "out" / "attributes" / "part-00000.jsonl.gz") as file:
        notes = [json.loads(line) for line in file]
    assert notes[0]["notes"]["language"]["language"] == "en"
    assert notes[1]["notes"]["language"] == {"language": "de", "probability": pytest.approx(1, abs=0.1)}
    assert "notes" not in notes[2]  # it was dropped before


def test_addresses_are_cut_out_and_their_sentences_stay() -> None:
    texts = [
        "Go to www.a.example/x?y=1, or (http://b.example) not.",
        "https://a.example",
        "no address\n\n\nhere",
        "WWW.A.example!",
        "awww. No",
    ]
    found = StripUrlsPart().judge(Pages(texts))
    assert list(found.reasons) == ["", "empty", "", "", ""]
    assert found.edited == {0: "Go to , or () not.", 2: "no address\n\nhere", 3: "!"}


def test_languages_by_the_probability_that_is_asked_for(shared: Path) -> None:
    """Every language of the declaration of human rights that both lists name is told from English."""
    with gzip.open(shared / "data" / "data" / "text" / "udhr_multi.jsonl.gz") as file:
        texts = [json.loads(line)["text"][:2000] for line in file][::6]
    found = LanguagePart().judge(Pages(texts))
    assert 0 < sum(not reason for reason in found.reasons) <= 3
    assert set(found.reasons) <= {"", "other_language", "unsure"}


def test_a_fasttext_model_decides_where_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"isoflop\[fasttext\]"):
        LanguagePart(model=str(tmp_path / "lid.bin")).judge(Pages(["a"]))
    fasttext_toy.install(monkeypatch)
    model = fasttext_toy.write_model(tmp_path / "lid.bin", {"the": "en", "der": "de"})
    part = LanguagePart(model=str(model), min_probability=0.7)
    assert list(part.judge(Pages(["the\nthe the", "the", "der der der"])).reasons) == ["", "unsure", "other_language"]
    assert part.reads() == (str(model),)
    (tmp_path / "no.bin").write_text("torn")
    with pytest.raises(DataError, match="no model of fastText"):
        LanguagePart(model=str(tmp_path / "no.bin")).judge(Pages(["a"]))


def test_languages_are_learned_from_examples_of_each(tmp_path: Path) -> None:
    """Languages of the same letters in other syllables; what is asked holds other words than what was learned from."""
    draw, examples, asked = random.Random(0), {}, list[tuple[str, str]]()
    for name in ("aa", "bb", "cc", "dd"):
        syllables = ["".join(draw.choices("abdeiklmnorstu", k=3)) for _ in range(40)]
        texts = [" ".join("".join(draw.choices(syllables, k=3)) for _ in range(20)) for _ in range(30)]
        examples[name] = listed(tmp_path / f"{name}.txt", *texts[:20])
        asked += [(name, text) for text in texts[20:]]
    part = LanguagePart(languages=("aa",), examples=examples)
    found = part.judge(Pages([text for _, text in asked])).notes
    assert [note["language"] for note in found] == [name for name, _ in asked]
    assert part.reads() == tuple(examples.values())
    (unsure,) = part.judge(Pages(["? !"])).notes
    assert unsure["probability"] < 0.65


def test_examples_that_teach_nothing_are_errors(tmp_path: Path) -> None:
    one, none = listed(tmp_path / "one.txt", ENGLISH), listed(tmp_path / "none.txt", "")
    with pytest.raises(DataError, match="two or more"):
        LanguagePart(examples={"en": str(one)}).judge(Pages(["a"]))
    with pytest.raises(DataError, match="language de: holds no text"):
        LanguagePart(examples={"en": str(one), "de": str(none)}).judge(Pages(["a"]))
    with pytest.raises(ValidationError, match="examples hold no 'en'"):
        LanguagePart(examples={"de": str(one), "fr": str(one)})
    with pytest.raises(ValidationError, match="both given"):
        LanguagePart(model="a.bin", examples={"en": str(one)})


def test_who_has_no_library_is_told_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    languages._py3langid.cache_clear()
    monkeypatch.chdir(tmp_path)
    Path("a.jsonl").write_text(json.dumps({"text": ENGLISH}))
    for verb in (["clean", "--first", "language"], ["stats", "--languages"]):
        assert invoke(["data", *verb, "a.jsonl", "--out", verb[0], "--workers", "1"]) == 2
        said = capsys.readouterr().err
        assert "needs py3langid" in said
        assert "isoflop[data]" in said
    Path("en.txt").write_text(ENGLISH)
    Path("de.txt").write_text(GERMAN)
    own = '{name="language", examples={en="en.txt", de="de.txt"}}'
    asked = ["data", "clean", "a.jsonl", "--filter", own, "--out", "own", "--workers", "1"]
    assert invoke(asked) == 0
    assert "1 kept" in capsys.readouterr().out
