"""A realistic study result, made up by formula: what the tests of the report draw."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from isoflop.store.results import MultiplierRow, Point, RunRow, StudyResult, Tuning

STEP_TOKENS, STEP_FLOPS, BYTES_A_TOKEN = 1024, 1.52e9, 3.1
ARMS = {"adamw": (1.0, 1.0), "muon": (1.13, 2.9), "lion": (1.0, 0.62), "soap": (1.08, 12.0)}
"""Arm -> (FLOPs of a step relative to adamw's, how much further a step gets)."""
STEPS = [200.0, 400.0, 800.0, 1600.0]


MADE = {
    "isoflop": "0.1.0",
    "python": "3.11.7",
    "torch": "2.13.0",
    "cpu": "AMD EPYC",
    "device": "cpu",
    "threads": 1,
    "commit": "4f0c1d2" + 33 * "0",
    "dirty": False,
    "determinism": "exact",
    "variables": {"OMP_NUM_THREADS": "1"},
}
CHANGED = "5a1b2c3" + 33 * "0"


def noise(*key: int) -> float:
    """A fixed number in [-1, 1] for a key: no generator, so the sample never changes."""
    scattered = 43758.5453 * math.sin(sum((12.9898 + 65.2 * i) * (k + 1) for i, k in enumerate(key)))
    return 2 * (scattered - math.floor(scattered)) - 1


def bits(steps: float) -> float:
    return 1.55 + 12.0 * steps**-0.42


def make_run(arm: str, rung: int, seed: int, role: str = "evaluation", lr: float = 3e-3, off: float = 0.0) -> RunRow:
    cost, speed = ARMS[arm]
    horizon = int(STEPS[rung])
    curve = []
    for quarter in (1, 2, 3, 4):
        steps = horizon * quarter // 4
        value = bits(steps * speed) + 0.045 * noise(rung, seed, len(arm)) + (4 - quarter) * 0.05 + off
        flops = int(steps * STEP_FLOPS * cost)
        tokens = steps * STEP_TOKENS
        point = Point(
            step=steps,
            flops=flops,
            hardware_flops=int(1.07 * flops),
            tokens=tokens,
            text_bytes=int(tokens * BYTES_A_TOKEN),
            seconds=steps * 0.021,
            value=value,
            stderr=0.004,
            domains={"documentation": value + 0.11, "code": value - 0.09},
        )
        curve.append(point)
    end = curve[-1]
    base = horizon * STEP_FLOPS
    ledger = {
        "train": {
            "flops": base,
            "hardware_flops": 1.07 * base,
            "tokens": end.tokens,
            "seconds": end.seconds,
            "steps": horizon,
        },
        "optimizer": {"flops": base * (cost - 1), "hardware_flops": 1.02 * base * (cost - 1), "seconds": 0.0},
        "evaluation": {"flops": 0.11 * base, "hardware_flops": 0.12 * base, "seconds": 3.1},
    }
    return RunRow(
        run=f"{arm}-{rung}-{seed}-{role}-{lr:g}",
        recipe_hash=f"{rung:02d}{seed:02d}{len(arm):02d}abcdef",
        arm=arm,
        rung=rung,
        seed=seed,
        role=role,  # type: ignore[arg-type]
        hyper={"lr": lr},
        status="done",
        curve=curve,
        ledger=ledger,
        environment="e1" if arm == "soap" else "e0",
    )


def make_study(**changes: Any) -> StudyResult:
    """AdamW on four rungs with four seeds; muon better, lion worse than the ladder (censored), soap beyond it."""
    runs = [make_run("adamw", rung, seed) for rung in range(4) for seed in range(4)]
    runs += [make_run(arm, 0, seed) for arm in ("muon", "lion", "soap") for seed in range(4)]
    rates = [7.5e-4, 1.5e-3, 3e-3, 6e-3]
    tunings = []
    for index, (arm, rung) in enumerate((("adamw", 0), ("adamw", 3), ("muon", 0), ("lion", 0), ("soap", 0))):
        offs = [0.13 * (i - 1.8 - 0.2 * index) ** 2 for i in range(4)]
        runs += [make_run(arm, rung, 100, "tuning", lr, off) for lr, off in zip(rates, offs, strict=True)]
        quality: list[float | None] = [bits(STEPS[rung] * ARMS[arm][1]) + off for off in offs]
        if arm in ("lion", "adamw") and rung == 0:
            quality[-1] = None
        best = min((q, r) for q, r in zip(quality, rates, strict=True) if q is not None)
        tunings.append(
            Tuning(arm=arm, rung=rung, hyper="lr", values=rates, quality=quality, chosen=best[1], edge=arm == "soap")
        )
    runs[-1] = runs[-1].model_copy(update={"status": "diverged", "curve": []})
    bill: dict[str, dict[str, float]] = {}
    for run in runs:
        for phase, spent in run.ledger.items():
            row = bill.setdefault("tuning" if run.role == "tuning" and phase != "evaluation" else phase, {})
            for axis, value in spent.items():
                row[axis] = row.get(axis, 0.0) + value
    fields: dict[str, Any] = dict(  # noqa: C408
        name="demo",
        title="Muon against AdamW on the standard library",
        created="2026-01-31T12:00:00Z",
        baseline="adamw",
        arms=list(ARMS)[1:],
        rung_axis="steps",
        rungs=STEPS,
        runs=runs,
        tunings=tunings,
        multipliers=make_multipliers(),
        refusals={"seconds": "runs shared the machine; seconds need one exclusive process a run"},
        headline="muon saves compute: adamw needs 2.81x as much  (95 % interval 2.53 to 3.12, 4 seeds)",
        notes=[
            "0.24M parameters say nothing of 360M.",
            "The longest run passes over the corpus 0.7 times.",
            "soap is beyond the ladder: only a bound is known.",
        ],
        bill=bill,
        corpus={
            "fingerprint": "9f2c4e1ab07d55c3",
            "documents": 5312,
            "text_bytes": 11_204_331,
            "tokens": 3_614_300,
            "epochs": {"adamw": 0.45, "muon": 0.06},
            "compressors": {"xz -9, held-out alone": 1.93, "xz -9, given the training text": 1.71},
        },
        recipes={
            arm: f'name = "{arm}"\nseed = 0\n\n[optimizer]\nname = "{arm}"\nlr = 0.003\n\n[budget]\nsteps = 200\n'
            for arm in ARMS
        },
        definition='name = "demo"\n\n[tuning]\nextensions = 2\n',
        environments={
            "e0": MADE,
            "e1": {**MADE, "commit": "5a1b2c3" + 33 * "0", "dirty": True, "device": "NVIDIA H100"},
        },
        environment={"python": "3.11.7", "torch": "2.13.0", "commit": "4f0c1d2", "workers": 2},
    )
    return StudyResult(**{**fields, **changes})


def make_multipliers() -> list[MultiplierRow]:
    common: dict[str, Any] = {"rung": 0, "seeds": 4}
    return [
        MultiplierRow(
            arm="muon", axis="flops", value=2.81, low=2.53, high=3.12, p=0.00031, significant=True,
            per_seed=[2.62, 2.74, 2.88, 3.02], **common,
        ),
        MultiplierRow(
            arm="muon", axis="tokens", value=3.18, low=2.86, high=3.53, p=0.0002, significant=True,
            per_seed=[2.96, 3.10, 3.25, 3.41], **common,
        ),
        MultiplierRow(
            arm="muon", axis="flops", all_in=True, value=1.12, low=0.93, high=1.35, p=0.14,
            per_seed=[0.98, 1.08, 1.15, 1.29], **common,
        ),
        MultiplierRow(
            arm="lion", axis="flops", censored="below", bound=1.0, censored_seeds=4, per_seed=[None] * 4, **common
        ),
        MultiplierRow(
            arm="soap", axis="flops", censored="above", bound=7.41, censored_seeds=3,
            per_seed=[None, None, 7.1, None], **common,
        ),
    ]  # fmt: skip


def make_run_directory(path: Path, name: str = "muon-0123456789ab") -> Path:
    """A finished run of 400 steps, as the store leaves it."""
    directory = path / name
    directory.mkdir(parents=True)
    steps = range(2, 401, 2)
    records: list[dict[str, Any]] = []
    for step in steps:
        spent = {"flops": int(step * STEP_FLOPS), "hardware_flops": int(step * STEP_FLOPS * 1.07)}
        spent |= {"tokens": step * STEP_TOKENS, "text_bytes": step * 3174, "seconds": step * 0.021}
        loss = 1.9 + 9 * step**-0.45 + 0.2 * noise(step)
        records.append({"kind": "step", "step": step, "loss": loss, "grad_norm": 0.7, "factor": 1.0, **spent})
        if step % 100 == 0:
            value = bits(step)
            domains = {"documentation": value + 0.1, "code": value - 0.1}
            records.append(
                {"kind": "evaluation", "step": step, **spent, "value": value, "stderr": 0.004, "domains": domains}
            )
    trees = {
        "resolved.json": {"name": "muon", "metrics": [{"name": "bits_per_byte"}], "optimizer": {"name": "muon"}},
        "environment.json": {
            "python": "3.11.7",
            "torch": "2.13.0",
            "threads": 1,
            "variables": {"OMP_NUM_THREADS": "1"},
        },
        "ledger.json": make_run("muon", 1, 0).ledger,
        "result.json": {
            "status": "done",
            "value": bits(400),
            "step": 400,
            "flops": int(400 * STEP_FLOPS),
            "seconds": 8.4,
        },
        "status.json": {
            "state": "done",
            "created": "2026-01-31T12:00:00.000+00:00",
            "updated": "2026-01-31T12:00:09.000+00:00",
            "pid": 1,
            "host": "here",
            "step": 400,
            "horizon": 400,
            "message": "",
        },
    }
    for file, tree in trees.items():
        (directory / file).write_text(json.dumps(tree), encoding="utf-8")
    (directory / "recipe.toml").write_text('name = "muon"\n\n[optimizer]\nname = "muon"\n', encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (directory / "metrics.jsonl").write_text(lines, encoding="utf-8")
    return directory
