"""isoflop's optimizers stand alone: a plain torch loop, no recipe, no ledger.

python examples/optimizer_in_your_loop.py
"""

import torch

from isoflop.optim import SOAP


def main() -> None:
    draw = torch.Generator().manual_seed(0)
    x, truth = torch.randn(256, 16, generator=draw), torch.randn(16, 4, generator=draw)
    model = torch.nn.Linear(16, 4, bias=False)
    torch.nn.init.zeros_(model.weight)
    optimizer = SOAP(model.parameters(), lr=0.05, weight_decay=0.0)
    for step in range(120):
        loss = (model(x) - x @ truth).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 30 == 0:
            print(f"step {step:3}: loss {loss.item():.4f}")
    print(f"last    : loss {loss.item():.4f}")


if __name__ == "__main__":
    main()
