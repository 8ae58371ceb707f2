"""The tokenizer file of a run is one that the libraries of others read, with the same ids."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.core.contracts import TOKENIZER
from isoflop.core.recipe import Recipe
from isoflop.train.restore import trained
from isoflop.train.run import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # theirs, of each other
TEXTS = (
    "A plain sentence, with 12 numbers and two  spaces.",
    "Übergröße; naïve café\n\tindented\r\n",
    "日本語 mixed with English 🙂",
    " leading and trailing ",
)


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_reads_our_tokenizer_and_gives_the_same_ids(
    text: str, tiny: Callable[..., Path], tmp_path: Path
) -> None:
    run = train(Recipe.load(tiny('tokenizer={name="bpe", vocab_size=300}', "budget.steps=1")), tmp_path)
    ours = trained(run).tokenizer
    assert ours is not None
    found = run.checkpoint()
    assert found is not None
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(found[1] / TOKENIZER))
    ids = ours.encode(text).tolist()
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids, clean_up_tokenization_spaces=False) == text == ours.decode(ids)
