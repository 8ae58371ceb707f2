"""The Python standard library: its English documentation and its code, on every machine without a download.

Documentation: docstrings of Python and C code and the language reference that ``help()`` shows. Code: the same files
with their docstrings cut out. A function of the Python release only: nothing in site-packages is read.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import sysconfig
import tokenize
import types
import warnings
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ...core.digests import digest, digest_file
from ...core.errors import DataError
from ...core.registry import Card, part
from ..document import Document, group_of
from ..text_source import TextSourcePart

DOCUMENTATION, CODE = "documentation", "code"
# Tests, tools with bundled data, tables without prose, and what differs between builds of one release.
SKIPPED = (
    *("site-packages", "dist-packages", "__pycache__", "test*", "config-*", "_sysconfigdata*", "sitecustomize.py"),
    *("idlelib", "lib2to3", "turtledemo", "encodings", "pydoc_data", "__phello__"),
)
SMALLEST_FILE, LARGEST_FILE = 400, 200_000  # bytes
SHORTEST = 200  # characters of documentation
LETTERS = 0.6  # share of letters and white space in documentation

_HEADING = re.compile(r"^(?=(?P<title>\S.*)\n(?P<mark>[*=~^\"'-])(?P=mark){2,}\n)", re.MULTILINE)
_ELSEWHERE = "use source text or jsonl with files of your own, or source pcfg or hmm"


@part
class StdlibPart(TextSourcePart):
    """Documentation and code of the running Python's standard library.

    Text that every machine with Python has: what the demo and the tests train on. It changes with Python's version,
    which the fingerprint tells.

    Example:
        >>> StdlibPart(domains=("documentation",)).heldout_share
        0.05
    """

    domains: Annotated[tuple[Literal["documentation", "code"], ...], Field(min_length=1)] = ("documentation", "code")
    """Which of the two to use."""
    version: ClassVar[int] = 2
    card = Card(
        summary="Documentation (docstrings, language reference) and docstring-free code of Python's standard library.",
        defaults="about 1.6 MB of English and 7 MB of code in CPython 3.11",
        differs="changes with the Python release: compare fingerprints before comparing runs",
        cost="some 10 CPU seconds to prepare once, reading 9 MB at every start",
    )

    def documents(self) -> Iterator[Document]:
        for path in library_files():
            yield from (each for each in of_file(path) if each.domain in self.domains)
        if DOCUMENTATION in self.domains:
            yield from of_topics()
            yield from of_builtins()

    def inputs(self) -> str:
        root = library_root()
        files = [[path.relative_to(root).as_posix(), digest_file(path)] for path in library_files()]
        topics = root / "pydoc_data" / "topics.py"
        return digest([sys.version, files, digest_file(topics) if topics.is_file() else ""])


def library_root() -> Path:
    """The folder of the standard library's source."""
    return Path(sysconfig.get_paths()["stdlib"])


def library_files(root: Path | None = None) -> list[Path]:
    """The Python files that are used, sorted; a library without source (zipped, frozen) is a DataError."""
    root = library_root() if root is None else root
    found = [path for path in _walk(root) if SMALLEST_FILE <= path.stat().st_size <= LARGEST_FILE]
    if not found:
        raise DataError("this Python's standard library has no source files", where=str(root), fix=_ELSEWHERE)
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if any(fnmatch(path.name, pattern) for pattern in SKIPPED):
            continue
        if path.is_dir():
            yield from _walk(path)
        elif path.suffix == ".py":
            yield path


def of_file(path: Path) -> Iterator[Document]:
    """The code of one file without its docstrings, then its docstrings; nothing if it cannot be parsed."""
    data = path.read_bytes()
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        source = io.TextIOWrapper(io.BytesIO(data), encoding).read()
        with warnings.catch_warnings():  # about escapes in the library's own strings
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    group = group_of(data)
    strings = list(docstrings(tree))
    code = without(source, strings).lstrip()
    if code.strip():
        yield Document(code, CODE, str(path), group)
    for node in strings:
        text = prose(inspect.cleandoc(str(node.value)))
        if text:
            yield Document(text, DOCUMENTATION, f"{path}:{node.lineno}", group)


def docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """The docstring constants of a module, its classes and its functions, in breadth-first order."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                yield first.value


def without(source: str, strings: list[ast.Constant]) -> str:
    """``source`` without the lines of docstrings; of a line shared with code, the code stays."""
    lines = source.encode().splitlines(keepends=True)  # ast counts columns in UTF-8 bytes
    for node in sorted(strings, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        before = lines[node.lineno - 1][: node.col_offset]
        after = lines[node.end_lineno - 1][node.end_col_offset :]
        rest = b"" if not (before + after).strip() else before + after.lstrip(b" ;")
        lines[node.lineno - 1 : node.end_lineno] = [rest]
    return b"".join(lines).decode()


def prose(text: str) -> str:
    """Documentation without doctests, or "" if what is left is short or mostly not letters."""
    text = without_doctests(text).strip()
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return text if len(text) >= SHORTEST and letters >= LETTERS * len(text) else ""


def without_doctests(text: str) -> str:
    """``text`` without its ``>>>`` lines and what follows each up to the next blank line."""
    kept = []
    inside = False
    for line in text.removesuffix("\n").split("\n"):
        inside = bool(line.strip()) and (inside or line.lstrip().startswith(">>>"))
        if not inside:
            kept.append(line)
    return "\n".join(kept)


def of_topics() -> Iterator[Document]:
    """The language reference behind ``help()``, cut at headings; nothing where it is not installed."""
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError:
        return
    for name in sorted(topics):
        for section in sections(topics[name]):
            if text := prose(section):
                yield Document(text, DOCUMENTATION, f"topic {name}", group_of(topics[name]))


def sections(text: str) -> Iterator[str]:
    """``text`` cut before its underlined headings; a section too short to stand alone goes with the next."""
    held = ""
    for section in _HEADING.split(text)[::3]:
        held += section
        if len(held.strip()) >= SHORTEST:
            yield held
            held = ""
    if held.strip():
        yield held


def of_builtins() -> Iterator[Document]:
    """Docstrings of the types and functions written in C of the modules that are part of the interpreter."""
    for name in sorted(sys.builtin_module_names):
        try:
            module = import_module(name)
        except ImportError:  # listed, yet not to be had in this build
            continue
        texts = dict.fromkeys(text for each in _c_docstrings(module) if (text := prose(each)))
        group = group_of("\n".join(texts))
        for text in texts:
            yield Document(text, DOCUMENTATION, f"module {name}", group)


def _c_docstrings(module: types.ModuleType) -> Iterator[str]:
    methods = (
        types.BuiltinFunctionType,
        types.MethodDescriptorType,
        types.GetSetDescriptorType,
        types.WrapperDescriptorType,
    )
    for name in sorted(vars(module)):
        value = vars(module)[name]
        if isinstance(value, type | types.BuiltinFunctionType):
            members = vars(value) if isinstance(value, type) else {}
            inner = [members[key] for key in sorted(members) if isinstance(members[key], methods)]
            for item in (value, *inner):
                if isinstance(item.__doc__, str):
                    yield inspect.cleandoc(item.__doc__)
