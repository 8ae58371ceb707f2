"""`isoflop generate`: flags for the decoder's fields, prompts from anywhere, files of samples that are gone on with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.decode.decoders.sample import Sample
from isoflop.train.run import train

Tiny = Callable[..., Path]
PROMPTS = [{"prompt": "one two", "id": "a"}, {"prompt": "x"}, {"prompt": "three words here", "n": 3}, {"prompt": ""}]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    source = 'source={name="hmm", text_bytes=20000, heldout_bytes=1000}'
    model = "model={name='transformer', d_model=16, layers=1}"
    rest = ("train={length=16, batch=2, evaluations=2, checkpoints=2}", "budget={steps=12}")
    recipe = Recipe.load("small", source, "tokenizer=bytes", model, *rest)
    return train(recipe, folder, name="a").path


def said(capsys: pytest.CaptureFixture[str], run: Path, *arguments: str) -> Any:
    assert invoke(["generate", str(run), "--tokens", "9", "--ignore-eos", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path, records: list[Any] = PROMPTS, name: str = "prompts.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.mark.parametrize(
    ("flags", "table"),
    [
        (["--temperature", ".7", "--top-k=5"], "temperature=0.7, top_k=5"),
        (["--top-p", "0.5", "--min-p", "0.1", "--typical", "0.9"], "top_p=0.5, min_p=0.1, typical=0.9"),
        (["--repetition-penalty", "1.5", "--logprobs"], "repetition_penalty=1.5, logprobs=true"),
        (["--weights", "int8", "--decoder", '{name="sample", top_k=3}'], 'weights="int8", top_k=3'),
    ],
)
def test_a_flag_is_short_for_the_decoders_field(
    run: Path, capsys: pytest.CaptureFixture[str], flags: list[str], table: str
) -> None:
    assert said(capsys, run, *flags) == said(capsys, run, "--decoder", f'{{name="sample", {table}}}')


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--temperature", "hot"], "decoder.temperature"),
        (["--top-k", "0"], "decoder.top_k"),
        (["--top-p"], "decoder.top_p"),
        (["--temprature", "1"], "temprature"),
        (["--weights", "int4"], "decoder.weights"),
        (["--decoder", "smaple", "--top-k", "3"], "smaple"),
        (["--prompt", "a", "--prompts", "b.jsonl", "-"], "exclude each other"),
        (["--prompts", "absent.jsonl", "-"], "absent.jsonl"),
    ],
)
def test_a_wrong_flag_is_named(run: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert invoke(["generate", str(run), *flags]) in (2, 3)
    assert message in capsys.readouterr().err


def test_the_help_lists_the_decoders_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["generate", "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "--repetition-penalty" in help_text
    assert "--stop" in help_text


def test_several_samples_are_those_of_their_seed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    several = said(capsys, run, "--prompt", "one", "--samples", "3")
    assert [each["tokens"] for each in several] == [9, 9, 9]
    assert len({each["text"] for each in several}) > 1
    assert several[0] == said(capsys, run, "--prompt", "one")
    assert invoke(["generate", str(run), "--samples", "2", "--tokens", "3", "--prompt", "one"]) == 0
    assert "sample 2 of 2:\none" in capsys.readouterr().out


def test_a_prompt_comes_from_standard_input_too(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = said(capsys, run, "--prompt", "one two\n")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"one two\n")))
    assert said(capsys, run, "--prompt", "-") == wanted


def test_stop_strings_end_a_sample_and_are_no_part_of_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = said(capsys, run, "--seed", "3")["text"]
    stop = whole[4:6]
    found = said(capsys, run, "--seed", "3", "--stop", "never there", "--stop", stop)
    assert found["text"] == whole[: whole.index(stop)]
    assert found["ended"] == "stop"
    assert invoke(["generate", str(run), "--tokens", "9", "--ignore-eos", "--seed", "3", "--stop", stop]) == 0
    assert capsys.readouterr().out == found["text"] + "\n"


def test_each_line_of_prompts_gives_a_line_as_if_it_were_alone_but_for_its_number(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    arguments = ["--tokens", "9", "--ignore-eos", "--samples", "2", "--logprobs", "--prompts", written(tmp_path)]
    assert invoke(["generate", str(run), *arguments, str(out)]) == 0
    assert "8 samples, 8 of them new" in capsys.readouterr().out
    found = lines(out)
    assert [(line["index"], line["sample"]) for line in found] == [(i, s) for i in range(4) for s in range(2)]
    assert [line["id"] for line in found[:2]] == ["a", "a"]
    assert found[4]["n"] == 3
    assert all(len(line["logprobs"]) == line["tokens"] == 9 for line in found)
    one_by_one = tmp_path / "one.jsonl"
    assert invoke(["generate", str(run), *arguments, str(one_by_one), "--batch", "1"]) == 0
    texts = ["index", "sample", "prompt", "text", "tokens", "ended", "job"]
    assert [[line[key] for key in texts] for line in lines(one_by_one)] == [
        [line[key] for key in texts] for line in found
    ]
    capsys.readouterr()
    assert invoke(["generate", str(run), *arguments, "-"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert shown == [{key: value for key, value in line.items() if key != "job"} for line in found]
    alone = said(capsys, run, "--prompt", "one two", "--samples", "2")
    assert [each["text"] for each in alone] == [line["text"] for line in found[:2]]


class Killed(BaseException):
    """As if the process had ended."""


@pytest.mark.parametrize("after", [0, 1, 3, 5, 7, 8])
@pytest.mark.parametrize("torn", ["", '{"index": 2, "samp'])
def test_a_file_that_was_begun_is_gone_on_with(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    after: int,
    torn: str,
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    arguments = [
        "generate",
        str(run),
        "--tokens",
        "6",
        "--samples",
        "2",
        "--batch",
        "4",
        "--prompts",
        written(tmp_path),
    ]
    assert invoke([*arguments, str(whole)]) == 0
    begun = whole.read_text().splitlines(keepends=True)[:after]
    out.write_text("".join(begun) + torn)
    decoded: list[int] = []
    complete = Sample.complete

    def counted(self: Sample, *args: Any, **options: Any) -> Any:
        for each in complete(self, *args, **options):
            decoded.append(each.prompt)
            yield each

    monkeypatch.setattr(Sample, "complete", counted)
    assert invoke([*arguments, str(out)]) == 0
    assert out.read_bytes() == whole.read_bytes()
    assert len(decoded) == 8 - after // 4 * 4, "batches that are there are not decoded again"
    assert f"{8 - after} of them new" in capsys.readouterr().out


def test_a_killed_process_leaves_whole_lines_to_go_on_from(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    many = written(tmp_path, [{"prompt": "w" * (n % 7)} for n in range(200)])
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    arguments = ["generate", str(run), "--tokens", "12", "--batch", "4", "--ignore-eos", "--prompts", many]
    with subprocess.Popen([sys.executable, "-m", "isoflop", *arguments, str(out)]) as process:
        while process.poll() is None and not (out.exists() and out.stat().st_size > 3000):
            time.sleep(0.002)
        process.kill()
    begun = out.read_bytes()
    assert 0 < begun.count(b"\n") < 200, "the process was killed too late for this test"
    assert invoke([*arguments, str(out)]) == 0
    assert "samples are there already" in capsys.readouterr().err
    assert invoke([*arguments, str(whole)]) == 0
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--seed", "1"], "line 1: was written with another model or other settings"),
        (["--temperature", "0.5"], "line 1: was written with another model or other settings"),
        (["--stop", "x"], "line 1: was written with another model or other settings"),
        (["--tokens", "4"], "line 1: was written with another model or other settings"),
    ],
)
def test_a_file_of_other_settings_is_not_mixed_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: list[str], message: str
) -> None:
    out, prompts = tmp_path / "out.jsonl", written(tmp_path)
    arguments = ["generate", str(run), "--prompts", prompts, str(out)]
    assert invoke([*arguments, "--tokens", "3"]) == 0
    before = out.read_bytes()
    assert invoke([*arguments, *(["--tokens", "3"] if "--tokens" not in change else []), *change]) == 2
    assert message in capsys.readouterr().err
    assert out.read_bytes() == before
    other = written(tmp_path, [PROMPTS[0], {"prompt": "another"}])
    assert invoke(["generate", str(run), "--prompts", other, str(out), "--tokens", "3"]) == 2
    assert "line 2: was written for another prompt" in capsys.readouterr().err
    for record in ({**PROMPTS[0], "number": 99}, {"prompt": PROMPTS[0]["prompt"]}):
        beside = written(tmp_path, [record, *PROMPTS[1:]])
        assert invoke(["generate", str(run), "--prompts", beside, str(out), "--tokens", "3"]) == 2
        assert "line 1: was written for other keys beside the prompt" in capsys.readouterr().err
    more = written(tmp_path, [*PROMPTS, {"prompt": "more"}])
    assert invoke(["generate", str(run), "--prompts", more, str(out), "--tokens", "3"]) == 0
    assert out.read_bytes().startswith(before)
    assert len(lines(out)) == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": 3}\n', "line 2: has no text under the key 'prompt'"),
        ('{"prompt": "a"}\n{"prompt": \n', "line 2: is not JSON"),
        ('{"text": "a"}\n', "line 1: has no text under the key 'prompt'"),
        ('{"prompt": "a", "text": "b"}\n', "line 1: the key 'text' is one of the output's"),
        ('[1]\n{"prompt": NaN}\n3\n4\n5\n', "and 2 more lines"),
        ("\n \n", "holds no prompt"),
        ("\udcff\n", "is not JSON"),
    ],
)
def test_bad_lines_are_named_before_anything_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, message: str
) -> None:
    (tmp_path / "bad.jsonl").write_bytes(bad.encode("utf-8", "surrogateescape"))
    out = tmp_path / "out.jsonl"
    assert invoke(["generate", str(run), "--prompts", str(tmp_path / "bad.jsonl"), str(out)]) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_text_alone_is_a_line_of_prompts_and_standard_input_gives_them_too(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'"one"\n{"prompt": "two"}\n')))
    assert invoke(["generate", str(run), "--prompts", "-", "-", "--tokens", "3"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["prompt"] for line in shown] == ["one", "two"]


def test_two_processes_do_not_write_to_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from isoflop.cli.prompts import SampleFile

    out = tmp_path / "out.jsonl"
    with SampleFile(out, "job").opened():
        assert invoke(["generate", str(run), "--prompts", written(tmp_path), str(out)]) == 2
    assert "another process is writing to it" in capsys.readouterr().err
