"""Verbs on claims: list, show, run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..core.reading import user_path
from .app import app
from .common import DEFAULT_ROOT, Json, Root, default_verb, emit, say

if TYPE_CHECKING:
    from ..lab.claims.shelf import ShelvedClaim
    from ..lab.claims.verdicts import ClaimVerdict

claims_app = typer.Typer(
    cls=default_verb("list", bare=True), help="Published claims: what is asked of them here, and what came out."
)
app.add_typer(claims_app, name="claims")

Claims = Annotated[
    Path,
    typer.Option("--claims", help="Directory of claims.", parser=user_path, metavar="DIRECTORY"),
]
Scale = Annotated[str, typer.Option("--scale", help="cpu, or another that the claim has, such as gpu.")]
Names = Annotated[list[str] | None, typer.Argument(help="Names of claims; none: all.")]
SHELF = Path("claims")


@claims_app.command("list")
def listing(
    names: Names = None,
    claims: Claims = SHELF,
    scale: Scale = "cpu",
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write the page of all claims to this file.", parser=user_path)
    ] = None,
    json: Json = False,
) -> None:
    """List claims with their verdicts (the default)."""
    from ..lab.claims.shelf import chosen, directory_of_claims, facts

    place = directory_of_claims(claims)
    if markdown is not None:
        from ..lab.claims.page import write_page

        write_page(place, markdown)
        say(str(markdown))
        return
    verdicts = [claim.verdict(scale) for claim in chosen(place, names or [])]
    if json:
        emit([facts(verdict) for verdict in verdicts])
        return
    for verdict in verdicts:
        _line(verdict)
    total = sum(verdict.cpu_seconds for verdict in verdicts)
    say(f"{len(verdicts)} claims; their runs took {total / 3600:.1f} hours of one core")


@claims_app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of a claim.")],
    claims: Claims = SHELF,
    scale: Scale = "cpu",
    json: Json = False,
) -> None:
    """Show what was claimed, what was asked, and what was found."""
    from ..lab.claims.shelf import directory_of_claims, facts, shelved

    claim = shelved(directory_of_claims(claims), name)
    verdict = claim.verdict(scale)
    emit(facts(verdict)) if json else _show(claim, verdict)


@claims_app.command()
def run(
    names: Names = None,
    claims: Claims = SHELF,
    root: Root = DEFAULT_ROOT,
    scale: Scale = "cpu",
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Worker processes of a study, one thread each.")] = 1,
    nice: Annotated[
        int, typer.Option("--nice", min=0, max=19, help="How much lower than usual the priority of the runs is.")
    ] = 0,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that have a result; finished runs are not repeated.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which studies would be run; run none.")] = False,
) -> None:
    """Run what has no result yet, one study after another. Stopped, the same command goes on."""
    from ..lab.claims.run import run_claims
    from ..lab.claims.shelf import chosen, directory_of_claims

    wanted = chosen(directory_of_claims(claims), names or [])
    if dry_run:
        for claim in wanted:
            left = [label for label in claim.claim.studies if again or not claim.place(label, scale).exists()]
            say(f"{claim.claim.name}: {', '.join(left) or 'nothing'}")
        return
    failed = run_claims(
        wanted, root, scale=scale, jobs=jobs, nice=nice, again=again, say=lambda line: typer.echo(line, err=True)
    )
    for claim in wanted:
        _line(claim.verdict(scale))
    if failed:
        raise failed[0]


def _line(verdict: ClaimVerdict) -> None:
    from ..lab.claims.page import spoken

    say(f"{verdict.claim.name}: {spoken(verdict.status, verdict.marks)}: {verdict.told}")


def _show(claim: ShelvedClaim, verdict: ClaimVerdict) -> None:
    from ..lab.claims.page import command, spoken

    own = verdict.claim
    frozen = claim.frozen()
    lines = [
        f"{own.name}: {spoken(verdict.status, verdict.marks)}",
        "",
        " ".join(own.statement.split()),
        f"published: {own.figure} ({own.axis}; {own.setting}; {own.source})",
        *([f"here: {own.here}"] if own.here else []),
        f"bars: frozen {frozen.since} at {frozen.commit[:12]}" if frozen else "bars: not frozen yet",
        "",
    ]
    judged = {each.bar.says: each for each in verdict.bars}
    for bar in own.bars:
        beside = "" if bar.decides else " (beside)"
        found = judged.get(bar.says)
        asked = found.text() if found else f"asked of {bar.study}"
        lines.append(f"- {bar.says}{beside}: {found.outcome + ': ' if found else ''}{asked}")
    lines.append("")
    if verdict.cpu_seconds:
        counted = f", {verdict.flops:.3e} model FLOPs" if verdict.flops else ""
        lines.append(f"{verdict.cpu_seconds / 60:.1f} minutes of a core{counted}")
    lines.append(f"to run {', '.join(verdict.missing) or 'it again'}: {command(verdict)}")
    lines += own.remarks
    say("\n".join(lines))
