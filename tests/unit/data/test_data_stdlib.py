"""The standard library as a corpus."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from isoflop.core.context import Context
from isoflop.core.errors import DataError
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.data.sources import stdlib
from isoflop.data.sources.stdlib import (
    StdlibPart,
    docstrings,
    library_files,
    of_builtins,
    of_file,
    of_topics,
    prose,
    sections,
    without,
    without_doctests,
)

LONG = "This sentence is prose of the kind that documentation is made of. " * 4
SOURCE = f'''
"""Module. {LONG}"""
# a comment stays
import os; x = "é"

class A:
    """Class. {LONG}

        indented
    """
    def f(self): "short"; return 'kept é'  # comment

    async def g(self):
        """Method é. {LONG}"""; y = 2
        s = """a string
        that stays"""
        return s

def only():
    \'\'\'nothing else\'\'\'
'''


def cut(source: str) -> str:
    return without(source, list(docstrings(ast.parse(source))))


def test_docstrings_are_cut_out_of_code() -> None:
    code = cut(SOURCE)
    assert LONG not in code
    assert "short" not in code
    assert "nothing else" not in code
    for kept in ("# a comment stays", 'x = "é"', "return 'kept é'  # comment", "y = 2", '"""a string', "that stays"):
        assert kept in code
    tree = ast.parse(code.replace("def only():\n", ""))
    names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert names == ["A", "f"]
    assert [c.value for c in docstrings(tree)] == []


@pytest.mark.parametrize("source", ["x = 1\n", "", "def f():\n    return 'a'\n", 'f = """no docstring"""\n'])
def test_code_without_docstrings_is_untouched(source: str) -> None:
    assert cut(source) == source


def test_a_file_gives_its_code_and_its_docstrings(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(SOURCE)
    code, *docs = of_file(path)
    assert code.domain == "code"
    assert [document.text[:8] for document in docs] == ["Module. ", "Class. T", "Method é"]
    assert {document.domain for document in docs} == {"documentation"}
    assert docs[1].text.endswith("\n\nindented")  # the margin of its lines is taken off
    assert {document.group for document in docs} == {code.group}
    assert docs[1].origin == f"{path}:7"


def test_files_in_other_encodings_or_broken(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes("# -*- coding: latin-1 -*-\r\nname = 'é'\r\n".encode("latin-1"))
    (document,) = of_file(path)
    assert document.text == "# -*- coding: latin-1 -*-\nname = 'é'\n"
    for broken in (b"def f(:", b"# coding: nonsense\nx", b"x = '\xff'", b"x = 1\0"):
        path.write_bytes(broken)
        assert list(of_file(path)) == []
    path.write_bytes(b"x = '\\d'  # an escape that Python warns of\n")
    assert len(list(of_file(path))) == 1


def test_doctests_are_dropped() -> None:
    text = dedent("""\
        Before.

        >>> f(1)
        1
        ... more
        >>> f(2)
        2

        After >>> this stays.
            >>> indented
            out
        """)
    assert without_doctests(text) == "Before.\n\n\nAfter >>> this stays."


def test_short_or_tabular_text_is_no_prose() -> None:
    assert prose(LONG) == LONG.strip()
    assert prose(LONG[:150]) == ""
    assert prose(LONG + "0123456789+-*/" * 20) == ""
    assert prose(">>> " + LONG) == ""


def test_topics_are_cut_at_headings() -> None:
    text = (
        f"Title\n*****\n\nshort\n\nFirst part\n==========\n\n{LONG}\n\nSecond\n------\n\n{LONG}\n\nThird\n~~~~~\nend\n"
    )
    found = list(sections(text))
    assert "".join(found) == text
    assert [section.splitlines()[0] for section in found] == ["Title", "Second", "Third"]
    assert "==========" in found[0]  # too short to stand alone, "Title" went with "First part"


def test_the_library_is_found_whole_and_in_order() -> None:
    files = library_files()
    names = [path.relative_to(stdlib.library_root()).as_posix() for path in files]
    assert names == sorted(names)
    assert len(names) > 300
    assert {"abc.py", "json/decoder.py", "unittest/mock.py"} <= set(names)
    skipped = ("site-packages", "test", "idlelib", "lib2to3", "encodings", "pydoc_data", "_sysconfigdata")
    assert not [name for name in names for piece in name.split("/") if piece.startswith(skipped)]
    assert all(400 <= path.stat().st_size <= 200_000 for path in files)


def test_files_are_skipped_by_name_and_size(tmp_path: Path) -> None:
    for name, size in [
        ("b.py", 400),
        ("a/z.py", 200_000),
        ("small.py", 399),
        ("large.py", 200_001),
        ("text.txt", 1000),
        ("test_x.py", 1000),
        ("a/tests/t.py", 1000),
        ("site-packages/p.py", 1000),
        ("_sysconfigdata_linux.py", 1000),
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"#" * size)
    assert [path.relative_to(tmp_path).as_posix() for path in library_files(tmp_path)] == ["a/z.py", "b.py"]


@pytest.mark.parametrize("root", ["python311.zip", "empty"])
def test_a_library_without_source_is_refused(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no source files.*use source text"):
        library_files(tmp_path / root)


def test_topics_may_be_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(of_topics())) > 50
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert list(of_topics()) == []


def test_builtins_are_documented() -> None:
    documents = list(of_builtins())
    assert len(documents) > 50
    assert any("whitespace" in document.text for document in documents if document.origin == "module builtins")
    assert documents == list(of_builtins())


def test_a_builtin_module_that_cannot_be_imported_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(of_builtins())
    monkeypatch.setattr(sys, "builtin_module_names", (*sys.builtin_module_names, "not_in_this_build"))
    assert list(of_builtins()) == whole


def test_the_inputs_tell_a_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(SOURCE)
    monkeypatch.setattr(stdlib, "library_root", lambda: tmp_path)
    before = StdlibPart().inputs()
    assert StdlibPart().inputs() == before
    (tmp_path / "a.py").write_text(SOURCE + "\n")
    assert StdlibPart().inputs() != before


def test_the_real_library_makes_a_corpus(tmp_path: Path) -> None:
    part = StdlibPart(domains=("documentation",))
    tokenizer = get("tokenizer", "bytes")()
    ctx = Context(Rng(0), tmp_path, tokenizer, 257, batch=2, length=32)  # type: ignore[arg-type]
    corpus = part.build(ctx)
    facts = corpus.describe()
    assert set(facts["train"]) == set(facts["heldout"]) == {"documentation"}
    assert facts["documents"] > 1500
    assert 1_000_000 < facts["text_bytes"] < 10_000_000
    assert 0.01 < facts["heldout"]["documentation"]["text_bytes"] / facts["text_bytes"] < 0.15
    assert 60_000 < facts["evaluated"]["documentation"]["text_bytes"] <= 65_536
    assert part.build(ctx).fingerprint == corpus.fingerprint
