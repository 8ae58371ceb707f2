"""What examples in docstrings find at hand beside the names of their own module, by package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.core.table import Table
from isoflop.data.tokenizers.bytes import BytesPart
from isoflop.lab.study import Study
from isoflop.laws import Chinchilla, simulate
from isoflop.laws.law import Fit
from isoflop.laws.plan.draws import Basis, basis_of
from isoflop.store.tensor_writer import write_directory
from isoflop.store.tensors import as_bytes
from laws_planted import CHINCHILLA, PLANTED, SWEEP, law
from study_toys import TOML, Planted
from transformer_toys import context, part


@cache
def sweep() -> Table:
    """64 runs of planted losses: columns N, D and loss."""
    return Table(simulate(Chinchilla(), CHINCHILLA, SWEEP, 0.002))


@cache
def fitted(name: str) -> Fit:
    """A law fitted to a table that it made."""
    form, case = law(name), PLANTED[name]
    return form.fit(simulate(form, case.params, case.x, case.noise, seed=2), starts=2)


@cache
def basis(name: str) -> Basis:
    """A few of its draws, on which questions of a plan stand: examples must be quick."""
    whole = basis_of(fitted(name), 0.9)
    return replace(whole, theta=whole.theta[:17])


def _laws() -> dict[str, Any]:
    return {"sweep": sweep(), "fitted": fitted, "basis": basis}


def recipe() -> Recipe:
    """Nine steps on the standard library's text."""
    return Recipe.from_json({"name": "small", "source": "stdlib", "model": "transformer", "budget": {"steps": 9}})


def _store() -> dict[str, Any]:
    return {"recipe": recipe()}


def _models() -> dict[str, Any]:
    """A context of two rows of 16 bytes, and a Transformer of width 32."""
    ctx = context(vocab_size=257, tokenizer=BytesPart().build(iter(())))
    model = part().build(ctx)
    return {"ctx": ctx.having(models={"policy": model}), "model": model}


def _serve() -> dict[str, Any]:
    """A model of bytes behind the server, ``growing(prompt, wish)`` and what makes one."""
    import numpy as np

    from isoflop.decode.text import SampleText
    from isoflop.serve.room import Room
    from isoflop.serve.sequence import Growing, Wish
    from isoflop.serve.served import serve_model

    model, tokenizer = _models()["model"], BytesPart().build(iter(()))

    def growing(prompt: str, wish: Wish) -> Growing:
        ids = tokenizer.encode(prompt).tolist()
        return Growing(ids, wish, 0, np.random.default_rng(0), SampleText(tokenizer, ids))

    served = serve_model("mine", model, tokenizer, Room(rows=2, context=32, tokens=64))
    return {"model": model, "growing": growing, "served": served}


def _data() -> dict[str, Any]:
    return {"ctx": context(vocab_size=257, tokenizer=BytesPart())}


def _lab() -> dict[str, Any]:
    """A tiny study, and an executor that computes its runs' qualities from a planted law: Muon saves a third."""
    return {"study": Study.from_toml(TOML), "executor": Planted({"muon": 1.5})}


def write(path: str, **tensors: list[Any]) -> None:
    """A directory of weights, each given as a list."""
    Path(path).mkdir()
    made = {name: torch.tensor(values) for name, values in tensors.items()}
    write_directory(Path(path), {name: ("F32", tuple(t.shape), as_bytes(t)) for name, t in made.items()}, "model")


OFFERED: dict[str, Callable[[], dict[str, Any]]] = {
    "laws": _laws,
    "store": _store,
    "data": _data,
    "models": _models,
    "decode": _models,
    "evals": _models,
    "serve": _serve,
    "lab": _lab,
    "report": _lab,
    "merge": lambda: {"torch": torch, "Rng": Rng, "Path": Path, "write": write},
}


def at_hand(module: str) -> dict[str, Any]:
    """Names for the examples of a module of ``isoflop``, e.g. "isoflop.laws.law"."""
    package = module.split(".")[1] if "." in module else ""
    return OFFERED[package]() if package in OFFERED else {}
