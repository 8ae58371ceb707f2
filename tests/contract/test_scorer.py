"""What every scorer of documents must do: a score a document, whatever else is in the batch, and a cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fasttext_toy
from isoflop.core.contracts import ScorerPart
from isoflop.core.cost import Cost
from isoflop.core.errors import IsoflopError, UsageError
from isoflop.core.registry import get, names

POOL = [
    f"the {a} {b} lies by the {c}" for a in ("red", "blue", "old") for b in ("fox", "boat") for c in ("sea", "hill")
]
GOOD = ["the red fox runs", "a red fox"]
SMALL: dict[str, dict[str, Any]] = {
    "quality": {"buckets": 512, "epochs": 2},
    "clusters": {"clusters": 3, "buckets": 64},
}


@pytest.fixture(autouse=True)
def a_model_of_fasttext(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fasttext_toy.install(monkeypatch)
    model = fasttext_toy.write_model(tmp_path / "toy.bin", {"red": "hq", "blue": "cc"})
    monkeypatch.setitem(SMALL, "fasttext", {"path": str(model)})


class Reader:
    """A model whose loss is planted: so many nats a character, by the first letter."""

    def __init__(self, rate: float, tokenizer: str = "t") -> None:
        self.rate, self.tokenizer_digest, self.name, self.cost = rate, tokenizer, f"reader-{rate}", Cost()

    def losses(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        self.cost = self.cost + Cost(flops=sum(map(len, texts)))
        return (
            np.array([self.rate * len(text) * (2 if text[:1] == "r" else 1) for text in texts]),
            np.array([len(text) + 1 for text in texts]),
        )


def built(name: str, **models: Any) -> Any:
    part = get("scorer", name)(**SMALL.get(name, {}))
    assert isinstance(part, ScorerPart)
    assert part.card.summary
    known = {use: Reader(1.0 + number) for number, use in enumerate(part.uses)}
    return part.build({**dict.fromkeys(part.fits, GOOD), "pool": POOL}, {**known, **models})


@pytest.mark.parametrize("name", names("scorer"))
def test_a_document_is_scored_by_itself_and_twice_alike(name: str) -> None:
    texts = [*POOL, *GOOD, "unheard words 9", "", "\u00fc\U0001f600"]
    documents = [(str(number), text) for number, text in enumerate(texts)]
    scorer, again = built(name), built(name)
    together = scorer.score(documents)
    assert together.shape == (len(texts),)
    assert together.dtype == np.float64
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(together, again.score(documents))
    alone = np.concatenate([again.score([each]) for each in documents])
    np.testing.assert_allclose(alone, together, rtol=1e-12, atol=1e-12)
    assert isinstance(scorer.cost, Cost)
    if get("scorer", name).uses:
        assert scorer.cost.flops > 0


@pytest.mark.parametrize("name", [name for name in names("scorer") if get("scorer", name).uses])
def test_models_must_be_there_and_cut_text_alike(name: str) -> None:
    part = get("scorer", name)(**SMALL.get(name, {}))
    with pytest.raises(UsageError, match=f"--model {part.uses[0]}=RUN"):
        part.build({"pool": POOL}, {})  # type: ignore[attr-defined]
    if len(part.uses) > 1:
        with pytest.raises(UsageError, match="different tokenizers"):
            built(name, **{part.uses[1]: Reader(2.0, "other")})


@pytest.mark.parametrize("name", [name for name in names("scorer") if get("scorer", name).fits])
def test_what_is_like_the_good_documents_scores_higher(name: str) -> None:
    high, low = built(name).score([("a", "red fox runs"), ("b", "old boat by the hill")])
    assert high > low
    texts: dict[str, list[str]] = {**{fit: [""] for fit in get("scorer", name).fits}, "pool": POOL}
    with pytest.raises(IsoflopError):
        get("scorer", name)(**SMALL.get(name, {})).build(texts, {})  # type: ignore[attr-defined]


def test_differences_of_losses_are_what_they_say() -> None:
    documents, per = [("a", "blue"), ("b", "red")], np.array([4 / 5, 2 * 3 / 4])
    np.testing.assert_allclose(built("color_filter").score(documents), -per)
    np.testing.assert_allclose(built("conditional_only").score(documents), -per)
    np.testing.assert_allclose(built("rho_loss").score(documents), -per)
    np.testing.assert_allclose(built("perplexity").score(documents), -per)


def test_a_chosen_share_of_clusters_is_kept() -> None:
    part = get("scorer", "clusters")(clusters=4, keep=0.5, buckets=256)
    pool = [f"{POOL[i % 12]} number{i}" for i in range(60)]
    scores = part.build({"pool": pool}, {}).score([("", text) for text in pool])  # type: ignore[attr-defined]
    assert int((scores >= 1).sum()) == 30
