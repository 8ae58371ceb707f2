"""The files that users write: every key is told, what is shown and written loads, what the guides show runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from isoflop.cli.formats import commented, document, keys, shipped
from isoflop.cli.main import invoke

GUIDE = Path(__file__).parents[2] / "docs" / "guide"
PAGES = {"recipe": "recipes.md", "study": "studies.md"}


@pytest.mark.parametrize("kind", PAGES)
def test_every_key_has_a_meaning_and_stands_in_the_guide(kind: str) -> None:
    page = (GUIDE / PAGES[kind]).read_text()
    for key in keys(document(kind)):
        assert key.meaning, key.path
        assert "value" not in key.kind.split(), key
        assert f"| `{key.path}` |" in page
    assert "``" not in commented(kind)


@pytest.mark.parametrize("kind", PAGES)
def test_the_guides_examples_load_and_their_commands_run(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (GUIDE / PAGES[kind]).read_text()
    example, *additions = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert document(kind).from_toml(example).name == "mine"
    for section in additions:  # in the place of the example's, if it has it
        head = section.splitlines()[0]
        rest = re.sub(rf"^{re.escape(head)}\n(?:(?!\[).*\n)*", "", example, flags=re.MULTILINE)
        assert document(kind).from_toml(rest + section).name == "mine"
    Path("mine.toml").write_text(example)
    for line in re.findall(r"^isoflop .*$", page, re.MULTILINE):
        verb, file, *changes = shlex.split(line)[1:-1]
        if verb == "train":
            assert invoke([verb, file, *changes, "--dry-run"]) == 0, capsys.readouterr().err
        else:  # a plan times steps of every arm, for a minute
            assert document(kind).load(file, *changes)


@pytest.mark.parametrize("kind", PAGES)
def test_a_new_file_loads_and_a_shipped_one_is_shown(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    assert invoke(["new", kind, str(file)]) == 0
    assert file.read_text() == commented(kind)
    assert document(kind).load(file)
    assert invoke(["new", kind, str(file)]) == 2
    assert "exists already" in capsys.readouterr().err
    for name, text in shipped(kind).items():
        assert invoke(["show", kind, name]) == 0
        assert capsys.readouterr().out.strip() == text.strip()
        assert document(kind).load(name).name
    assert invoke(["show", kind]) == 0
    assert "small" in capsys.readouterr().out or kind == "study"
    assert invoke(["show", kind, "demmo"]) == 2
    assert invoke(["new", "reciep"]) == 2
    assert "did you mean recipe?" in capsys.readouterr().err


def test_the_schema_is_indented(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["schema", "--study"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) > 20
    assert json.loads(text)["properties"]["ladder"]
