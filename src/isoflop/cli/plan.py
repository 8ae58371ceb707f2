"""The verb on decisions: plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..core.errors import UsageError
from ..core.reading import user_path
from .app import app
from .common import Json, Overrides, default_verb, emit, patience, say
from .gathered import gathered
from .laws import Where, pairs, rows_of

if TYPE_CHECKING:
    from ..laws.law import Fit
    from ..laws.plan.answer import Answer, Plan
    from ..laws.plan.draws import Basis
    from ..laws.plan.lifetime import Life
    from ..laws.plan.next_runs import Choice
    from ..store.plans import StoredPlan

plans = typer.Typer(
    cls=default_verb("ask"), no_args_is_help=True, help="What to run: sizes, tokens, costs, each with an interval."
)
app.add_typer(plans, name="plan")

Number = float | None


def _number(option: str, help: str) -> Any:
    return typer.Option(option, help=help, metavar="NUMBER")


def _fit_or_table(text: str) -> Path:
    """A path; the directory that ``isoflop fit --out`` keeps stands for the fit in it."""
    from ..store.fits import FIT

    path = user_path(text)
    return path / FIT if (path / FIT).is_file() else path


@dataclass(frozen=True)
class PlanQuestion:
    """What is asked."""

    compute: Annotated[Number, _number("--compute", "FLOPs: which N and D? With one of them: which loss?")] = None
    loss: Annotated[Number, _number("--loss", "Loss to reach: at which cost?")] = None
    params: Annotated[Number, _number("--params", "N.")] = None
    tokens: Annotated[Number, _number("--tokens", "D.")] = None
    unique: Annotated[Number, _number("--unique-tokens", "U: how often to repeat them?")] = None
    requests: Annotated[
        str | None,
        typer.Option(
            "--requests",
            help="A life, with --loss or --compute: which N and D? 1e9x800: so many requests of 800 tokens.",
            metavar="COUNTxTOKENS",
        ),
    ] = None
    level: Annotated[float, _number("--level", "Of the intervals, a share.")] = 0.9


@dataclass(frozen=True)
class PlanOutputs:
    """What is made of the answer."""

    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="Write the recipe of the planned run; overrides say what the plan does not, e.g. "
            "tokenizer.vocab_size=4096.",
            parser=user_path,
            metavar="FILE",
        ),
    ] = None
    batch_law: Annotated[
        list[Path] | None,
        typer.Option(
            "--batch-law",
            help="Batch and rate of that run, too: a fit or a table of critical_batch or step_law (may come again).",
            parser=user_path,
            metavar="FIT|TABLE",
        ),
    ] = None
    gpus: Annotated[
        str | None,
        typer.Option("--gpus", help="Hours and energy on so many accelerators, e.g. 8xH200.", metavar="COUNTxNAME"),
    ] = None
    mfu: Annotated[Number, _number("--mfu", "With --gpus: model FLOPs, a share of the peak.")] = None
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            help="Write a page of the planned run: frontier, slices, neighbours.",
            parser=user_path,
            metavar="FILE",
        ),
    ] = None


@plans.command()
@gathered
def ask(
    source: Annotated[
        Path,
        typer.Argument(
            help="A kept fit (its directory or fit.json), a CSV or Parquet file, a study's directory or a root.",
            parser=_fit_or_table,
            metavar="FIT|TABLE",
        ),
    ],
    question: PlanQuestion,
    made: PlanOutputs,
    overrides: Overrides = None,
    law: Annotated[
        str, typer.Option("--law", help="Of a table: a law's name or table; auto: the best extrapolation.")
    ] = "auto",
    columns: Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")] = "",
    where: Where = None,
    json: Json = False,
) -> None:
    """Answer from a fit, or from a table that is fitted first: best N and D, loss, cost, repeats, a whole life."""
    from ..laws.plan.verb import fit_from, plan_from

    stored = source.suffix == ".json"
    if stored and (where or columns or law != "auto"):
        raise UsageError(
            "a stored fit has its law and rows", where=str(source), fix="give a table, or drop the options"
        )
    if made.recipe is None and overrides:
        raise UsageError("overrides are a recipe's", where="plan", fix="name it: --recipe FILE")
    if made.recipe is not None and made.recipe.exists():
        raise UsageError("exists already", where=str(made.recipe), fix="name another file")
    if made.mfu is not None and made.gpus is None:
        raise UsageError("a share of which peak?", where="--mfu", fix="name the accelerators: --gpus 8xH200")
    rows = source if stored else rows_of(source, pairs(where, "--where", "arm=muon"))
    asked = {name: value for name, value in vars(question).items() if name != "requests"}
    with patience("planning"):
        fit = fit_from(rows, law, None, _renames(columns))
        plan = plan_from(fit, life=_life(question.requests), **asked)
        if made.batch_law:
            plan = _with_batch(plan, made.batch_law, question)
    if made.gpus is not None:
        from ..laws.plan.machines import on_machines

        trains = None if question.requests else question.compute
        plan = on_machines(plan, made.gpus, made.mfu, trains)
    drawn = _drawn(fit, plan, question) if made.page is not None else None
    written = _write_recipe(plan, question, made, overrides or [])
    if drawn is not None and made.page is not None:
        from ..report.page import write_plan

        write_plan(drawn, made.page)
        written["page"] = str(made.page)
    if json:
        emit({**plan.to_json(), **written})
        return
    say(str(plan))
    for note in written.get("recipe", {}).get("notes", ()):
        say(note)
    if made.page is not None:
        typer.echo(f"page: {made.page}")
    if made.recipe is not None:
        typer.echo(f"{made.recipe}: `isoflop train {made.recipe} --dry-run` says what it costs")


def _drawn(fit: Fit, plan: Plan, question: PlanQuestion) -> StoredPlan:
    """What the page shows of the planned run."""
    from ..laws.plan.sketch import sketch
    from .planned import run_of

    with patience("drawing"):
        return sketch(fit, plan, *run_of(plan, question.params, question.tokens))


def _with_batch(plan: Plan, files: list[Path], question: PlanQuestion) -> Plan:
    """The plan with the batch and rate of its run."""
    from ..laws.plan.batch import together
    from .planned import bases_from, run_of

    return together(plan, bases_from(files), *run_of(plan, question.params, question.tokens))


def _write_recipe(plan: Plan, question: PlanQuestion, made: PlanOutputs, overrides: list[str]) -> dict[str, Any]:
    """Write the planned run's recipe, if one is wanted; what to say of it."""
    if made.recipe is None:
        return {}
    from ..core.files import write_atomic
    from .planned import advice, recipe_of, run_of

    size, tokens = run_of(plan, question.params, question.tokens)
    batch = advice(plan.answers[-1]) if made.batch_law else None
    planned = recipe_of(size, tokens, overrides, batch, plan.answers[0].question)
    write_atomic(made.recipe, planned.to_toml())
    facts = {"file": str(made.recipe), "id": planned.recipe.id, "parameters": planned.parameters}
    return {"recipe": {**facts, "notes": list(planned.notes)}}


Source = Annotated[
    Path,
    typer.Argument(
        help="A kept fit (its directory or fit.json), or a CSV or Parquet file.",
        parser=_fit_or_table,
        metavar="FIT|TABLE",
    ),
]
Columns = Annotated[str, typer.Option("--columns", help="Law's column=table's, e.g. N=params,D=tokens.")]
Params = Annotated[float, _number("--params", "N.")]
Tokens = Annotated[float, _number("--tokens", "D.")]


@plans.command()
def batch(source: Source, params: Params, columns: Columns = "", json: Json = False) -> None:
    """Critical batch at N, and time against compute (of a table with N, B and steps, or N and B_crit)."""
    from ..laws.plan.batch import critical

    _say(critical(_basis(source, "critical_batch", columns), params), json)


@plans.command()
def rate(source: Source, params: Params, tokens: Tokens, columns: Columns = "", json: Json = False) -> None:
    """Best learning rate at N and D (of a sweep with N, D, lr and loss); of a fit for batches the batch."""
    from ..laws.plan.batch import tuned

    _say(tuned(_basis(source, "step_law", columns), params, tokens), json)


@plans.command()
def qat(
    source: Source,
    params: Params,
    tokens: Tokens,
    bits: Annotated[float, _number("--bits", "A weight.")] = 4.0,
    law: Annotated[str, typer.Option("--law", help="qat_fraction or qat_loss.")] = "qat_fraction",
    columns: Columns = "",
    json: Json = False,
) -> None:
    """When to switch to quantisation-aware training."""
    from ..laws.plan.qat import qat_start

    _say(qat_start(_basis(source, law, columns), params, tokens, bits), json)


@plans.command()
def sparse(
    source: Source,
    compute: Annotated[float, _number("--compute", "FLOPs.")],
    params: Annotated[float, _number("--params", "Parameters that are left at the end.")],
    begin: Annotated[float, _number("--begin", "Share of training at which pruning begins.")] = 0.25,
    end: Annotated[float, _number("--end", "Share at which it ends.")] = 0.75,
    columns: Columns = "",
    json: Json = False,
) -> None:
    """From which size to prune to N, so that the average size is the best one."""
    from ..laws.plan.sparse import sparse as planned

    _say(planned(_basis(source, "average_n", columns), compute, params, begin, end), json)


@plans.command()
def score(
    source: Source,
    compute: Annotated[float, _number("--compute", "Pre-training FLOPs.")],
    names: Annotated[str, typer.Option("--names", help="Column that names the models of a table.")] = "",
    dates: Annotated[
        str, typer.Option("--dates", help="Column of their dates: how earlier frontiers held for later models.")
    ] = "",
    columns: Columns = "",
    json: Json = False,
) -> None:
    """The score that a compute attains, and the models above it (of a table with C and score)."""
    from ..core.table_files import read_table
    from ..laws.plan.answer import Plan
    from ..laws.plan.score import later
    from ..laws.plan.score import score as attained

    basis = _basis(source, "frontier", columns)
    rows = read_table(source) if names or dates else None  # of a stored fit there is none to be named or dated
    now = attained(basis, compute, rows.texts(names).tolist() if rows is not None and names else [])
    if rows is None or not dates:
        _say(now, json)
        return
    then = later(rows, dates, _renames(columns), basis.level)
    _say(Plan((now, then), "frontier"), json)


@plans.command()
def pools(
    source: Source,
    seen: Annotated[float, _number("--seen", "Samples that will be seen.")],
    pool: Annotated[float, _number("--pool", "Samples in each pool.")],
    group: Annotated[str, typer.Option("--group", help="Column that names the pools, best quality first.")],
    columns: Columns = "",
    json: Json = False,
) -> None:
    """Which quality to keep (of a table with seen, pool and error for each pool alone)."""
    from ..core.table_files import read_table
    from ..laws.plan.verb import pools_from

    renames = pairs(columns, "--columns", "error=loss")
    _say(pools_from(read_table(source), group, seen, pool, renames), json)


@plans.command()
def transfer(
    source: Source,
    runs: Annotated[Path, typer.Argument(help="k runs on the new data: N, D, loss.", parser=user_path, metavar="RUNS")],
    compute: Annotated[float, _number("--compute", "FLOPs on the new data.")],
    choose: Annotated[
        int | None,
        typer.Option("--choose", min=1, help="Say which K of the runs without a loss to make next.", metavar="K"),
    ] = None,
    columns: Columns = "",
    json: Json = False,
) -> None:
    """Best N and D on other data, from the Kaplan law of the source and k runs on the new data."""
    from ..core.table_files import read_table
    from ..laws.plan.best import best
    from ..laws.plan.transfer import transferred
    from ..laws.plan.transfer_runs import transfer_runs

    basis, table = _basis(source, "kaplan", columns), read_table(runs)
    if choose is not None:
        run = best(basis, compute)
        _say(transfer_runs(basis.fit, table, choose, run["N"].value, run["D"].value), json)
        return
    _say(best(transferred(basis.fit, table, basis.level), compute), json)


Target = Annotated[
    Path, typer.Option("--target", help="CSV file of what is to be predicted.", parser=user_path, metavar="TABLE")
]
Pool = Annotated[
    Path,
    typer.Argument(help="CSV file of candidates: columns, costs, known results.", parser=user_path, metavar="POOL"),
]
LawName = Annotated[str, typer.Option("--law", help="The law that is to predict the target.")]
CostColumn = Annotated[str | None, typer.Option("--cost", help="Column of costs; else cost, or the law's compute.")]
Step = Annotated[float, _number("--step", "Share of the budget between fits; 1: all at once.")]
CriterionName = Annotated[str, typer.Option("--criterion", help="target, information, balanced; drawn: by chance.")]


@plans.command(name="next")
def next_(
    pool: Pool,
    target: Target,
    budget: Annotated[float, _number("--budget", "Share of the pool's cost, spent runs counted.")] = 0.1,
    law: LawName = "chinchilla",
    cost: CostColumn = None,
    columns: Columns = "",
    step: Step = 0.05,
    criterion: CriterionName = "target",
    json: Json = False,
) -> None:
    """Which runs to make next: fill in their results and ask again."""
    from ..laws.plan.candidates import next_from

    with patience("choosing runs"):
        made = next_from(pool, target, law, cost, pairs(columns, "--columns", "N=params"), budget, step, criterion)
    _say(made, json)


@plans.command()
def rehearse(
    pool: Pool,
    target: Target,
    budget: Annotated[float, _number("--budget", "Share of the pool's cost.")] = 0.1,
    law: LawName = "chinchilla",
    cost: CostColumn = None,
    columns: Columns = "",
    step: Step = 0.05,
    criterion: CriterionName = "target",
    json: Json = False,
) -> None:
    """Play the design on a pool and a target whose results are all known: how well would it have predicted?"""
    from ..laws.plan.candidates import rehearse_from

    with patience("rehearsing"):
        made = rehearse_from(pool, target, law, cost, pairs(columns, "--columns", "N=params"), budget, step, criterion)
    if json:
        emit(vars(made))
    else:
        say(str(made))


def _basis(source: Path, law: str, columns: str) -> Basis:
    from ..laws.plan.verb import basis_from

    return basis_from(source, law, _renames(columns))


def _renames(columns: str) -> dict[str, str]:
    return pairs(columns, "--columns", "N=params,D=tokens")


def _say(answer: Answer | Plan | Choice, json: bool) -> None:
    if json:
        emit(answer.to_json())
    else:
        say(str(answer))


def _life(text: str | None) -> Life | None:
    """``1e9x800``: requests, and tokens read and written by each."""
    from ..laws.plan.lifetime import Life

    if text is None:
        return None
    count, _, tokens = text.partition("x")
    try:
        return Life(float(count), float(tokens))
    except ValueError:
        raise UsageError(
            f"{text!r} is no life", where="--requests", fix="write requests x tokens, e.g. 1e9x800"
        ) from None
