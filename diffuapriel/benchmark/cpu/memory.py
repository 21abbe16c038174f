"""Peak memory of one forward pass, each in its own process.

The highest resident size of a process never falls, so each measurement needs a fresh process:
`python -m diffuapriel.benchmark.cpu.memory nano diffuapriel 65536` builds the model with random weights, runs one
forward pass (all logits, batch 1) and prints its peak as JSON. The figure is the whole process: Python, PyTorch,
weights and activations.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict

import torch

from diffuapriel.benchmark.plan import Bench
from diffuapriel.benchmark.report import MemoryRow
from diffuapriel.config import preset as preset_config
from diffuapriel.model.denoiser import Denoiser


def measure_memory(bench: Bench) -> Iterator[list[MemoryRow]]:
    for architecture, length in bench.plan.memory_runs:
        bench.say(f"peak memory: {architecture} {bench.plan.preset}, {length:,} tokens")
        yield [measure_peak(bench.plan.preset, architecture, length)]


def measure_peak(preset: str, architecture: str, length: int, timeout: float = 900.0) -> MemoryRow:
    """The peak of one forward pass in a child process.

    Raises RuntimeError, with the child's last line, if it fails (out of memory, say) or takes over `timeout` seconds.
    """
    command = [sys.executable, "-m", "diffuapriel.benchmark.cpu.memory", preset, architecture, str(length)]
    try:
        child = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{architecture} {preset} at {length:,} tokens took over {timeout:.0f} s") from None
    if child.returncode:
        reason = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise RuntimeError(f"{architecture} {preset} at {length:,} tokens failed: {reason}")
    return MemoryRow(**{**json.loads(child.stdout.splitlines()[-1]), "ms": ()})


def forward_once(preset: str, architecture: str, length: int) -> MemoryRow:
    """One forward pass in this process, and the highest resident size of the process so far."""
    config = preset_config(preset, architecture)
    model = Denoiser(config).eval()
    ids = torch.full((1, length), config.mask_id)
    baseline = _highest_resident()
    with torch.inference_mode():
        model(ids, torch.ones(1))
    return MemoryRow(architecture, length, 1, (), _highest_resident(), baseline)


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
