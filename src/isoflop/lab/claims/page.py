"""``docs/claims.md``: one line a system, with its verdict or the reason why it has none, and each claim's figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ...core.files import write_atomic
from .claim import CLAIM
from .shelf import IndexedSystem, ShelvedClaim, chosen, index_of
from .verdicts import OUTCOMES, PLANNED, ClaimVerdict

HEAD = """\
# Claims

What was published, what is asked of it here, and what came out; written by `make docs` from `claims/`. A verdict
follows from bars that were written before the first run ([how](guide/claims.md)). The published figure stands beside
ours, which are of models of at most three million parameters: no verdict says anything of the published scale.
"""


def page(folder: Path) -> str:
    """The page as Markdown.

    Args:
        folder: the directory of claims.

    Example:
        >>> text = page(Path("claims"))  # doctest: +SKIP
    """
    here = f"../{folder.name}"
    claims = {each.claim.name: each for each in chosen(folder, [])}
    verdicts = {name: each.verdict() for name, each in claims.items()}
    index = index_of(folder)
    systems = index.systems if index is not None else ()
    lines = [HEAD, *_counts(systems, verdicts), "", *_table(systems, verdicts, here)]
    more = [name for name in claims if name not in {system.claim for system in systems}]
    if more:
        lines += ["", "Besides these, claims of no system in the list:", "", "| claim | status | what came out |"]
        lines += ["|---|---|---|", *(_row(*_own(verdicts[name], here)) for name in more)]
    for name, verdict in verdicts.items():
        lines += ["", *_section(claims[name], verdict, here)]
    return "\n".join(lines) + "\n"


def command(verdict: ClaimVerdict) -> str:
    """What makes the results that are missing, or all of them again where none is."""
    return f"isoflop claims run {verdict.claim.name}{'' if verdict.missing else ' --again'}"


def spoken(status: str, marks: Sequence[str]) -> str:
    """A status with its marks."""
    return f"{status} ({'; '.join(marks)})" if marks else status


def _counts(systems: Iterable[IndexedSystem], verdicts: dict[str, ClaimVerdict]) -> Iterator[str]:
    counts, best_first = Counter(_status(system, verdicts) for system in systems), [*OUTCOMES, PLANNED]
    statuses = sorted(counts, key=lambda status: best_first.index(status) if status in best_first else len(best_first))
    told = ", ".join(f"{counts[status]} {status}" for status in statuses)
    hours = sum(verdict.cpu_seconds for verdict in verdicts.values()) / 3600
    yield f"{counts.total()} systems: {told}. All results together took {hours:.1f} hours of one core."


def _status(system: IndexedSystem, verdicts: dict[str, ClaimVerdict]) -> str:
    return verdicts[system.claim].status if system.claim in verdicts else system.status


def _table(systems: Iterable[IndexedSystem], verdicts: dict[str, ClaimVerdict], here: str) -> Iterator[str]:
    yield "| system | status | what came out, or why nothing did |"
    yield "|---|---|---|"
    for system in systems:
        if system.claim is None:
            yield _row(_cell(system.name), system.status, _cell(system.planned or system.out_of_scope))
        else:
            links, status, told = _own(verdicts[system.claim], here)
            yield _row(f"{_cell(system.name)} ({links})", status, told)


def _own(verdict: ClaimVerdict, here: str) -> tuple[str, str, str]:
    """What leads to a claim, its status, and what came out, as cells."""
    name, status = verdict.claim.name, spoken(verdict.status, verdict.marks)
    return f"[{name}](#{name}), [files]({here}/{name}/{CLAIM})", _cell(status), _cell(verdict.told)


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _section(claim: ShelvedClaim, verdict: ClaimVerdict, here: str) -> Iterator[str]:
    own = claim.claim
    yield f"## {own.name}"
    yield ""
    yield f"{_flat(own.statement)} Published: {_flat(own.figure)} ({_flat(own.setting)}; {_flat(own.source)})."
    if own.here:
        yield f"Here: {_flat(own.here)}"
    yield ""
    yield f"**{spoken(verdict.status, verdict.marks)}**"
    yield ""
    judged = {each.bar.says: each for each in verdict.bars}
    for bar in own.bars:
        beside = "" if bar.decides else " (beside)"
        found = f": {judged[bar.says].outcome}: {judged[bar.says].text()}" if bar.says in judged else ""
        yield f"- {_flat(bar.says)}{beside}{found}"
    yield ""
    for remark in own.remarks:
        yield f"{_flat(remark)} "
    files = [f"[{label}]({here}/{own.name}/{label}.json)" for label in own.studies if label not in verdict.missing]
    made = f"Results: {', '.join(files)}; {verdict.cpu_seconds / 60:.1f} minutes of a core. " if files else ""
    yield f"{made}`{command(verdict)}`"


def _flat(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _flat(text).replace("|", "\\|")


def write_page(folder: Path, out: Path) -> None:
    """Write the page.

    Args:
        folder: the directory of claims.
        out: the Markdown file, one folder below the directory that holds ``folder``.
    """
    write_atomic(out, page(folder))
