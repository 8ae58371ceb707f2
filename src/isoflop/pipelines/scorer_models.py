"""Trained models that scorers ask for -log p or vectors of documents, with the bill of reading and of their making."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from ..core.contracts import Tokenizer
from ..core.cost import ZERO, Cost
from ..core.digests import digest
from ..core.errors import UsageError
from ..core.reading import user_path
from ..data.engine.vectors import unit_length
from ..data.tokenizing import begun, encode_many
from ..ledger.ledger import CHARGED
from ..store.published import is_published
from ..store.references import find_run
from ..store.run import Run
from ..train.restore import Trained, published, trained
from .judging import flops_of

ROWS = 16
"""Windows that are read at once."""
IGNORED = -100
"""A target that does not count."""
T = TypeVar("T")
_PROBES = ("", "The quick brown fox, 3.14 and 1,000!", "\u00fcber \u4e2d\u6587 \U0001f600", "  def f(x):\n\treturn x\n")


def tokenizer_digest(tokenizer: Tokenizer) -> str:
    """A digest of how a tokenizer cuts some texts, and of how many ids it has: equal for equal ones."""
    ids = [np.asarray(each).tolist() for each in encode_many(tokenizer, list(_PROBES))]
    return digest([tokenizer.vocab_size, tokenizer.eot, ids])


class ReadingModel:
    """A causal model that reads documents in windows of its own length; each window begins anew.

    Args:
        found: the model.
        name: for messages.
        identity: digest of its weights, or what stands for them.
        bill: what making it cost, as JSON with ``flops`` at least.
    """

    def __init__(self, found: Trained, name: str, identity: str, bill: Mapping[str, Any]) -> None:
        if found.tokenizer is None:
            raise UsageError("was trained on ids that stand for no text", where=name)
        self.found, self.name, self.identity, self.bill = found.causal(name), name, identity, dict(bill)
        self.tokenizer = found.tokenizer
        self.tokenizer_digest = tokenizer_digest(found.tokenizer)
        self.length, self.cost = max(found.reach, 2), ZERO

    @torch.no_grad()
    def losses(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """-log p of each text and its end in nats, and the tokens that it is over."""
        windows, counts = self._windows(texts)
        nats = np.zeros(len(texts))
        for batch in _batches(windows):
            np.add.at(nats, [number for number, _ in batch], self._read([ids for _, ids in batch]))
        return nats, counts

    @torch.no_grad()
    def vectors(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """float64 (texts, width): the mean over a text's tokens of the states before the head, of unit length.

        That of an empty text is zero.
        """
        windows, counts = self._windows(texts)
        model: Any = self.found.model
        head = int(model.head.numel())
        sums = np.zeros((len(texts), model.head.shape[1]))
        for batch in _batches(windows):
            inputs, targets = self._filled([ids for _, ids in batch])
            states = model.hidden(torch.from_numpy(inputs).to(self.found.ctx.device)).double().cpu().numpy()
            unread = 2 * inputs.size * head  # the product that is not taken
            self.cost = self.cost + model.flops(*inputs.shape).forward - Cost(flops=unread, executed=unread)
            np.add.at(sums, [number for number, _ in batch], (states * (targets != IGNORED)[:, :, None]).sum(1))
        return unit_length(sums / np.maximum(counts, 1)[:, None])

    def _windows(self, texts: Sequence[str]) -> tuple[list[tuple[int, npt.NDArray[np.int64]]], npt.NDArray[np.int64]]:
        """Pieces of each text with its number, those of a length together; and targets of each text."""
        windows: list[tuple[int, npt.NDArray[np.int64]]] = []
        counts = np.zeros(len(texts), np.int64)
        for number, ids in enumerate(encode_many(self.tokenizer, list(texts))):
            whole = np.append(begun(self.tokenizer, np.asarray(ids, np.int64)), self.tokenizer.eot)
            if whole[0] != self.tokenizer.eot:
                whole = np.append(self.tokenizer.eot, whole)
            counts[number] = len(whole) - 1
            windows += [(number, whole[at : at + self.length + 1]) for at in range(0, len(whole) - 1, self.length)]
        windows.sort(key=lambda window: (len(window[1]), window[0]))
        return windows, counts

    def _filled(self, windows: Sequence[npt.NDArray[np.int64]]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Inputs and targets (windows, length); behind a window's end ends of texts, and targets that do not count."""
        length = max(len(ids) for ids in windows) - 1
        inputs = np.full((len(windows), length), self.tokenizer.eot, np.int64)
        targets = np.full((len(windows), length), IGNORED, np.int64)
        for row, ids in enumerate(windows):
            inputs[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        return inputs, targets

    def _read(self, windows: Sequence[npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        inputs, targets = self._filled(windows)
        model: Any = self.found.model
        logits = model(torch.from_numpy(inputs).to(self.found.ctx.device)).float()
        aim = torch.from_numpy(targets).to(logits.device)
        losses = functional.cross_entropy(logits.flatten(0, 1), aim.flatten(), reduction="none", ignore_index=IGNORED)
        cost: Cost = model.flops(*inputs.shape).forward
        self.cost = self.cost + cost
        return losses.view(aim.shape).double().sum(1).cpu().numpy()


def _batches(windows: Sequence[T]) -> Iterator[Sequence[T]]:
    for at in range(0, len(windows), ROWS):
        yield windows[at : at + ROWS]


def reading_model(name: str, root: Path, device: str | None = None) -> ReadingModel:
    """The model of a run, or of a directory in Hugging Face's layout (whose making is on nobody's bill).

    Args:
        name: of the run, its hash or directory; or the directory.
        root: directory of runs.
        device: where it reads; default: where it was trained.
    """
    place = user_path(name)
    if is_published(place):
        return ReadingModel(published(place, device=device), name, *published_bill(place))
    return run_model(find_run(name, root), device)


def run_model(run: Run, device: str | None = None) -> ReadingModel:
    """The model of a run at its newest checkpoint, with what the run itself has spent."""
    identity, bill = run_bill(run)
    return ReadingModel(trained(run, device=device), run.path.name, identity, bill)


def published_bill(directory: Path) -> tuple[str, dict[str, Any]]:
    """What stands for the weights of a directory in Hugging Face's layout, and the bill of their making: nobody's."""
    return str(directory.resolve()), {"flops": 0, "published": True}


def run_bill(run: Run) -> tuple[str, dict[str, Any]]:
    """What stands for the weights of a run's newest checkpoint, and what the run itself has spent on them."""
    found = run.checkpoint()
    if found is None:
        raise UsageError("has no checkpoint yet", where=str(run.path), fix="train it first")
    bill = {"run": run.hash, "step": found[0], "flops": int(flops_of([run.ledger], CHARGED))}
    return f"{run.hash}:{found[0]}", bill
