"""Corpora: what is kept, held out, tokenised, cached and found to be damaged or changed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isoflop.core.context import Context
from isoflop.core.contracts import Batches, HeldOut, Source, TokenizerPart
from isoflop.core.errors import DataError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data import making
from isoflop.data.corpus import Corpus
from isoflop.data.dedup import Shingler, jaccard
from isoflop.data.document import Document, group_of
from isoflop.data.making import prepare
from isoflop.data.split import point

Make = Callable[..., Corpus]


def tokenizer(name: str = "bytes", **fields: Any) -> TokenizerPart:
    part = get("tokenizer", name)(**fields)
    assert isinstance(part, TokenizerPart)
    return part


def context(cache: Path, part: TokenizerPart) -> Context:
    return Context(Rng(0), cache, part, part.vocabulary, batch=2, length=8)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(documents: Any, part: TokenizerPart | None = None, cache: Path = tmp_path, **options: Any) -> Corpus:
        part = part or tokenizer()
        return prepare(documents, part, context(cache, part), **options)

    return build


def test_the_held_out_digest_is_that_of_the_text_whatever_the_tokenizer(make: Make) -> None:
    corpus = make(documents(200))
    known = corpus.heldout_digest()
    assert len(known) == 64
    assert make(documents(200), tokenizer("bpe", vocab_size=300)).heldout_digest() == known
    assert make(documents(200)[:100]).heldout_digest() != known
    assert make(documents(200), heldout_bytes=1000).heldout_digest() != known
    renamed = [replace(d, domain={"a": "b", "b": "a"}[d.domain]) for d in documents(200)]
    assert make(renamed).heldout_digest() != known
    held = set(corpus.heldout_text())
    kept = [d for n, d in enumerate(documents(200)) if d.text in held or n % 2]  # less to train on, the same to judge
    assert make(kept).fingerprint != corpus.fingerprint
    assert make(kept).heldout_digest() == known


def words(number: int, count: int = 60) -> str:
    return " ".join(f"w{i}" for i in Rng(1)("words").at(number).integers(0, 500, count))


def documents(count: int = 60, domains: str = "ab", groups: int = 1) -> list[Document]:
    """Distinct texts; ``groups`` neighbours share one group."""
    return [
        Document(words(n), domains[n % len(domains)], f"file {n}", group_of(str(n // groups))) for n in range(count)
    ]


def test_it_is_a_source(make: Make, tmp_path: Path) -> None:
    corpus = make(documents())
    assert isinstance(corpus, Source)
    assert isinstance(corpus.batches(context(tmp_path, tokenizer())), Batches)
    assert all(isinstance(part, HeldOut) for part in corpus.heldout().values())


@pytest.mark.parametrize("part", [tokenizer(), tokenizer("bpe", vocab_size=300)], ids=["bytes", "bpe"])
def test_every_text_is_kept_on_its_side_of_the_split(make: Make, part: TokenizerPart) -> None:
    given_documents = documents(200, groups=2)
    corpus = make(given_documents, part)
    held = {d.text for d in given_documents if point(d.group) < 0.05}
    assert 4 <= len(held) <= 30
    assert sorted(corpus.heldout_text()) == sorted(held)
    assert sorted(corpus.train_text()) == sorted({d.text for d in given_documents} - held)
    for domain, text in corpus.heldout().items():
        wanted = [d.text for d in given_documents if d.text in held and d.domain == domain]
        assert text.documents == len(wanted)
        assert text.text_bytes == sum(map(len, wanted))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.text("ab \n", min_size=1, max_size=12), st.integers(0, 9), st.sampled_from(["one", "two"])),
        min_size=2,
        max_size=40,
    ),
    share=st.sampled_from([0.05, 0.3, 0.6]),
)
def test_no_held_out_group_or_text_is_in_training(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, int, str]], share: float
) -> None:
    given_documents = [
        Document(f"{text}.", domain, f"{n}", group_of(str(file))) for n, (text, file, domain) in enumerate(pairs)
    ]
    groups: dict[str, set[str]] = {}
    for document in given_documents:
        groups.setdefault(document.text, set()).add(document.group)
    part = tokenizer()
    try:
        corpus = prepare(given_documents, part, context(tmp_path_factory.mktemp("c"), part), heldout_share=share)
    except DataError:  # one file, or all of them on one side
        assert len({document.group for document in given_documents}) < 15
        return
    train, held = list(corpus.train_text()), list(corpus.heldout_text())
    assert sorted(train + held) == sorted(groups)  # each distinct text once
    for a in train:
        for b in held:
            assert groups[a] != groups[b] or len(groups[a]) > 1


def test_near_duplicates_of_held_out_documents_are_nowhere_in_training(make: Make) -> None:
    originals = documents(80)
    copies = [
        Document(d.text.replace(" ", "\n", 5) + f" one more word {n}", d.domain, f"copy {n}", group_of(f"copy {n}"))
        for n, d in enumerate(originals)
    ]
    corpus = make(originals + copies)
    shingler = Shingler()
    train = [shingler(text) for text in corpus.train_text()]
    held = [shingler(text) for text in corpus.heldout_text()]
    assert held
    assert max(jaccard(a, b) for a in held for b in train) < 0.5
    assert corpus.describe()["near_duplicates_removed"] == 80


def test_repeats_stay_where_they_belong_to_the_law(make: Make) -> None:
    repeated = [Document("same", "a", f"{n}", group_of(str(n))) for n in range(50)]
    corpus = make(repeated, deduplicate=None)
    assert len(list(corpus.train_text())) + len(list(corpus.heldout_text())) == 50
    assert corpus.left_out == ""


def near(count: int = 40) -> list[Document]:
    """Pairs of near duplicates, each in a file of its own."""
    texts = [words(n) + end for n in range(count) for end in ("", " end")]
    return [Document(text, "a", f"{n}.txt", group_of(text)) for n, text in enumerate(texts)]


def test_content_decides_which_of_several_duplicates_stays(make: Make, tmp_path: Path) -> None:
    """Names and order of files do not: neither which text stays nor its domain."""
    base = [*near(), *(replace(d, domain="b") for d in near()[:9])]
    first = make(base)
    assert first.describe()["exact_duplicates_removed"] == 9
    assert first.describe()["near_duplicates_removed"] == 40
    for seed in range(5):
        order = Rng(seed)("order").at().permutation(len(base)).tolist()
        renamed = [replace(base[i], origin=f"elsewhere/{n}") for n, i in enumerate(order)]
        other = make(renamed, cache=tmp_path / f"{seed}")
        assert other.fingerprint == first.fingerprint
        assert list(other.train_text()) == list(first.train_text())
        assert other.describe()["train"] == first.describe()["train"]


def test_what_was_left_out_is_said(make: Make) -> None:
    base = near()
    assert make(documents()).left_out == ""
    for given_documents, options, said in [
        (base, {}, "40 of 80 documents are left out .*0 exact, 40 near.: source.deduplicate=none or exact keeps them"),
        ([*base, base[0]], {}, "41 of 81 documents are left out as duplicates .1 exact, 40 near.: .*"),
        (
            [*base, base[0]],
            {"deduplicate": "exact"},
            "1 of 81 .* .1 exact, 0 near.: source.deduplicate=none keeps them",
        ),
        ([*base, base[0]], {"deduplicate": None}, ""),
    ]:
        corpus = make(given_documents, **options)
        assert re.fullmatch(said, corpus.left_out)
        assert corpus.describe()["left_out"] == (corpus.left_out or None)


def test_errors_for_want_of_text_say_what_was_left_out(make: Make, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"leaves nothing held out \(documents: 1, files or records: 1\)") as caught:
        make(near(1))
    pair = "0.txt nearly equals 1.txt|1.txt nearly equals 0.txt"
    assert re.search(rf"1 of 2 documents are left out as duplicates \(0 exact, 1 near; ({pair})\)", caught.value.fix)
    assert "source.deduplicate=none" in caught.value.fix
    assert "chunk_bytes" in caught.value.fix
    with pytest.raises(DataError, match="too few for one window of 100000") as caught:
        make(near()).batches(context(tmp_path, tokenizer()).having(length=100_000))
    assert "40 of 80 documents are left out" in caught.value.fix
    with pytest.raises(DataError, match="too few") as caught:
        make(documents()).batches(context(tmp_path, tokenizer()).having(length=100_000))
    assert "left out" not in caught.value.fix


def test_a_second_start_reads_no_document(make: Make) -> None:
    first = make(documents(), inputs="the same")

    def unread() -> Iterator[Document]:
        raise AssertionError("was read")
        yield

    again = make(unread(), inputs="the same")
    assert again.fingerprint == first.fingerprint
    assert list(again.train_text()) == list(first.train_text())
    with pytest.raises(AssertionError, match="was read"):
        make(unread(), inputs="changed")


def test_the_trained_tokenizer_comes_back(make: Make) -> None:
    part = tokenizer("bpe", vocab_size=290)
    first = make(documents(), part).tokenizer
    again = make(documents(), part).tokenizer
    assert np.array_equal(first.encode("w1 w22 other"), again.encode("w1 w22 other"))
    assert again.vocab_size == 290
    assert len(first.encode(words(0))) < 0.8 * len(words(0))  # merges were learnt


def test_the_tokenizer_never_sees_held_out_text(make: Make) -> None:
    plain = documents()
    held = next(d for d in plain if point(d.group) < 0.05)
    changed = [Document("zq" * 5000, d.domain, d.origin, d.group) if d is held else d for d in plain]
    part = tokenizer("bpe", vocab_size=300)
    pieces = [make(each, part).tokenizer.byte_lengths for each in (plain, changed)]
    assert np.array_equal(*pieces)


def test_the_fingerprint_tells_any_change(make: Make) -> None:
    base = documents()
    variants = {
        "base": make(base),
        "text": make([*base[:-1], Document(base[-1].text + "!", *_rest(base[-1]))]),
        "more": make([*base, *documents(61)[60:]]),
        "domain": make([Document(d.text, "b" if d.domain == "a" else "a", d.origin, d.group) for d in base]),
        "tokenizer": make(base, tokenizer("bpe", vocab_size=300)),
        "vocabulary": make(base, tokenizer("bpe", vocab_size=301)),
        "groups": make([Document(d.text, d.domain, d.origin, group_of(f"other {n}")) for n, d in enumerate(base)]),
        "share": make(base, heldout_share=0.3),
    }
    assert len({corpus.fingerprint for corpus in variants.values()}) == len(variants)


def test_the_fingerprint_does_not_depend_on_order_names_or_place(make: Make, tmp_path: Path) -> None:
    base = documents()
    renamed = [Document(d.text, d.domain, f"elsewhere/{d.origin}", d.group) for d in reversed(base)]
    first, other = make(base), make(renamed, cache=tmp_path / "other")
    assert first.fingerprint == other.fingerprint
    assert list(first.train_text()) == list(other.train_text())


def test_evaluation_is_bounded_by_whole_documents_that_fit(make: Make) -> None:
    base = documents(400, domains="a")
    whole = make(base).heldout()["a"]
    assert whole.text_bytes > 2000
    bounded = make(base, heldout_bytes=1000)
    part = bounded.heldout()["a"]
    assert 700 < part.text_bytes <= 1000
    texts = list(bounded.heldout_text())
    assert sum(map(len, texts)) == part.text_bytes
    assert set(texts) <= {d.text for d in base}
    assert part.documents == len(texts)
    assert bounded.fingerprint == make(base).fingerprint
    smallest = make(base, heldout_bytes=1).heldout()["a"]
    assert smallest.documents == 1
    assert smallest.text_bytes == min(map(len, make(base).heldout_text()))


def test_a_document_that_just_fits_is_evaluated(make: Make) -> None:
    base = documents(400, domains="a")
    first, second, *_ = map(len, make(base).heldout_text())
    for limit, fit in ((first + second, 2), (first + second - 1, 1)):
        found = list(map(len, make(base, heldout_bytes=limit).heldout_text()))
        assert found[:1] == [first]
        assert (found[:2] == [first, second]) == (fit == 2)
        assert sum(found) <= limit


def test_text_of_a_pass_over_the_training_windows_is_counted_in_bytes(make: Make, tmp_path: Path) -> None:
    base = [Document(words(n) + "é€𝄞", "a", "", group_of(str(n))) for n in range(30)]
    corpus = make(base, tokenizer("bpe", vocab_size=300))
    stream = corpus.batches(context(tmp_path, tokenizer()).having(batch=1, length=1))
    total = sum(next(stream).text_bytes for _ in range(stream.windows))
    assert total == corpus.describe()["train"]["a"]["text_bytes"]
    assert total == sum(len(text.encode()) for text in corpus.train_text())
    assert stream.windows == corpus.describe()["train"]["a"]["tokens"]


def test_the_description_adds_up(make: Make) -> None:
    base = documents(300)
    facts = make([*base, *base[:7]]).describe()
    assert facts["documents"] == 300
    assert facts["text_bytes"] == sum(len(d.text) for d in base)
    assert facts["tokens"] == facts["text_bytes"] + 300  # bytes, and an end for each
    assert facts["exact_duplicates_removed"] == 7
    assert set(facts["train"]) == set(facts["heldout"]) == {"a", "b"}
    assert facts["evaluated"] == facts["heldout"]


@pytest.mark.parametrize("name", ["train.bin", "heldout-0.bin", "manifest.json", "tokenizer.json"])
def test_damage_in_the_cache_is_found_and_named(make: Make, name: str) -> None:
    part = tokenizer("bpe", vocab_size=300)
    file = make(documents(), part).directory / name
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="delete that folder") as caught:
        make(documents(), part)
    assert caught.value.where == str(file)


def test_processes_that_want_one_corpus_make_it_once(make: Make) -> None:
    read: list[int] = []

    def slow() -> Iterator[Document]:
        read.append(1)
        for document in documents(40):
            time.sleep(0.002)
            yield document

    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(make(slow(), inputs="shared").fingerprint)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(read) == 1


def test_what_a_killed_process_left_is_cleared(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make(documents(), inputs="a").directory
    leftover = directory.parent / f".partial-12345678-{directory.name}"
    other = directory.parent / ".partial-12345678-otherkey"
    directory.rename(leftover)
    other.mkdir()
    make(documents(), inputs="a")
    assert directory.is_dir()
    assert not leftover.exists()
    assert other.exists()  # another process may be at work there

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(making, "seal", killed)
    with pytest.raises(KeyboardInterrupt):
        make(documents(), inputs="b")
    assert [path for path in directory.parent.glob(".partial-*") if path != other] == []


def test_no_documents_and_text_that_is_no_unicode_are_refused(make: Make) -> None:
    with pytest.raises(DataError, match="gives no documents"):
        make([])
    broken = [*documents(), Document("a\ud800b", "a", "notes.txt:3", group_of("x"))]
    with pytest.raises(DataError, match=r"notes.txt:3: holds the lone surrogate U\+D800 at character 1"):
        make(broken)


def test_no_global_generator_is_used(make: Make, tmp_path: Path) -> None:
    np.random.seed(3)  # noqa: NPY002
    before = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    next(make(documents(), tokenizer("bpe", vocab_size=300)).batches(context(tmp_path, tokenizer())))
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index, union-attr]  # noqa: NPY002


def _rest(document: Document) -> tuple[str, str, str]:
    return document.domain, document.origin, document.group
