"""Which of twelve teachers suits a student: GRACE on gradients before any training, against what training then shows.

``python measure.py OUT`` trains below ``runs``. For each seed three models of unequal training write, at four
temperatures each, continuations of the same prompts: twelve teachers, fixed here. A student that knows a little takes
its gradient on each response (GRACE asks for nothing else), and is then trained on each teacher's responses. A score
is as good as its rank correlation with what the students reach on held-out text.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from isoflop.compress.grace import projected, score
from isoflop.core.recipe import Recipe
from isoflop.core.rng import Rng
from isoflop.decode.decoders.sample import Sample
from isoflop.store.run import Run
from isoflop.train.restore import restore, trained
from isoflop.train.run import train

SEEDS, TUNING, ROOT = (1, 2, 3), 101, Path("runs")
TEACHERS, TEMPERATURES, STUDENT = (150, 400, 1000), (0.4, 0.7, 1.0, 1.5), 60
"""Steps of the teachers, what each is sampled at, and steps that the student has seen."""
PROMPTS, RESPONSES, PROMPT, NEW = 96, 4, 32, 48
DIMENSIONS, STEPS, ROWS, RATES = 128, 90, 32, (0.001, 0.002, 0.004)
BATCH, LENGTH = 8, 96


def run_of(seed: int, steps: int) -> Run:
    """A model of 0.1M parameters after so many steps on documentation."""
    tree = {
        "name": f"grace-{steps}",
        "seed": seed,
        "source": {"name": "stdlib", "domains": ["documentation"], "heldout_bytes": 32768},
        "tokenizer": {"name": "bpe", "vocab_size": 512},
        "model": {
            "name": "transformer",
            "d_model": 48,
            "layers": 2,
            "mixer": {"name": "attention", "heads": 4},
            "feed_forward": {"name": "swiglu", "hidden": 128},
        },
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": "cosine",
        "budget": {"steps": steps},
        "train": {"batch": BATCH, "length": LENGTH, "evaluations": 1, "checkpoints": 1},
    }
    return train(Recipe.from_json(tree, source="grace"), ROOT)


def written(model: Any, prompts: Tensor, temperature: float, rng: Rng) -> Tensor:
    """Rows (prompts * responses, PROMPT + NEW): each prompt with each response, those of a prompt behind each other."""
    given = prompts.tolist()
    decoder = Sample(temperature=temperature, samples=RESPONSES, batch=64)
    rows = [given[each.prompt] + list(each.ids) for each in decoder.complete(model, given, NEW, rng)]
    return torch.tensor(rows)


def loss(model: Any, rows: Tensor) -> Tensor:
    """Mean over the responses' tokens."""
    logits = model(rows[:, :-1])[:, PROMPT - 1 :]
    return F.cross_entropy(logits.flatten(0, 1).float(), rows[:, PROMPT:].flatten())


def gradients(student: Any, rows: Tensor) -> np.ndarray[Any, Any]:
    """The student's gradient on each response, projected: (rows, DIMENSIONS)."""
    found = []
    for row in rows:
        student.zero_grad()
        loss(student, row[None]).backward()
        found.append(torch.cat([p.grad.flatten() for p in student.parameters()]).numpy().copy())
    return projected(np.stack(found), DIMENSIONS)


def taught(student: Any, rows: Tensor, rate: float, seed: int) -> Any:
    """A copy of the student after STEPS steps on a teacher's responses."""
    model = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(STEPS):
        picked = torch.from_numpy(Rng(seed)("rows").at(step).choice(len(rows), ROWS, replace=False))
        optimizer.zero_grad()
        loss(model, rows[picked]).backward()
        optimizer.step()
    return model


@torch.no_grad()
def bits(model: Any, held: Any) -> float:
    """Bits per byte of the held-out text."""
    total = 0.0
    for batch in held.windows(LENGTH, 32):
        logs = torch.log_softmax(model(batch.inputs).float(), -1)
        lost = -logs.gather(-1, batch.targets[..., None])[..., 0]
        total += float(lost.sum() if batch.mask is None else (lost * batch.mask).sum())
    return total / math.log(2) / held.text_bytes


def explored(seed: int, rate: float | None) -> dict[str, list[float]]:
    """Of each teacher its scores, and the student's bits per byte by rate."""
    runs = {steps: run_of(seed, steps) for steps in TEACHERS}
    source = restore(runs[TEACHERS[0]], device="cpu").parts.source
    (held,) = source.heldout().values()
    student = trained(run_of(seed, STUDENT), device="cpu").model.requires_grad_(True).train()
    ctx = trained(runs[TEACHERS[0]], device="cpu").ctx.having(rng=Rng(seed)("prompts"), batch=PROMPTS, length=PROMPT)
    prompts = next(iter(source.batches(ctx))).inputs
    found: dict[str, list[float]] = {}
    for steps in TEACHERS:
        teacher = trained(runs[steps], device="cpu").model
        for number, temperature in enumerate(TEMPERATURES):
            rows = written(teacher, prompts, temperature, Rng(seed)(f"teacher-{steps}-{number}"))
            own = gradients(student, rows)
            with torch.no_grad():
                sure = float(loss(trained(runs[TEACHERS[-1]], device="cpu").model, rows))
            scores = {  # the lower, the better
                "grace": score(own, RESPONSES),
                "norm": float(np.linalg.norm(own, axis=1).mean()),
                "teacher": bits(teacher, held),
                "likelihood": sure,
            }
            for name, value in scores.items():
                found.setdefault(name, []).append(value)
            for each in RATES if rate is None else (rate,):
                found.setdefault(f"student_{each}", []).append(bits(taught(student, rows, each, seed), held))
    return found


def correlation(scores: list[float], reached: list[float], picked: Any = slice(None)) -> float:
    """Spearman's, of a score with what students reached."""
    return float(spearmanr(np.array(scores)[picked], np.array(reached)[picked]).statistic)


def main(out: str) -> None:
    tuning = explored(TUNING, None)
    rate = min(RATES, key=lambda each: float(np.mean(tuning[f"student_{each}"])))
    print(f"rates: { {each: np.mean(tuning[f'student_{each}']) for each in RATES} }", file=sys.stderr)
    sign = math.copysign(1.0, correlation(tuning["norm"], tuning[f"student_{rate}"]))
    values: dict[str, list[float]] = {}
    each = [explored(seed, rate) for seed in SEEDS]
    for found in each:
        found["norm"] = [sign * norm for norm in found["norm"]]  # the direction that suits it on the tuning seed
    for found in each:
        reached = found[f"student_{rate}"]
        own = {name: correlation(found[name], reached) for name in ("grace", "norm", "teacher", "likelihood")}
        for name, value in own.items():
            values.setdefault(f"correlation_{name}", []).append(value)
        for name in ("norm", "teacher"):
            values.setdefault(f"grace_beats_{name}", []).append(own["grace"] - own[name])
        chosen, usual = int(np.argmin(found["grace"])), int(np.argmin(found["teacher"]))
        values.setdefault("choice_gain", []).append(reached[usual] - reached[chosen])
        print({name: [round(x, 4) for x in row] for name, row in found.items()}, file=sys.stderr)
    notes = [f"rate of the students: {rate}; {'small' if sign > 0 else 'large'} norms are taken to be better"]
    draw = np.random.default_rng(0)
    for name in ("norm", "teacher"):
        gains = []
        for _ in range(2000):
            picked = draw.integers(0, len(TEACHERS) * len(TEMPERATURES), len(TEACHERS) * len(TEMPERATURES))
            reached = [found[f"student_{rate}"] for found in each]
            pairs = zip(each, reached, strict=True)
            gains.append(
                np.mean([correlation(f["grace"], r, picked) - correlation(f[name], r, picked) for f, r in pairs])
            )
        low, high = np.nanquantile(gains, [0.025, 0.975])
        notes.append(f"GRACE's correlation less that of {name}, bootstrap over teachers: 95 % [{low:.2f}, {high:.2f}]")
    Path(out).write_text(json.dumps({"values": values, "notes": notes}))


if __name__ == "__main__":
    main(sys.argv[1])
