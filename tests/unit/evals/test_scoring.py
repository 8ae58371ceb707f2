"""Scores of continuations: the same numbers however they are batched and shared, and those of lm-evaluation-harness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from isoflop.errors import NumericsError, UsageError
from isoflop.evals.scoring import PairScore, PairScorer
from transformer_toys import VOCAB, context, part

LENGTH = 24
IDS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)
MIXERS: dict[str, dict[str, Any]] = {
    "rotary": {"heads": 4},
    "grouped": {"heads": 4, "kv_heads": 2},
    "window": {"heads": 4, "pattern": {"name": "window", "size": 5}},
}


def model(**fields: Any) -> nn.Module:
    torch.manual_seed(0)
    return part(**fields).build(context()).eval()


class Uncached(nn.Module):
    """The same model, which keeps no cache."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.inner(tokens)
        return logits


@torch.no_grad()
def plainly(model: nn.Module, prompt: list[int], new: list[int], length: int) -> PairScore:
    """One text at a time, as a formula says it."""
    seen = [*prompt, *new][-(length + 1) :]
    logits = model(torch.tensor([seen[:-1]]))[0].double().log_softmax(-1)[-len(new) :]
    total = sum(float(row[i]) for row, i in zip(logits, new, strict=True))
    return PairScore(total, logits.argmax(-1).tolist() == new)


def agree(found: list[PairScore], wanted: list[PairScore]) -> None:
    assert [score.logprob for score in found] == pytest.approx([score.logprob for score in wanted], rel=2e-5, abs=2e-5)
    assert [score.greedy for score in found] == [score.greedy for score in wanted]


@pytest.mark.parametrize(("mixer", "cached"), [("rotary", True), ("window", True), ("grouped", False)])
@settings(max_examples=6, deadline=None)
@given(
    contexts=st.lists(IDS, min_size=1, max_size=4),
    news=st.lists(IDS, min_size=1, max_size=4),
    batch=st.sampled_from([1, 3, 64]),
)
def test_a_score_does_not_depend_on_what_is_scored_beside_it(
    mixer: str, cached: bool, contexts: list[list[int]], news: list[list[int]], batch: int
) -> None:
    whole = model(mixer=MIXERS[mixer])
    pairs = [(each, new) for each in contexts for new in news]
    scorer = PairScorer(whole if cached else Uncached(whole), length=12, batch=batch)
    agree(scorer.score(pairs), [plainly(whole, *pair, 12) for pair in pairs])


def test_learned_positions_suffice_for_what_each_text_needs() -> None:
    """A long context beside another one's long continuation: side by side they would need more than there are."""
    whole = model(mixer={"heads": 4, "position": "none"}, positions=LENGTH)
    pairs = [([1] * 22, [2, 3]), ([4], list(range(5, 27)))]
    agree(PairScorer(whole, length=LENGTH).score(pairs), [plainly(whole, *pair, LENGTH) for pair in pairs])


def test_what_contexts_share_is_computed_once() -> None:
    whole, question = model(), list(range(10))
    scorer = PairScorer(whole, length=LENGTH)
    scorer.score([(question, [i]) for i in range(8)])
    assert scorer.computed == 10  # choices of one token need the context alone
    scorer = PairScorer(whole, length=LENGTH)
    scorer.score([(question, [i, i]) for i in range(8)] * 3)
    assert scorer.computed == 10 + 8
    examples, scorer = list(range(16)), PairScorer(whole, length=LENGTH)
    scorer.score([([*examples, i, 9], [j]) for i in range(4) for j in range(2)])
    assert scorer.computed == min(4 * 18, 16 + 8 * 2)  # the examples once, or each question with them


def test_large_vocabularies_are_scored_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model()
    pairs = [([i], list(range(i, i + 9))) for i in range(5)]
    before = PairScorer(whole, length=LENGTH).score(pairs)
    monkeypatch.setattr("isoflop.evals.scoring._LOGITS", 2 * VOCAB)
    agree(PairScorer(whole, length=LENGTH).score(pairs), before)
    agree(PairScorer(Uncached(whole), length=LENGTH).score(pairs), before)


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        (([], [1]), "the context is empty"),
        (([1], []), "there is no continuation"),
        (([1], [2] * 25), "a continuation has 25 tokens, and the model sees 24"),
    ],
)
def test_what_cannot_be_scored_is_said(pair: tuple[list[int], list[int]], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        PairScorer(model(), length=LENGTH).score([pair])


def test_a_broken_model_gives_no_scores() -> None:
    whole = model()
    with torch.no_grad():
        next(whole.parameters()).fill_(float("nan"))
    with pytest.raises(NumericsError, match="not finite"):
        PairScorer(whole, length=LENGTH).score([([1], [2])])


class ByteGru(nn.Module):
    """The model of the reference."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.gru, self.out = nn.Embedding(257, 64), nn.GRU(64, 64, batch_first=True), nn.Linear(64, 257)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.out(self.gru(self.embedding(tokens))[0])
        return logits


def test_the_harness_has_the_same_scores(shared: Path) -> None:
    """Whatever lm_eval 0.4.13 asked of the reference's tiny model, item by item."""
    samples = json.loads((shared / "data/data/ref/lm_eval_tiny.json").read_text())["samples"]
    asked = [
        (list(prompt[0].encode()), list(prompt[1].encode()), score)
        for name in ("piqa30", "arc_easy30", "lambada40")
        for item in samples[name]
        for prompt, score in zip(item["prompts"], item["resps"], strict=True)
    ]
    assert len(asked) > 200
    found = PairScorer(ByteGru().eval(), length=4096).score([(before, new) for before, new, _ in asked])
    agree(found, [PairScore(*score) for _, _, score in asked])
