"""Everything that trains and reads a run works where tensors do not live on the CPU; run by test_another_device.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from isoflop.cli.main import invoke
from isoflop.core.registry import names
from isoflop.store.run import Run
from isoflop.train.restore import restore
from killing import rewind
from twin_device import Twin, TwinTensor, plugged_in


@pytest.fixture
def twin() -> Iterator[Twin]:
    with plugged_in() as device:
        yield device


def trained(recipe: Path, root: Path, *overrides: str) -> Run:
    assert invoke(["train", str(recipe), *overrides, "--root", str(root)]) == 0
    return Run.read(next(root.glob("tiny-*")))


def test_the_twin_is_a_device_of_its_own(twin: Twin) -> None:
    here, there = torch.ones(3), torch.ones(3, device="twin")
    assert isinstance(there, TwinTensor)
    assert there.device.type == "twin"
    with pytest.raises(RuntimeError, match="cpu and twin"):
        here + there
    assert not twin.reads
    assert float((there + 1).sum()) == 6.0
    assert len(twin.reads) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_equals_the_one_on_the_cpu(precision: str, tiny: Callable[..., Path], tmp_path: Path, twin: Twin) -> None:
    recipe = tiny("budget.steps=12", "train.accumulate=2", f'train.precision="{precision}"', "averaging=ema")
    here = trained(recipe, tmp_path / "cpu")
    there = trained(recipe, tmp_path / "twin", "train.device=twin")
    close = {"rel": 1e-5 if precision == "fp32" else 2e-2}
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in there.metrics("step")] == pytest.approx(
            [row[name] for row in here.metrics("step")], **close
        )
    assert there.result["value"] == pytest.approx(here.result["value"], **close)
    assert there.result["flops"] == here.result["flops"]


# torch.func, which Gauss-Newton linearises with, does not take tensors of a dispatch mode.
@pytest.mark.parametrize("name", sorted(set(names("optimizer")) - {"gauss_newton"}))
def test_every_optimizer_learns_there_and_goes_on_where_it_stopped(
    name: str, tiny: Callable[..., Path], tmp_path: Path, twin: Twin
) -> None:
    recipe = tiny("budget.steps=24", "schedule=constant")
    run = trained(recipe, tmp_path, f"optimizer={name}", "train.device=twin")
    losses = [row["loss"] for row in run.metrics("step")]
    assert sum(losses[-4:]) / 4 < losses[0] - 0.05
    expected = run.result["weights_sha256"]
    rewind(run, 24)
    assert trained(recipe, tmp_path, f"optimizer={name}", "train.device=twin").result["weights_sha256"] == expected


def test_a_step_reads_the_loss_and_the_norm_and_nothing_else(
    tiny: Callable[..., Path], tmp_path: Path, twin: Twin
) -> None:
    """Each read makes the host wait for the device; the number of micro-batches must not matter."""

    def reads(*overrides: str) -> Counter[str]:
        counts = []
        for steps in (8, 16):
            twin.reads.clear()
            root = tmp_path / str(len(list(tmp_path.iterdir())))
            quiet = ("train.evaluations=1", "train.checkpoints=1", "train.device=twin")
            trained(tiny(), root, f"budget.steps={steps}", *quiet, *overrides)
            counts.append(Counter(twin.reads))
        return counts[1] - counts[0]

    assert reads().total() == reads("train.accumulate=3").total() == 2 * 8


def test_a_run_made_there_is_read_here_and_the_other_way(
    tiny: Callable[..., Path], tmp_path: Path, twin: Twin, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tiny("budget.steps=4"), tmp_path, "train.device=twin")
    there, here = restore(run), restore(run, device="cpu")
    assert isinstance(there.parts.model.head, TwinTensor)
    assert not isinstance(here.parts.model.head, TwinTensor)
    assert torch.equal(there.parts.model.head.cpu(), here.parts.model.head)
    answers = []
    for device in ("twin", "cpu"):
        capsys.readouterr()
        arguments = ["generate", str(run.path), "--prompt", "a", "--tokens", "8"]
        assert invoke([*arguments, "--device", device]) == 0
        answers.append(capsys.readouterr().out)
        assert invoke(["eval", str(run.path), "--device", device]) == 0
        capsys.readouterr()
    assert answers[0] == answers[1]
