"""Generators that write documents anew with a model of ours, or of a directory in Hugging Face's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..core.cost import Cost
from ..core.errors import DataError, UsageError
from ..core.reading import user_path
from ..core.registry import get
from ..core.rng import Rng
from ..data.engine.rephrasing import PREAMBLE, STYLES
from ..data.tokenizing import WritesChats, as_prompt, continuation
from ..store.published import is_published
from ..store.references import find_run
from ..train.restore import Trained, published, trained
from .scorer_models import published_bill, run_bill


class ModelRephraser:
    """A causal language model that is told what to do, by its chat template where it has one.

    Args:
        found: the model.
        identity: digest of its weights, or what stands for them.
        bill: what making it cost, as JSON with ``flops``.
        temperature: of what is drawn; 0: the likeliest.
        tokens: of an answer, at most.
    """

    concurrent = False

    def __init__(
        self, found: Trained, identity: str, bill: dict[str, Any], temperature: float = 0.7, tokens: int = 600
    ) -> None:
        if found.tokenizer is None:
            raise UsageError("was trained on ids that stand for no text", where=identity)
        self.found, self.tokenizer, self.bill, self.cost = found.causal(identity), found.tokenizer, bill, Cost()
        self.identity = f"model:{identity}:{temperature:g}:{tokens}"
        self._tokens = tokens
        cls: Any = get("decoder", "sample")
        self._decoder = cls(temperature=temperature, stop=self.tokenizer.eot).build(found.ctx)
        self._chats = None
        if isinstance(self.tokenizer, WritesChats):
            try:
                self._chats = self.tokenizer.chat_encoder()
            except DataError:
                self._chats = None  # it has no template: the model is asked in plain words

    def rewrite(self, pieces: Sequence[tuple[str, str]], draw: str) -> list[str]:
        """Each text in its style; what is drawn follows from ``draw`` and the text's number."""
        prompts = [self._prompt(text, style) for text, style in pieces]
        rng, found = Rng(0)("rephrase")(draw), list[str]()
        for completion in self._decoder.complete(self.found.model, prompts, self._tokens, rng):
            prompt = prompts[completion.prompt]
            found.append("".join(continuation(self.tokenizer, prompt, completion.ids)))
            model: Any = self.found.model
            self.cost += model.flops(1, len(prompt) + max(len(completion.ids) - 1, 0)).forward
        return found

    def _prompt(self, text: str, style: str) -> list[int]:
        asked = f"{STYLES[style]}\n\n{text}"
        if self._chats is not None:
            messages = [{"role": "system", "content": PREAMBLE}, {"role": "user", "content": asked}]
            return list(self._chats.prompt(messages))
        return as_prompt(self.tokenizer, f"{PREAMBLE}\n\n{asked}\n\nThe new text:\n")


def model_rephraser(name: str, root: Path, *, temperature: float = 0.7, tokens: int = 600) -> ModelRephraser:
    """The generator of a run, or of a directory in Hugging Face's layout (whose making is on nobody's bill).

    Args:
        name: of the run, its hash or directory; or the directory.
        root: directory of runs.
        temperature: of what is drawn.
        tokens: of an answer, at most.
    """
    place = user_path(name)
    if is_published(place):
        return ModelRephraser(published(place), *published_bill(place), temperature, tokens)
    run = find_run(name, root)
    identity, bill = run_bill(run)
    return ModelRephraser(trained(run), identity, bill, temperature, tokens)
