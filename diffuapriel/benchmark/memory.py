"""Memory: what a call needs, what it took, and what the machine still has.

On CUDA the allocator counts. On Linux the kernel keeps the highest resident size of a process and lets the process
reset it, so the peak of one call is exact and costs no time while it runs. Elsewhere a thread samples the resident
size, in untimed calls only.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch

from diffuapriel.benchmark.timing import undisturbed
from diffuapriel.config import ModelConfig

SAFE_SHARE = 0.8  # of what is available; the rest is for other programs and the estimate's error
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


def _psutil():
    try:
        import psutil
    except ImportError as error:  # pragma: no cover - psutil is in requirements.txt
        raise ImportError("measuring memory needs psutil: pip install psutil") from error
    return psutil


def format_bytes(count: float) -> str:
    """'1.5 GB', '310 MB', '12 kB': decimal units."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 100 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Bytes that can be allocated on `device` now.

    CPU: psutil's available memory, or what a container's limit leaves if that is less.
    CUDA: the card's free memory plus what PyTorch has reserved without using it.
    """
    device = torch.device(device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available = _psutil().virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # not Linux, not a container, or no limit ("max")
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        available = min(available, max(0, limit - used))
    return available


def estimate_bytes(config: ModelConfig, length: int, *, batch: int = 1, bytes_per_value: int = 4) -> int:
    """Bytes that one denoiser call on `batch` canvases of `length` adds to the weights, by arithmetic.

    The peak of a block, plus the logits of all positions and the sampler's copy of them. A Mamba block holds
    projection, convolution and scan of both directions; an attention block holds q, k, v, the output and the MLP's
    hidden layer. Attention is linear in length: the fused kernels that `scaled_dot_product_attention` picks never
    hold the length x length matrix.
    """
    d_model, copies = config.d_model, 3  # input, output and one temporary of the widest operation
    mamba = 2 * (2 * config.d_inner + 2 * config.n_groups * config.d_state + config.n_heads)
    mixers = {"mamba": mamba, "attention": 4 * d_model}
    widest = max(config.mlp_ratio * d_model, *(mixers[kind] for kind in config.layer_kinds))
    residual, logits = 4 * d_model, 2 * config.padded_vocab_size
    return batch * length * bytes_per_value * (copies * widest + residual + logits)


def refusal(needed: float, device: torch.device | str, what: str, instead: str = "a shorter length") -> str | None:
    """None where `needed` bytes fit on `device`, otherwise a sentence with the figures; `instead` is what to choose."""
    available = available_bytes(device)
    if needed <= SAFE_SHARE * available:
        return None
    return (
        f"{what} needs about {format_bytes(needed)} of memory; {format_bytes(available)} is available here and at "
        f"most {SAFE_SHARE:.0%} of that is used ({format_bytes(SAFE_SHARE * available)}). Choose {instead}"
    )


def out_of_memory(device: torch.device | str, what: str) -> str:
    """A sentence, with the figures, for an allocation that failed in spite of the estimate."""
    device = torch.device(device)
    if device.type != "cuda":
        return f"{what} ran out of memory; {format_bytes(available_bytes(device))} is available here now"
    held = torch.cuda.max_memory_allocated(device)
    _, total = torch.cuda.mem_get_info(device)
    return f"{what} ran out of GPU memory: it held {format_bytes(held)} of {format_bytes(total)}"


class PeakMemory:
    """Context manager: `peak` is the maximum of the memory in bytes that the code inside adds.

    `method` says in words how it is measured. Not for timed code.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.peak = 0
        how = "resident memory of the process sampled every 2 ms"
        if self.device.type == "cuda":
            how = "most bytes allocated on the GPU"
        elif _can_reset_peak():
            how = "highest resident memory of the process"
        self.method = f"{how} during one step, plus the weights"

    def __enter__(self) -> PeakMemory:
        # Memory freed by the garbage collector would hide what the code takes.
        self._undisturbed = undisturbed()
        self._undisturbed.__enter__()
        self._added = _watch_gpu(self.device) if self.device.type == "cuda" else _watch_process()
        return self

    def __exit__(self, *exc: object) -> None:
        self._undisturbed.__exit__(None, None, None)
        self.peak = max(0, self._added())


def _watch_gpu(device: torch.device) -> Callable[[], int]:
    """Starts to watch the allocator; returns a function that ends it and gives the most bytes added meanwhile."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)

    def added() -> int:
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before

    return added


def _watch_process() -> Callable[[], int]:
    """As `_watch_gpu`, for the resident size of this process."""
    _release_free_memory()
    process = _psutil().Process()
    before = process.memory_info().rss
    if _can_reset_peak():
        _CLEAR_REFS.write_text("5")  # 5: set the peak resident size to the present one (proc(5))
        return lambda: _highest_resident() - before
    top, done = [before], threading.Event()

    def sample() -> None:
        while not done.wait(0.002):
            top[0] = max(top[0], process.memory_info().rss)

    def added() -> int:
        done.set()
        sampler.join()
        return max(top[0], process.memory_info().rss) - before

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    return added


@lru_cache(maxsize=1)
def _can_reset_peak() -> bool:
    """Whether this system lets a process reset its own peak resident size."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        _CLEAR_REFS.write_text("5")
        return "VmHWM:" in _STATUS.read_text()
    except OSError:
        return False


def _highest_resident() -> int:
    """Peak resident size since the last reset, in bytes (VmHWM of proc(5), which is in kiB)."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _release_free_memory() -> None:
    """Return freed pages to the system, or the next peak would be hidden in what an earlier run freed."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
