"""Other people's FLOP counts, by name: only for reading or filling foreign tables, never for measuring."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from .formulas import causal_pairs

Number = TypeVar("Number", int, float, npt.NDArray[np.float64])


def six_nd(parameters: Number, tokens: Number) -> Number:
    """C = 6ND: attention, and whatever ``parameters`` leaves out, is free (Kaplan et al. 2020, arXiv 2001.08361).

    So C / ``six_nd(N, 1)`` are the tokens, and C / ``six_nd(1, 1)`` is N D, that a compute C allows.
    """
    return 6 * parameters * tokens


def palm(parameters: int, layers: int, width: int, length: int, tokens: int) -> int:
    """(6N + 12 L d T) D: every query is charged all T keys (Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

    ``width`` is heads times head dimension.
    """
    return (6 * parameters + 12 * layers * width * length) * tokens


def causal_half(parameters: int, layers: int, width: int, length: int, tokens: int) -> int:
    """(6N + 6 L d T) D: half of PaLM's attention, T/2 keys a query (Megatron-LM's count of causal models).

    Exact causal attention would be (T + 1)/2 keys.
    """
    return (6 * parameters + 6 * layers * width * length) * tokens


def nanochat(matmul_parameters: int, width: int, windows: Sequence[int], length: int) -> int:
    """Training FLOPs a token: 6 per matmul parameter, and in each layer 12 d min(window, T), not causal-halved.

    ``windows`` holds one attention window per layer; ``matmul_parameters`` includes the head, not the embeddings.
    """
    return 6 * matmul_parameters + sum(12 * width * min(window, length) for window in windows)


def nanochat_prefill(matmul_parameters: int, width: int, layers: int, length: int) -> int:
    """Forward FLOPs of one prompt with full windows; this one IS causal-exact, unlike ``nanochat``."""
    return 2 * matmul_parameters * length + 4 * width * layers * causal_pairs(length)
