"""The rules of the house, read off the syntax trees of every file: ranks, no torch, no unsafe calls, small rooms.

Each rule is a function from modules to violations; the last tests show it modules that break it.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import isoflop
from isoflop.core.registry import SLOTS

ROOT = Path(isoflop.__file__).parent
LEVELS = (
    ("core",),
    ("ledger", "store"),
    ("laws", "data", "models", "optim", "compress", "merge"),
    ("objectives", "decode", "retrieval"),
    ("evals",),
    ("train",),
    ("serve", "pipelines"),
    ("lab",),
    ("report",),
    ("cli",),
)
RANK = {folder: rank for rank, level in enumerate(LEVELS) for folder in level}
FACADES = {"__init__.py", "__main__.py", "errors.py"}  # the only files beside the folders
ONLY = {"train": {"core", "ledger", "store"}, "report": {*RANK} - {"lab", "cli"}}  # narrower than the ranks
TORCHLESS = {"core", "store", "laws", "report", "ledger"}
WITH_TORCH = {"ledger/audit.py", "ledger/peak.py", "store/tensors.py"}
UNSAFE_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
UNSAFE_CALLS = {
    "eval",
    "exec",
    "os.system",
    "torch.hub.load",
    "torch.jit.load",
    "yaml.full_load",
    "yaml.load",
    "yaml.unsafe_load",
}
UNSAFE_FLAGS = {"trust_remote_code", "allow_pickle", "shell"}


@dataclass(frozen=True)
class Import:
    """``target`` is dotted from the package's root for our own ("core.files"), whole for others ("torch.nn")."""

    line: int
    target: str
    ours: bool
    absolute: bool
    typing_only: bool


class Module:
    """A source file by its path from the package's root."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text
        self.tree = ast.parse(text)

    @property
    def folder(self) -> str:
        return self.path.split("/")[0] if "/" in self.path else ""

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def imports(self) -> list[Import]:
        return list(self._imports(self.tree, typing_only=False))

    def _imports(self, node: ast.AST, *, typing_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from self._imports(statement, typing_only=True)
            for statement in node.orelse:
                yield from self._imports(statement, typing_only=typing_only)
            return
        if isinstance(node, ast.Import | ast.ImportFrom):
            base = f"{node.module}." if isinstance(node, ast.ImportFrom) and node.module else ""
            level = node.level if isinstance(node, ast.ImportFrom) else 0
            for alias in node.names:
                target = f"{base}{alias.name}"
                if level:
                    target = ".".join([*self.path.split("/")[:-level], target])
                ours = level > 0 or target.split(".")[0] == "isoflop"
                if not level:
                    target = target.removeprefix("isoflop.") if ours else target
                yield Import(node.lineno, target, ours, level == 0, typing_only)
        for child in ast.iter_child_nodes(node):
            yield from self._imports(child, typing_only=typing_only)


def calls(module: Module) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


# ---------------------------------------------------------------- the rules


def imports_go_down(modules: list[Module]) -> Iterator[str]:
    """To a strictly lower rank, or within the folder; inside the package relatively."""
    for module in modules:
        if not module.folder:
            continue
        for imported in module.imports:
            if not imported.ours:
                continue
            target = imported.target.split(".")[0]
            allowed = ONLY.get(module.folder, {folder for folder in RANK if RANK[folder] < RANK[module.folder]})
            if target in RANK and target != module.folder and target not in allowed:
                yield f"{module.path}:{imported.line}: {module.folder} must not import {target}"
            if imported.absolute:
                yield f"{module.path}:{imported.line}: import relatively inside the package"


def folders_have_no_circles(modules: list[Module]) -> Iterator[str]:
    """Modules of one folder never import each other in a circle, wherever in the file and for what an import stands."""
    known = {module.name for module in modules}
    graph: dict[str, set[str]] = {}
    for module in modules:
        for imported in module.imports:
            target = imported.target if imported.target in known else imported.target.rpartition(".")[0]
            inside = module.folder and imported.target.split(".")[0] == module.folder
            if imported.ours and inside and target in known and target != module.name:
                graph.setdefault(module.name, set()).add(target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        yield " -> ".join(error.args[1])


def nothing_is_imported_behind_the_rules(modules: list[Module]) -> Iterator[str]:
    """A module of ours that is named as text, for an import by name, is an arrow that the other rules cannot see."""
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
                named = node.args[0] if node.args else None
                if isinstance(named, ast.Constant) and str(named.value).startswith("isoflop."):
                    yield f"{module.path}:{node.lineno}: imports {named.value} by its name"


def folders_are_known(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.folder not in RANK and module.path not in FACADES:
            yield f"{module.path}: lies in no folder of the house"


def torchless_folders_import_no_torch(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        if module.folder in TORCHLESS - {""} and module.path not in WITH_TORCH:
            for imported in module.imports:
                torch = imported.target.split(".")[0] == "torch" or imported.target.startswith("safetensors.torch")
                if torch and not imported.ours and not imported.typing_only:
                    yield f"{module.path}:{imported.line}: imports torch"


def nothing_unsafe(modules: list[Module]) -> Iterator[str]:
    """No pickle, no code from files; ``torch.load`` only with ``weights_only=True``."""
    for module in modules:
        for imported in module.imports:
            if imported.target.split(".")[0] in UNSAFE_MODULES:
                yield f"{module.path}:{imported.line}: imports {imported.target}"
        for call, name in calls(module):
            flags = {word.arg: word.value for word in call.keywords if word.arg}
            given = {
                flag for flag, value in flags.items() if not (isinstance(value, ast.Constant) and value.value is False)
            }
            bad = name in UNSAFE_CALLS or bool(given & UNSAFE_FLAGS)
            if name == "torch.load":
                safe = flags.get("weights_only")
                bad = not (isinstance(safe, ast.Constant) and safe.value is True)
            if bad:
                yield f"{module.path}:{call.lineno}: {ast.unparse(call)[:80]}"


def rooms_stay_small(modules: list[Module]) -> Iterator[str]:
    """At most 600 lines a file and 12 arguments a function."""
    for module in modules:
        if (lines := module.text.count("\n")) > 600:
            yield f"{module.path}: {lines} lines"
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = len([argument for argument in every if argument.arg not in ("self", "cls")])
                if count > 12:
                    yield f"{module.path}:{node.lineno}: {node.name} takes {count} arguments"


def packages_say_what_they_are(modules: list[Module]) -> Iterator[str]:
    """Every folder with code has an ``__init__.py`` with a docstring."""
    paths = {module.path: module for module in modules}
    folders = {parent.as_posix() for path in paths for parent in Path(path).parents}
    for folder in sorted(folders):
        init = paths.get("__init__.py" if folder == "." else f"{folder}/__init__.py")
        if init is None:
            yield f"{folder}: has no __init__.py"
        elif not ast.get_docstring(init.tree):
            yield f"{init.path}: has no docstring"


def slots_hold_only_parts(modules: list[Module]) -> Iterator[str]:
    """A file in a slot's folder registers exactly one part, under the file's name; ``__init__.py`` is a docstring."""
    for module in modules:
        folder, _, file = module.path.rpartition("/")
        if folder not in SLOTS.values():
            continue
        if file == "__init__.py":
            if len(module.tree.body) != 1 or not ast.get_docstring(module.tree):
                yield f"{module.path}: holds more than a docstring"
            continue
        parts = [
            node
            for node in module.tree.body
            if isinstance(node, ast.ClassDef) and "part" in map(ast.unparse, node.decorator_list)
        ]
        if len(parts) != 1:
            yield f"{module.path}: registers {len(parts)} parts"
        for node in parts:
            fields = [s.target for s in node.body if isinstance(s, ast.AnnAssign)]
            fields += [target for s in node.body if isinstance(s, ast.Assign) for target in s.targets]
            if "name" in map(ast.unparse, fields):
                yield f"{module.path}:{node.lineno}: sets a name, which is its file's"


RULES: list[Callable[[list[Module]], Iterator[str]]] = [
    imports_go_down,
    folders_have_no_circles,
    nothing_is_imported_behind_the_rules,
    folders_are_known,
    torchless_folders_import_no_torch,
    nothing_unsafe,
    rooms_stay_small,
    packages_say_what_they_are,
    slots_hold_only_parts,
]


# ---------------------------------------------------------------- the house keeps them


@pytest.fixture(scope="module")
def house() -> list[Module]:
    return [Module(p.relative_to(ROOT).as_posix(), p.read_text(encoding="utf-8")) for p in sorted(ROOT.rglob("*.py"))]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_house_keeps_the_rule(rule: Callable[[list[Module]], Iterator[str]], house: list[Module]) -> None:
    assert list(rule(house)) == []


def fresh(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    heavy = "{'torch', 'numpy', 'scipy', 'pydantic', 'altair', 'rich'}"
    assert fresh(f"import sys, isoflop; isoflop.errors; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_torchless_folders_load_without_torch(house: list[Module]) -> None:
    names = [f"isoflop.{m.name}" for m in house if m.folder in TORCHLESS and m.path not in WITH_TORCH]
    assert len(names) > 20
    assert fresh(
        f"import sys, importlib; [importlib.import_module(n) for n in {names}]; print('torch' in sys.modules)"
    ) == ("False")


# ---------------------------------------------------------------- each rule can see

BROKEN: list[tuple[Callable[[list[Module]], Iterator[str]], dict[str, str]]] = [
    (imports_go_down, {"core/a.py": "from ..store import run"}),
    (imports_go_down, {"ledger/a.py": "def f():\n    from ..store.run import Run"}),
    (imports_go_down, {"optim/optimizers/a.py": "from ...models.transformer import Block"}),
    (imports_go_down, {"train/a.py": "from ..evals import harness"}),
    (imports_go_down, {"report/a.py": "from ..lab.study import Study"}),
    (imports_go_down, {"lab/a.py": "import isoflop.core.files"}),
    (imports_go_down, {"lab/a.py": "from isoflop.core.files import clear_leftovers"}),
    (folders_have_no_circles, {"lab/a.py": "from .b import x", "lab/b.py": "def f():\n    from . import a"}),
    (
        folders_have_no_circles,
        {"laws/fit.py": "def f():\n    from .report import r", "laws/report.py": "from .fit import Fit"},
    ),
    (
        folders_have_no_circles,
        {"core/a.py": "from .b import x", "core/b.py": "if TYPE_CHECKING:\n    from .a import y"},
    ),
    (
        folders_have_no_circles,
        {"lab/a.py": "from .b import x", "lab/b.py": "from .c import x", "lab/c.py": "from .a import x"},
    ),
    (nothing_is_imported_behind_the_rules, {"core/a.py": "def f():\n    return import_module('isoflop.store.run')"}),
    (folders_are_known, {"utils/a.py": ""}),
    (folders_are_known, {"helpers.py": ""}),
    (torchless_folders_import_no_torch, {"store/a.py": "import torch.nn"}),
    (torchless_folders_import_no_torch, {"laws/forms/a.py": "def f():\n    from torch import Tensor"}),
    (torchless_folders_import_no_torch, {"report/a.py": "from safetensors.torch import load_file"}),
    (nothing_unsafe, {"data/a.py": "import pickle"}),
    (nothing_unsafe, {"data/a.py": "from joblib import load"}),
    (nothing_unsafe, {"data/a.py": "x = eval('1')"}),
    (nothing_unsafe, {"data/a.py": "exec('1')"}),
    (nothing_unsafe, {"data/a.py": "torch.load(path)"}),
    (nothing_unsafe, {"data/a.py": "torch.load(path, weights_only=safe)"}),
    (nothing_unsafe, {"data/a.py": "yaml.load(text, Loader)"}),
    (nothing_unsafe, {"data/a.py": "f(trust_remote_code=given)"}),
    (nothing_unsafe, {"data/a.py": "numpy.load(path, allow_pickle=True)"}),
    (rooms_stay_small, {"data/a.py": "x = 1\n" * 601}),
    (rooms_stay_small, {"data/a.py": f"def f({', '.join(f'a{i}' for i in range(12))}, *, b): ..."}),
    (packages_say_what_they_are, {"__init__.py": "'''Doc.'''", "data/a.py": ""}),
    (packages_say_what_they_are, {"__init__.py": "'''Doc.'''", "data/__init__.py": "x = 1"}),
    (slots_hold_only_parts, {"optim/optimizers/a.py": "x = 1"}),
    (slots_hold_only_parts, {"optim/optimizers/a.py": "@part\nclass A: ...\n@part\nclass B: ..."}),
    (slots_hold_only_parts, {"optim/optimizers/a.py": "@part\nclass A:\n    name: ClassVar[str] = 'b'"}),
    (slots_hold_only_parts, {"optim/optimizers/__init__.py": "'''Doc.'''\nfrom . import a"}),
]
KEPT: list[dict[str, str]] = [
    {"store/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    import json"},
    {"ledger/audit.py": "import torch"},
    {"laws/law.py": "from .fit import f", "laws/fit.py": "from .formula import F", "laws/formula.py": ""},
    {"models/a.py": "model.eval(); torch.load(path, weights_only=True); f(trust_remote_code=False)"},
    {"optim/optimizers/a.py": "@part\nclass A:\n    lr: float = 1.0"},
    {"optim/optimizers/a.py": "from ...core.files import clear_leftovers\nfrom ..base import b\n@part\nclass A: ..."},
]


@pytest.mark.parametrize(("rule", "files"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_a_rule_sees_what_breaks_it(rule: Callable[[list[Module]], Iterator[str]], files: dict[str, str]) -> None:
    assert list(rule([Module(path, text) for path, text in files.items()]))


@pytest.mark.parametrize("files", KEPT, ids=range(len(KEPT)))
def test_no_rule_sees_what_is_not_there(files: dict[str, str]) -> None:
    modules = [Module(path, text) for path, text in files.items()]
    assert [found for rule in RULES if rule is not packages_say_what_they_are for found in rule(modules)] == []


def test_tests_that_need_other_libraries_lie_where_these_are_installed() -> None:
    """Elsewhere they would be skipped for ever: only ``make test-ecosystem`` has an environment with the extra."""
    tests = Path(__file__).parents[1]
    wants = re.compile(r"importorskip\(.(transformers|peft)\b")
    found = {path.relative_to(tests).parts[0] for path in tests.rglob("*.py") if wants.search(path.read_text("utf-8"))}
    assert found == {"ecosystem"}
