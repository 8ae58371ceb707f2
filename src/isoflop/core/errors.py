"""The one family of errors: what is wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
import os
import signal
import traceback
from collections.abc import Iterable, Sequence


class IsoflopError(Exception):
    """Base of every error that isoflop raises on purpose.

    Args:
        what: what is wrong, one sentence.
        where: file, key path or line that it is about; empty if there is none.
        fix: what the user can do; empty if nothing sensible can be said.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        self.what, self.where, self.fix = shown(what), shown(where).replace("\n", "\\n"), shown(fix)
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f"; {self.fix}" if self.fix else ""
        return f"{place}{self.what}{remedy}"


class UsageError(IsoflopError):
    """The command or call does not fit: a missing file, a busy run directory, a refused comparison."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe or study that is not legal; carries every problem found, not only the first."""

    def __init__(self, problems: Sequence[str], *, source: str = "recipe") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__("\n".join(f"{source}: {problem}" for problem in self.problems))


class DataError(IsoflopError):
    """Text, token shards or checkpoints that cannot be read or do not match their digests."""

    exit_code = 3


class NotMade(DataError):
    """Derived data that a cache does not hold, and that was not to be made (``Context.make``)."""


class StorageError(DataError):
    """The disk refused a write (no space, no permission)."""


class NumericsError(IsoflopError):
    """A value that is not finite where one must be: a loss, a gradient, a measurement."""

    exit_code = 4


class BudgetError(IsoflopError):
    """A budget in which not a single step fits, or that cannot bound a run."""

    exit_code = 5


class Stopped(IsoflopError):
    """A signal asked the run to stop; its state was saved first. ``exit_code`` is 128 + signal number.

    Args:
        signal_number: which one.
        where: how far the work had come, e.g. "at step 7"; "" if there is nothing to say.
        fix: how to go on.
    """

    def __init__(self, signal_number: int, where: str = "", fix: str = "") -> None:
        by = "ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(f"stopped by {by} {where}".strip(), fix=fix)
        self.exit_code = 128 + signal_number


def shown(text: str) -> str:
    """``text`` as it can be printed and stored anywhere: what cannot be seen, and bytes that are no UTF-8, are escaped.

    A file's name may hold both; neither may move the cursor or hide the error. Newlines stay.
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    byte = ord(character) - 0xDC00  # how Python keeps a byte of a name that is no UTF-8
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else character.encode("unicode_escape").decode()


def trace() -> None:
    """Print where the error at hand came from, for those who asked (``isoflop --debug`` sets ISOFLOP_DEBUG)."""
    if os.environ.get("ISOFLOP_DEBUG"):
        traceback.print_exc()


def nearest(word: str, legal: Iterable[str], *, listing: bool = True) -> str:
    """The remedy for an unknown name: ``did you mean lr? (legal: betas, lr)``, or only the legal names.

    Args:
        word: the unknown name.
        legal: the names that there are.
        listing: whether to list them; without, the remedy is "" where none is near.
    """
    names = sorted(legal)
    every = f"legal: {', '.join(names)}" if names else "none exist"
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if not close:  # `learning_rate` for `lr`: initials, the commonest abbreviation of the field
        initials = "".join(piece[0] for piece in word.split("_") if piece)
        close = [name for name in names if name == initials]
    if not close:
        return every if listing else ""
    return f"did you mean {close[0]}?" + (f" ({every})" if listing else "")
