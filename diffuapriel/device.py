"""Devices by name: the one to run on, and what to call it in a report."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import torch
from torch import nn


def resolve_device(name: str | torch.device | None = None) -> torch.device:
    """The device of that name; None and "auto" are CUDA where available, otherwise the CPU.

    Raises ValueError for a device that this machine does not have.
    """
    if name is None or name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {str(name)!r}, which cannot be used here: {reason}") from None
    return torch.device(name)


def device_name(device: torch.device) -> str:
    """The name of the graphics card on CUDA, of the processor otherwise."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def device_of(denoiser: Any) -> torch.device:
    """The device of a denoiser's parameters; the CPU for a plain function."""
    return next(denoiser.parameters()).device if isinstance(denoiser, nn.Module) else torch.device("cpu")
