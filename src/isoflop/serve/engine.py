"""The scheduler: one thread that owns a model and lets all sequences at hand grow together, step by step.

A sequence is admitted between two steps when there is a row and room for all the tokens that it may come to; requests
take turns, and nothing overtakes the one whose turn it is, so that a long prompt is not starved by short ones. Prompts
are read in chunks beside the growing of others. What is finished, cancelled or late leaves before the next step.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..models.slots import Piece
from .draw import draw, new_notes, notes_of
from .problems import busy, failed, late, stopping, unfit
from .room import Room, Tally
from .sequence import EndedBy, Failed, Growing, Job, News, PromptScored, TokenNote

CHUNK = 256
"""Tokens of prompts that one step reads at most: what those who are growing wait for."""
_NUMBERS = 1 << 22
"""Logits of scored prompt tokens that one step computes at most."""
_IDLE = 5.0
"""Seconds without work after which memory is given back."""


class GrowingBatch(Protocol):
    """Sequences in rows without gaps; see ``models.slots.Slots``."""

    def reserve(self, rows: int, capacity: int) -> None: ...
    def join(self) -> int: ...
    def leave(self, row: int) -> None: ...
    def step(self, pieces: Sequence[Piece]) -> list[Tensor]: ...


class Engine:
    """Continuous batching over one model.

    Args:
        batch: makes the rows, and makes them anew where a step failed.
        room: how much may be going on at once.
        ids: none from this one on is chosen.
        eot: the id that ends a text.
        flops: model FLOPs of reading so many tokens, of which so many last ones (or any) meet the head.

    Example, with ``model`` a Transformer of 257 tokens and ``growing`` a sequence of bytes:
        >>> from isoflop.serve.sequence import Wish
        >>> engine = Engine(model.prepared(rows=2).make_slots, Room(rows=2, context=32, tokens=64), 256, eot=256)
        >>> engine.start()
        >>> told, over = [], threading.Event()
        >>> def deliver(news):
        ...     told.extend(news)
        ...     over.set() if type(news[-1]).__name__ == "Over" else None
        >>> engine.submit(Job([growing("h", Wish(budget=3))], deliver, seconds=60))
        >>> over.wait(60), engine.stop(grace=1), engine.tally.new_tokens
        (True, True, 3)
    """

    def __init__(
        self,
        batch: Callable[[], GrowingBatch],
        room: Room,
        ids: int,
        eot: int,
        flops: Callable[[int, int], int] = lambda tokens, projected: 0,
    ) -> None:
        self.room, self.ids, self.eot, self.tally = room, ids, eot, Tally()
        self._make, self._batch, self._flops = batch, batch(), flops
        self._rows = self._capacity = 0
        self._active: list[tuple[Growing, Job]] = []
        self._jobs: deque[Job] = deque()
        self._news: dict[int, tuple[Job, list[News]]] = {}
        self._changed = threading.Condition()
        self._end: float | None = None
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    # ------------------------------------------------------------ for other threads

    @property
    def alive(self) -> bool:
        """Whether it works and takes new jobs."""
        return self._thread.is_alive() and self._end is None

    @property
    def running(self) -> int:
        """Sequences that are growing."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a row."""
        with self._changed:
            return sum(len(job.waiting) for job in self._jobs)

    @property
    def reserved(self) -> int:
        """Tokens that the cache has room for now."""
        return self._rows * self._capacity

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Have a job done; its news come in the engine's thread.

        Raises:
            Refusal: it can never fit, too many wait already, or the engine is stopping.
        """
        for sequence in job.waiting:
            if sequence.reserve > min(self.room.context, self.room.tokens):
                raise unfit(sequence.reserve, self.room.context)
        with self._changed:
            if not self.alive:
                raise stopping()
            if self._jobs and sum(len(each.waiting) for each in self._jobs) + len(job.waiting) > self.room.waiting:
                raise busy()
            self._jobs.append(job)
            self._changed.notify()

    def stop(self, grace: float) -> bool:
        """Take nothing new, let what grows go on for ``grace`` seconds; whether the thread has ended in time."""
        with self._changed:
            self._end = time.monotonic() + grace
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(grace + 1)
        return not self._thread.is_alive()

    # ------------------------------------------------------------ the thread's own

    def _work(self) -> None:
        try:
            while self._awake():
                self._dismiss()
                self._admit()
                if self._active:
                    self._try_step()
                self._tell()
        finally:
            self._end = self._end or time.monotonic()
            with self._changed:
                jobs = dict.fromkeys([job for _, job in self._active] + list(self._jobs))
                self._jobs.clear()
            for job in jobs:
                self._fail(job, stopping())
            self._tell()

    def _awake(self) -> bool:
        """Sleep until there is something to do; whether to go on."""
        with self._changed:
            while not self._active and not self._jobs and self._end is None:
                if not self._changed.wait(_IDLE) and self._rows:
                    self._batch.reserve(0, 0)
                    self._rows = self._capacity = 0
            if self._end is None:
                return True
            return bool(self._active or self._jobs)  # the late among them are dismissed

    def _dismiss(self) -> None:
        """Whatever nobody waits for, or is late, goes."""
        now = time.monotonic()
        with self._changed:
            jobs = list(dict.fromkeys([*(job for _, job in self._active), *self._jobs]))
            stops = self._end is not None
        for job in jobs:
            if job.gone or now > job.deadline or (stops and (not job.started or now > (self._end or now))):
                error = stopping() if stops else late(job.deadline - job.born)
                self._drop(job, "cancelled" if job.gone else "failed")
                if not job.gone:
                    self._fail(job, error)

    def _drop(self, job: Job, how: str) -> None:
        """Take a job out, wherever it is."""
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)
        self.tally.ended[how] += job.left
        for row in reversed(range(len(self._active))):
            if self._active[row][1] is job:
                self._leave(row)

    def _leave(self, row: int) -> None:
        sequence, _ = self._active[row]
        self._charge(sequence)
        self._batch.leave(row)
        self._active[row] = self._active[-1]
        self._active.pop()

    def _charge(self, sequence: Growing) -> None:
        self.tally.flops += self._flops(sequence.fed, sequence.projected)

    def _admit(self) -> None:
        """Give rows to those whose turn it is, one sequence of a job after one of another."""
        while len(self._active) < self.room.rows:
            with self._changed:
                job = self._jobs[0] if self._jobs else None
            if job is None:
                return
            reserves = [sequence.reserve for sequence, _ in self._active] + [job.waiting[0].reserve]
            rows, capacity = self.room.shape(reserves, self._rows, self._capacity)
            if rows * capacity > self.room.tokens and self._active:
                return
            with self._changed:
                self._jobs.popleft()
                sequence = job.waiting.popleft()
                if job.waiting:
                    self._jobs.append(job)
            job.started = True
            self._rows, self._capacity = rows, capacity
            try:
                self._batch.reserve(rows, capacity)
                self._batch.join()
            except Exception as error:
                self._active.append((sequence, job))
                self._broken(error)
                return
            self._active.append((sequence, job))
            self.tally.admitted += 1

    def _try_step(self) -> None:
        began = time.monotonic()
        try:
            self._step()
        except Exception as error:
            self._broken(error)
        self.tally.steps += 1
        self.tally.seconds += time.monotonic() - began

    def _broken(self, error: Exception) -> None:
        """A step failed, so what the cache holds is anybody's guess: those who are growing fail, others go on."""
        traceback.print_exception(error)
        jobs = dict.fromkeys(job for _, job in self._active)
        for sequence, _ in self._active:
            self._charge(sequence)
        self._active.clear()
        self._batch, self._rows, self._capacity = self._make(), 0, 0
        for job in jobs:
            self._drop(job, "failed")
            self._fail(job, failed())

    def _pieces(self) -> list[Piece]:
        """What the next step reads: one token of each that grows, and as much of prompts as a step may."""
        found, left, numbers = list[Piece](), CHUNK, _NUMBERS // self.ids
        order = sorted(range(len(self._active)), key=lambda row: self._active[row][1].number)
        for row in order:
            sequence = self._active[row][0]
            unfed = sequence.unfed
            most = 1 if unfed == 1 else min(unfed, left)
            scored = sequence.wish.scored and sequence.fed < len(sequence.prompt)
            if scored and unfed > 1:
                most = min(most, max(1, numbers))
                numbers -= most
            if most < 1:
                continue
            left -= most if unfed > 1 else 0
            found.append(Piece(row, sequence.next_tokens(most), most if scored else 1))
        return sorted(found)

    def _step(self) -> None:
        pieces = self._pieces()
        logits = [each[:, : self.ids].float().cpu() for each in self._batch.step(pieces)]
        ready, last, done = list[int](), list[Tensor](), list[tuple[int, EndedBy]]()
        for piece, found in zip(pieces, logits, strict=True):
            sequence, job = self._active[piece.row]
            reading = sequence.fed < len(sequence.prompt)
            if reading:
                self.tally.prompt_tokens += len(piece.tokens)
                if sequence.wish.scored:
                    self._post(job, PromptScored(sequence.number, self._scores(sequence, len(piece.tokens), found)))
            sequence.fed_with(len(piece.tokens), piece.wanted)
            if sequence.unfed:
                continue
            if not sequence.wish.budget:
                done.append((piece.row, "length"))
                continue
            ready.append(piece.row)
            last.append(found[-1])
        if ready:
            done += self._grow(ready, torch.stack(last))
        for row, ended in sorted(done, reverse=True):
            self._finish(row, ended)

    def _scores(self, sequence: Growing, count: int, logits: Tensor) -> list[TokenNote]:
        """Notes of the prompt tokens that these logits foretell; before the first one there was nothing."""
        start = sequence.fed + 1
        targets = sequence.prompt[start : start + count]
        notes = notes_of(logits[: len(targets)], targets, sequence.wish.logprobs or 0)
        return [TokenNote(sequence.prompt[0]), *notes] if sequence.fed == 0 else notes

    def _grow(self, rows: list[int], logits: Tensor) -> list[tuple[int, EndedBy]]:
        """A token for each of these rows; those that end with it."""
        finite = logits.amax(-1).isfinite()
        if not finite.all():
            for row, fine in zip(rows, finite.tolist(), strict=True):
                if not fine:
                    self._fail(self._active[row][1], failed("the model's logits are not finite"))
                    self._active[row][1].cancel()
            logits = torch.where(finite[:, None], logits, 0.0)
        grown = [self._active[row][0] for row in rows]
        tokens, done = draw(logits, grown), list[tuple[int, EndedBy]]()
        notes = new_notes(logits, tokens, [sequence.wish.logprobs for sequence in grown])
        for row, token, note in zip(rows, tokens, notes, strict=True):
            sequence, job = self._active[row]
            if job.gone:
                continue
            if token == self.eot and not sequence.wish.ignore_eos:
                done.append((row, "stop"))
                continue
            if not sequence.ids:
                self.tally.first_seconds += time.monotonic() - job.born
                self.tally.first_count += 1
            self._post(job, sequence.add(note))
            self.tally.new_tokens += 1
            if sequence.text.stopped:
                done.append((row, "stop"))
            elif len(sequence.ids) == sequence.wish.budget:
                done.append((row, "length"))
        return done

    def _finish(self, row: int, ended: EndedBy) -> None:
        sequence, job = self._active[row]
        self._post(job, sequence.over(ended))
        job.left -= 1
        self.tally.ended[ended] += 1
        self._leave(row)

    def _fail(self, job: Job, error: Exception) -> None:
        self._post(job, Failed(error))

    def _post(self, job: Job, news: News) -> None:
        self._news.setdefault(job.number, (job, []))[1].append(news)

    def _tell(self) -> None:
        """Deliver what has happened in this step."""
        news, self._news = self._news, {}
        for job, some in news.values():
            try:
                job.deliver(some)
            except Exception:  # whoever listened has gone
                job.cancel()
