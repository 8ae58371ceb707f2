"""Duplicates, exact and near."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from isoflop.core.rng import Rng
from isoflop.data import dedup
from isoflop.data.dedup import NEAR, SHORTEST, Shingler, distinct, jaccard, signatures

GENERATOR = Rng(5)("dedup test")
WORDS = [f"word{i}" for i in range(3000)]


def text(number: int, words: int = 300) -> list[str]:
    return [WORDS[i] for i in GENERATOR.at(number).integers(0, len(WORDS), words)]


def changed(words: list[str], number: int, changes: int) -> list[str]:
    """A copy with single words replaced: each change touches at most five 5-grams."""
    copy = list(words)
    for place in GENERATOR.at(number, 1).choice(len(words), changes, replace=False):
        copy[place] = f"changed{number}"
    return copy


def exact_jaccard(a: list[str], b: list[str]) -> float:
    sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (a, b)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_exact_duplicates_are_exact() -> None:
    assert distinct(["a b", "c", "a b", "c ", "c"]) == dedup.Distinct((0, 1, 3), exact=((2, 0), (4, 1)), near=())


def test_other_line_breaks_make_near_duplicates() -> None:
    lines = "\n".join(" ".join(text(n, 12)) for n in range(9))
    assert distinct([lines, lines.replace("\n", " ")]).near == ((1, 0),)


def test_what_is_dropped_can_be_chosen() -> None:
    words = text(0)
    texts = [" ".join(each) for each in (words, changed(words, 0, 1), words)]
    assert distinct(texts, "near") == dedup.Distinct((0,), exact=((2, 0),), near=((1, 0),))
    assert distinct(texts, "exact") == dedup.Distinct((0, 1), exact=((2, 0),), near=())
    assert distinct(texts, None) == dedup.Distinct((0, 1, 2), exact=(), near=())


def test_hashed_shingles_have_the_jaccard_similarity_of_word_5_grams() -> None:
    shingler = Shingler()
    for number, changes in enumerate((0, 1, 5, 20, 100)):
        a = text(number)
        b = changed(a, number, changes)
        assert jaccard(shingler(" ".join(a)), shingler("\n".join(b))) == pytest.approx(exact_jaccard(a, b), abs=1e-12)
    few = " ".join(text(0, SHORTEST - 1))
    assert len(shingler(few)) == 0
    assert len(shingler(few + " more")) == SHORTEST - 4
    assert jaccard(shingler(few), shingler(few)) == 0.0


def test_repeated_shingles_are_counted() -> None:
    """The n-th repeat of a shingle is an element of its own: J of bags is sum of minima / sum of maxima."""
    words = text(0, 200)
    twice, thrice = (" ".join([*words, *words[:100] * n]) for n in (1, 2))
    shingler = Shingler()
    both, all_of_them = len(shingler(twice)), len(shingler(thrice))
    assert (both, all_of_them) == (296, 396)
    assert jaccard(shingler(twice), shingler(thrice)) == pytest.approx(both / all_of_them)


def test_one_changed_unit_of_the_shortest_text_leaves_it_near() -> None:
    words = text(3, SHORTEST)
    other = [*words[:10], "other", *words[11:]]
    shingler = Shingler()
    assert jaccard(shingler(" ".join(words)), shingler(" ".join(other))) >= NEAR
    assert distinct([" ".join(words[1:]), " ".join(other[1:])]).near == ()
    assert exact_jaccard(words[1:], other[1:]) < NEAR


def test_shares_of_equal_minima_estimate_the_similarity() -> None:
    shingler = Shingler()
    pairs = [(a := text(number), changed(a, number, number)) for number in range(0, 40, 2)]
    estimated, true = [], []
    for a, b in pairs:
        both = signatures([shingler(" ".join(a)), shingler(" ".join(b))])
        estimated.append(float((both[0] == both[1]).mean()))
        true.append(exact_jaccard(a, b))
    assert np.abs(np.array(estimated) - true).max() < 0.2  # 4 sd of 112 draws
    assert abs(np.mean(np.array(estimated) - true)) < 0.03


def test_every_clear_near_duplicate_goes_and_no_other_text_does() -> None:
    originals = [text(number) for number in range(60)]
    copies = [changed(originals[number], number, 3) for number in range(60)]  # J about 0.9
    far = [changed(originals[number], number, 60) for number in range(0, 60, 10)]  # J about 0.2
    assert all(exact_jaccard(a, b) > 0.88 for a, b in zip(originals, copies, strict=True))
    assert all(exact_jaccard(originals[10 * i], b) < 0.4 for i, b in enumerate(far))
    found = distinct([" ".join(words) for words in (*originals, *copies, *far)])
    assert found.kept == (*range(60), *range(120, 126))
    assert found.near == tuple((60 + number, number) for number in range(60))


def test_the_earliest_of_several_stays() -> None:
    first = text(1)
    texts = [" ".join(words) for words in (changed(first, 1, 2), text(2), first, changed(first, 2, 2))]
    assert distinct(texts).kept == (0, 1)


def test_the_result_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [" ".join(changed(text(n % 20), n, 1)) for n in range(50)] + ["short", "", "short one"]
    whole = distinct(texts)
    assert len(whole.near) == 30
    monkeypatch.setattr(dedup, "_BLOCK", 1)
    assert distinct(texts) == whole


def test_texts_of_seven_tenths_are_near_and_of_less_are_not() -> None:
    """With k of m shingles exchanged, J = (m - k) / (m + k): at m = 170, k = 30 it is exactly 0.7."""
    originals = [text(100 + number, 174) for number in range(40)]

    def found(exchanged: int) -> tuple[float, int]:
        ends = [[f"end{n}of{place}" for place in range(exchanged)] for n in range(40)]
        others = [[*words[: 174 - exchanged], *end] for words, end in zip(originals, ends, strict=True)]
        assert len({exact_jaccard(a, b) for a, b in zip(originals, others, strict=True)}) == 1
        near = distinct([" ".join(words) for words in (*originals, *others)]).near
        assert all(first == second - 40 for second, first in near)
        return exact_jaccard(originals[0], others[0]), len(near)

    similarity, count = found(30)
    assert similarity == 0.7
    assert 10 <= count <= 34  # 14 bands of 8 propose 56 % of such pairs
    similarity, count = found(31)
    assert 0.69 < similarity < 0.7
    assert count == 0


def test_short_texts_are_compared_exactly_only() -> None:
    assert distinct(["a + b", "a - b", "", "."]).kept == (0, 1, 2, 3)
    assert distinct([]) == dedup.Distinct((), (), ())


SYMBOLS = {"bits": "01", "parentheses": "()", "brackets": "[]<>(){}", "bases": "acgt", "digits": "0123456789"}


@pytest.mark.parametrize("blank", ["", " "])
@pytest.mark.parametrize("length", [40, 200, 1000, 3000])
@pytest.mark.parametrize("alphabet", SYMBOLS)
def test_sequences_of_few_symbols_are_told_apart(alphabet: str, length: int, blank: str) -> None:
    generator = Rng(1)(alphabet).at(length)
    drawn = [generator.choice(list(SYMBOLS[alphabet]), length) for _ in range(40)]
    texts = [blank.join(row) for row in drawn]
    found = distinct(texts)
    assert len(found.kept) == len(set(texts))
    copies = [blank.join([*row, row[0]]) for row in drawn]
    if blank and length > 200:
        assert len(distinct(texts + copies).near) == 40  # an appended symbol is still found


def test_programs_that_differ_in_an_operator_are_told_apart() -> None:
    programs = [f"def f(a, b):\n    return a {sign} b\n" for sign in ("+", "-", "*", "/", "%", "//", "<<", "==", "!=")]
    assert distinct(programs).kept == tuple(range(len(programs)))
    shingler = Shingler()
    long = " ".join(programs[0] * 9)
    assert jaccard(shingler(long), shingler(long.replace("+", "/"))) < 0.7


def test_case_and_layout_are_told_apart() -> None:
    lower = " ".join(f"select column{n} from table{n}" for n in range(20))
    assert distinct([lower, lower.upper()]).kept == (0, 1)
    maze = ["".join(" #"[i] for i in GENERATOR.at(9, n).integers(0, 2, 400)) for n in range(20)]
    assert len(distinct(maze).kept) == 20


ITEM = {
    "Chinese": "小明今天早上去商店买了{}个苹果和一些面包,回家以后他把其中的{}个分给了弟弟和妹妹,自己留下了剩下的部分。"
    "下午奶奶又给了他{}个,他非常高兴,决定第二天把水果带到学校和同学们一起分享。请问老师和同学们最后一共可以得到多少水果呢?",
    "Japanese": "太郎さんは朝早く市場へ行ってりんごを{}"
    "個と新しいパンを買いました。家に帰ってから弟と妹に{}個を分けてあげて、"
    "残りは自分の部屋に置きました。午後になると祖母がさらに{}個くれたので、とても喜んで翌日学校へ持って行くことにしました。",
    "Thai": "เช้าวันนี้สมชายไปตลาดและซื้อแอปเปิลจำนวน {} ลูก"
    "กับขนมปังใหม่ เมื่อกลับถึงบ้านเขาแบ่งให้น้องชายและน้องสาว {} ลูก "
    "แล้วเก็บส่วนที่เหลือไว้ในห้องของตัวเอง ตอนบ่ายคุณยายให้เขาอีก {} ลูก เขาดีใจมากและตัดสินใจนำไปโรงเรียนในวันรุ่งขึ้น",
    "Khmer": "ព្រឹកនេះ សុខ បានទៅផ្សារ ហើយបានទិញផ្លែប៉ោម {} ផ្លែ និងនំប៉័ងថ្មី។ "
    "ពេលត្រឡប់មកផ្ទះវិញ គាត់បានចែកឱ្យប្អូនប្រុសនិងប្អូនស្រី "
    "{} ផ្លែ "
    "ហើយទុកអ្វីដែលនៅសល់ក្នុងបន្ទប់របស់គាត់។ ពេលរសៀល ជីដូនបានឱ្យគាត់ {} ផ្លែទៀត គាត់សប្បាយចិត្តខ្លាំងណាស់។",
    "English": " ".join(f"word{n}" for n in range(30))
    + " {} "
    + " ".join(f"other{n}" for n in range(30))
    + " {} "
    + " ".join(f"end{n}" for n in range(30))
    + " {}",
}


@pytest.mark.parametrize("language", ITEM)
def test_items_that_differ_in_numbers_are_near_in_every_script(language: str) -> None:
    numbers = GENERATOR.at(4).integers(10, 10_000, (40, 3)).tolist()
    found = distinct([ITEM[language].format(*row) for row in numbers])
    assert len(found.kept) < 10, len(found.kept)


def test_distinct_texts_of_one_script_stay() -> None:
    generator = GENERATOR.at(5)
    for first, count in ((0x4E00, 2000), (0x3041, 80), (0x0E01, 46), (0x1780, 35)):
        texts = ["".join(chr(first + c) for c in generator.integers(0, count, 300)) for _ in range(40)]
        assert len(distinct(texts).kept) == 40


@pytest.mark.parametrize("marks", ["\u093f", "\u064e", "\u0301", "\u05b8"])
def test_a_mark_makes_another_word(marks: str) -> None:
    """Words that differ in vowel signs alone differ; they did not, and fell apart at each sign."""
    letters = [chr(c) for c in range(0x0915, 0x0930)]
    plain = ["".join(GENERATOR.at(6, n).choice(letters, 4)) for n in range(60)]
    marked = [word[:2] + marks + word[2:] for word in plain]
    shingler = Shingler()
    assert jaccard(shingler(" ".join(plain)), shingler(" ".join(marked))) == 0.0
    assert len(shingler(" ".join(marked))) == len(shingler(" ".join(plain))) == 56


def records(count: int) -> list[str]:
    """Records of 126 words, 100 of them in common: J about 0.65."""
    template = text(0, 100)
    return [" ".join([*template, *text(1000 + n, 26)]) for n in range(count)]


def test_the_work_on_templated_records_is_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def counted(a: Any, b: Any) -> float:
        compared.append(1)
        return jaccard(a, b)

    monkeypatch.setattr(dedup, "jaccard", counted)
    work = []
    for count in (800, 1600):
        compared.clear()
        assert len(distinct(records(count)).kept) == count
        work.append(len(compared))
    assert work[1] < 2.3 * work[0]
    assert work[1] < 1600 * dedup.CROWD * 5


def test_copies_of_templated_records_are_found() -> None:
    originals = records(400)
    copies = [" ".join(changed(each.split(), n, 1)) for n, each in enumerate(originals)]  # J about 0.92
    found = distinct([*originals, *copies])
    assert found.kept == tuple(range(400))
