"""Writes what is generated from the parts themselves: ``python docs/generate.py [ROOT]``, or ``make docs``.

Generated are the whole of ``docs/cards.md`` and of ``docs/claims.md``, the blocks between two markers of
``docs/optimizers.md`` and of the guides on files, and the stubs by
which editors and type checkers see the names that packages offer lazily.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from isoflop.cli.formats import markdown
from isoflop.cli.main import invoke
from isoflop.core.contracts import OptimizerPart, SchedulePart
from isoflop.core.registry import get, names
from isoflop.core.roles import Role, Shape, numel
from isoflop.models.hf.families import variants

ROOT = Path(__file__).resolve().parent.parent

LAZY = ("laws", "merge", "optim")
"""Packages that offer names without importing what defines them."""

BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"

_GPT: list[tuple[Role, tuple[int, ...], int]] = [
    ("hidden", (384, 384), 4),
    ("hidden", (1536, 384), 4),
    ("hidden", (384, 1536), 4),
    ("embedding", (8192, 384), 1),
    ("norm", (384,), 9),
]
GPT = [Shape(f"{role}.{i}.{n}.{s}", role, s) for i, (role, s, count) in enumerate(_GPT) for n in range(count)]
"""The shapes of the step benchmark: 8.46 million parameters."""


def optimizers() -> str:
    """Per optimizer: state, FLOPs, sharding, extra passes, at the defaults of recipes, on GPT's shapes."""
    rows = [
        "| part | what it does | bytes of state a parameter | FLOPs a parameter and step | operations | shards |",
        "|---|---|---|---|---|---|",
    ]
    n = numel(GPT)
    for name in names("optimizer"):
        part = cast(OptimizerPart, get("optimizer", name)())
        cost = part.cost(GPT)
        passes = part.passes_of(1)(1000)  # a multiple of every refresh
        extra = f" + {passes.forward / 1000:g} forward and {passes.backward / 1000:g} backward passes"
        extra = extra if passes.forward else ""
        rows.append(
            f"| `{name}` | {part.card.summary} | {part.state_bytes(GPT) / n:.2f} | {cost.flops / n:,.0f}{extra} "
            f"| {cost.elementwise / n:.0f} | {'yes' if part.shardable else 'no'} |"
        )
    return "\n".join(rows)


def differences() -> str:
    """Per optimizer: source, update, the authors' defaults, where ours differs."""
    lines = []
    for name in names("optimizer"):
        card = get("optimizer", name).card
        lines += [f"**`{name}`** - {card.paper}  ", f"`{card.equation}`  "]
        if card.defaults:
            lines.append(f"Authors' defaults: {card.defaults}.  ")
        lines += [f"Differs: {card.differs}.", ""]
    return "\n".join(lines).rstrip()


def others() -> str:
    """Schedules and averages."""
    rows = ["| schedule | what it does | needs a horizon |", "|---|---|---|"]
    for name in names("schedule"):
        part = cast(SchedulePart, get("schedule", name)())
        rows.append(f"| `{name}` | {part.card.summary} | {'yes' if part.needs_horizon else 'no'} |")
    rows += ["", "| average | what it does | cost |", "|---|---|---|"]
    for name in names("averaging"):
        card = get("averaging", name).card
        rows.append(f"| `{name}` | {card.summary} | {card.cost} |")
    return "\n".join(rows)


def measured(path: Path) -> str:
    """The rows of the step benchmark's result, if it is there."""
    if not path.exists():
        return "None is stored; `python benchmarks/optim_step.py --json benchmarks/results/optim_step.json` makes one."
    result: dict[str, Any] = json.loads(path.read_text())
    where = result["environment"]
    rows = [
        f"One thread, float32, torch {where['torch']}, commit {where['commit'][:10]}, {where['date']}; "
        f"load {where['load']:.1f} before the run. A refresh is the costliest of ten steps.",
        "",
        "| optimizer | ms a step | times fused AdamW | refresh ms |",
        "|---|---|---|---|",
    ]
    for label, row in result["rows"].items():
        refresh = f"{1e3 * row['refresh_seconds']:.0f}" if row["refresh_seconds"] else ""
        rows.append(f"| {label} | {1e3 * row['seconds']:.1f} | {row['times_fused_adamw']:.2f} | {refresh} |")
    rows += ["", "Each side in its fastest form:", "", "| ours / other | ratio |", "|---|---|"]
    rows += [f"| {name} | {ratio:.2f} |" for name, (ratio, _) in result["compared"].items()]
    return "\n".join(rows)


def block() -> str:
    """Everything between the markers of ``optimizers.md``."""
    parts = [
        "### Optimizers: memory and work",
        f"On the shapes of a small GPT ({numel(GPT) / 1e6:.2f} million parameters), at the defaults of recipes.",
        optimizers(),
        "### Measured step time",
        measured(ROOT / "benchmarks" / "results" / "optim_step.json"),
        "### Sources, updates, differences",
        differences(),
        "### Schedules and averages",
        others(),
    ]
    return "\n\n".join([BEGIN, *parts, END])


def families() -> str:
    """Which values of our model each family of published models has: read from what the families themselves read."""
    rows = ["| `model_type` | class of transformers | what `model` says |", "|---|---|---|"]
    for name, (architecture, said) in variants().items():
        values = ", ".join(f"`{each}`" for each in said) or "the defaults"
        rows.append(f"| `{name}` | `{architecture}` | {values} |")
    return "\n".join([BEGIN, "", *rows, "", END])


def stub(package: str) -> str:
    """The stub of a package whose names are found when they are used."""
    public = import_module(f"isoflop.{package}")._PUBLIC
    lines = [f"from .{module} import {name} as {name}" for name, module in sorted(public.items())]
    return "\n".join(["# Written by `make docs`.", "# ruff: noqa", *lines, ""])


def between(page: Path, made: str) -> None:
    """Put ``made`` in place of what stands between a page's markers."""
    text = page.read_text()
    page.write_text(text.partition(BEGIN)[0] + made + text.partition(END)[2])


def write(root: Path) -> None:
    """Write everything that is generated below ``root``, a copy of the repository or of the files concerned."""
    if failed := invoke(["show", "--markdown", str(root / "docs" / "cards.md")]):
        raise SystemExit(failed)
    if failed := invoke(["claims", "--claims", str(ROOT / "claims"), "--markdown", str(root / "docs" / "claims.md")]):
        raise SystemExit(failed)
    between(root / "docs" / "optimizers.md", block())
    for page, kind in {"recipes": "recipe", "studies": "study"}.items():
        between(root / "docs" / "guide" / f"{page}.md", "\n\n".join([BEGIN, markdown(kind), END]))
    between(root / "docs" / "guide" / "hugging-face.md", families())
    for package in LAZY:
        (root / "src" / "isoflop" / package / "__init__.pyi").write_text(stub(package))


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
