"""Our optimizers train a model of transformers in its own Trainer, stop, and go on from its own checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.optim import SOAP, AdEMAMix, Lion

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers", reason="needs the extra hf")
    pytest.importorskip("accelerate", reason="its Trainer needs it; peft brings it")

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs, of each other
STEPS, HALF = 8, 4


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sixteen sequences of twelve ids."""

    ids = torch.randint(0, 20, (16, 12), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def trainer(where: Path, make: Callable[[Any], torch.optim.Optimizer], stop: int = STEPS) -> Any:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=20,
    )
    model = transformers.LlamaForCausalLM(config)
    settings = transformers.TrainingArguments(
        output_dir=str(where),
        max_steps=STEPS,
        save_steps=HALF,
        per_device_train_batch_size=4,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        logging_steps=1,
    )

    class Stops(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step >= stop

    optimizer = make(model.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 - t / (2 * STEPS))
    return transformers.Trainer(
        model=model, args=settings, train_dataset=Rows(), optimizers=(optimizer, scheduler), callbacks=[Stops()]
    )


@pytest.mark.parametrize(
    "make",
    [lambda p: SOAP(p, lr=1e-2), lambda p: AdEMAMix(p, lr=1e-2), lambda p: Lion(p, lr=1e-3)],
    ids=["soap", "ademamix", "lion"],
)
def test_a_stopped_training_goes_on_to_the_same_weights(make: Callable[[Any], Any], tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", make)
    whole.train()
    losses = [row["loss"] for row in whole.state.log_history if "loss" in row]
    assert losses[-1] < losses[0]
    trainer(tmp_path / "parts", make, stop=HALF).train()
    again = trainer(tmp_path / "parts", make)
    again.train(resume_from_checkpoint=True)
    for (name, ours), theirs in zip(whole.model.named_parameters(), again.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
