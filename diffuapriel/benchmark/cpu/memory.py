"""Peak memory of one forward pass, each measured in a process of its own.

A process's highest resident size never falls, so a measurement needs a fresh process:
`python -m diffuapriel.benchmark.cpu.memory nano diffuapriel 65536` builds the model with random weights, runs one
forward pass (all logits, batch 1) and prints its peak as JSON. The figure is the whole process: Python, PyTorch,
weights and activations; `baseline_bytes` is what the process held before the pass.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass

TARGET_BYTES = 4e9  # nano at 65,536 tokens must stay below
TARGET_LENGTH = 65_536


@dataclass(frozen=True)
class PeakResult:
    """Highest resident size of a process that ran one forward pass; bytes."""

    preset: str
    architecture: str
    length: int
    peak_bytes: int
    baseline_bytes: int


def measure_peak(preset: str, architecture: str, length: int, timeout: float = 900.0) -> PeakResult:
    """Run one forward pass in a child process and return its peak.

    Raises RuntimeError, with the child's last line, when it failed (out of memory, say) or took over `timeout` s.
    """
    command = [sys.executable, "-m", "diffuapriel.benchmark.cpu.memory", preset, architecture, str(length)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{architecture} {preset} at {length:,} tokens took over {timeout:.0f} s"
        ) from None
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise RuntimeError(f"{architecture} {preset} at {length:,} tokens failed: {reason}")
    return PeakResult(**json.loads(child.stdout.splitlines()[-1]))


def forward_once(preset: str, architecture: str, length: int) -> PeakResult:
    """One forward pass in this process, and the highest resident size that the process has had."""
    import torch

    from diffuapriel.config import preset as preset_config
    from diffuapriel.model.denoiser import Denoiser

    config = preset_config(preset, architecture)
    model = Denoiser(config).eval()
    ids = torch.full((1, length), config.mask_id)
    baseline = _highest_resident()
    with torch.inference_mode():
        model(ids, torch.ones(1))
    return PeakResult(preset, architecture, length, _highest_resident(), baseline)


def _highest_resident() -> int:
    """Bytes. getrusage counts kilobytes on Linux and bytes on macOS; Windows has no such call."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    print(json.dumps(asdict(forward_once(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
