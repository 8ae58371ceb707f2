"""The command line as a user types it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.cli.main import invoke
from isoflop.core import registry
from isoflop.core.registry import SLOTS, get
from isoflop.laws import refit
from report_sample import make_study

Tiny = Callable[..., Path]


def out(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert invoke(list(arguments)) == 0
    return capsys.readouterr().out


def test_train_eval_generate_runs_and_report_on_one_run(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    trained = json.loads(out(capsys, "train", str(tiny("averaging=ema")), *root, "--audit", "--json"))
    assert trained["status"] == "done"
    assert trained["step"] == 12

    again = json.loads(out(capsys, "train", str(tiny("averaging=ema")), *root, "--json"))
    assert again == trained

    measured = json.loads(out(capsys, "eval", "tiny", *root, "--json"))
    assert measured["bits_per_byte"]["value"] == pytest.approx(trained["value"], abs=1e-9)

    written = json.loads(out(capsys, "generate", "tiny", *root, "--prompt", "abc", "--tokens", "7", "--json"))
    assert written["tokens"] <= 7
    assert out(capsys, "generate", "tiny", *root, "--prompt", "abc", "--tokens", "7").startswith("abc")

    listed = json.loads(out(capsys, "runs", *root, "--json"))
    assert [row["status"] for row in listed] == ["done"]
    assert listed[0]["id"] in out(capsys, "runs", *root)
    assert "tiny-" in out(capsys, "runs", "show", "tiny", *root)
    shown = json.loads(out(capsys, "runs", "show", "tiny", *root, "--json"))
    assert shown["ledger"]["train"]["steps"] == 12
    assert shown["ledger"]["optimizer"]["steps"] == 0
    assert shown["ledger"]["evaluation"]["flops"] > 0
    assert "1 run" in out(capsys, "runs", "index", *root)

    page = Path(json.loads(out(capsys, "report", "tiny", *root, "--json"))["report"])
    assert "<svg" in page.read_text() or "vega" in page.read_text()


@pytest.mark.parametrize("optimizer", ["muon", "soap", "shampoo"])
def test_the_audit_of_unequal_steps(
    optimizer: str, tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three steps with and without a refresh: what is charged to the ledger is what was executed."""
    part = f'{{name="{optimizer}"{"" if optimizer == "muon" else ",precondition_frequency=2"}}}'
    recipe = tiny(f"optimizer={part}", "averaging=ema", "budget.steps=3")
    found = json.loads(out(capsys, "train", str(recipe), "--root", str(tmp_path), "--audit", "--json"))
    assert found["status"] == "done"


def test_a_root_without_runs_is_an_empty_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(out(capsys, "runs", "--root", str(tmp_path / "none"), "--json")) == []
    assert "no runs yet" in out(capsys, "runs", "--root", str(tmp_path / "none"))


@pytest.mark.parametrize(("columns", "left"), [("80", set()), ("140", {"flops", "seconds"})])
def test_runs_show_what_tells_them_apart(
    columns: str, left: set[str], tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", columns)
    for change in (("seed=11",), ("seed=12",), ("seed=12", "optimizer.lr=0.0321")):
        out(capsys, "train", str(tiny("budget.steps=1")), *change, "--root", str(tmp_path))
    head, *rows = out(capsys, "runs", "--root", str(tmp_path)).splitlines()
    assert {"id", "name", "optimizer", "lr", "seed", "steps", "value"} <= set(head.split())
    assert left == {"flops", "seconds"} & set(head.split())
    assert max(map(len, [head, *rows])) <= int(columns)
    assert len(rows) == 3
    seeds, rates = ([row.split()[head.split().index(name)] for row in rows] for name in ("seed", "lr"))
    assert sorted(seeds) == ["11", "12", "12"]
    assert "0.0321" in rates


def test_studies_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = ("--root", str(tmp_path))
    assert json.loads(out(capsys, "runs", "studies", *root, "--json")) == []
    study = {"name": "duel", "title": "A duel", "headline": "twice", "created": "2026-01-01", "runs": [1, 2]}
    (tmp_path / "duel").mkdir()
    found = {"arm": "muon", "rung": 0, "axis": "flops", "value": 2.0, "seeds": 3}
    (tmp_path / "duel" / "study.json").write_text(json.dumps({**study, "multipliers": [found]}))
    (row,) = json.loads(out(capsys, "runs", "studies", *root, "--json"))
    assert row == {**study, "verdict": "muon 2.00x (not significant)", "runs": 2, "path": "duel"}
    assert "muon 2.00x" in out(capsys, "runs", "studies", *root)


def test_what_is_said_before_a_verb_of_runs_holds_behind_it(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = ("--root", str(tmp_path / "here"))
    out(capsys, "train", str(tiny("budget.steps=1")), *root)
    (tmp_path / "here" / "duel").mkdir()
    make_study().write(tmp_path / "here" / "duel" / "study.json")
    monkeypatch.setenv("ISOFLOP_ROOT", str(tmp_path / "elsewhere"))
    assert len(json.loads(out(capsys, "runs", *root, "--json", "studies"))) == 1
    assert json.loads(out(capsys, "runs", "--json", *root, "show", "tiny"))["status"]["state"] == "done"
    assert "1 run" in out(capsys, "runs", *root, "index")
    assert len(json.loads(out(capsys, "runs", "--root", "/nowhere", "studies", *root, "--json"))) == 1
    assert json.loads(out(capsys, "runs", "studies", "--json")) == []
    assert invoke(["runs", "--status", "done", "studies"]) == 2
    assert invoke(["runs", "--status", "doen"]) == 2
    assert "did you mean done?" in capsys.readouterr().err


def test_a_device_on_the_command_line_is_a_key_of_the_recipe(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("train", str(tiny()), "--root", str(tmp_path), "--dry-run", "--json")
    there, here = (json.loads(out(capsys, *arguments, *more)) for more in (("--device", "cuda:63"), ()))
    assert there["recipe"] == json.loads(out(capsys, *arguments, "train.device=cuda:63"))["recipe"] != here["recipe"]
    assert invoke(["train", str(tiny()), "--root", str(tmp_path), "--device", "cuda:63"]) == 2
    assert "this machine has no device cuda:63" in capsys.readouterr().err
    planned = out(capsys, "compare", "demo", "--root", str(tmp_path / "none"), "--dry-run", "--device", "cuda:63")
    assert "55 runs, 2.224e+13 FLOPs, not timed" in planned
    assert not (tmp_path / "none").exists()


def test_a_study_is_not_trained_and_a_recipe_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["train", "demo"]) == invoke(["compare", "small"]) == 2
    study, recipe = capsys.readouterr().err.splitlines()
    assert study == "error: demo: is a study, not a recipe: `isoflop compare demo` runs it"
    assert recipe == "error: small: is a recipe, not a study: `isoflop train small` runs it"


def test_what_is_not_there_is_named_with_its_neighbours(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path))
    out(capsys, "train", str(tiny("budget.steps=1")), *root, "--name", "first")
    assert invoke(["eval", "frist", *root]) == invoke(["report", "none", *root]) == 2
    run, any_ = capsys.readouterr().err.splitlines()
    assert run.endswith(f"no run is named 'frist'; did you mean first? `isoflop runs --root {tmp_path}` lists all")
    assert any_.endswith(f"no study, pipeline, run or fit is named 'none'; `isoflop runs --root {tmp_path}` lists all")
    assert invoke(["generate", "first", *root, "--decoder", '{name="sample", temprature=2}']) == 2
    assert "decoder.temprature: no such key; did you mean temperature?" in capsys.readouterr().err


def test_a_dry_run_says_what_it_would_cost_and_trains_nothing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    facts = json.loads(out(capsys, "train", str(tiny()), *root, "--dry-run", "--json"))
    assert not (tmp_path / "runs").exists()
    assert facts["steps"] == 12
    assert facts["tokens"] == 12 * 4 * 16
    spent = json.loads(out(capsys, "train", str(tiny()), *root, "--json"))
    assert spent["flops"] == facts["flops"]
    assert spent["hardware_flops"] == facts["hardware_flops"]
    text = out(capsys, "train", str(tiny()), "optimizer=muon", *root, "--dry-run")
    assert "12 steps" in text
    assert re.search(
        r"about [\d.]+ m?s? ?.*of training \(as \d+ steps on made-up ids took.*GB of memory at its peak", text
    )
    again = out(capsys, "train", str(tiny()), "seed=99", *root, "--dry-run")
    assert "of training (as fast as " in again
    assert re.search(r"\d+\.\d\d passes over the training text of [\d,]+ tokens", again)


def test_a_dry_run_names_a_file_that_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke(["train", "small", 'source={name="text", paths=["nowhere/*.txt"]}', "--dry-run"]) == 3
    assert "nowhere/*.txt: matches no file" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a text " * 100)
    folder = 'source={name="files", paths=["texts"]}'
    assert invoke(["train", "small", folder, "--dry-run"]) == 0, "a source of folders takes one, in a dry run as well"
    assert invoke(["train", "small", folder.replace("texts", "nowhere"), "--dry-run"]) == 3
    assert "nowhere: " in capsys.readouterr().err


@pytest.mark.parametrize("axis", ["flops", "tokens", "text_bytes", "seconds"])
def test_a_run_never_exceeds_its_budget_and_could_not_have_taken_another_step(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], axis: str
) -> None:
    limit = {"flops": 5.0e7, "tokens": 700, "text_bytes": 700, "seconds": 0.3}[axis]
    recipe = tiny(f"budget={{{axis}={limit}}}", "schedule=constant")
    spent = json.loads(out(capsys, "train", str(recipe), "--root", str(tmp_path / "runs"), "--json"))
    if axis == "seconds":  # the last step may take longer than any before it
        assert 0.5 * limit < spent[axis] < 1.5 * limit
    else:
        assert spent[axis] <= limit
        assert spent[axis] * (spent["step"] + 1) / spent["step"] > limit


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.learning_rate=1.0", "optimizer.learning_rate: no such key; did you mean lr?"),
        ("optimizer=adamww", "did you mean adamw?"),
        ("train.batch=true", "train.batch"),
        ("train.batch=0", "train.batch"),
        ("optimizer.lr=nan", "finite"),
        ("budget.tokens=10", "sets 2 axes"),
        ("model.mixer.heads=3", "heads"),
        ("name=../outside", "name"),
        ("noequals", "is not of the form key.path=value"),
    ],
)
def test_a_bad_recipe_is_refused_with_exit_code_2_and_no_traceback(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str, expected: str
) -> None:
    assert invoke(["train", str(tiny()), override, "--root", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert "Traceback" not in message
    assert not (tmp_path / "runs").exists()


def test_a_missing_recipe_names_the_shipped_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["train", "smal"]) == 2
    assert "did you mean small?" in capsys.readouterr().err


def test_missing_text_is_a_data_error(tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny('source.paths=["/nowhere/*.txt"]')
    assert invoke(["train", str(recipe), "--root", str(tmp_path / "runs")]) == 3
    assert "/nowhere" in capsys.readouterr().err


def test_show_lists_slots_and_cards(capsys: pytest.CaptureFixture[str]) -> None:
    assert "adamw" in json.loads(out(capsys, "show", "--json"))["optimizer"]
    card = json.loads(out(capsys, "show", "optimizer", "muon", "--json"))
    assert card["fields"]["lr"]["default"] > 0
    assert card["paper"]
    assert "optimizer muon" in out(capsys, "show", "optimizer", "muon")
    assert invoke(["show", "optimiser"]) == 2


def test_show_says_as_json_what_each_part_provides_and_needs(capsys: pytest.CaptureFixture[str]) -> None:
    said = {slot: {part["name"]: part for part in json.loads(out(capsys, "show", slot, "--json"))} for slot in SLOTS}
    for slot, parts in said.items():
        assert sorted(parts) == registry.names(slot)
        for name, part in parts.items():
            cls = get(slot, name)
            if not any(field.is_required() for field in cls.model_fields.values()):
                assert part["provides"] == sorted(kind.__name__ for kind in cls().abilities), name
            assert part["needs"] == {other: sorted(k.__name__ for k in kinds) for other, kinds in cls.needs.items()}
    assert said["model"]["transformer"]["provides"] == ["Cacheable"]  # as its mixers do
    assert said["optimizer"]["sophia_g"]["needs"] == {"objective": ["Resampling"]}
    assert said["source"]["jsonl"]["provides"] == ["Stateful"]
    assert said["objective"]["weighted"]["provides"] is None  # what its terms do


def test_schema_is_a_json_schema_that_knows_every_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(out(capsys, "schema"))
    assert "muon" in schema["$defs"]["slot_optimizer"]["anyOf"][0]["enum"]


def test_help_and_version_are_quick_to_reach_without_torch() -> None:
    code = (
        "import sys\n"
        "from isoflop.cli.main import invoke\n"
        "assert invoke(['--help']) == 0 and invoke(['train', '--help']) == 0 and invoke(['--version']) == 0\n"
        "assert 'torch' not in sys.modules\n"
        "import isoflop.report.memory\n"
        "from isoflop.cli.common import say\n"
        "say('a line')\n"
        "assert 'altair' not in sys.modules, 'text alone needs no library of charts'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_an_unexpected_error_is_one_line_unless_debug(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import isoflop.train.run

    def broken(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError("of all things")

    monkeypatch.setattr(isoflop.train.run, "train", broken)
    monkeypatch.delenv("ISOFLOP_DEBUG", raising=False)
    assert invoke(["train", str(tiny()), "--root", str(tmp_path / "runs")]) == 1
    assert "unexpected ZeroDivisionError: of all things" in capsys.readouterr().err
    monkeypatch.setenv("ISOFLOP_DEBUG", "1")
    assert invoke(["train", str(tiny()), "--root", str(tmp_path / "runs")]) == 1
    assert "in broken" in capsys.readouterr().err
    assert invoke(["train", "nowhere.toml"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_fit_prints_a_law_of_a_table_and_keeps_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["params,tokens,loss"]
    for i in range(24):
        n, d = 10 ** (6 + i % 6 / 2), 10 ** (8 + i // 6 * 0.7)
        rows.append(f"{n},{d},{1.8 + 400 / n**0.34 + 1800 / d**0.37}")
    table = tmp_path / "sweep.csv"
    table.write_text("\n".join(rows))
    place = tmp_path / "fit"
    named = ("--law", "chinchilla", "--columns", "N=params,D=tokens", "--out", str(place))
    found = json.loads(out(capsys, "fit", str(table), *named, "--json"))
    assert found["fit"]["params"]["alpha"] == pytest.approx(0.34, abs=1e-3)
    assert found.pop("report") == str(place / "report.html")
    assert json.loads((place / "fit.json").read_text()) == found
    assert refit(place / "fit.json").params["alpha"] == pytest.approx(0.34, abs=1e-3)
    told = out(capsys, "fit", str(table), *named)
    assert "chinchilla" in told
    assert f"report: {place / 'report.html'}" in told
    assert "sweep.csv" in (place / "report.html").read_text()
    (place / "report.html").unlink()
    assert out(capsys, "report", str(place)).strip() == str(place / "report.html")
    assert out(capsys, "report", "fit", "--root", str(tmp_path)).strip() == str(place / "report.html")
    assert invoke(["fit", str(table), "--law", "chinchila"]) == 2
    assert invoke(["fit", str(table), "--columns", "N:params"]) == 2
    assert invoke(["fit", str(table), "--where", "size=big"]) == 2
    assert invoke(["fit", str(tmp_path / "none.csv")]) == 3


def written(path: Path, header: str, **more: list[str]) -> Path:
    """24 rows of a power law, with further columns."""
    rows = [header]
    for i in range(24):
        cells = [f"{10 ** (17 + i / 6):.6g}", f"{3.0 + i % 3 / 100 - i / 12:.6g}", *(more[name][i] for name in more)]
        rows.append(", ".join(cells))
    path.write_text("\n".join(rows))
    return path


def test_fit_compares_names_as_they_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = {
        "long": [str(1382016600011617603 + i // 6) for i in range(24)],
        "padded": [("007", "7", "7.0", "0007")[i // 6] for i in range(24)],
        "hex": [("4000e901", "9000e901", "1_1", "11")[i // 6] for i in range(24)],
        "version": [("3.1", "3.10", "3.2", "3.20")[i // 6] for i in range(24)],
    }
    table = written(tmp_path / "t.csv", "C, loss, long, padded, hex, version", **ids)
    for column, names in ids.items():
        for name in sorted(set(names)):
            line = ("fit", str(table), "--law", "power", "--columns", "C=C, y = loss", "--where", f"{column}={name}")
            assert len(json.loads(out(capsys, *line, "--json"))["points"]) == 6, (column, name)
    for absent in ("long=1382016600011617600", "padded=07", "hex=inf", "hex=1e1", "version=3.100", "version=3"):
        assert invoke(["fit", str(table), "--law", "power", "--columns", "y=loss", "--where", absent]) == 3, absent


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_fit_names_another_delimiter(tmp_path: Path, capsys: pytest.CaptureFixture[str], mark: str, name: str) -> None:
    (tmp_path / "t.csv").write_text(f"C{mark}loss\n1e9{mark}2,5\n1e10{mark}2,4\n")
    assert invoke(["fit", str(tmp_path / "t.csv")]) == 3
    assert f"separated by {name}" in capsys.readouterr().err


def test_fit_keeps_a_table_whose_name_is_no_text(tmp_path: Path) -> None:
    table = written(tmp_path / os.fsdecode(b"runs\xff.csv"), "C, y")
    place = tmp_path / os.fsdecode(b"fit\xfe")
    line = [sys.executable, "-m", "isoflop", "fit", str(table), "--law", "power", "--out", str(place)]
    for more in ([], ["--json"]):
        done = subprocess.run([*line, *more], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    assert json.loads((place / "fit.json").read_text())["source"] == "runs\ufffd.csv"
    assert (place / "report.html").exists()


def test_fit_refuses_columns_that_are_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = written(tmp_path / "t.csv", "C, y, arm", arm=["a"] * 24)
    for wrong in (["--by", "arn"], ["--by", "arm", "--law", "auto", "--target", "y"], ["--columns", "C=flops"]):
        line = ["fit", str(table), "--law", "power", *wrong]
        assert invoke(line) in (2, 3), wrong
        assert "unexpected" not in capsys.readouterr().err


def test_fit_reads_a_study_of_one_arm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_study().write(tmp_path / "study.json")
    law = ("--law", "power", "--columns", "y=loss", "--json")
    assert invoke(["fit", str(tmp_path), *law]) == 2
    assert "--where arm=" in capsys.readouterr().err
    found = json.loads(out(capsys, "fit", str(tmp_path), "--where", "arm=adamw", *law))
    assert found["fit"]["params"]["a"] < 0
    assert found["axis"] == "C"
    assert invoke(["fit", str(tmp_path), "--where", "arm=sgd", *law]) == 3


def test_what_is_not_there_yet_is_said_with_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    for verb, instead in {"sft": "start=RUN"}.items():
        assert invoke([verb, "x"]) == 2
        said = capsys.readouterr().err
        assert "is not there yet; until then" in said
        assert instead in said


def test_lines_of_a_run_give_an_evaluation_once_and_a_finished_run_says_so(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", str(tiny("train.evaluations=2")), "--root", str(tmp_path / "runs")]
    assert invoke(arguments) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("step ")]
    assert len(lines) == 12
    assert [line.split()[1] for line in lines if "bits per byte" in line] == ["6/12", "12/12"]
    assert invoke(arguments) == 0
    assert "is done already, so nothing was trained" in capsys.readouterr().err


def test_a_run_is_removed_but_not_what_another_stands_on(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    for name, changes in {"first": (), "second": (f"start={tmp_path / 'runs' / 'first'}",)}.items():
        assert invoke(["train", str(tiny()), *changes, *root, "--name", name]) == 0
    assert invoke(["runs", "rm", "first", *root]) == 2
    assert "is what run second stands on; keep it, or remove it with --force" in capsys.readouterr().err
    assert (tmp_path / "runs" / "first" / "result.json").exists()
    assert "removed" in out(capsys, "runs", *root, "rm", "second")
    assert [row["name"] for row in json.loads(out(capsys, "runs", *root, "--json"))] == ["first"]
    assert invoke(["runs", "rm", "first", *root]) == 0
    assert not list((tmp_path / "runs").glob("*first*")) + list((tmp_path / "runs").glob(".*second*"))


def test_a_run_that_a_study_counts_is_not_removed(tmp_path: Path) -> None:
    from isoflop.core.files import write_json
    from isoflop.core.recipe import Recipe
    from isoflop.store.removal import standing_on
    from isoflop.store.results import STUDY
    from isoflop.store.run import Run

    run = Run.open(tmp_path, Recipe.load("small"), name="a")
    result = make_study()
    write_json(tmp_path / "s" / STUDY, result.model_dump(mode="json"))
    assert list(standing_on(run, tmp_path)) == []
    run.hash = result.runs[0].recipe_hash
    assert list(standing_on(run, tmp_path)) == ["study s"]


def test_a_prompt_beyond_the_trained_length_is_said(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ("--root", str(tmp_path / "runs"))
    assert invoke(["train", str(tiny()), *root, "--name", "a"]) == 0
    capsys.readouterr()
    for prompt, said in {"ab": False, "ab" * 200: True}.items():
        assert invoke(["generate", "a", *root, "--prompt", prompt, "--tokens", "2"]) == 0
        assert ("and the model was trained on" in capsys.readouterr().err) == said


def test_a_study_is_shown_by_its_name_and_many_runs_are_not_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from isoflop.core.recipe import Recipe
    from isoflop.store.run import Run

    study = make_study()
    study.write(tmp_path / "demo" / "study.json")
    root = ("--root", str(tmp_path))
    assert study.headline.splitlines()[0].split(":")[0] in out(capsys, "runs", "show", "demo", *root)
    assert json.loads(out(capsys, "runs", "show", "demo", *root, "--json"))["name"] == study.name
    for seed in range(9):
        run = Run.open(tmp_path, Recipe.load("small", f"seed={seed}"), name=f"duel-{seed}")
        if seed:
            (run.path / "checkpoints" / "7").mkdir(parents=True)
    assert invoke(["runs", "show", "duel", *root]) == 2
    said = capsys.readouterr().err
    assert "'duel' means 9 runs" in said
    assert "duel-0 (no checkpoint), duel-1, " in said
    assert "duel-4 and 4 more" in said
    assert "duel-5" not in said
