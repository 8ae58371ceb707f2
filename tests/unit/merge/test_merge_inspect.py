"""What an inspection says of models whose relation is known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, RecipeError
from isoflop.merge.inspect import inspect
from isoflop.report.inspections import headline
from isoflop.store.inspections import Inspection
from merge_models import save, tensors_of

Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def models() -> None:
    """b moves like a in layer 0, against it in layer 1, not in layer 2; both by a rank-1 matrix in q of layer 1."""
    base, step = tensors_of(0), tensors_of(1)
    step[Q] = torch.outer(torch.tensor([1.0, 2, 3, 4]), torch.tensor([1.0, -1, 1, 1]))
    signs = {0: 1.0, 1: -1.0, 2: 0.0}
    a = {name: tensor + 0.1 * step[name] for name, tensor in base.items()}
    b = {
        name: t + 0.1 * step[name] * signs.get(int(name.split(".")[2]) if "layers" in name else 0, 1.0)
        for name, t in base.items()
    }
    for name, tensors in (("base", base), ("a", a), ("b", b)):
        save(Path(name), tensors)


def test_agreement_conflict_and_rank_are_found_where_they_were_planted() -> None:
    models()
    found = inspect("base", ["a", "b"])
    layers = {facts.layer: facts for facts in found.layers}
    assert list(layers) == [0, 1, 2, None]
    assert layers[0].cosine == pytest.approx(1, abs=1e-4)
    assert (layers[0].conflict, layers[0].cancelled) == (pytest.approx(0, abs=1e-6), pytest.approx(0, abs=1e-5))
    assert layers[1].cosine == pytest.approx(-1, abs=1e-4)
    assert (layers[1].conflict, layers[1].cancelled) == (1, pytest.approx(1, abs=1e-4))
    assert layers[2].cosine is None, "only one model differs"
    assert layers[2].distances[1] == 0
    tensors = {facts.name: facts for facts in found.tensors}
    assert tensors[Q].ranks[0] == pytest.approx(1, rel=1e-3)
    assert all(facts.layer == 1 for facts in found.interfering(3))
    assert "%" in headline(found)
    step = tensors_of(1)["model.norm.weight"] * 0.1
    assert tensors["model.norm.weight"].distances[0] == pytest.approx(
        float(step.norm() / tensors_of(0)["model.norm.weight"].norm()), rel=1e-4
    )


def test_the_verb_takes_a_config_or_directories_and_writes_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    models()
    Path("ties.toml").write_text('method = "ties"\nbase = "base"\nmodels = [{ path = "a" }, { path = "b" }]\n')
    assert invoke(["merge", "inspect", "ties.toml"]) == 0
    assert "What will interfere" in capsys.readouterr().out
    assert invoke(["merge", "inspect", "base", "a", "b", "--out", "looked", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Inspection.read(Path("looked/inspection.json")).models == ("a", "b")
    page = Path(said["report"]).read_text()
    assert "What will interfere" in page
    assert "<script>alert" not in page
    assert invoke(["merge", "inspect", "base"]) == 2
    assert invoke(["merge", "inspect", "base", "base"]) == 0
    assert "No model differs" in capsys.readouterr().out


def test_models_that_do_not_fit_are_refused_by_tensor_and_file() -> None:
    save(Path("base"), tensors_of(0))
    save(Path("short"), tensors_of(0, layers=2))
    save(Path("wide"), tensors_of(0, vocab=9))
    with pytest.raises(RecipeError, match=r"short: lacks tensor 'model\.layers\.2"):
        inspect("base", ["short"])
    with pytest.raises(RecipeError, match=r"wide/model\.safetensors: tensor 'lm_head\.weight' has shape"):
        inspect("base", ["wide"])
    Path("inspection.json").write_text('{"base": 1}')
    with pytest.raises(DataError, match="does not hold what it should"):
        Inspection.read(Path("inspection.json"))
