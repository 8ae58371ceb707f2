"""Random recipes, overrides and studies: each is taken, or refused in the library's own words, within seconds."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import isoflop
from isoflop.cli.main import invoke
from isoflop.core import registry
from isoflop.core.errors import IsoflopError
from isoflop.core.recipe import Budget, Recipe, Train
from isoflop.lab.study import Study

SHIPPED = Path(isoflop.__file__).parent / "recipes"
QUICK = ("small", 'source={name="hmm",text_bytes=60000}', "tokenizer=bytes", "train.length=32", "budget.steps=20")
WHOLE = ("0", "1", "-1", "2", "7", "64", "1000", "65536", "1" + "0" * 9, "1" + "0" * 18, str(2**63 - 1), str(2**63))
ABSURD = ("1" + "0" * 30, "1" + "0" * 310, "9" * 5000, "-" + "9" * 5000, "0x" + "F" * 5000, "0b" + "1" * 20_000)
FLOATS = (
    "0.0",
    "-0.0",
    "1e-320",
    "1e-45",
    "1e-12",
    "0.5",
    "1.0",
    "3.7",
    "1e6",
    "1e18",
    "1e308",
    "1e999",
    "nan",
    "-inf",
)
TEXTS = (
    *('""', '"a"', "none", "true", '"\\u0000"', '"~"', '"~nobody-here/x"', '"/dev/zero"', '"' + "x" * 5000 + '"'),
    *("é", "'", "[", "{", "2024-11-05", "12:30:00", '"cuda:99999999999999999999"', "{{}}", "[" * 3000),
)


def parts(slot: str) -> list[type[registry.Part]]:
    return [registry.get(slot, name) for name in registry.names(slot)]


def key(draw: random.Random) -> str:
    """A key path of a recipe, mostly a legal one."""
    if draw.random() < 0.4:
        sections = {"": Recipe, "budget.": Budget, "train.": Train}
        section = draw.choice(list(sections))
        return section + draw.choice(list(sections[section].model_fields))
    slot = draw.choice(["source", "tokenizer", "model", "objective", "optimizer", "schedule", "averaging"])
    path = f"{slot}.{draw.choice([*draw.choice(parts(slot)).model_fields, 'name'])}"
    return f"{path}.{draw.choice(['x', '0', 'name', 'heads', 'é', ''])}" if draw.random() < 0.2 else path


def value(draw: random.Random, depth: int = 0) -> str:
    kind = draw.random()
    if kind < 0.7:
        return draw.choice(draw.choice([WHOLE, WHOLE, ABSURD, FLOATS, FLOATS, TEXTS]))
    if kind < 0.9 or depth > 2:
        cls = draw.choice(parts(draw.choice(list(registry.SLOTS))))
        chosen = draw.sample(list(cls.model_fields), min(len(cls.model_fields), draw.randint(0, 2)))
        return f"{{{', '.join([f'name = {cls.name!r}', *(f'{k} = {value(draw, 3)}' for k in chosen)])}}}"
    return f"[{', '.join(value(draw, depth + 1) for _ in range(draw.randint(0, 4)))}]"


def mutated(text: str, draw: random.Random) -> str:
    """TOML text with a few lines dropped, repeated, changed or broken."""
    for _ in range(draw.randint(1, 4)):
        lines = text.split("\n")
        at = draw.randrange(len(lines))
        act = draw.randrange(5)
        if act == 0:
            del lines[at]
        elif act == 1:
            lines.insert(at, draw.choice(lines))
        elif act == 2:
            lines.insert(at, f"{draw.choice(['x', 'lr', '[train]', '[a.b]', '[[model]]'])} = {value(draw)}")
        elif act == 3 and "=" in lines[at]:
            lines[at] = f"{lines[at].partition('=')[0]}= {value(draw)}"
        else:
            place, wrong = draw.randint(0, len(lines[at])), draw.choice('\0\x7f=["é')
            lines[at] = lines[at][:place] + wrong + lines[at][place:]
        text = "\n".join(lines)
    return text


@contextmanager
def at_once(seconds: int = 20) -> Iterator[None]:
    """Within so many seconds of the processor: a busy machine's clock is no measure of what is asked."""

    def late(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def from_overrides(draw: random.Random) -> Recipe:
    overrides = [f"{key(draw)}={value(draw)}" for _ in range(draw.randint(1, 3))]
    return Recipe.load(*QUICK, *overrides)


def from_text(draw: random.Random) -> Recipe:
    return Recipe.from_toml(mutated((SHIPPED / "small.toml").read_text(), draw))


def a_study(draw: random.Random) -> Study:
    if draw.random() < 0.5:
        return Study.from_toml(mutated((SHIPPED / "demo.toml").read_text(), draw))
    section = draw.choice(["recipe.", "ladder.", "tuning.", "arms.muon.", "expect.", ""])
    fields = {
        "ladder.": "axis rungs",
        "tuning.": "hyper points grids seeds extensions",
        "arms.muon.": "overrides rungs",
    }
    names = fields.get(section, "name title baseline seeds seed_sd per_doubling caveats").split()
    path = key(draw) if section == "recipe." else draw.choice(names)
    return Study.load("demo", f"{section}{path}={value(draw)}")


def check(make: Callable[[random.Random], Recipe | Study], seed: int) -> None:
    draw = random.Random(seed)
    with at_once(), suppress(IsoflopError):
        made = make(draw)
        assert type(made).from_toml(made.to_toml()) == made


@pytest.mark.parametrize("make", [from_overrides, from_text, a_study])
def test_random_documents_are_taken_or_refused(make: Callable[[random.Random], Recipe | Study]) -> None:
    for seed in range(150):
        check(make, seed)


@pytest.mark.slow
@pytest.mark.parametrize("make", [from_overrides, from_text, a_study])
def test_many_more_random_documents(make: Callable[[random.Random], Recipe | Study]) -> None:
    for seed in range(1000, 6000):
        check(make, seed)


# ---------------------------------------------------------------- legal ones, of any size


def legal_overrides(draw: random.Random) -> list[str]:
    """Overrides that make a legal recipe together, many of them extreme."""
    optimizer, schedule = (draw.choice(registry.names(slot)) for slot in ("optimizer", "schedule"))
    found = [
        *QUICK[1:],
        f"optimizer={optimizer}",
        f"schedule={schedule}",
        f"train.device={draw.choice(['cpu', 'cuda'])}",
    ]
    if draw.random() < 0.4:
        found.append(f"budget={{{draw.choice(list(Budget.model_fields))} = {draw.choice([*WHOLE, *FLOATS])}}}")
    paths = [f"train.{name}" for name in Train.model_fields]
    for slot, name in (("optimizer", optimizer), ("schedule", schedule), ("model", "transformer"), ("source", "hmm")):
        paths += [f"{slot}.{field}" for field in registry.get(slot, name).model_fields]
    paths.remove("train.device")
    for _ in range(6):
        change = f"{draw.choice(paths)}={draw.choice([*WHOLE, *FLOATS, 'none', 'true'])}"
        try:
            Recipe.load("small", *found, change)
        except IsoflopError:
            continue
        found.append(change)
    return found


def dry_run(seed: int, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = legal_overrides(random.Random(seed))
    with at_once():
        code = invoke(["train", "small", *overrides, "--dry-run", "--json", "--root", str(root)])
    told = capsys.readouterr()
    assert code in (0, 2, 3, 4, 5), f"{overrides}: {told.err}"
    assert "unexpected" not in told.err, f"{overrides}: {told.err}"
    assert json.loads(told.out)


def test_a_dry_run_of_a_legal_recipe_of_any_size_answers_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(25):
        dry_run(seed, tmp_path, capsys)


@pytest.mark.slow
def test_many_more_dry_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(1000, 2000):
        dry_run(seed, tmp_path, capsys)
