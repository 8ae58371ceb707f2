"""Our optimizer classes as anybody's loop uses them, with the arguments that the suites test them with."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import torch

from isoflop.core.registry import get, names
from isoflop.optim import SOAPVariant


def classes() -> dict[str, Any]:
    """By name, every torch optimizer that the file of a part of the slot defines, a plugin's too: none is left out."""
    modules = [sys.modules[get("optimizer", name).__module__] for name in names("optimizer")]
    found = [(module, cls) for module in modules for cls in vars(module).values() if isinstance(cls, type)]
    return {
        cls.__name__: cls
        for module, cls in found
        if issubclass(cls, torch.optim.Optimizer) and cls.__module__ == module.__name__
    }


CLASSES = classes()

EXTRA: dict[str, dict[str, Any]] = {
    "AdEMAMix": {"betas": (0.9, 0.95, 0.99), "beta3_warmup": 60, "alpha_warmup": 60},
    "MARS": {"optimize_1d": True},
    "Muon": {"ns_dtype": torch.float64},
    "ScheduleFreeAdamW": {"warmup_steps": 5, "r": 0.5, "inner_momentum": 0.5},
    "ScheduleFreeRAdam": {"betas": (0.9, 0.95)},
    "ScheduleFreeSGD": {"warmup_steps": 5},
    "Shampoo": {"betas": (0.9, 0.95), "merge_dims": False, "epsilon": 1e-6},
    "SimplifiedAdEMAMix": {"lr": 1e-3, "alpha": 2.0, "beta1_warmup": 60, "bias_correction1": True},
}
"""Arguments with which the classes are tested alone, where the defaults leave something out."""

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in CLASSES),
    ("AdEMAMix", {"betas": (0.0, 0.9, 0.99)}),
    ("Adalayer", {"lastlayer_correction": True}),
    ("GPA", {"train_interp_coeff": 1.0}),
    ("MARS", {"optimize_1d": False}),
    ("MARS", {"mars_type": "mars-lion"}),
    ("MARS", {"mars_type": "mars-shampoo"}),
    ("Muon", {"nesterov": False, "ns_dtype": torch.float16, "eps": 1e-10}),
    ("Muon", {"adjust_lr_fn": "match_rms_adamw", "ns_dtype": torch.bfloat16}),
    ("SOAP", {"variant": SOAPVariant(factorized=True)}),
    ("SOAP", {"variant": SOAPVariant(one_sided=True, normalize_grads=True)}),
    ("SOAP", {"merge_dims": True, "precondition_1d": True, "variant": SOAPVariant(stagger=True)}),
    ("SOAP", {"variant": SOAPVariant(refresh="cholesky", rotation_dtype=torch.bfloat16)}),
    ("ScheduleFreeAdamW", {"paper": True}),
    ("ScheduleFreeRAdam", {"silent_sgd_phase": False}),
    ("Shampoo", {"merge_dims": True, "betas": (0.9, 1.0)}),
    ("Shampoo", {"grafting": "adam", "root": 2, "precondition_frequency": 3}),
]
"""Every class with its tested arguments, and with those that take it through other code."""


def arguments(name: str, **changes: Any) -> dict[str, Any]:
    """Defaults of a class with a decay and a rate that moves parameters visibly, and ``changes``."""
    signature = inspect.signature(CLASSES[name])
    found = {k: v.default for k, v in signature.parameters.items() if v.default is not v.empty}
    changed = {"lr": 0.01, "weight_decay": 0.1, **EXTRA.get(name, {})}
    return found | {k: v for k, v in changed.items() if k in found} | changes


def label(variant: tuple[str, dict[str, Any]]) -> str:
    """A variant's name in a test's name."""
    words = [f"{k}={v}" if isinstance(v, str) else k for k, v in variant[1].items()]
    return "-".join([variant[0], *words])


def takes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a class takes parameters of ``shape``."""
    return name != "Muon" or len(shape) in (2, 3, 4)
