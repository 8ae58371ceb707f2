"""Text that a model writes, as a text that others are trained on."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from ..core.cost import ZERO, Cost
from ..core.errors import UsageError
from ..core.files import publish_directory, write_json
from ..core.reading import read_json
from ..core.rng import Rng
from ..data.tokenizing import as_prompt, continuation
from ..store.run import Run
from ..train.restore import trained
from .pipeline import SampledText

TEXT, COST = "text.jsonl", "cost.json"
"""Files of what was written, a document a line, and of what that cost."""
TOGETHER = 32
"""Documents that are written at once."""


def write_samples(run: Run, sample: SampledText, seed: int, out: Path) -> Cost:
    """Write documents with a run's model into the new directory ``out``; what that cost.

    Documents begin with what comes before every text, usually the end of another, and end there or after
    ``sample.tokens`` tokens; empty ones are left out. The cost is that of reading them once, which writing with a cache
    is.
    """
    found = trained(run, device="cpu")
    tokenizer = found.tokenizer
    if tokenizer is None:
        raise UsageError("was trained on ids that stand for no text", where=str(run.path))
    part = (
        sample.decoder if sample.decoder.stop is not None else sample.decoder.model_copy(update={"stop": tokenizer.eot})
    )
    if why := part.misfit(found.ctx.filling):
        raise UsageError(f"the decoder {part.name} {why}", where=str(run.path))
    decoder, rng, texts, cost = part.build(found.ctx), Rng(seed)("samples"), list[str](), ZERO
    start = as_prompt(tokenizer, "")
    while len(texts) < sample.documents:
        prompts = [start] * TOGETHER
        for ids in decoder.generate(found.model, prompts, sample.tokens, rng(str(len(texts)))):
            text = "".join(continuation(tokenizer, start, ids))
            cost += run.recipe.policy.work(1, len(ids) + 1, found.ctx.vocab_size).forward
            if text.strip():
                texts.append(text)
    with publish_directory(out) as partial:
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts[: sample.documents])
        (partial / TEXT).write_text(lines, encoding="utf-8")
        write_json(partial / COST, asdict(cost))
    return cost


def cost_of(directory: Path) -> Cost:
    """What the documents of a directory cost."""
    return Cost(**read_json(directory / COST, dict[str, int]))
