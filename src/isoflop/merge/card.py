"""The model card of a merge: what it was made of, by digest, and how to make it again."""

from __future__ import annotations

import json

import tomli_w

from .. import __version__
from .configuration import shown
from .plan import MergePlan


def card(plan: MergePlan) -> str:
    """README.md of the output: sources with the SHA-256 of their files, the recipe as TOML, our version.

    Args:
        plan: of the merge, its sources still there.

    Example, with ``write(path, **tensors)`` a directory of weights:
        >>> from isoflop.merge.plan import make_plan
        >>> from isoflop.merge.recipe import MergeRecipe
        >>> write("a", w=[1.0, 2.0]); write("b", w=[3.0, 4.0])
        >>> text = card(make_plan(MergeRecipe(method="linear", models=({"path": "a"}, {"path": "b"}))))
        >>> 'method = "linear"' in text
        True
    """
    recipe = plan.recipe.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    names = [shown(path) for path in plan.paths]
    head = ["---", f"base_model: {json.dumps(names)}", "tags: [merge, isoflop]"]
    head += ["library_name: transformers"] if plan.config else []
    lines = [
        *head,
        "---",
        f"# {plan.recipe.method} of {len(names)} models",
        "",
        f"Merged by isoflop {__version__} with the method `{plan.recipe.method}`"
        f" ({plan.recipe.part.card.paper or plan.recipe.part.card.summary}).",
        "",
        "## Sources",
        "",
        "| source | file | SHA-256 |",
        "|---|---|---|",
    ]
    for name, source in zip(names, plan.sources, strict=True):
        for file, sha256 in source.digests().items():
            lines.append(f"| `{name}` | {file} | {sha256} |")
    if plan.vocabulary is not None:
        lines += ["", f"The tokenizers differ: rows were moved by the rule `{plan.recipe.tokenizer}`."]
    lines += ["", "## Recipe", "", "```toml", tomli_w.dumps(recipe).strip(), "```", ""]
    return "\n".join(lines)
