"""A trained model writes text wherever its run directory lies, and whatever has become of its corpus."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers as hf
import torch

from isoflop.cli.main import invoke
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.decode.decoders.sample import Sample
from isoflop.store.run import Run
from isoflop.train.parts import evaluation_weights
from isoflop.train.restore import restore, trained
from isoflop.train.run import train

Tiny = Callable[..., Path]
LINE = "Ein naïve 日本語 text, 12 words."


def foreign(folder: Path) -> str:
    """A tokenizer part that reads a file."""
    path = folder / "tokenizer.json"
    get("tokenizer", "bpe")(vocab_size=300).build(iter([LINE * 9])).save(path)  # type: ignore[attr-defined]
    return f'tokenizer={{name="file", path="{path}"}}'


TOKENIZERS: dict[str, Callable[[Path], str]] = {
    "bytes": lambda folder: "tokenizer=bytes",
    "bpe": lambda folder: 'tokenizer={name="bpe", vocab_size=280}',
    "file": foreign,
}


def written(capsys: pytest.CaptureFixture[str], run: Path | str, *arguments: str) -> dict[str, object]:
    assert invoke(["generate", str(run), "--prompt", LINE, "--tokens", "9", "--ignore-eos", "--json", *arguments]) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_a_run_directory_is_all_that_generating_needs(
    tiny: Tiny, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tokenizer: str
) -> None:
    text = tmp_path / "text"
    shutil.copytree(corpus, text)
    changes = (f'source.paths=["{text}/*.txt"]', TOKENIZERS[tokenizer](tmp_path), "averaging=ema")
    root = tmp_path / "runs"
    assert invoke(["train", str(tiny(*changes)), "optimizer=schedule_free_adamw", "schedule=constant",
                   "--root", str(root), "--name", "a", "--json"]) == 0  # fmt: skip
    capsys.readouterr()
    before = written(capsys, "a", "--root", str(root))
    assert before["tokens"] == 9

    shutil.rmtree(root / "cache")
    (text / "000.txt").write_text("another document, so that pairs of bytes have other frequencies: zzzz zzzz zzzz")
    assert written(capsys, "a", "--root", str(root)) == before
    assert invoke(["eval", "a", "--root", str(root)]) == 3
    assert "the corpus has changed since this run began" in capsys.readouterr().err

    shutil.move(root / "a", tmp_path / "elsewhere")
    shutil.rmtree(root)
    shutil.rmtree(text)
    (tmp_path / "tokenizer.json").unlink(missing_ok=True)
    assert written(capsys, tmp_path / "elsewhere") == before
    assert invoke(["eval", str(tmp_path / "elsewhere")]) == 3


def test_it_is_the_averaged_weights_that_generate(tiny: Tiny, tmp_path: Path) -> None:
    changes = ("averaging=ema", "optimizer=schedule_free_adamw", "schedule=constant")
    run = train(Recipe.load(tiny(*changes)), tmp_path)
    loop, found = restore(run), trained(run)
    assert found.ctx.horizon == loop.ctx.horizon == 12
    stored = {name: tensor.clone() for name, tensor in loop.parts.model.state_dict().items()}
    with evaluation_weights(loop.parts.optimizer, loop.parts.averaging):
        evaluated = loop.parts.model.state_dict()
        for name, tensor in found.model.state_dict().items():
            assert torch.equal(tensor, evaluated[name])
        assert any(not torch.equal(tensor, stored[name]) for name, tensor in evaluated.items())


def test_a_damaged_tokenizer_is_noticed(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny(TOKENIZERS["bpe"](tmp_path))
    assert invoke(["train", str(recipe), "--root", str(tmp_path), "--name", "a"]) == 0
    for file in sorted((tmp_path / "a" / "checkpoints").glob("*/tokenizer.json")):
        file.write_text(file.read_text().replace("0", "1", 1))
    assert invoke(["generate", str(tmp_path / "a")]) == 3
    assert "every checkpoint is damaged: 12 (tokenizer.json: digest differs)" in capsys.readouterr().err


def test_a_checkpoint_without_a_tokenizer_is_a_clear_error(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("isoflop.train.session.Storable", type(None))
    run = train(Recipe.load(tiny('tokenizer={name="bpe", vocab_size=280}')), tmp_path / "runs")
    assert invoke(["generate", str(run.path)]) == 3
    assert "12: holds no tokenizer; train it again under another --name" in capsys.readouterr().err


def test_a_machine_too_small_for_training_still_generates(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from isoflop.models import memory

    recipe = str(tiny())
    assert invoke(["train", recipe, "--root", str(tmp_path), "--name", "a"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(memory, "physical_memory", lambda: 1000)
    assert invoke(["train", recipe, "seed=4", "--root", str(tmp_path)]) == 2
    assert "this machine has 1000" in capsys.readouterr().err
    assert written(capsys, tmp_path / "a")["tokens"] == 9


def test_the_end_of_the_text_ends_it_unless_it_is_ignored(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Id 256 is the end of text of ``bytes``."""
    assert invoke(["train", str(tiny()), "--root", str(tmp_path), "--name", "a"]) == 0
    capsys.readouterr()

    def generated(*options: str) -> str:
        drawn = itertools.cycle([*b"one", 256, *b"two"])
        monkeypatch.setattr(Sample, "choose", lambda *_: torch.tensor([next(drawn)]))
        assert invoke(["generate", str(tmp_path / "a"), "--tokens", "7", "--json", *options]) == 0
        found = json.loads(capsys.readouterr().out)
        return f"{found['text']} {found['tokens']}"

    assert generated() == "one 3"
    assert generated("--ignore-eos") == "onetwo 7"
    assert generated("--decoder", '{name="sample", stop=119}') == "onet 5"


def test_a_decoder_says_what_the_model_lacks(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A Transformer decodes with a cache only if each of its mixers does; one that does not is named before loading."""
    from isoflop.models.mixers.attention import AttentionPart

    run = train(Recipe.load(tiny()), tmp_path / "runs")
    monkeypatch.setattr(AttentionPart, "provides", frozenset())
    assert invoke(["generate", str(run.path)]) == 2
    assert "decoder: sample needs model to be Cacheable, which transformer is not" in capsys.readouterr().err


def test_a_run_without_a_checkpoint_is_named(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run.open(tmp_path, Recipe.load(tiny()), name="a")
    for verb in ("generate", "eval"):
        assert invoke([verb, str(tmp_path / "a")]) == 2
        assert "has no checkpoint yet; train it first" in capsys.readouterr().err


def test_the_blank_after_the_prompt_is_written(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Llama 2 does it: the blank is in the token behind it, and whatever is decoded loses its first blank."""
    mark = "\u2581"
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {mark: 256, "b": 257, f"{mark}b": 258}
    llama = hf.Tokenizer(hf.models.BPE(vocab=vocabulary, merges=[(mark, "b")], byte_fallback=True))
    llama.normalizer = hf.normalizers.Sequence([hf.normalizers.Prepend(mark), hf.normalizers.Replace(" ", mark)])
    llama.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace(mark, " "), hf.decoders.ByteFallback(), hf.decoders.Fuse(), hf.decoders.Strip(" ", 1, 0)]
    )
    llama.add_special_tokens(["</s>"])
    llama.save(str(tmp_path / "llama.json"))
    part = f'tokenizer={{name="file", path="{tmp_path / "llama.json"}", eot="</s>"}}'
    assert invoke(["train", str(tiny(part)), "--root", str(tmp_path), "--name", "a"]) == 0
    capsys.readouterr()
    for prompt, wanted in ((LINE, f"{LINE} bb é"), ("", "bb é")):
        drawn = iter([258, 257, 256, 0xC3, 0xA9, 259])
        monkeypatch.setattr(Sample, "choose", lambda *_, drawn=drawn: torch.tensor([next(drawn)]))
        assert invoke(["generate", str(tmp_path / "a"), "--prompt", prompt]) == 0
        assert capsys.readouterr().out == f"{wanted}\n"


def test_the_budget_of_tokens_takes_no_memory(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert invoke(["train", str(tiny()), "--root", str(tmp_path), "--name", "a"]) == 0
    capsys.readouterr()
    drawn = iter([*b"words", 256])
    monkeypatch.setattr(Sample, "choose", lambda *_: torch.tensor([next(drawn)]))
    assert invoke(["generate", str(tmp_path / "a"), "--tokens", str(10**12)]) == 0
    assert capsys.readouterr().out == "words\n"


def test_names_of_domains_cannot_move_the_cursor(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [
        {"text": f"{n * n} words {n}" * 9, "kind": "\x1b[31mred\x1b[0m\r\nb\x07\u202e"[: n % 2 * 99] or "plain"}
        for n in range(80)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    source = f'source={{name="jsonl", paths="{tmp_path / "a.jsonl"}", domain_key="kind", deduplicate="none"}}'
    assert invoke(["train", str(tiny(source)), "--root", str(tmp_path), "--name", "a"]) == 0
    for verb in ("eval", "report"):
        capsys.readouterr()
        assert invoke([verb, str(tmp_path / "a")]) == 0
        said = capsys.readouterr()
        for character in "\x1b\x07\r\u202e":
            assert character not in said.out + said.err
        assert verb == "report" or "plain" in said.out


def test_what_a_run_without_a_checkpoint_needs_depends_on_why(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run.open(tmp_path, Recipe.load(tiny()), name="a")
    run.set_status("diverged")
    assert invoke(["generate", str(run.path)]) == 2
    assert "diverged before its first checkpoint; train it with a lower" in capsys.readouterr().err
    with run.lock():
        run.set_status("running")
        assert invoke(["eval", str(run.path)]) == 2
    assert "wait for its first one" in capsys.readouterr().err


def test_the_mask_of_an_objective_is_never_written(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terms = '{objective="next_token"}, {objective="masked"}'
    recipe = Recipe.load(tiny("budget.steps=1"), f'objective={{name="weighted", terms=[{terms}]}}')
    run = train(recipe, tmp_path / "runs").path
    drawn = ("--tokens", "600", "--decoder", '{name="sample", temperature=9.0}', "--ignore-eos", "--json")
    assert invoke(["generate", str(run), *drawn]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 600
