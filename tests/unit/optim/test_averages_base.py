import pytest
import torch

from isoflop.optim import EMA


def test_bias_corrected_ema_by_hand() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0]))
    ema = EMA([p], decay=0.9)
    seen = []
    for t, value in enumerate([1.0, 3.0, -2.0]):
        with torch.no_grad():
            p.fill_(value)
        ema.update(t)
        with ema.evaluation_weights():
            seen.append(p.item())
    weights = [0.81, 0.9, 1.0]
    assert seen[0] == pytest.approx(1.0)
    assert seen[1] == pytest.approx((0.9 * 1 + 3) / 1.9)
    assert seen[2] == pytest.approx(sum(w * v for w, v in zip(weights, [1, 3, -2], strict=True)) / sum(weights))


def test_buffers_of_half_precision_weights_are_fp32() -> None:
    p = torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
    ema = EMA([p], decay=0.999)
    ema.update(0)
    assert ema.state_dict()["sums"]["0"].dtype == torch.float32


def test_illegal_arguments() -> None:
    with pytest.raises(ValueError, match="decay"):
        EMA([torch.ones(1)], decay=1.0)
    with pytest.raises(ValueError, match="parameter"):
        EMA([])
