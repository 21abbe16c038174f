"""One interface to the scan, and the choice of who computes it.

    y = ssd(x, dt, A, B, C, D)

`backend="auto"` takes the fastest that can run the call; the environment variable DIFFUAPRIEL_SSD or the
argument forces one. Every backend is held to `recurrent`, forward and gradient, in the tests.

    recurrent   the recurrence, any dtype; the oracle
    chunked     pure PyTorch, batched matrix products, forward and backward; any device
    official    mamba_ssm's kernels; NVIDIA
    triton      our own kernels, both directions in one launch; NVIDIA
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffuapriel.ops import chunked, recurrent
from diffuapriel.ops.document_ids import check_segments, number_runs
from diffuapriel.ops.triton import launch

log = logging.getLogger(__name__)


def _official(*call: Any, **segments: Tensor) -> Any:
    from diffuapriel.ops import mamba_ssm as official  # a second to import, and of use on few machines

    return official.scan(*call, **segments)


def _triton(*call: Any) -> Any:
    from diffuapriel.ops.triton import autograd  # needs Triton

    return autograd.scan(*call)


BACKENDS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "recurrent": recurrent.scan,
    "chunked": chunked.scan,
    "official": _official,
    "triton": _triton,
}
ON_CUDA = ("triton", "official", "chunked")  # fastest first


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    reverse: bool = False,
    segments: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The Mamba-2 scan `h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T`, `y_t = h_t C_t + D x_t` (arXiv:2405.21060).

    x (batch, length, heads, headdim); dt (batch, length, heads), positive step sizes; A (heads,), negative;
    B and C (batch, length, groups, state), each group shared by heads // groups neighboring heads; D (heads,);
    initial_state (batch, heads, headdim, state), zero when left out. With `reverse` the scan runs from the last
    token to the first, and the initial state stands after the last token. segments (batch, length) int64 number
    documents that are packed into a row: the scan starts at zero in each, the first in scan order excepted, which
    starts in the initial state.
    Returns y, shaped as x; with `return_final_state` also the state the scan ends in.
    Raises ValueError for shapes that do not fit and for a backend that is unknown.
    """
    initial = None if initial_state is None else initial_state[:, None]
    D = None if D is None else D[None]
    y, state = _scan(
        x[:, :, None],
        dt[:, :, None],
        A[None],
        B[:, :, None],
        C[:, :, None],
        D,
        initial,
        (reverse,),
        backend,
        segments,
    )
    return (y[:, :, 0], state[:, 0]) if return_final_state else y[:, :, 0]


def ssd_bidirectional(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    initial_state: Tensor | None = None,
    return_final_state: bool = False,
    segments: Tensor | None = None,
    backend: str = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """Two independent scans in one call: direction 0 runs forward, direction 1 in reverse; nothing is flipped.

    Shapes as in `ssd` with an axis of two directions: x (batch, length, 2, heads, headdim), dt (batch, length, 2,
    heads), A and D (2, heads), B and C (batch, length, 2, groups, state), states (batch, 2, heads, headdim, state);
    segments (batch, length) are those of both.
    Equal to stacking `ssd(... direction 0)` and `ssd(... direction 1, reverse=True)`.
    """
    y, state = _scan(x, dt, A, B, C, D, initial_state, (False, True), backend, segments)
    return (y, state) if return_final_state else y


def choose_backend(backend: str, x: Tensor, headdim: int, state: int, *, segments: bool = False) -> str:
    """The name of the backend that a call takes, for a scan of tensors like `x` (its device and dtype count).

    `backend` "auto" leaves the choice to DIFFUAPRIEL_SSD, and where that is not set or "auto" too, to the tensors:
    the fastest that can run them on CUDA, `chunked` elsewhere. On CUDA one line in the log says what is missing.
    `segments`: the call has documents that must be kept apart, which not every backend can.
    Raises ValueError for an unknown name, and for one that cannot run here, with the reason and the way out.
    """
    name = (os.environ.get("DIFFUAPRIEL_SSD") or "auto") if backend == "auto" else backend
    if name != "auto" and name not in BACKENDS:
        raise ValueError(f"SSD backend is {name!r}; permitted: auto, {', '.join(BACKENDS)}")
    if name in ("recurrent", "chunked"):
        return name
    if name == "auto" and (x.device.type != "cuda" or x.dtype == torch.float64):
        return "chunked"
    return _resolve(name, x.device, x.dtype, headdim, state, segments)


def unsupported_reason(
    name: str, x: Tensor, headdim: int, state: int, *, segments: bool = False
) -> str | None:
    """None when backend `name` can run a scan of tensors like `x`; else one line: the reason, and the way out."""
    if name == "official":
        from diffuapriel.ops import mamba_ssm as official_library

        return official_library.unsupported_reason(x)
    if name == "triton":
        if segments:
            return "its kernels do not keep packed documents apart (segments); official and chunked do"
        return launch.unsupported_reason(x, headdim, state)
    return None


def report(x: Tensor, headdim: int = 64, state: int = 128) -> list[str]:
    """One line for each backend: that it runs scans of tensors like `x` here, or why it does not."""
    lines = []
    for name in BACKENDS:
        reason = unsupported_reason(name, x, headdim, state)
        if reason is None and name == "official":
            from diffuapriel.ops.mamba_ssm import convolution_kernel

            reason = f"runs; convolution by {convolution_kernel()}"
        lines.append(f"SSD backend {name:9}  {reason or 'runs'}")
    return lines


def _resolve(
    name: str, device: torch.device, dtype: torch.dtype, headdim: int, state: int, segments: bool
) -> str:
    return _resolved_once(name, device, dtype, headdim, state, segments)


# torch.compile takes what this returns as a constant, instead of tracing how the machine is looked at.
_resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


@functools.cache
def _resolved_once(
    name: str, device: torch.device, dtype: torch.dtype, headdim: int, state: int, segments: bool
) -> str:
    """`choose_backend` for what depends on the machine: its answer cannot change while the process lives."""
    like = torch.empty(0, device=device, dtype=dtype)
    if name != "auto":
        reason = unsupported_reason(name, like, headdim, state, segments=segments)
        if reason:
            raise ValueError(f"SSD backend {name!r} cannot run: {reason}")
        return name
    missing = []
    for name in ON_CUDA:
        reason = unsupported_reason(name, like, headdim, state, segments=segments)
        if reason is None:
            break
        missing.append(f"{name}: {reason}")
    if missing:
        _say_once(f"the scan runs on SSD backend {name!r}; {'; '.join(missing)}")
    return name


@functools.cache
def _say_once(line: str) -> None:
    log.warning(line)


def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    reverse: tuple[bool, ...],
    backend: str,
    segments: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The call of a backend, every tensor with its axis of directions."""
    _check_shapes(x, dt, A, B, C, D, initial_state)
    batch, length, directions, heads, headdim = x.shape
    if segments is not None:
        check_segments(segments, batch, length)
    name = choose_backend(backend, x, headdim, B.shape[-1], segments=segments is not None)
    if D is None:
        D = torch.zeros_like(A)
    if initial_state is None:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        initial_state = x.new_zeros((batch, directions, heads, headdim, B.shape[-1]), dtype=dtype)
    apart = {} if segments is None else {"segments": number_runs(segments)}
    return BACKENDS[name](x, dt, A, B, C, D, initial_state, reverse, **apart)


def _check_shapes(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> None:
    if x.ndim != 5 or x.shape[1] == 0:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; it must be (batch, length, heads, headdim), length 1 or more"
        )
    batch, length, directions, heads, headdim = x.shape
    if B.ndim != 5 or B.shape[3] == 0 or heads % B.shape[3]:
        raise ValueError(
            f"B has shape {tuple(B.shape)}; it must have groups that divide the {heads} heads, and a state"
        )
    groups, state = B.shape[3:]
    expected = {
        "dt": (dt, (batch, length, directions, heads)),
        "A": (A, (directions, heads)),
        "B": (B, (batch, length, directions, groups, state)),
        "C": (C, (batch, length, directions, groups, state)),
        "D": (D, (directions, heads)),
        "initial_state": (initial_state, (batch, directions, heads, headdim, state)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; beside x {tuple(x.shape)} it must be {shape}"
            )
