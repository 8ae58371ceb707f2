"""Prompts are seen and not predicted: what counts, against a slow and obvious computation, and what it costs."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.context import Context
from isoflop.core.contracts import TokenBatch
from isoflop.core.errors import DataError, RecipeError
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get
from isoflop.core.rng import Rng
from isoflop.core.slots import resolve
from isoflop.data.corpus import Corpus
from isoflop.data.loader import HeldOutText, WindowBatches
from isoflop.data.sources.jsonl import JsonlPart
from isoflop.store.run import Run
from isoflop.train.build import assemble
from isoflop.train.run import train
from killing import rewind

WORDS = ["alpha", "beta", "gamma", "delta", "käse", "epsilon", "zeta", "eta"]
Pairs = list[tuple[str, str]]


def pairs_of(count: int = 60) -> Pairs:
    draw = np.random.default_rng(3)

    def words(most: int) -> str:
        return " ".join(draw.choice(WORDS, size=draw.integers(1, most)))

    return [(f"Q{i}: {words(12)}\n", f"{words(6)}.") for i in range(count)]


def write(path: Path, records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    return write(folder / "a.jsonl", [{"prompt": p, "completion": c} for p, c in pairs_of()])


def part_of(path: Path, **fields: Any) -> JsonlPart:
    tree = {"paths": [str(path)], "prompt_key": "prompt", "deduplicate": "none", "heldout_share": 0.2, **fields}
    return resolve("source", {"name": "jsonl", **tree})  # type: ignore[return-value]


def corpus_of(path: Path, cache: Path, tokenizer: Any = None, **fields: Any) -> tuple[Corpus, Context]:
    chosen: Any = tokenizer or get("tokenizer", "bytes")()
    ctx = Context(Rng(0), cache, chosen, chosen.vocabulary, batch=3, length=16)
    return part_of(path, **fields).build(ctx), ctx


def plainly(corpus: Corpus, tokens: Any) -> list[bool]:
    """Which tokens of a stream are predicted, found by looking each document up among the pairs."""
    known = {p + c: p for p, c in pairs_of()}
    stream, counts = tokens.tolist(), [True]
    for document in "|".join(" " if t == corpus.tokenizer.eot else str(t) for t in stream).strip("| ").split("| |"):
        ids = [int(t) for t in document.split("|")]
        text = corpus.tokenizer.decode(ids)
        border = next(i for i in range(len(ids)) if corpus.tokenizer.decode(ids[:i]) == known[text])
        counts += [i >= border for i in range(len(ids))] + [True]
    return counts


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_completions_and_ends_count_and_nothing_else(tokenizer: str, file: Path, tmp_path: Path) -> None:
    fields = {"vocab_size": 300} if tokenizer == "bpe" else {}
    corpus, ctx = corpus_of(file, tmp_path, get("tokenizer", tokenizer)(**fields))
    tokens, counts = corpus.stream("train").tokens, corpus.stream("train").counts
    assert counts is not None
    assert counts.tolist() == plainly(corpus, tokens)
    stream = corpus.batches(ctx)
    sizes = corpus.tokenizer.byte_lengths
    order = ctx.rng("data").at(0).permutation(stream.windows)
    for number in range(stream.windows // 3):
        batch = next(stream)
        for row, window in enumerate(order[3 * number : 3 * number + 3]):
            places = range(int(window) * 16 + 1, int(window) * 16 + 17)
            mask = torch.ones(3, 16, dtype=torch.bool) if batch.mask is None else batch.mask
            assert mask[row].tolist() == [bool(counts[i]) for i in places]
            assert batch.targets[row].tolist() == [int(tokens[i]) for i in places]
        assert batch.units == batch.tokens == int(mask.sum())
        assert batch.text_bytes == int(sizes[batch.targets[mask].numpy()].sum())


def test_the_texts_come_back_and_amounts_are_those_of_completions(file: Path, tmp_path: Path) -> None:
    corpus, _ = corpus_of(file, tmp_path, get("tokenizer", "bpe")(vocab_size=300), heldout_bytes=0)  # type: ignore[call-arg]
    by_text, completions = {p + c: (p, c) for p, c in pairs_of()}, {c for _, c in pairs_of()}
    train, held = list(corpus.train_text()), list(corpus.heldout_text())
    assert len(train) + len(held) == 60
    assert set(train) <= set(by_text)
    assert set(held) <= completions
    facts = corpus.describe()
    amount = facts["train"]["text"]
    assert amount["text_bytes"] == sum(len(by_text[text][1].encode()) for text in train)
    assert amount["prompt_bytes"] == sum(len(by_text[text][0].encode()) for text in train)
    assert amount["tokens"] + amount["prompt_tokens"] == len(corpus.stream("train").tokens) - 1
    (domain,) = corpus.heldout().values()
    assert domain.text_bytes == facts["evaluated"]["text"]["text_bytes"] == sum(len(text.encode()) for text in held)
    windows = list(domain.windows(16, 3))
    assert sum(batch.tokens for batch in windows) == facts["evaluated"]["text"]["tokens"] == domain.predicted
    assert sum(batch.text_bytes for batch in windows) == domain.text_bytes
    assert all(batch.mask is None or batch.mask.any(-1).all() for batch in windows)


@pytest.mark.parametrize("limit", [40, 10, 1])
def test_the_room_for_held_out_text_is_filled_by_completions(limit: int, file: Path, tmp_path: Path) -> None:
    whole, _ = corpus_of(file, tmp_path, heldout_bytes=0)
    some, _ = corpus_of(file, tmp_path, heldout_bytes=limit)
    texts, kept = list(whole.heldout_text()), list(some.heldout_text())
    expected, left = [], limit
    for text in texts:
        if len(text.encode()) <= left:
            expected.append(text)
            left -= len(text.encode())
    assert kept == (expected or [min(texts, key=lambda text: len(text.encode()))])
    assert some.heldout_digest() != whole.heldout_digest()


def test_one_prompt_lies_on_one_side(tmp_path: Path) -> None:
    records = [{"prompt": f"{i % 9}: ", "completion": f"answer {i} {WORDS[i % 8]}"} for i in range(90)]
    corpus, _ = corpus_of(write(tmp_path / "a.jsonl", records), tmp_path, heldout_bytes=0)
    held = {prompt for prompt, _ in corpus.stream("heldout", "text").pairs()}
    train = {text[:3] for text in corpus.train_text()}
    assert held
    assert train
    assert not held & train


def test_what_is_a_prompt_is_part_of_what_the_corpus_is(tmp_path: Path) -> None:
    one = [{"prompt": f"{i} ab", "completion": f"cd {i}"} for i in range(40)]
    other = [{"prompt": f"{i} a", "completion": f"bcd {i}"} for i in range(40)]
    plain = [{"text": f"{i} abcd {i}"} for i in range(40)]
    found = [corpus_of(write(tmp_path / f"{n}.jsonl", each), tmp_path)[0] for n, each in enumerate((one, other))]
    found += [corpus_of(write(tmp_path / "2.jsonl", plain), tmp_path, prompt_key="none")[0]]
    assert len({corpus.fingerprint for corpus in found}) == 3
    assert len({corpus.heldout_digest() for corpus in found}) == 3


def test_empty_prompts_are_no_prompts(tmp_path: Path) -> None:
    records = [{"prompt": "", "completion": f"{i} whole"} for i in range(40)]
    corpus, ctx = corpus_of(write(tmp_path / "a.jsonl", records), tmp_path)
    assert corpus.stream("train").counts is None
    assert next(corpus.batches(ctx)).mask is None
    assert "prompt_bytes" not in corpus.describe()["train"]["text"]


def test_nothing_changes_for_text_without_prompts(tmp_path: Path) -> None:
    plain = JsonlPart.model_validate({"paths": ("a.jsonl",)})
    assert not {"prompt_key", "completion_key"} & plain.model_dump(mode="json").keys()


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"prompt": "a"}, "lacks the key 'completion'"),
        ({"completion": "a"}, "lacks the key 'prompt'"),
        ({}, "lacks the key 'prompt'"),
        ({"prompt": 3, "completion": "a"}, "key 'prompt' holds a int, not a string"),
        ({"prompt": "a", "completion": None}, "key 'completion' holds a NoneType, not a string"),
        ({"prompt": "a", "completion": ["b"]}, "key 'completion' holds a list, not a string"),
        ({"prompt": "a", "completion": ""}, "key 'completion' is empty"),
        ({"prompt": "a", "completion": " \n"}, "key 'completion' is empty"),
        ({"prompt": "a", "completion": "b", "text": "ab"}, "has both 'text' and 'prompt'"),
        ({"text": "ab"}, "has 'text', not a prompt"),
        ({"prompt": "\ud800", "completion": "b"}, "lone surrogate"),
        ({"prompt": "a", "completion": "\ud800"}, "lone surrogate"),
    ],
)
def test_a_bad_record_is_an_error_with_file_and_line(record: dict[str, Any], words: str, tmp_path: Path) -> None:
    good = {"prompt": "x", "completion": "y"}
    path = write(tmp_path / "bad.jsonl", [good, good, record, good])
    with pytest.raises(DataError, match=words) as caught:
        list(part_of(path).documents())
    assert f"{path}:3" in str(caught.value)


def test_pairs_read_as_text_are_an_error_that_says_how_they_are_meant(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.jsonl", [{"prompt": "x", "completion": "y"}])
    with pytest.raises(DataError, match=r"lacks the key 'text'.*set source.prompt_key"):
        list(part_of(path, prompt_key="none").documents())


def test_keys_have_the_users_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"instruction": "do ", "text": "done", "kind": "k"}])
    (document,) = part_of(path, prompt_key="instruction", completion_key="text", domain_key="kind").documents()
    assert (document.prompt, document.completion, document.domain) == ("do ", "done", "k")
    with pytest.raises(ValueError, match="name two keys"):
        part_of(path, prompt_key="text", completion_key="text")


# ---------------------------------------------------------------- training


SMALL = (
    "tokenizer=bytes",
    "model={name='transformer', d_model=16, layers=1, mixer={name='attention', heads=2}}",
    "schedule=constant",
    "budget={steps=6}",
)


def recipe_of(file: Path, *overrides: str, isolate: bool = False) -> Recipe:
    source = f'source={{name="jsonl", paths="{file}", prompt_key="prompt", deduplicate="none", heldout_share=0.2}}'
    settings = f"train={{length=16, batch=4, accumulate=2, evaluations=2, isolate_documents={str(isolate).lower()}}}"
    return Recipe.load("small", source, *SMALL, settings, *overrides)


@torch.no_grad()
@pytest.mark.parametrize("isolate", [False, True])
def test_the_loss_is_that_of_completions_given_all_before_them(isolate: bool, file: Path, tmp_path: Path) -> None:
    recipe = recipe_of(file, isolate=isolate)
    loop = assemble(recipe, Run.open(tmp_path, recipe))
    batch: Any = next(loop.parts.batches)
    end, total, units = 256, 0.0, 0
    assert batch.mask is not None
    for inputs, targets, counts in zip(batch.inputs, batch.targets, batch.mask, strict=True):
        for t in counts.nonzero().flatten().tolist():
            first = max((i for i in range(t + 1) if inputs[i] == end), default=0) if isolate else 0
            logits = loop.parts.model(inputs[None, first : t + 1])[0, -1]
            total -= float(torch.log_softmax(logits, -1)[targets[t]])
            units += 1
    # rotary positions are relative, so that a document alone is what it is within a window
    assert float(loop.parts.objective.loss(batch).total) == pytest.approx(total, rel=1e-5)
    assert units == batch.units


@torch.no_grad()
def test_held_out_completions_are_measured_and_nothing_else(file: Path, tmp_path: Path) -> None:
    recipe = recipe_of(file)
    loop = assemble(recipe, Run.open(tmp_path, recipe))
    value = loop.measure()["bits_per_byte"].value
    ((_, heldout),) = loop.parts.source.heldout().items()
    assert isinstance(heldout, HeldOutText)
    counts, bits = heldout.counts, 0.0
    assert counts is not None
    for start in range(0, len(heldout.tokens) - 1, 16):
        ids = torch.from_numpy(heldout.tokens[start : start + 17].astype(np.int64))
        logits = torch.log_softmax(loop.parts.model(ids[None, :-1])[0], -1)
        for t in range(len(ids) - 1):
            bits -= float(logits[t, ids[t + 1]]) / math.log(2) * bool(counts[start + t + 1])
    completions = sum(len(c.encode()) for c in loop.parts.source.heldout_text())  # type: ignore[attr-defined]
    assert value == pytest.approx(bits / completions, rel=1e-5)


@pytest.mark.parametrize("objective", ["next_token", "masked"])
@pytest.mark.parametrize("isolate", [False, True])
def test_it_trains_is_audited_and_goes_on_to_the_same_bytes(
    objective: str, isolate: bool, file: Path, tmp_path: Path
) -> None:
    chosen = [f"objective={objective}", "train.checkpoints=2"]
    recipe = recipe_of(file, *chosen, isolate=isolate)
    run = train(recipe, tmp_path, audit=True)
    known, spent = run.result["weights_sha256"], run.ledger["train"]
    rewind(run, 6)
    again = train(recipe, tmp_path)
    assert again.result["weights_sha256"] == known
    loop = assemble(recipe, Run.open(tmp_path / "other", recipe))
    batches: list[Any] = [next(loop.parts.batches) for _ in range(12)]
    assert spent["tokens"] == sum(batch.units for batch in batches) < 12 * 4 * 16
    assert spent["text_bytes"] == sum(batch.text_bytes for batch in batches)
    assert spent["tokens"] == again.ledger["train"]["tokens"]


def test_a_dry_run_says_that_it_knows_no_more_than_a_bound(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_of(file).to_toml())
    for override, words in (
        ("source.prompt_key=prompt", "at most 768 tokens"),
        ("source.prompt_key=none", " 768 tokens"),
    ):
        assert invoke(["train", str(path), override, "--dry-run", "--root", str(tmp_path / "runs")]) == 0
        said = capsys.readouterr().out
        assert words in said
        assert ("at most" in said) == ("at most" in words)


def test_a_budget_in_text_bytes_is_one_of_completions(file: Path, tmp_path: Path) -> None:
    limit = 400
    run = train(recipe_of(file, f"budget={{text_bytes={limit}}}"), tmp_path)
    assert 0 < run.result["text_bytes"] <= limit
    longer = train(recipe_of(file, f"budget={{steps={run.result['step'] + 1}}}"), tmp_path)
    assert longer.result["text_bytes"] > limit
    with pytest.raises(RecipeError, match=r"budget.tokens: how many tokens a step predicts depends on its prompts"):
        recipe_of(file, "budget={tokens=1000}")


@pytest.mark.parametrize("objective", ["next_token", "masked", "weighted"])
def test_windows_of_prompts_alone_cost_what_the_ledger_says(objective: str, tmp_path: Path) -> None:
    """Prompts of hundreds of bytes and completions of one: most steps predict nothing at all."""
    records = [{"prompt": f"{i} " * 400, "completion": "."} for i in range(10, 40)]
    file = write(tmp_path / "long.jsonl", records)
    terms = 'objective={name="weighted", terms=[{objective="next_token"}, {objective="masked"}]}'
    recipe = recipe_of(file, terms if objective == "weighted" else f"objective={objective}", "train.batch=1")
    run = train(recipe, tmp_path / "runs", audit=True)
    assert run.status.state == "done"
    losses = [record["loss"] for record in run.metrics("step")]
    assert min(losses) == 0
    assert all(math.isfinite(loss) for loss in losses)
    assert math.isfinite(run.result["value"])
    assert run.ledger["train"]["tokens"] < 6 * 2 * 16


def test_a_batch_without_units_has_a_gradient_of_zero() -> None:
    stream = WindowBatches(
        np.arange(1, 34, dtype=np.uint16), np.ones(50, np.int64), batch=2, length=16, rng=Rng(0)("data"),
        fingerprint="x", counts=np.zeros(33, np.bool_),
    )  # fmt: skip
    batch = next(stream)
    assert isinstance(batch, TokenBatch)
    assert (batch.units, batch.tokens, batch.text_bytes) == (0, 0, 0)
