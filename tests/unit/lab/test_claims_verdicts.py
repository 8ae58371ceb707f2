"""Verdicts follow from results and bars alone, and what was done to bars and studies afterwards is told."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core.errors import DataError, RecipeError, UsageError
from isoflop.core.files import write_json
from isoflop.lab.claims.claim import Claim, ClaimBar, Ratio
from isoflop.lab.claims.findings import Finding, finding, good_range
from isoflop.lab.claims.page import page
from isoflop.lab.claims.run import measure, run_claims
from isoflop.lab.claims.shelf import ShelvedClaim, index_of, names, shelved
from isoflop.lab.claims.verdicts import OUTCOMES, outcome
from isoflop.lab.study import Study
from isoflop.lab.targets import TargetStudy
from isoflop.pipelines.pipeline import Pipeline
from isoflop.store.results import MultiplierRow, StudyResult

CLAIMS = Path(__file__).parents[3] / "claims"
WORDS = {
    "name": "toy",
    "statement": "S.",
    "axis": "flops",
    "figure": "5x",
    "setting": "large",
    "studies": {"m": "m.py"},
}
SCRIPT = """\
import json, sys
json.dump({"values": {"gain": [1.2, 1.3, 1.4], "error": [0.0, 1e-12, 0.0]}}, open(sys.argv[1], "w"))
"""


def claim_of(*bars: dict) -> Claim:
    return Claim.from_json({**WORDS, "bars": list(bars)})


def bar(**given) -> ClaimBar:
    return ClaimBar.model_validate({"says": "s", "study": "m", "value": "gain", **given})


def found(low: float, high: float) -> Finding:
    return Finding((low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.2, 1.4, "reproduced in size"),
        (1.05, 1.4, "reproduced in direction"),
        (0.9, 1.4, "not significant"),
        (1.0, 1.4, "not significant"),
        (0.8, 0.99, "contradicted"),
        (1.2, math.inf, "reproduced in size"),
        (-math.inf, 0.9, "contradicted"),
        (-math.inf, math.inf, "not significant"),
    ],
)
def test_the_interval_decides(low, high, expected):
    up = bar(at_least=1.2, direction=1.0)
    assert outcome(up, found(low, high)) == expected
    down = bar(at_most=-1.2, direction=-1.0)
    assert outcome(down, found(-high, -low)) == expected, "the same, turned round"


def test_without_a_direction_there_is_no_weaker_success():
    tie = bar(at_most=0.05)
    assert outcome(tie, found(-0.2, 0.05)) == "reproduced in size"
    assert outcome(tie, found(0.01, 0.06)) == "not significant"
    assert outcome(tie, found(0.051, 0.06)) == "contradicted"


def test_a_p_value_tells_for_a_claim_or_not_at_all():
    test = bar(at_most=0.05, p_value=True)
    assert outcome(test, found(0.001, 0.04)) == "reproduced in direction"
    assert outcome(test, found(0.001, 0.9)) == "not significant"
    with pytest.raises(RecipeError, match="takes at_most"):
        claim_of({"says": "s", "study": "m", "value": "p", "at_least": 0.05, "p_value": True})
    assert "p_value" not in bar(at_most=1.0).model_dump(exclude_none=True)  # or frozen bars would seem changed


def test_an_exact_bar_is_met_by_every_seed_or_contradicted():
    exact = bar(at_most=1e-9, exact=True)
    assert outcome(exact, found(0.0, 1e-10)) == "holds exactly"
    assert outcome(exact, found(0.0, 2e-9)) == "contradicted"


def study_result(**rows: dict) -> StudyResult:
    made = [MultiplierRow(**{"arm": arm, "rung": 1, "axis": "steps", "seeds": 3, **row}) for arm, row in rows.items()]
    shape = {"name": "duel", "title": "", "created": "", "baseline": "adamw", "rung_axis": "steps", "rungs": [1.0]}
    return StudyResult(**shape, arms=list(rows), runs=[], headline="", multipliers=made)


def test_a_ratio_of_two_arms_is_paired_over_seeds():
    """A common factor of each seed, however large, leaves the ratio as it is."""
    common = [0.5, 1.0, 2.0]
    soap = {"value": 1.5, "low": 0.3, "high": 6.0, "per_seed": [1.5 * c for c in common]}
    shampoo = {
        "value": 1.2,
        "low": 0.3,
        "high": 6.0,
        "per_seed": [1.2 * c * w for c, w in zip(common, (1.01, 1, 0.99), strict=True)],
    }
    ratio = ClaimBar(says="s", study="m", ratio=Ratio(arm="soap", axis="steps", over="shampoo"), at_least=1.1)
    got = finding(ratio, study_result(soap=soap, shampoo=shampoo))
    assert got.value == pytest.approx(1.25, rel=1e-3)
    assert 1.2 < got.low < got.high < 1.3
    bounded = {"bound": 2.0, "censored": "above", "censored_seeds": 3}
    assert not finding(ratio, study_result(soap=bounded, shampoo=shampoo)).known, "bounds are never divided"


def test_a_bound_decides_where_it_is_one():
    """The mean of seeds of which some are censored is none, as results of before have it."""
    ratio = ClaimBar(says="s", study="m", ratio=Ratio(arm="soap", axis="steps"), at_least=1.2)
    whole = {"bound": 2.0, "censored": "above", "censored_seeds": 3}
    assert outcome(ratio, finding(ratio, study_result(soap=whole))) == "reproduced in size"
    assert outcome(ratio, finding(ratio, study_result(soap={**whole, "censored_seeds": 2}))) == "not significant"
    assert (
        outcome(ratio, finding(ratio, study_result(soap={**whole, "censored": "below", "bound": 0.9})))
        == "contradicted"
    )


def test_an_axis_that_was_refused_is_no_figure_but_its_reason():
    ratio = ClaimBar(says="s", study="m", ratio=Ratio(arm="soap", axis="seconds"), at_least=1.2)
    result = study_result(soap={"value": 1.5, "low": 1.4, "high": 1.6}).model_copy(
        update={"refusals": {"seconds": "the runs shared the machine"}}
    )
    got = finding(ratio, result)
    assert not got.known
    assert got.note == "the runs shared the machine"
    with pytest.raises(DataError, match="no arm 'lion'"):
        finding(ratio.model_copy(update={"ratio": Ratio(arm="lion", axis="steps")}), result)


def test_the_width_of_a_good_range_is_interpolated_and_says_where_it_is_open():
    assert good_range({1.0: 2.2, 2.0: 2.0, 4.0: 2.4}, within=0.1) == (pytest.approx(0.75), False)
    width, open_end = good_range({1.0: 2.05, 2.0: 2.0, 4.0: math.inf}, within=0.1)
    assert (width, open_end) == (1.0, True)


@pytest.mark.parametrize(
    ("bars", "complaint"),
    [
        ([], "a claim needs a bar"),
        ([{"says": "s", "study": "m", "value": "gain"}], "give at_least or at_most"),
        ([{"says": "s", "study": "m", "at_least": 1.0}], "give one of ratio, terms"),
        ([{"says": "s", "study": "n", "value": "gain", "at_least": 1.0}], "no study 'n'"),
        ([{"says": "s", "study": "m", "value": "gain", "at_least": 1.0, "direction": 2.0}], "harder to reach"),
        ([{"says": "s", "study": "m", "value": "gain", "at_least": 1.0, "decides": False}], "none of them decides"),
    ],
)
def test_a_claim_without_a_sound_bar_is_refused(bars, complaint):
    with pytest.raises(RecipeError, match=complaint):
        claim_of(*bars)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A directory of claims with one claim, measured by a script."""
    folder = tmp_path / "claims" / "toy"
    folder.mkdir(parents=True)
    (folder / "m.py").write_text(SCRIPT)
    write_claim(folder)
    return tmp_path / "claims"


def write_claim(folder: Path, least: float = 1.25) -> None:
    head = [f"{key} = {json.dumps(value)}" for key, value in WORDS.items() if key != "studies"]
    bars = (
        f'{{ says = "gains", study = "m", value = "gain", at_least = {least}, direction = 1.0 }}, '
        '{ says = "is exact", study = "m", value = "error", at_most = 1e-9, exact = true }'
    )
    (folder / "claim.toml").write_text("\n".join([*head, 'studies = { m = "m.py" }', f"bars = [{bars}]"]))


def test_a_claim_is_run_judged_and_marked_when_its_bar_or_its_script_changes(toy, tmp_path, capsys):
    assert shelved(toy, "toy").verdict().status == "planned"
    assert run_claims([shelved(toy, "toy")], tmp_path / "runs") == []
    verdict = shelved(toy, "toy").verdict()
    assert verdict.status == "reproduced in direction"
    assert verdict.marks == ()
    assert [each.outcome for each in verdict.bars] == ["reproduced in direction", "holds exactly"]
    before = (toy / "toy" / "m.json").read_bytes()
    assert run_claims([shelved(toy, "toy")], tmp_path / "runs") == []
    assert (toy / "toy" / "m.json").read_bytes() == before, "what has a result is not run again"

    write_claim(toy / "toy", least=1.05)
    changed = shelved(toy, "toy").verdict()
    assert changed.status == "reproduced in size"
    assert changed.marks[0].startswith("the bars were changed after the first run")
    assert "the bars were changed" in page(toy)
    (toy / "toy" / "m.py").write_text(SCRIPT + "# edited\n")
    assert any("m.py was edited after it ran" in mark for mark in shelved(toy, "toy").verdict().marks)
    (toy / "toy" / "frozen.json").unlink()
    assert "the bars were written after the run" in shelved(toy, "toy").verdict().marks
    assert invoke(["claims", "--claims", str(toy)]) == 0
    assert "the bars were written after the run" in capsys.readouterr().out


def test_what_is_left_to_run_is_said_where_something_is(toy, tmp_path, capsys):
    def shown() -> str:
        assert invoke(["claims", "show", "toy", "--claims", str(toy)]) == 0
        return capsys.readouterr().out

    place = toy / "toy" / "claim.toml"
    place.write_text(place.read_text().replace('m = "m.py" }', 'm = "m.py", n = "n.py" }'))
    shutil.copy(toy / "toy" / "m.py", toy / "toy" / "n.py")
    assert shelved(toy, "toy").verdict().told == "not run yet"
    assert "to run m, n: isoflop claims run toy" in shown()
    assert "minutes of a core" not in shown()
    write_json(toy / "toy" / "m.json", measure(toy / "toy" / "m.py").model_dump(mode="json"))
    assert shelved(toy, "toy").verdict().told == "not run yet: n"
    run_claims([shelved(toy, "toy")], tmp_path / "runs")
    last = shown().splitlines()[-1]
    assert last == "to run it again: isoflop claims run toy --again"


def test_a_script_that_fails_does_not_stop_the_others(toy, tmp_path):
    shutil.copytree(toy / "toy", toy / "toy2")
    text = (toy / "toy" / "claim.toml").read_text()
    (toy / "toy2" / "claim.toml").write_text(text.replace('name = "toy"', 'name = "toy2"'))
    (toy / "toy" / "m.py").write_text("raise SystemExit(3)")
    (failed,) = run_claims([shelved(toy, "toy"), shelved(toy, "toy2")], tmp_path / "runs")
    assert "ended with code 3" in str(failed)
    assert shelved(toy, "toy2").verdict().status == "reproduced in direction"
    (toy / "toy" / "m.py").write_text("pass")
    with pytest.raises(DataError, match="without writing its values"):
        measure(toy / "toy" / "m.py")


def test_wrong_names_are_refused_in_words(toy, tmp_path):
    with pytest.raises(UsageError, match="no such claim"):
        shelved(toy, "tooy")
    with pytest.raises(UsageError, match="has no scale 'gpu'"):
        run_claims([shelved(toy, "toy")], tmp_path / "runs", scale="gpu")
    (toy / "toy").rename(toy / "other")
    with pytest.raises(UsageError, match="directory is 'other'"):
        ShelvedClaim(toy / "other")
    assert invoke(["claims", "--claims", str(toy / "nowhere")]) == 2


def test_a_claim_on_a_study_that_another_file_made_says_so(toy, tiny, planted, tmp_path):
    from isoflop.lab.compare import compare

    result = compare(tiny, tmp_path / "runs", executor=planted({"muon": 2.0}), corpus={})
    folder = toy / "duel"
    folder.mkdir()
    (folder / "study.toml").write_text(tiny.to_toml())
    words = {**WORDS, "name": "duel", "studies": {"study": "study.toml"}}
    ratio = {"says": "saves", "study": "study", "ratio": {"arm": "muon", "axis": "tokens"}, "at_least": 1.5}
    (folder / "claim.toml").write_text(Claim.from_json({**words, "bars": [ratio]}).to_toml())
    write_json(folder / "study.json", result.model_dump(mode="json"))
    ShelvedClaim(folder).freeze()
    verdict = ShelvedClaim(folder).verdict()
    assert (verdict.status, verdict.marks) == ("reproduced in size", ())
    (folder / "study.toml").write_text(tiny.with_("title=other").to_toml())
    assert ShelvedClaim(folder).verdict().marks == ("study.toml was edited after it ran: title",)


@pytest.mark.parametrize("name", names(CLAIMS))
def test_a_claim_of_the_repository_is_legal_and_asks_for_what_its_studies_have(name):
    own = shelved(CLAIMS, name)
    verdict = own.verdict()
    assert verdict.status in (*OUTCOMES, "planned")
    for scale in own.claim.scales.values():
        studies = [label for label in own.claim.studies if own.kind(label) != "script"]  # a script has one scale
        assert all(own.study(label, *scale.overrides) for label in studies)
    for each in own.claim.bars:
        if own.kind(each.study) == "script":
            assert each.value, each.says
            continue
        study = own.study(each.study)
        if isinstance(study, TargetStudy):
            assert each.value
            continue
        if isinstance(study, Study):
            assert each.ratio, each.says
            assert {each.ratio.arm, each.ratio.over or each.ratio.arm} <= set(study.arms)
            assert each.ratio.rung in (None, *study.arms[each.ratio.arm].rungs)
        elif each.stated is not None:
            assert each.stated in [bar.says for bar in study.bars]
        else:
            assert isinstance(study, Pipeline)
            terms = each.terms or (each.widths.terms if each.widths else {})
            assert terms
            assert set(terms) <= set(study.models)
            assert set(each.texts) <= set(study.texts)


def test_every_system_of_the_index_has_a_claim_or_a_reason():
    index = index_of(CLAIMS)
    assert index is not None
    assert len(index.systems) == 98
    assert {system.claim for system in index.systems if system.claim} <= set(names(CLAIMS))
    claimed = {name: system for name in names(CLAIMS) for system in shelved(CLAIMS, name).claim.systems}
    assert set(claimed.values()) == {system.name for system in index.systems if system.claim}


def test_the_page_counts_verdicts_from_the_best_one_down():
    (line,) = (line for line in page(CLAIMS).splitlines() if line.startswith("98 systems: "))
    places = [line.find(f" {status}") for status in (*OUTCOMES, "planned", "out of scope")]
    assert min(places) > 0, "each is there"
    assert places == sorted(places)
