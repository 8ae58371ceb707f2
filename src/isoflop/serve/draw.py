"""The next tokens of sequences that each wish it otherwise."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from ..decode import filters
from ..decode.decoders.sample import Sample
from .sequence import Growing, TokenNote, Wish


def draw(logits: Tensor, sequences: Sequence[Growing]) -> list[int]:
    """A token id for each sequence, drawn with the next number of its own generator.

    Args:
        logits: finite, fp32 (sequences, ids), on the CPU.
        sequences: what they belong to.

    Example, with ``growing`` a sequence of bytes:
        >>> draw(torch.tensor([[0.0, 2.0, 1.0]]), [growing("h", Wish(budget=1, temperature=0.0))])
        [1]
    """
    shaped = logits
    if any(sequence.wish.shapes for sequence in sequences):
        shaped = torch.stack([_shaped(row, sequence) for row, sequence in zip(logits, sequences, strict=True)])
    groups: dict[tuple[float, int | None, float, float], list[int]] = {}
    for i, sequence in enumerate(sequences):
        groups.setdefault(sequence.wish.cuts, []).append(i)
    found = [0] * len(sequences)
    for cuts, places in groups.items():
        numbers = torch.tensor([sequences[i].generator.random() for i in places], dtype=torch.float64)
        rows = shaped if len(places) == len(sequences) else shaped[places]
        for i, token in zip(places, _chooser(*cuts).choose(rows, numbers).tolist(), strict=True):
            found[i] = token
    return found


@functools.lru_cache(256)
def _chooser(temperature: float, top_k: int | None, top_p: float, min_p: float) -> Sample:
    return Sample(temperature, top_k, top_p, min_p=min_p)


def _shaped(row: Tensor, sequence: Growing) -> Tensor:
    """Logits (ids,) with the wish's penalties and biases."""
    wish: Wish = sequence.wish
    if not wish.shapes:
        return row
    row = row.clone()
    if wish.repetition_penalty != 1:
        held = torch.tensor(sorted({i for i in (*sequence.prompt, *sequence.ids) if i < len(row)}))
        row[held] = filters.penalised(row[held], torch.ones(len(held), dtype=torch.bool), wish.repetition_penalty)
    if sequence.counts and (wish.presence_penalty or wish.frequency_penalty):
        counts = torch.tensor(list(sequence.counts.values()), dtype=row.dtype)
        row[torch.tensor(list(sequence.counts))] -= wish.presence_penalty + wish.frequency_penalty * counts
    if wish.bias:
        ids, added = _added(sequence)
        row[ids] += added
    return row


def _added(sequence: Growing) -> tuple[Tensor, Tensor]:
    """The biases of a sequence's wish, made into tensors once."""
    bias = sequence.wish.bias
    found: tuple[Tensor, Tensor] = sequence.biases or (torch.tensor(list(bias)), torch.tensor(list(bias.values())))
    sequence.biases = found
    return found


def new_notes(logits: Tensor, tokens: Sequence[int], tops: Sequence[int | None]) -> list[TokenNote]:
    """What the model thought of each new token, where somebody asked.

    Args:
        logits: (tokens, ids), fp32.
        tokens: one for each row.
        tops: so many of the likeliest are noted with each; None: nothing is.
    """
    found = [TokenNote(token) for token in tokens]
    wanted = [i for i, top in enumerate(tops) if top is not None]
    if wanted:
        most = max(tops[i] or 0 for i in wanted)
        notes = notes_of(logits[wanted], [tokens[i] for i in wanted], most)
        for i, note in zip(wanted, notes, strict=True):
            found[i] = TokenNote(note.id, note.logprob, note.top[: tops[i]])
    return found


def notes_of(logits: Tensor, tokens: Sequence[int], top: int) -> list[TokenNote]:
    """What the model thought of each token.

    Args:
        logits: (tokens, ids), fp32.
        tokens: one for each row; those that the model may not choose have a log-probability of -inf.
        top: so many of the likeliest are noted, too.

    Example:
        >>> notes_of(torch.zeros(1, 2), [1], top=0)[0].id
        1
    """
    logprobs = torch.log_softmax(logits, -1)
    chosen = torch.tensor(list(tokens))
    legal = chosen.clamp(max=logprobs.shape[-1] - 1)
    own = logprobs.gather(-1, legal[:, None])[:, 0].masked_fill(legal != chosen, -torch.inf).tolist()
    if not top:
        return [TokenNote(i, value) for i, value in zip(tokens, own, strict=True)]
    values, ids = (found.tolist() for found in logprobs.topk(min(top, logprobs.shape[-1])))
    return [
        TokenNote(i, value, tuple(zip(row_ids, row, strict=True)))
        for i, value, row_ids, row in zip(tokens, own, ids, values, strict=True)
    ]
