"""docs/guide/fine-tune.md: its files and commands, run as they stand there on a tiny published model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.data.tokenizers.pretrained import PretrainedPart
from isoflop.store.run import Run
from published_toys import directory
from tokenizer_toys import CHATML

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "fine-tune.md"


def chats(count: int = 60) -> list[dict[str, object]]:
    words = ["cat", "dog", "log", "mat"]
    turns = [
        (f"{words[i % 4]} {i}?", f"the {words[i % 4]} sat on {i}", "and then?", "the " + words[i // 4 % 4])
        for i in range(count)
    ]
    roles = ["user", "assistant"] * 2
    return [{"messages": [{"role": r, "content": c} for r, c in zip(roles, turn, strict=True)]} for turn in turns]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory(Path("model"), "llama", tokenizer=True, vocab_size=304)
    Path("model/chat_template.jinja").write_text(CHATML)
    Path("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in chats()))
    Path("chat.txt").write_text("the cat sat on the mat\n" * 5)


def test_every_file_and_command_of_the_page_works(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    ran, said = 0, ""
    for language, text in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), re.S):
        if language == "toml":
            name = re.match(r"# file: (\S+)\n", text)
            assert name, text
            Path(name[1]).write_text(text)
            continue
        for line in text.strip().splitlines():
            program, *arguments = shlex.split(line, comments=True)
            assert program == "isoflop"
            assert invoke(arguments) == 0, (line, capsys.readouterr().err)
            ran, said = ran + 1, said + "".join(capsys.readouterr())
    assert ran >= 8
    assert "windows of 48 tokens are packed" in said
    assert "the model knows 304 ids, 3 more than the tokenizer" in said
    assert "after step 0" not in said, "a published model has no steps"
    for name in ("tuned", "whole"):
        records = Run.read(Path("runs") / name).metrics("evaluation")
        assert records[-1]["value"] < records[0]["value"]
    kept = [PretrainedPart(path=each).build(iter(())) for each in ("model", "tuned-model")]
    messages = chats()[3]["messages"]
    ids = [tokenizer.chat_encoder().prompt(messages) for tokenizer in kept]  # type: ignore[arg-type]
    assert ids[0] == ids[1]
    assert Path("tuned-model/config.json").exists()


def test_each_form_of_the_table_is_taken(here: None, capsys: pytest.CaptureFixture[str]) -> None:
    forms = {
        "text": ([{"text": f"the cat {i} sat on {i * 3}"} for i in range(40)], []),
        "pairs": (
            [{"prompt": f"q {i}:", "completion": f" the {i * 3}"} for i in range(40)],
            ["source.prompt_key=prompt"],
        ),
        "chats": (chats(40), ["source.messages_key=messages"]),
    }
    for name, (records, settings) in forms.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        Path("a.toml").write_text(
            f'start = "model"\nsource = {{ name = "jsonl", paths = "{name}.jsonl", deduplicate = "none" }}\n'
            "train = { length = 16, batch = 2 }\nbudget = { steps = 1 }\n"
        )
        assert invoke(["train", "a.toml", "--name", name, *settings]) == 0, capsys.readouterr().err
    Path("text.jsonl").write_text(json.dumps({"text": "a"}) + "\n" + json.dumps(chats(1)[0]) + "\n")
    Path("a.toml").write_text(Path("a.toml").read_text().replace("chats.jsonl", "text.jsonl"))
    assert invoke(["train", "a.toml", "--name", "mixed"]) == 3
    assert "text.jsonl:2: lacks the key 'text'; set source.messages_key" in capsys.readouterr().err
