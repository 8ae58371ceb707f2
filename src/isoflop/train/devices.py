"""What this machine has of the devices that recipes name."""

from __future__ import annotations

import time

import torch

from ..core.device import Device
from ..core.errors import UsageError
from ..ledger.peak import matmul_rate

UNDISTURBED = 0.9
"""Share of a measurement's time that this process must have had the processor, for the measurement to count.

A margin: on an idle machine the share is above .98, beside one busy process on the same core near .5.
"""


def device_name(device: str) -> str:
    """A device's full name where it is an NVIDIA GPU, which must be there; else the name as it is."""
    return torch.cuda.get_device_name(device) if Device.of(device).is_cuda else device


def has_device(device: str) -> bool:
    """Whether this machine has it."""
    asked, found = Device.of(device), torch.accelerator.current_accelerator(check_available=True)
    if found is not None and found.type == asked.kind:
        return asked.index < torch.accelerator.device_count()
    return asked == Device("cpu")


def refuse_missing(device: str) -> None:
    """UsageError if this machine does not have the device."""
    if not has_device(device):
        found = torch.accelerator.current_accelerator(check_available=True)
        there = f"cpu or {found.type}" if found is not None else "cpu"
        raise UsageError(f"this machine has no device {device}", where="train.device", fix=f"use {there}")


def undisturbed_rate(device: str, precision: str) -> float:
    """FLOP/s of matrix products, measured now; 0 where others were using the processor too.

    Args:
        device: as torch names it.
        precision: "fp32" or "bf16".
    """
    began, used = time.perf_counter(), time.thread_time()
    rate = matmul_rate(device, precision, torch.get_num_threads())
    share = (time.thread_time() - used) / (time.perf_counter() - began)
    return rate if share > UNDISTURBED or not Device.of(device).is_cpu else 0.0
