"""What every transform makes of a run, exported: transformers gives the same logits (extra `hf`)."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from isoflop.core.contracts import TransformPart
from isoflop.core.recipe import Recipe
from isoflop.core.registry import get, names
from isoflop.core.slots import resolve
from isoflop.pipelines.compressed_runs import compress_to_run
from isoflop.pipelines.compressing import compress_run
from isoflop.pipelines.publishing import publish_run
from isoflop.store.run import Run
from isoflop.train.restore import trained
from isoflop.train.run import train

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # theirs, of each other
SHARES = {"hidden": 0.5, "heads": 0.5, "width": 0.5, "depth": 0.5}
GIVEN = {"slice": {"hidden_widths": 24}, "prune": SHARES}
IDS = torch.arange(24)[None] % 250


@pytest.fixture(scope="module", params=["false", "true"], ids=["untied", "tied"])
def start(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    mixer = "{name='attention', heads=4, kv_heads=2}"
    recipe = Recipe.load(
        "small",
        'source={name="hmm", text_bytes=20000, heldout_bytes=1000}',
        "tokenizer=bytes",
        f"model={{name='transformer', d_model=32, layers=2, tied={request.param}, mixer={mixer}}}",
        "train={length=24, batch=2, evaluations=1}",
        "budget={steps=5}",
    )
    return train(recipe, tmp_path_factory.mktemp("runs"), name="start")


@pytest.mark.parametrize("name", names("transform"))
def test_transformers_computes_what_we_do(name: str, start: Run, tmp_path: Path) -> None:
    """Of the directory that compression writes, and of one that its run is exported to: the same numbers."""
    watched = {"windows": 4} if "windows" in get("transform", name).model_fields else {}
    part = resolve("transform", {"name": name, **GIVEN.get(name, {}), **watched})
    assert isinstance(part, TransformPart)
    compress_to_run(start, [part], start.path.parent, name)
    run = Run.read(start.path.parent / name)
    publish_run(run, tmp_path / "exported")
    compress_run(start, [part], tmp_path / "written")
    with torch.no_grad():
        ours = trained(run, device="cpu").model(IDS)
        for directory in ("exported", "written"):
            theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / directory).eval()
            torch.testing.assert_close(theirs(IDS).logits, ours, rtol=1e-4, atol=1e-4)
